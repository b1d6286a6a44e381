"""Finished runs as small files that can be committed: a comparison is completed in several sittings, on several
machines, and audited by others.

FOLDER/pretrained and FOLDER/METHOD-SEED, each whole or absent:

    run.json               the fields of the run (not of the pretrained policy), with command and versions
    comparison_run.json    fingerprints of the pretrained and the trained policy, what was sampled, seconds of training
    evaluation_run.json    the evaluation's own note
    metrics.jsonl.bz2      every update, numbers rounded to 6 digits
    records.jsonl.bz2      every attempt

No weights, no trees, no path of this machine; of perturbed attempts no actions, which only maps read, and those are of
the start states as they are. ``said`` of a record, a digest that tells whether two attempts at one state are alike,
becomes the number of the first attempt that said the same.

A kept run stands for one that would be run: its fields, the pretrained policy and what was sampled must be equal.
Versions and machine may differ, and training seconds with them. A field that came after the run stands at its default.
"""

from __future__ import annotations

import bz2
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from polytune.comparison.keep import portable
from polytune.comparison.methods import PRETRAINED
from polytune.comparison.runs import NOTE_FILE, Programs, Run, read_note, write_note
from polytune.evaluation.records import PACKED, each_record, read_packed
from polytune.policy.run_file import RUN_FILE
from polytune.running.provenance import EVALUATION_RUN_FILE, RECORDS_FILE, WRITTEN, write_json

METRICS_FILE = "metrics.jsonl"
#: significant digits of a metric
DIGITS = 6


class KeptRuns:
    """The kept runs of one comparison in ``folder``."""

    def __init__(self, folder: str | Path, programs: Programs):
        self.folder, self.programs = Path(folder), programs

    def of(self, run: Run) -> Path:
        """Where a run is kept."""
        return self.folder / (PRETRAINED if run.method is None else f"{run.method.name}-{run.seed}")

    def settle(self, planned: Sequence[Run]) -> None:
        """Check the kept runs among those planned, then lay out those that are not done, and keep those that are.

        Raises:
            ValueError: a kept run is another one than that which is planned, or damaged; says what differs.
        """
        kept = [run for run in planned if self.of(run).exists()]
        for run in kept:
            self.programs.check_kept(run, self.of(run))
            for name in _packed(run):
                read_packed(self.of(run) / name)
        for run in planned:
            if self.programs.is_done(run):
                self.keep(run)
            elif run in kept:
                self._lay_out(run)

    def keep(self, run: Run) -> None:
        """Write the small files of a finished run, unless they are there; of one that was laid out they are."""
        note, kept = portable(read_note(run)), self.of(run)
        if note["laid_out"] or (kept.exists() and json.loads((kept / NOTE_FILE).read_text()) == note):
            return
        building = kept.with_name(f".{kept.name}.tmp")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        for name, path in _packed(run).items():
            lines = _shortened(record for record, _ in each_record(path)) if path == run.records else _rounded(path)
            _pack(building / name, lines)
        for path in _notes(run):
            told = portable(json.loads(path.read_text()))
            told.pop(WRITTEN, None)  # the packed records are shorter, and have a checksum of their own
            write_json(building / path.name, told)
        write_json(building / NOTE_FILE, note)
        shutil.rmtree(kept, ignore_errors=True)
        os.replace(building, kept)

    def _lay_out(self, run: Run) -> None:
        """Fill the folder of a run from its kept files, the note last; not where its own policy can be sampled, or the
        pretrained one has to be sampled otherwise."""
        kept, owned = self.of(run), self.programs.has_weights(run)
        note = json.loads((kept / NOTE_FILE).read_text())
        if owned and (run.method is not None or not self.programs.sampled(note)):
            return
        shutil.rmtree(run.records.parent, ignore_errors=True)  # of an evaluation that was stopped
        run.records.parent.mkdir(parents=True)
        for path in _notes(run):
            shutil.copyfile(kept / path.name, path)
        for name, path in _packed(run).items():
            path.write_bytes(read_packed(kept / name))
        write_note(run, **note | {"laid_out": not owned})


def _notes(run: Run) -> list[Path]:
    """A run's JSON files that are kept as they are, beside its own note."""
    own = [] if run.method is None else [run.folder / RUN_FILE]
    return [*own, run.records.parent / EVALUATION_RUN_FILE]


def _packed(run: Run) -> dict[str, Path]:
    """The names of a run's packed files, and where they are laid out."""
    own = {} if run.method is None else {METRICS_FILE + PACKED: run.folder / METRICS_FILE}
    return {RECORDS_FILE + PACKED: run.records} | own


def _pack(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.write_bytes(bz2.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))


def _shortened(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Records with ``said`` by number, without the actions of perturbed ones."""
    first: dict[tuple, int] = {}
    for record in records:
        if "said" in record:
            key = tuple(record.get(name) for name in ("policy", "perturb", "start_seed", "said"))
            record = record | {"said": first.setdefault(key, record["attempt"])}
        yield {name: value for name, value in record.items() if name != "actions" or not record.get("perturb")}


def _rounded(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file with short numbers; whole ones stay what they are."""
    for line in path.read_text().splitlines():
        numbers = json.loads(line).items()
        yield {k: float(f"{v:.{DIGITS}g}") if isinstance(v, float) and not v.is_integer() else v for k, v in numbers}
