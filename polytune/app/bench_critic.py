"""How much of the returns each kind of critic explains, and what it costs, on a policy that stays as it is.

    python recipes/bench_critic.py                          # FourRooms at horizon 40, about ten minutes on 2 cores
    python recipes/bench_critic.py --config recipes/babyai/ppo.yaml --num_updates 16 --max_env_steps 80000
    python recipes/bench_critic.py --kinds head --ceiling_passes 0

Each kind gets the same rollouts of the same fixed policy. Explained variance is that of fresh episodes, before the
critic learns from them. Kind `shared` has to move the policy's trunk: there the policy's own loss is off, the value
loss alone moves it, and its episodes drift. The ceiling is what a head and a whole trunk reach on the last quarter of
the updates when they pass over all others many times, at the best pass. Seconds are wall-clock, on this machine.
"""

import copy
import math
import shlex
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from polytune.app.cli import UsageError, parse, run, set_cpu_threads
from polytune.app.fields import TRAINER
from polytune.places import RECIPES, command
from polytune.terminal import progress

#: a learning rate at which no float32 weight moves
FIXED = 1e-20


@dataclass
class CriticBenchConfig:
    """Which critics are measured, and the long fit beside them."""

    kinds: list[str] = field(
        default_factory=lambda: ["head", "shared", "own"], metadata={"help": "Kinds of critic: head, shared, own."}
    )
    first_update: int = field(default=8, metadata={"help": "Mean explained variance is from this update on."})
    ceiling_passes: int = field(default=6, metadata={"help": "Passes of the long fit; 0: none."})

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in ("head", "shared", "own"):
                raise ValueError(f"kinds has {kind!r}: the kinds of critic are head, shared and own.")


