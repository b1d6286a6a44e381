"""The fields of a comparison, and of a reproduction of published tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from polytune.checks import require, require_finite, require_integer, require_number, require_once, require_seed


def parse_seeds(entries: list[str]) -> list[int]:
    """Training seeds: one number N stands for 0..N-1, ``3-7`` for 3..7, several numbers for themselves."""
    seeds: list[int] = []
    for entry in map(str, entries):
        first, _, last = entry.partition("-")
        last = last or first
        require(
            first.isdigit() and last.isdigit() and int(first) <= int(last),
            f"seeds has {entry!r}: give a number of seeds (5), a range (3-7) or the seeds themselves (0 1 4).",
        )
        seeds += range(int(first), int(last) + 1)
    if len(entries) == 1 and str(entries[0]).isdigit():
        seeds = list(range(seeds[0]))
    require(bool(seeds), f"seeds is {' '.join(map(str, entries))!r}, which names no seed: give at least 1.")
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    require(not twice, f"seeds names {', '.join(map(str, twice))} more than once: give each training seed once.")
    return seeds


@dataclass
class ComparisonConfig:
    """What ``recipes/compare.py`` runs: methods x seeds from one pretrained policy, at equal budgets."""

    methods: list[str] = field(
        default_factory=list, metadata={"help": "YAML files of recipes/finetune.py; NAME=FILE.yaml gives one a name."}
    )
    seeds: list[str] = field(
        default_factory=lambda: ["5"],
        metadata={"help": "Training seeds of every method: how many (5), a range (3-7), or a list (0 1 4)."},
    )
    baseline: str | None = field(
        default=None, metadata={"help": "Method that the others are compared with, paired; unset: the first one."}
    )
    set: list[str] = field(
        default_factory=list,
        metadata={"help": "FIELD=VALUE ...: fields of recipes/finetune.py, the same in every run of every method."},
    )
    n: int = field(default=16, metadata={"help": "Independent samples of each start state in every evaluation."})
    perturb: list[str] = field(
        default_factory=list,
        metadata={"help": "Evaluate every policy under these perturbations of the start states as well (start_room)."},
    )
    budget_tolerance: float = field(
        default=0.01,
        metadata={
            "help": "Share by which methods' environment steps, meaned over seeds, may differ: a run ends within about "
            "a tree of its max_env_steps."
        },
    )
    evaluation_seed: int = field(default=0, metadata={"help": "Seed of the samples, the same in every evaluation."})
    level: float = field(default=0.95, metadata={"help": "Level of the intervals."})
    output_dir: str = field(
        default="outputs/comparison", metadata={"help": "Where runs, table and plots go: METHOD/seed_S, summary.json."}
    )
    workers: int | None = field(default=None, metadata={"help": "Runs at a time; unset: one for each CPU core."})
    keep: str | None = field(
        default=None, metadata={"help": "JSON file, under data/results/ say, that keeps everything; unset: none."}
    )
    keep_runs: str | None = field(
        default=None,
        metadata={
            "help": "Folder, under data/results/runs/ say, that keeps small files of each finished run, no weights; "
            "what is kept there counts as done, on another machine, too. Unset: none."
        },
    )

    def __post_init__(self) -> None:
        require_finite(self)
        parse_seeds(self.seeds)
        require_once("perturb", self.perturb)
        require_integer("n", self.n, 1)
        require_number("budget_tolerance", self.budget_tolerance, 0.0, 0.05)
        require_seed("evaluation_seed", self.evaluation_seed)
        require(0.0 < self.level < 1.0, f"level must lie between 0 and 1, got {self.level}.")
        if self.workers is not None:
            require_integer("workers", self.workers, 1)
        require(self.keep is None or self.keep.endswith(".json"), f"keep must name a .json file, got {self.keep!r}.")


@dataclass
class ReproductionConfig:
    """Which of the paper's tables ``recipes/reproduce.py`` holds ours against, and how large."""

    task: str = field(
        default="fourrooms", metadata={"help": "fourrooms, babyai-goto, babyai-pickup, babyai-bosslevel."}
    )
    scale: str = field(
        default="cpu", metadata={"help": "tiny (minutes, a smoke test), cpu (two hours on 2 cores), paper (a GPU)."}
    )
    seeds: list[str] = field(
        default_factory=list, metadata={"help": "Training seeds as recipes/compare.py takes them; unset: the scale's."}
    )
    workers: int | None = field(default=None, metadata={"help": "Runs at a time; unset: the scale's, or one a core."})
    recipes: str | None = field(
        default=None, metadata={"help": "Folder of TASK/SCALE_{pretrain,compare}.yaml; unset: recipes/reproduce."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Where everything goes; unset: outputs/reproduce/TASK_SCALE."}
    )
    keep: str | None = field(
        default=None, metadata={"help": "JSON file, under data/results/ say, that keeps the report; unset: none."}
    )

    def __post_init__(self) -> None:
        require_finite(self)
        if self.seeds:
            parse_seeds(self.seeds)
        if self.workers is not None:
            require_integer("workers", self.workers, 1)
        require(self.keep is None or self.keep.endswith(".json"), f"keep must name a .json file, got {self.keep!r}.")
