"""The runs of a comparison: methods x seeds, and each one's programs.

OUT/pretrained/evaluation, OUT/METHOD/seed_S (the run) and OUT/METHOD/seed_S/evaluation; the logs lie beside them. What
a run has finished is noted in its comparison_run.json, so that the same command goes on where it was.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polytune.checks import require
from polytune.comparison.keep import portable
from polytune.comparison.methods import PRETRAINED, Method, shared_flags
from polytune.comparison.options import ComparisonConfig
from polytune.config import PolicyConfig, TaskConfig
from polytune.evaluation.records import PACKED, each_record
from polytune.places import start
from polytune.running.identity import STARTS, changed, same_weights
from polytune.running.provenance import (
    RECORDS_FILE,
    RUN_FILE,
    check_same_run,
    differing_fields,
    fingerprint,
    plain,
    plain_defaults,
    write_json,
)
from polytune.running.run_queue import Launcher

NOTE_FILE = "comparison_run.json"
#: what the start states that every run trains on are noted as
TRAINING_STARTS = f"{STARTS} of training"


@dataclass(frozen=True)
class Run:
    """One cell of methods x seeds; ``method`` None is the pretrained policy, which is evaluated only."""

    folder: Path
    method: Method | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """What people read."""
        return PRETRAINED if self.method is None else f"{self.method.name} seed {self.seed}"

    @property
    def policy_name(self) -> str:
        """What records call its policy, without blanks."""
        return PRETRAINED if self.method is None else f"{self.method.name}_s{self.seed}"

    @property
    def records(self) -> Path:
        """The file of its evaluation."""
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
        content: what the numbers depend on beside the flags (`polytune.running.identity.contents`).
        starts: seeds of the start states of every evaluation, in order.
    """

    def __init__(
        self,
        model: str,
        shared: list[str],
        overrides: list[str],
        config: ComparisonConfig,
        content: Mapping[str, str] | None = None,
        starts: Sequence[int] = (),
    ):
        self.model, self.shared, self.overrides, self.config = model, shared, overrides, config
        self.content, self.starts = dict(content or {}), starts
        self.pretrained = fingerprint(model)

    def training(self, run: Run) -> list[str]:
        """The command line of a run's training."""
        own = ["--model", self.model, "--seed", str(run.seed), "--output_dir", str(run.folder)]
        config = ["--config", str(run.method.config)]
        return [*start("finetune"), *config, *self.shared, *self.overrides, *own]

    def sampling(self) -> list[str]:
        """What decides an evaluation's records, beside its policy; perturbations come last, and only add records."""
        perturb = ["--perturb", *self.config.perturb] if self.config.perturb else []
        return [*self.shared, "--n", str(self.config.n), "--seed", str(self.config.evaluation_seed), *perturb]

    def evaluation(self, run: Run) -> list[str]:
        """The command line of a run's evaluation."""
        path = self.model if run.method is None else run.folder
        own = ["--policies", f"{run.policy_name}={path}", "--level", str(self.config.level)]
        out = ["--output_dir", str(run.folder / "evaluation")]
        return [*start("evaluate"), *self.sampling(), *own, *out]

    def settings(self, run: Run) -> dict[str, Any]:
        """The settings with which a run is trained."""
        settings = dict(run.method.settings)
        settings["trainer"] = copy.copy(settings["trainer"])
        settings["trainer"].seed, settings["trainer"].output_dir = run.seed, str(run.folder)
        return settings

    def check(self, run: Run) -> None:
        """Refuse a folder whose run has other settings or comes from another pretrained policy.

        Raises:
            ValueError: says what differs.
        """
        note = read_note(run)
        if note["laid_out"]:
            return self.check_kept(run, run.folder)
        if run.method is not None:
            check_same_run(run.folder, self.settings(run), complete=note["trained"] is not None)
        require(
            not (other := self.other_content(run, note, run.records)),
            f"{run.folder} was run before {', '.join(other)}: choose another output_dir, or remove the folder to run "
            "it anew.",
        )
        if run.method is None:
            return
        begun = note["trained"] is not None or bool(list(run.folder.glob("checkpoint-*")))
        require(
            not begun or note["pretrained"] is None or _same(note, "pretrained", self.pretrained),
            f"{run.folder} was trained from another pretrained policy (fingerprint {note['pretrained']}, {self.model} "
            f"now has {self.pretrained}): choose another output_dir, or remove the folder to train it anew.",
        )

    def other_content(self, run: Run, note: Mapping[str, Any], records: Path) -> list[str]:
        """What a run depends on beside its flags and is not as it was, in words. A note of before start states were
        noted is held against its ``records`` where a file names them; another split's name, the flags tell."""
        content = dict(note.get("content", {}))
        if run.method is None:
            content.pop(TRAINING_STARTS, None)
            if not self.sampled(note):  # it is sampled anew
                content.pop(STARTS, None)
        found, flags = changed(content, self.content), _by_flag(self.shared)
        by_file = flags.get("--split", "").endswith(".jsonl") or "--data_dir" in flags
        if by_file and self.starts and STARTS not in note.get("content", {}) and self.sampled(note):
            begun = {record["start_seed"] for record, _ in each_record(records)}
            found += [f"{STARTS} changed"] * (begun != set(self.starts))
        return found

    def check_kept(self, run: Run, folder: Path) -> None:
        """Refuse ``folder``, which has small files of a run and no weights, unless ``run`` would come to the same.

        Raises:
            ValueError: says what differs, or that a file cannot be read.
        """
        try:
            note, found = json.loads((folder / NOTE_FILE).read_text()), []
            if run.method is not None:
                settings, before = self.settings(run), json.loads((folder / RUN_FILE).read_text())
                found = differing_fields(before, portable(plain(settings)), plain_defaults(settings))
            if not _same(note, "pretrained", self.pretrained):
                found.append(f"{self.model}, the pretrained policy, had fingerprint {note['pretrained']}, now "
                             f"{self.pretrained}")  # fmt: skip
            if run.method is not None and self.has_weights(run):
                if not _same(note, "trained", own := fingerprint(run.folder)):
                    found.append(f"its policy has fingerprint {note['trained']}, that of {run.folder} {own}")
            elif run.method is not None and not self.sampled(note):
                found += _unlike_flags(note["evaluated"][0], self.sampling())
            found += self.other_content(run, note, kept_records(run, folder))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(
                f"{folder} cannot be read ({type(error).__name__}: {error}): restore it, or remove it to run "
                f"{run.name} anew."
            ) from error
        require(
            not found,
            f"{folder} keeps another run than {run.name} would be now ({'; '.join(found[:5])}): give what it had, or "
            "remove the folder to run it anew.",
        )

    def has_weights(self, run: Run) -> bool:
        """Whether a run's policy is there to be sampled; that of a run laid out from kept files is not."""
        note = read_note(run)
        return run.method is None or (note["trained"] is not None and not note["laid_out"])

    def is_trained(self, run: Run) -> bool:
        """Whether the policy in the run's folder is what its training left, or was laid there."""
        note = read_note(run)
        return note["laid_out"] or _same(note, "trained", fingerprint(run.folder))

    def is_evaluated(self, run: Run) -> bool:
        """Whether the records are of that policy and of these samples."""
        note = read_note(run)
        policy = note["trained"] if note["laid_out"] else fingerprint(run.folder)
        policy = self.pretrained if run.method is None else policy
        same = self.sampled(note) and same_weights(note["evaluated"][1], policy, note["content"])
        return same and run.records.is_file()

    def sampled(self, note: Mapping[str, Any]) -> bool:
        """Whether a note says that what is to be sampled has been."""
        sampled = note["evaluated"][0] if note["evaluated"] else []
        (had, perturbed), (asked, wanted) = split_perturbations(sampled), split_perturbations(self.sampling())
        return bool(had) and not _unlike_flags(portable(had), portable(asked)) and wanted <= perturbed

    def is_done(self, run: Run) -> bool:
        """Whether nothing of the run is left to do."""
        return (run.method is None or self.is_trained(run)) and self.is_evaluated(run)

    def job(self, run: Run, then: Callable[[Run], object] = lambda run: None) -> Callable[[Launcher], None]:
        """Train, then evaluate, whichever is not done yet, ``then`` what else is due."""

        def work(launcher: Launcher) -> None:
            if run.method is not None and not self.is_trained(run):
                begun = bool(list(run.folder.glob("checkpoint-*")))
                before = read_note(run)["train_seconds"] if begun else 0.0
                begins = {"pretrained": self.pretrained, "content": self.content}
                write_note(run, **begins, train_seconds=before, trained=None, evaluated=None)
                launcher.call(
                    self.training(run),
                    run.folder / "finetune.log",
                    on_time=lambda seconds: write_note(run, train_seconds=before + seconds),
                )
                write_note(run, trained=fingerprint(run.folder))
            if not self.is_evaluated(run):
                launcher.call(self.evaluation(run), run.folder / "evaluate.log")
                policy = self.pretrained if run.method is None else fingerprint(run.folder)
                done = {"pretrained": self.pretrained, "content": self.content}
                done |= {} if run.method is None else {"trained": policy}
                write_note(run, **done, evaluated=[self.sampling(), policy])
            then(run)

        return work


