"""The evaluations of a policy that its card may show: those that measured these very weights, and were finished."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polytune.checks import require
from polytune.evaluation.records import read_records
from polytune.export.source import Source
from polytune.running.provenance import EVALUATION_RUN_FILE, RECORDS_FILE, fingerprint, noted_policies

Interval = dict[str, float | None]


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation says of the policy: measure -> {estimate, low, high}.

    ``before``: of the policy that the run began with, where that was measured, too; ``change``: the paired difference.
    ``perturbed``, ``moved``: perturbation -> its measures, and its paired differences to the unperturbed.
    ``settings``: task, split, n, temperature, seed, level, start_states.
    """

    settings: dict[str, Any]
    measures: dict[str, Interval]
    before: dict[str, Interval] = field(default_factory=dict)
    change: dict[str, Interval] = field(default_factory=dict)
    perturbed: dict[str, dict[str, Interval]] = field(default_factory=dict)
    moved: dict[str, dict[str, Interval]] = field(default_factory=dict)


def find_evaluations(source: Source, given: Sequence[str]) -> list[tuple[Path, Evaluation]]:
    """The evaluations in ``given``, or, where that is empty, those found in the run's folder and beside it.

    Raises:
        ValueError: a given folder holds no evaluation, an unfinished one, or one of other weights.
    """
    own = fingerprint(source.folder)
    for folder in map(Path, given):
        names = _names(folder, own)
        require(bool(names), f"evaluation {folder} holds no {EVALUATION_RUN_FILE}: name an output_dir of evaluate.py.")
        require(
            own in names.values(),
            f"evaluation {folder} measured other weights ({', '.join(names)}), not those of {source.folder}: evaluate "
            "this policy (recipes/evaluate.py --policies), or leave --evaluation out.",
        )
    run = source.run_folder.resolve()
    places = [run, *sorted(path for root in (run, run.parent) for path in root.iterdir() if path.is_dir())]
    found = [Path(folder) for folder in given] or [path for path in places if own in _names(path, own).values()]
    read = []
    for folder in dict.fromkeys(found):
        evaluation = _read(folder, own, source)
        if isinstance(evaluation, str):
            require(not given, f"evaluation {folder} {evaluation}: give its own command again, which finishes it.")
            print(f"note: {folder} {evaluation}, and is left out of the card")
        else:
            read.append((folder, evaluation))
    return read


def _names(folder: Path, *now: str) -> dict[str, str]:
    """Policies of an evaluation by name, with their fingerprints, those of ``now`` as they are told now; empty where
    there is none that can be read."""
    try:
        return noted_policies(json.loads((folder / EVALUATION_RUN_FILE).read_text()), now)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _read(folder: Path, own: str, source: Source) -> Evaluation | str:
    """The evaluation, or why it cannot be shown."""
    begun = fingerprint(source.begun_with)
    names = _names(folder, own, begun)
    name = next(name for name, print_ in names.items() if print_ == own)
    try:
        summary = json.loads((folder / "summary.json").read_text())
        records = read_records(folder / RECORDS_FILE)
        measures = summary["policies"][name]
        counts, settings = measures["counts"], summary["settings"]
        mine = records.where(policy=name, perturb=None)
        wins = mine.where(greedy=False).column("success")
        same = len(mine) == counts["episodes"] and len(wins) > 0
        same = same and abs(wins.mean() - measures["success"]["estimate"]) < 1e-9
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"is not finished or cannot be read ({type(error).__name__}: {error})"
    if not same:
        return "has a summary of other records than its own"
    before = next((other for other, print_ in names.items() if print_ == begun and other != name), None)
    pairs = {(pair["first"], pair["second"]): pair["differences"] for pair in summary.get("pairs", [])}
    under_ = summary.get("perturbed", {})
    creative = summary.get("creativity", {})
    return Evaluation(
        {**settings, "level": summary["level"], "start_states": counts["start_states"],
         "n": counts["samples_per_start_state"]},
        _intervals(measures) | _intervals(creative.get(name, {})),
        {} if before is None else _intervals(summary["policies"][before]) | _intervals(creative.get(before, {})),
        _intervals(pairs.get((before, name), {})),
        {moved: _intervals(part["policies"][name]) for moved, part in under_.items()},
        {moved: _intervals(part["changes"][name]) for moved, part in under_.items()},
    )  # fmt: skip


def _intervals(measures: dict[str, Any]) -> dict[str, Interval]:
    """The measures that have an estimate, pass@1 left out: it is the success rate."""
    return {
        name: value
        for name, value in measures.items()
        if isinstance(value, dict) and value.get("estimate") is not None and name != "pass@1"
    }