def main(argv: Sequence[str]) -> None:
    # ---------------------------------------------------------------- configuration
    from polytune.config import ObjectiveConfig, PolicyConfig, RolloutConfig, TaskConfig

    parts = (TaskConfig, PolicyConfig, RolloutConfig, ObjectiveConfig, TRAINER, CriticBenchConfig)
    defaults = ["--output_dir", "outputs/bench_critic/fourrooms", "--num_updates", "12", "--max_env_steps", "60000"]
    defaults += ["--critic_learning_rate", "1e-3"]  # for all kinds
    at_40 = [] if any(word.startswith("--config") for word in argv) else ["--task_horizon", "40"]
    task_config, policy_config, rollout, objective, args, config = parse(
        parts,
        [*defaults, *at_40, *argv],
        description=__doc__,
        default_config=RECIPES / "fourrooms/ppo.yaml",
    )
    if args.num_updates < config.first_update:
        raise UsageError(f"num_updates is {args.num_updates}, below first_update {config.first_update}: raise it.")
    set_cpu_threads(policy_config.cpu_threads)

    import torch

    from polytune.policy import load_policy
    from polytune.running.provenance import write_json
    from polytune.tasks.starts import TRAINING_SPLIT, starts_of, task_of

    # ---------------------------------------------------------------- each kind on the same fixed policy
    task = task_of(task_config)
    _, seeds = starts_of(task, task_config, default_split=TRAINING_SPLIT)
    folder, kept = Path(args.output_dir), []
    report = {"command": shlex.join(command("bench_critic", argv)), "task": task.name, "horizon": task.horizon,
              "policy": policy_config.model, "threads": torch.get_num_threads(), "kinds": {},
              "ceiling": {}}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    reader = "head" if "head" in config.kinds else config.kinds[0]  # whose decisions the long fit gets
    trainer_class = fixed_policy_trainer()
    for kind in config.kinds:
        model, tokenizer = load_policy(policy_config.model, **policy_config.loading())
        own = copy.copy(args)
        own.critic, own.kl_coef, own.output_dir = kind, 0.0, str(folder / kind)
        own.learning_rate = args.learning_rate if kind == "shared" else FIXED
        trainer = trainer_class(model, own, task, seeds, rollout, objective, policy_config, tokenizer)
        if kind == reader:
            trainer.kept = kept
        report["kinds"][kind] = measured(trainer, kind, config.first_update)
        write_json(folder / "critic.json", report)

    # ---------------------------------------------------------------- the ceiling of a long fit
    split = len(kept) - max(1, len(kept) // 4)
    for kind in [kind for kind in config.kinds if kind != "shared" and reader != "shared" and config.ceiling_passes]:
        critic = fresh_critic(kind, args, policy_config, model, kept[0][0].features_D_F.size(1))
        best = ceiling(critic, kept, split, progress(range(config.ceiling_passes), f"long fit of {kind}", "pass"))
        report["ceiling"][kind] = best
        print(f"ceiling of {kind}: {best:.3f} on the last {len(kept) - split} updates, best of "
              f"{config.ceiling_passes} passes over the {split} before", flush=True)  # fmt: skip
        write_json(folder / "critic.json", report)
    print(f"wrote {folder}/critic.json")


def fixed_policy_trainer() -> type:
    """The trainer without the policy's loss; it keeps the decisions of its updates when asked to."""
    from polytune.trainer import PolychromicTrainer

    class FixedPolicy(PolychromicTrainer):
        kept = None

        def _change_turns(self, update, turns):
            turns.advantages_B_T.zero_()

        def _learn_values(self, output, decisions, turns):
            super()._learn_values(output, decisions, turns)
            if self.kept is not None:
                rows_D, turns_D = self._decision_turns(decisions.first_B_C)
                self.kept.append((decisions, turns.returns_B_T[rows_D, turns_D].float()))

        def save_model(self, *args, **kwargs):
            """Nothing of it is to be kept."""

        _save_checkpoint = save_model

    return FixedPolicy


def measured(trainer, kind: str, first_update: int) -> dict:
    """Train, and say what the critic explained from which update on, and what it took."""
    begin = time.perf_counter()
    trainer.train()
    updates = trainer.args.num_updates
    seconds = (time.perf_counter() - begin) / updates
    logged = [line for line in trainer.state.log_history if "rollout/env_steps" in line]
    explained = [line.get("critic/explained_variance", math.nan) for line in logged]
    critic_seconds = trainer.critic_seconds / updates
    found = {
        "explained_variance": explained,
        "mean": statistics.mean(explained[first_update - 1 :]),
        "update_s": seconds,
        "critic_s": critic_seconds,
        "share": critic_seconds / seconds,
        "env_steps": trainer.env_steps,
    }
    print("{}: explained variance {} | from update {} on {:.3f}; {:.2f} of {:.1f} s an update ({:.0%})".format(
        kind, " ".join(f"{value:.2f}" for value in explained), first_update, found["mean"], critic_seconds, seconds,
        critic_seconds / seconds), flush=True)  # fmt: skip
    return found


def fresh_critic(kind: str, args, policy_config, model, features: int):
    """An untrained critic of a kind, for passes one at a time."""
    from polytune.policy import load_policy
    from polytune.trainer.critic import RATES, Critic, copied_trunk

    size, trunk = model.config.get_text_config().hidden_size, None
    if kind == "own":
        trunk = copied_trunk(load_policy(policy_config.model, **policy_config.loading())[0].base_model)
    rate = args.critic_learning_rate or RATES[kind]
    return Critic(size, features, width=args.critic_width, trunk=trunk, passes=1, learning_rate=rate,
                  minibatches=args.critic_minibatches)  # fmt: skip


def ceiling(critic, kept: Sequence[tuple], split: int, passes: Iterable[int]) -> float:
    """The best explained variance of the updates from ``split`` on, after any pass over those before."""
    import torch

    from polytune.trainer.critic import explained_variance, variance_sums

    best = -math.inf
    for number in passes:
        for index, (decisions, targets_D) in enumerate(kept[:split]):
            critic.learn(decisions, targets_D, salt=f"{number} {index}")
        values_D = torch.cat([critic.values(decisions) for decisions, _ in kept[split:]]).double()
        targets_D = torch.cat([targets for _, targets in kept[split:]]).double()
        best = max(best, explained_variance(variance_sums(values_D, targets_D)))
    return best


if __name__ == "__main__":
    run(main)