def kept_records(run: Run, folder: Path) -> Path:
    """The records of a run that ``folder`` keeps, or in its own folder."""
    return run.records if folder == run.folder else folder / (RECORDS_FILE + PACKED)


def _same(note: Mapping[str, Any], name: str, now: str) -> bool:
    """Whether the policy that a note names, ``pretrained`` or ``trained``, has its fingerprint still."""
    return same_weights(note[name], now, note.get("content", {}))


def split_perturbations(words: Sequence[str]) -> tuple[list[str], set[str]]:
    """The words of :meth:`Programs.sampling` before ``--perturb``, and the perturbations after it."""
    cut = words.index("--perturb") if "--perturb" in words else len(words)
    return list(words[:cut]), set(words[cut + 1 :])


def _unlike_flags(had: Sequence[str], now: Sequence[str]) -> list[str]:
    """The flags of :meth:`Programs.sampling` that differ, with both values. One that ``had`` lacks, which came later,
    stood at its default."""
    before = _by_flag(shared_flags(TaskConfig(), PolicyConfig())) | _by_flag(had)
    after = _by_flag(now)
    names = [name for name in _by_flag([*had, *now]) if before.get(name) != after.get(name)]
    return [f"it was sampled with {name} {before.get(name)}, now {after.get(name)}" for name in names]


def _by_flag(words: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, found[word] = word, ""
        else:
            found[name] = f"{found[name]} {word}".strip()
    return found


def read_note(run: Run) -> dict[str, Any]:
    """What a run has finished; a file that cannot be read says nothing, and the programs look for themselves.
    ``laid_out``: from kept files (`comparison.kept`), without weights."""
    note: dict[str, Any] = {"pretrained": None, "train_seconds": 0.0, "trained": None, "evaluated": None}
    note |= {"laid_out": False, "content": {}}
    try:
        found = json.loads((run.folder / NOTE_FILE).read_text())
        return note | {key: found[key] for key in note if key in found}
    except (FileNotFoundError, ValueError, TypeError):
        return note


def write_note(run: Run, **changes: Any) -> None:
    """Change fields of the note in a run's folder; the others stay."""
    write_json(run.folder / NOTE_FILE, read_note(run) | changes)
