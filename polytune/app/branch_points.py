"""How much sets can teach at each point of an episode: groups of vines all along a policy's own trajectories.

    python recipes/branch_points.py --task_horizon 40              # the quick start's pretrained policy
    python recipes/branch_points.py --model outputs/fourrooms/ppo --num_rollout_states 9 --output_dir outputs/ppo_points

From each start state a group of seed trajectories, and from equally spaced turns of each of them a group of vines.
Prints and plots per point: the variance of success within a group, the share of groups whose sets do not all tie, the
mean size of the set advantages, distinct signatures, turns. By the law of total variance the first can only fall along
a trajectory, on average: Var(outcome) = E[Var(outcome | state)] + Var(E[outcome | state]), and what has been decided
is not open any more. Vines from late states are cheap, and say little. Writes points.json and points.png.
"""

import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from polytune.app.cli import UsageError, parse, run, set_cpu_threads
from polytune.checks import require_seed
from polytune.places import command
from polytune.terminal import progress

TITLES = {
    "at": "point",
    "success": "success",
    "variance": "variance of success within a group",
    "live": "share of groups with signal",
    "advantage": "mean |set advantage|",
    "distinct": "distinct signatures of a group",
    "turns": "turns of a vine",
}


@dataclass
class PointsConfig:
    """Seed of the samples and where the figures go."""

    seed: int = field(default=0, metadata={"help": "Seed of the samples."})
    output_dir: str = field(default="outputs/branch_points", metadata={"help": "Where points.json and points.png go."})

    def __post_init__(self) -> None:
        require_seed("seed", self.seed)


def main(argv: Sequence[str]) -> None:
    # ---------------------------------------------------------------- configuration
    from polytune.config import ObjectiveConfig, PolicyConfig, RolloutConfig, TaskConfig

    parts = (TaskConfig, PolicyConfig, RolloutConfig, ObjectiveConfig, PointsConfig)
    defaults = ["--model", "outputs/quickstart/pretrained", "--num_seeds", "8", "--num_rollout_states", "4"]
    task_config, policy_config, rollout, objective, config = parse(parts, [*defaults, *argv], description=__doc__)
    if rollout.rollout_states != "equally_spaced" or rollout.num_rollout_states < 1 or rollout.num_seeds < 2:
        raise UsageError(
            f"rollout_states {rollout.rollout_states!r}, num_rollout_states {rollout.num_rollout_states}, num_seeds "
            f"{rollout.num_seeds}: the points are equally spaced, at least 1, and a group has at least 2 members."
        )
    set_cpu_threads(policy_config.cpu_threads)

    from polytune.pictures.points import plot_points
    from polytune.policy import TransformersGenerator, build_renderer, load_policy
    from polytune.rollout import Start, grow_trees
    from polytune.running.provenance import write_json
    from polytune.tasks.starts import starts_of, task_of

    # ---------------------------------------------------------------- task, start states, policy
    task = task_of(task_config)
    _, seeds = starts_of(task, task_config)
    model, tokenizer = load_policy(policy_config.model, **policy_config.loading())
    renderer = build_renderer(tokenizer, task, policy_config)
    generator = TransformersGenerator(
        model,
        max_action_tokens=policy_config.max_action_tokens or renderer.longest_action(),
        stop_ids=renderer.stop_ids,
    )

    # ---------------------------------------------------------------- vines all along the trajectories
    trees = []
    for seed in progress(seeds, "vines", "start state"):
        trees += grow_trees(task, renderer, generator, [Start(seed, 0)], rollout, run_seed=config.seed,
                            max_branches=policy_config.max_branches)  # fmt: skip

    # ---------------------------------------------------------------- measure, print, plot
    points = []
    for k in range(rollout.num_rollout_states + 1):
        groups = [t.seeds for t in trees] if k == 0 else [vines[k - 1] for t in trees for vines in t.vines]
        points.append({"at": k / (rollout.num_rollout_states + 1), **measures(groups, objective, config.seed)})
    output_dir = Path(config.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    words = shlex.join(command("branch_points", argv))
    write_json(output_dir / "points.json", {"command": words, "titles": TITLES, "points": points})
    plot_points(points, TITLES, output_dir / "points.png")
    print(" | ".join(["at", *list(TITLES)[1:]]))
    for point in points:
        print(" | ".join(f"{value:.4f}" if name == "advantage" else f"{value:.3f}" for name, value in point.items()))
    print(f"{output_dir}/{{points.json,points.png}}")


def measures(groups: list, objective, seed: int) -> dict[str, float]:
    """What groups from one point of their episodes show."""
    from polytune.trainer.advantages import GroupStatistics, score_batch

    sums = GroupStatistics()
    scores = score_batch(groups, objective, seed, sums)
    return {
        "success": statistics.mean(float(vine.success) for group in groups for vine in group),
        "variance": statistics.mean(statistics.variance([float(v.success) for v in group]) for group in groups),
        "live": 1 - sums.without_signal / sums.groups,
        "advantage": float(scores.advantages_P_N.abs().mean()),
        "distinct": sums.distinct_signatures / sums.groups,
        "turns": statistics.mean(len(vine.turns) for group in groups for vine in group),
    }


if __name__ == "__main__":
    run(main)
