"""The runs of a comparison: methods x seeds, and each one's programs.

OUT/pretrained/evaluation, OUT/METHOD/seed_S (the run) and OUT/METHOD/seed_S/evaluation; the logs lie beside them. What
a run has finished is noted in its comparison_run.json, so that the same command goes on where it was.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polytune.comparison.methods import PRETRAINED, Method
from polytune.comparison.options import ComparisonConfig
from polytune.config import require
from polytune.places import start
from polytune.running.provenance import check_same_run, fingerprint, write_json
from polytune.running.run_queue import Launcher

NOTE_FILE = "comparison_run.json"


@dataclass(frozen=True)
class Run:
    """One cell of methods x seeds; ``method`` None is the pretrained policy, which is evaluated only."""

    folder: Path
    method: Method | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        return PRETRAINED if self.method is None else f"{self.method.name} seed {self.seed}"

    @property
    def policy_name(self) -> str:
        return PRETRAINED if self.method is None else f"{self.method.name}_s{self.seed}"

    @property
    def records(self) -> Path:
        return self.folder / "evaluation" / "records.jsonl"


def plan_runs(methods: Sequence[Method], seeds: Sequence[int], output_dir: Path) -> list[Run]:
    """The pretrained policy, then seed by seed all methods: what is done when a comparison is stopped is balanced."""
    runs = [Run(output_dir / method.name / f"seed_{seed}", method, seed) for seed in seeds for method in methods]
    return [Run(output_dir / PRETRAINED), *runs]


class Programs:
    """The commands of each run, and what of them is done.

    Args:
        model: the pretrained checkpoint.
        shared: flags that all runs and evaluations have in common.
        overrides: flags that all trainings have in common.
    """

    def __init__(self, model: str, shared: list[str], overrides: list[str], config: ComparisonConfig):
        self.model, self.shared, self.overrides, self.config = model, shared, overrides, config
        self.pretrained = fingerprint(model)

    def training(self, run: Run) -> list[str]:
        own = ["--model", self.model, "--seed", str(run.seed), "--output_dir", str(run.folder)]
        config = ["--config", str(run.method.config)]
        return [*start("finetune"), *config, *self.shared, *self.overrides, *own]

    def sampling(self) -> list[str]:
        """What decides an evaluation's records, beside its policy; perturbations come last, and only add records."""
        perturb = ["--perturb", *self.config.perturb] if self.config.perturb else []
        return [*self.shared, "--n", str(self.config.n), "--seed", str(self.config.evaluation_seed), *perturb]

    def evaluation(self, run: Run) -> list[str]:
        path = self.model if run.method is None else run.folder
        own = ["--policies", f"{run.policy_name}={path}", "--level", str(self.config.level)]
        out = ["--output_dir", str(run.folder / "evaluation")]
        return [*start("evaluate"), *self.sampling(), *own, *out]

    def check(self, run: Run) -> None:
        """Refuse a folder whose run has other settings or comes from another pretrained policy.

        Raises:
            ValueError: says what differs.
        """
        if run.method is None:
            return
        note = read_note(run)
        settings = dict(run.method.settings)
        settings["trainer"] = copy.copy(settings["trainer"])
        settings["trainer"].seed, settings["trainer"].output_dir = run.seed, str(run.folder)
        check_same_run(run.folder, settings, complete=note["trained"] is not None)
        begun = note["trained"] is not None or bool(list(run.folder.glob("checkpoint-*")))
        require(
            not begun or note["pretrained"] in (None, self.pretrained),
            f"{run.folder} was trained from another pretrained policy (fingerprint {note['pretrained']}, {self.model} "
            f"now has {self.pretrained}): choose another output_dir, or remove the folder to train it anew.",
        )

    def is_trained(self, run: Run) -> bool:
        return read_note(run)["trained"] == fingerprint(run.folder)

    def is_evaluated(self, run: Run) -> bool:
        policy = self.pretrained if run.method is None else fingerprint(run.folder)
        sampled, of = read_note(run)["evaluated"] or ([], None)
        (had, perturbed), (asked, wanted) = split_perturbations(sampled), split_perturbations(self.sampling())
        return run.records.is_file() and of == policy and had == asked and wanted <= perturbed

    def is_done(self, run: Run) -> bool:
        return (run.method is None or self.is_trained(run)) and self.is_evaluated(run)

    def job(self, run: Run) -> Callable[[Launcher], None]:
        """Train, then evaluate, whichever is not done yet."""

        def work(launcher: Launcher) -> None:
            if run.method is not None and not self.is_trained(run):
                begun = bool(list(run.folder.glob("checkpoint-*")))
                before = read_note(run)["train_seconds"] if begun else 0.0
                write_note(run, pretrained=self.pretrained, train_seconds=before, trained=None, evaluated=None)
                launcher.call(
                    self.training(run),
                    run.folder / "finetune.log",
                    on_time=lambda seconds: write_note(run, train_seconds=before + seconds),
                )
                write_note(run, trained=fingerprint(run.folder))
            if not self.is_evaluated(run):
                launcher.call(self.evaluation(run), run.folder / "evaluate.log")
                policy = self.pretrained if run.method is None else fingerprint(run.folder)
                write_note(run, pretrained=self.pretrained, evaluated=[self.sampling(), policy])

        return work


def split_perturbations(words: Sequence[str]) -> tuple[list[str], set[str]]:
    """The words of :meth:`Programs.sampling` before ``--perturb``, and the perturbations after it."""
    cut = words.index("--perturb") if "--perturb" in words else len(words)
    return list(words[:cut]), set(words[cut + 1 :])


def read_note(run: Run) -> dict[str, Any]:
    """What a run has finished; a file that cannot be read says nothing, and the programs look for themselves."""
    note = {"pretrained": None, "train_seconds": 0.0, "trained": None, "evaluated": None}
    try:
        found = json.loads((run.folder / NOTE_FILE).read_text())
        return note | {key: found[key] for key in note if key in found}
    except (FileNotFoundError, ValueError, TypeError):
        return note


def write_note(run: Run, **changes: Any) -> None:
    write_json(run.folder / NOTE_FILE, read_note(run) | changes)
