"""The fields of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

from polytune.checks import require, require_finite, require_integer, require_number, require_once, require_seed


@dataclass
class EvaluationConfig:
    """What ``recipes/evaluate.py`` measures."""

    policies: list[str] = field(
        default_factory=lambda: ["outputs/quickstart/pretrained", "outputs/quickstart/finetuned"],
        metadata={"help": "Checkpoints to compare, paired on the same start states; NAME=PATH gives one a name."},
    )
    completions: str | None = field(
        default=None,
        metadata={
            "help": "Score a file's texts instead of policies (creativity tasks): JSONL lines "
            '{"completion": ..., "prompt": optional}. The first of each prompt counts for diversity and creativity, '
            "lines without a prompt or with a bare question count each."
        },
    )
    from_records: str | None = field(
        default=None,
        metadata={
            "help": "Folder or records.jsonl of an earlier evaluation: its records are analysed again (another level, "
            "other k), nothing is sampled."
        },
    )
    n: int = field(default=16, metadata={"help": "Independent samples of each start state."})
    k: list[int] = field(
        default_factory=list, metadata={"help": "k of the pass@k to report, at most n. Unset: 1, 2, 4, ... and n."}
    )
    perturb: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Sample the same start states under these perturbations as well (start_room: the agent begins in "
            "another room), drawn with seed."
        },
    )
    temperature: float = field(
        default=1.0,
        metadata={"help": "Temperature of the whole distribution, never cut to a top-k or top-p. 0: with n 1 only."},
    )
    greedy: bool = field(default=True, metadata={"help": "Add one greedy episode of each start state."})
    coreset: bool = field(
        default=False,
        metadata={
            "help": "Record a vector of each attempt (the policy's mean hidden state), and report pass@k of the k of n "
            "that are most unlike (leverage) beside that of k at random."
        },
    )
    level: float = field(default=0.95, metadata={"help": "Level of the intervals."})
    seed: int = field(default=0, metadata={"help": "Seed of the samples and of the bootstrap."})
    output_dir: str | None = field(
        default=None,
        metadata={
            "help": "Where records.jsonl, summary.json and the plot go (outputs/quickstart/evaluation; with "
            "from_records: beside the records)."
        },
    )
    report: bool = field(
        default=False,
        metadata={"help": "Also write report.html: curves, tables, maps, trees of the training, in one page."},
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the Python code that a Hub model brings along. Read it before."}
    )

    def __post_init__(self) -> None:
        require_finite(self)
        require_integer("n", self.n, 1)
        require_seed("seed", self.seed)
        require_once("perturb", self.perturb)
        require(bool(self.policies), "policies is empty: name at least one checkpoint.")
        require_number("temperature", self.temperature, 0.0)
        require(
            self.temperature > 0.0 or self.n == 1,
            f"temperature is 0 and n is {self.n}: samples of the likeliest action are all alike, and pass@k would be "
            "pass@1. Give a temperature above 0, or n 1.",
        )
        self.k = sorted(self.k or [])
        for k in self.k:
            require_integer("k", k, 1)
            require(k <= self.n or self.from_records is not None, f"k has {k}, but n is {self.n}: draw more samples "
                    f"(--n {k}), or leave that k out.")  # fmt: skip
        require_once("k", self.k)
        require(0.0 < self.level < 1.0, f"level must lie between 0 and 1, got {self.level}.")
