"""Why sets: standard RL collapses onto one solution, a set objective keeps them all. 30 seconds on 2 CPU cores.

    python recipes/tutorial.py
    python recipes/tutorial.py --seeds 0 1 2 3 4 --output_dir outputs/tutorial5        # the same five times over

The world is a bandit in text: one line, one word in answer, six arms of which three win (red, green, blue). A
transformer of 0.4 M parameters is cloned from an expert that prefers red, and stopped while it still fails in a third
of its pulls. From there the real trainer runs twice, with recipes/tabular/{mean,polychromic}.yaml. The two files differ
in the word after `objective:` and in nothing else that matters: same start, 2,400 pulls, 300 gradient steps, learning
rate, seed.

`mean` is standard RL. It never hears that there are three ways to win. On a softmax table the exact gradient of the
mean reward R is d R / d logit_i = p_i (r_i - R), so for two arms that win, log(p_i / p_j) moves by (p_i - p_j)(r - R):
the rich get richer as long as anything fails, and once nothing fails nothing restores what was lost. The row "mean,
exact gradient" shows that this is the method and not the noise of eight pulls an update: gradient ascent on a table,
without a network and without one sample drawn, ends on one arm, too. (Pulling all three equally often would score the
same. The mean reward has no opinion on that.) The trainer's own warnings of the collapse are in mean/stdout.txt.

`polychromic` scores sets of four pulls by mean reward x share of distinct arms. A winner that is rarely pulled makes
its sets more diverse, so it gets a larger advantage than the favourite; an arm that fails adds diversity as well, but
costs more reward than that is worth. By symmetry the optimum is 1/3 on each winning arm, where "polychromic, exact
gradient" ends; the trained policy stays around it, as far off as eight pulls an update are noisy.

All numbers are exact: the policy's probabilities are read from the network, nothing is estimated by sampling. pass@k
cannot tell the two apart here, for it asks only whether one of k pulls wins. What was lost shows in how many different
winners k pulls find ("wins in 6"), and in the success that is left if the favourite stops paying ("without red").

Writes summary.json, arms.png (first seed), and one folder for each run with its metrics.jsonl and checkpoint.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from polytune.app.calls import call_here
from polytune.app.cli import parse, run, set_cpu_threads
from polytune.checks import require, require_integer
from polytune.places import RECIPES, runnable

METHODS = ("mean", "polychromic")
COLUMNS = ("red", "green", "blue", "success", "pass@3", "pass@6", "entropy", "arms kept", "wins in 6", "without red")
FORM = {"arms kept": "13.0f"}


@dataclass
class TutorialConfig:
    """Where the tutorial writes and how often it is repeated."""

    output_dir: str = field(default="outputs/tutorial", metadata={"help": "Where runs, summary and plot go."})
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Training seeds; each has its own start."})
    num_updates: int | None = field(default=None, metadata={"help": "Updates of both methods; unset: the YAML's."})

    def __post_init__(self) -> None:
        for seed in self.seeds:
            require_integer("seeds", seed, 0)
        require(len(set(self.seeds)) == len(self.seeds) > 0, f"seeds must be distinct, got {self.seeds}.")
        if self.num_updates is not None:
            require_integer("num_updates", self.num_updates, 1)


def main(argv: Sequence[str]) -> None:
    # ---------------------------------------------------------------- configuration
    began = time.perf_counter()
    (config,) = parse((TutorialConfig,), argv, description=__doc__)
    output_dir, updates = Path(config.output_dir), config.num_updates

    from polytune.pictures.tabular import action_table, plot_arms
    from polytune.policy import Renderer, load_policy
    from polytune.running.provenance import write_json
    from polytune.tasks import load_task
    from polytune.tasks.tabular.exact import SetObjective, mean, polychromic, tabulate

    set_cpu_threads(1)
    task = load_task("bandit", horizon=1)
    world = tabulate(task)

    def table_of(folder: Path):
        model, tokenizer = load_policy(str(folder))
        return action_table(model, Renderer(tokenizer, task), world)

    # ---------------------------------------------------------------- train, read, compute
    seeds = {}
    for seed in config.seeds:
        folder = output_dir / f"seed_{seed}"
        recipe("pretrain", "pretrain", folder / "pretrained", "--seed", str(seed))
        tables = {"pretrained": table_of(folder / "pretrained")}
        for method, f in zip(METHODS, (mean, polychromic), strict=True):
            flags = ["--model", str(folder / "pretrained"), "--seed", str(seed)]
            flags += ["--num_updates", str(updates), "--save_updates", str(updates)] if updates else []
            recipe("finetune", method, folder / method, *flags)
            tables[method] = table_of(folder / method)
            exactly = SetObjective(world, f, 4).ascend(tables["pretrained"], steps=5000, rate=5.0)
            tables[f"{method}, exact gradient"] = exactly
        seeds[seed] = tables

    # ---------------------------------------------------------------- say it, plot it, keep it
    rows = {seed: {name: measures(world, table) for name, table in tables.items()} for seed, tables in seeds.items()}
    for seed, policies in rows.items():
        print(f"\nseed {seed}: six arms, three win; {' and '.join(METHODS)} from one start\n")
        print(f"{'':28}" + "".join(f"{column:>13}" for column in COLUMNS))
        for name, cells in policies.items():
            print(f"{name:28}" + "".join(f"{cells[column]:{FORM.get(column, '13.3f')}}" for column in COLUMNS))
    print("\nleast likely winning arm, trained:")
    for method in METHODS:
        least = sorted(policies[method]["least"] for policies in rows.values())
        print(f"  {method:12} {', '.join(f'{p:.3f}' for p in least)}")
    tables = seeds[config.seeds[0]]
    title = f"One bandit, one start, two objectives (seed {config.seeds[0]})"
    plot_arms(world, {n: tables[n] for n in ("pretrained", *METHODS)}, output_dir / "arms.png", title=title)
    seconds = time.perf_counter() - began
    summary = {"seconds": seconds, "arms": list(world.actions), "policies": rows,
               "tables": {s: {n: t[0].tolist() for n, t in ts.items()} for s, ts in seeds.items()}}  # fmt: skip
    write_json(output_dir / "summary.json", summary)
    print(f"\n{seconds:.0f} s (imports of a few seconds not counted); {output_dir}/{{summary.json,arms.png}}")


def recipe(name: str, config: str, folder: Path, *flags: str) -> None:
    """One of the ordinary recipes, as from the command line; what it prints goes to a file."""
    print(runnable(f"{folder}: recipes/{name}.py --config recipes/tabular/{config}.yaml"), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    words = ["--config", str(RECIPES / f"tabular/{config}.yaml"), "--output_dir", str(folder), *flags]
    with (folder / "stdout.txt").open("a") as file, contextlib.redirect_stdout(file):
        call_here(name, words)


def measures(world, table_S_A) -> dict[str, float]:
    """What the table shows, and pass@k for every k up to the number of arms."""
    from polytune.tasks.tabular import exact

    arms = dict(zip(world.actions, table_S_A[0].tolist(), strict=False))
    winning = {arm: arms[arm] for arm in ("red", "green", "blue")}
    success = exact.success_rate(world, table_S_A)
    cells = {**winning, "success": success, "entropy": exact.path_entropy(world, table_S_A)}
    cells |= {f"pass@{k}": exact.pass_at_k(world, table_S_A, k) for k in range(1, len(arms) + 1)}
    cells |= {"arms kept": float(sum(p > 0.1 for p in winning.values())), "least": min(winning.values())}
    return cells | {"wins in 6": exact.distinct_wins(world, table_S_A, 6), "without red": success - winning["red"]}


if __name__ == "__main__":
    run(main)
