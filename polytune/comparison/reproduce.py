"""A comparison held against a paper's figures: which of its orderings hold, are reversed, or are not resolved.

For each pair of policies that the paper puts in an order, by mean return, success or success under a perturbation: the
same paired difference here, with its 95 % interval over training seeds and start states (`crossed.py`). An ordering
holds when the interval lies above 0, is reversed when it lies below, and is not resolved otherwise. Intervals are of
single differences, not corrected for their number. Absolute figures are another matter: policies, pretraining and
length of training are not the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from polytune.comparison.figures import Figures, difference, read_figures, stack
from polytune.comparison.methods import PRETRAINED, Method
from polytune.comparison.perturbed import figures_under
from polytune.comparison.published import Published
from polytune.comparison.runs import Run
from polytune.evaluation.summary import measure_bounds

VERDICTS = ("holds", "reversed", "not resolved")
#: how close two published figures may be to count as a tie: they are rounded to three digits
TIE = 5e-4


class Recipes(NamedTuple):
    """The two YAML files of a task and a scale."""

    pretrain: Path
    compare: Path


def find_recipes(folder: Path, task: str, scale: str) -> Recipes:
    """``FOLDER/TASK/SCALE_{pretrain,compare}.yaml``.

    Raises:
        ValueError: names the tasks, or the scales of the task, that there are.
    """
    tasks = sorted(path.name for path in folder.glob("*") if path.is_dir())
    if task not in tasks:
        raise ValueError(
            f"task is {task!r}, and {folder} has no folder of that name: choose one of {', '.join(tasks)}."
        )
    scales = sorted(path.name.removesuffix("_compare.yaml") for path in (folder / task).glob("*_compare.yaml"))
    found = Recipes(*(folder / task / f"{scale}_{stage}.yaml" for stage in Recipes._fields))
    missing = [str(path) for path in found if not path.is_file()]
    if missing:
        raise ValueError(f"scale is {scale!r}, and there is no {missing[0]}: the scales of {task} are "
                         f"{', '.join(scales)}.")  # fmt: skip
    return found


def figures_of(folder: Path, summary: Mapping[str, Any]) -> dict[str, list[Figures]]:
    """The runs of a finished comparison in ``folder`` by policy, the pretrained one first.

    Raises:
        ValueError: records are missing or damaged.
    """
    found = {PRETRAINED: [read_figures(Run(folder / PRETRAINED))]}
    for name, settings in summary["methods"].items():
        method = Method(name, Path(settings["config"]), {}, {})
        found[name] = [read_figures(Run(folder / name / f"seed_{s}", method, s)) for s in summary["seeds"]]
    return found


def orderings(
    published: Published, figures: Mapping[str, Sequence[Figures]], *, level: float = 0.95, seed: int = 0
) -> list[dict[str, Any]]:
    """Each ordered pair of the paper's tables with its difference there and here.

    Args:
        figures: of each policy its runs, the same seeds in the same order; the pretrained policy has one.
        seed: of the bootstrap, which serves where there is one run only.

    Returns:
        ``{"measure", "perturb", "better", "worse", "published", "ours": {"estimate", "low", "high"}, "verdict"}`` for
        each pair of policies that both have; ties of the paper are left out.
    """
    tables = [("success", None, published.success), ("mean_return", None, published.mean_return)]
    tables += [("success", name, table) for name, table in published.perturbed.items()]
    found = []
    for measure, perturb, table in tables:
        values = {
            policy: stack(own if perturb is None else [figures_under(figure, perturb) for figure in own])[measure]
            for policy, own in figures.items()
            if policy in table and all(perturb is None or perturb in figure.perturbed for figure in own)
        }
        bounds = measure_bounds(measure, [value for own in values.values() for value in own.ravel()])
        for pair in combinations(values, 2):
            better, worse = sorted(pair, key=lambda policy: -table[policy])
            if table[better] - table[worse] < TIE:
                continue
            ours = difference(values[better] - values[worse], level, bounds, seed)
            ours = {end: ours[end] for end in ("estimate", "low", "high")}
            told = verdict(ours, seeds=max(len(figures[policy]) for policy in pair))
            found.append({
                "measure": measure, "perturb": perturb, "better": better, "worse": worse,
                "published": round(table[better] - table[worse], 3), "ours": ours, "verdict": told,
            })  # fmt: skip
    return found


def verdict(ours: Mapping[str, float | None], *, seeds: int) -> str:
    """One of :data:`VERDICTS` for a difference better - worse. One seed resolves nothing: how much another would differ
    is not known."""
    if seeds < 2 or ours["low"] is None or ours["low"] <= 0 <= ours["high"]:
        return "not resolved"
    return "holds" if ours["low"] > 0 else "reversed"


def counts(found: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many orderings have each verdict."""
    return {word: sum(one["verdict"] == word for one in found) for word in VERDICTS}
