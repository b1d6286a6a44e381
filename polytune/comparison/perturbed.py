"""A comparison under perturbations of the start states: the same measures, intervals and paired differences.

Of each perturbation a summary like that of the start states as they are (`comparison.compare`), and `changes`: each
policy's perturbed - unperturbed, paired by seed and start state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from polytune.comparison.figures import Figures, compare, difference, stack
from polytune.comparison.methods import PRETRAINED
from polytune.evaluation.summary import measure_bounds

#: what the comparison has once for both
SHARED = ("signals",)


def compare_perturbed(
    pretrained: Figures,
    methods: Mapping[str, Sequence[Figures]],
    names: Sequence[str],
    *,
    baseline: str,
    level: float,
    seed: int = 0,
    starts: str = "start states",
) -> dict[str, Any]:
    """``{name: {...}}`` of each perturbation; arguments as of `comparison.compare`.

    Raises:
        ValueError: a run has no figures of a perturbation, or `comparison.compare` refuses them.
    """
    found = {}
    for name in names:
        moved = {PRETRAINED: [figures_under(pretrained, name)]}
        moved |= {method: [figures_under(figure, name) for figure in own] for method, own in methods.items()}
        trained = {method: own for method, own in moved.items() if method != PRETRAINED}
        options = {"baseline": baseline, "level": level, "seed": seed, "starts": starts}
        summary = compare(moved[PRETRAINED][0], trained, **options)
        changes = {
            policy: _changes(own, moved[policy], level, seed)
            for policy, own in {PRETRAINED: [pretrained], **methods}.items()
        }
        found[name] = {key: value for key, value in summary.items() if key not in SHARED} | {"changes": changes}
    return found


def figures_under(figure: Figures, name: str) -> Figures:
    """A run's figures under a perturbation. Raises ValueError if it was not evaluated there."""
    if name not in figure.perturbed:
        raise ValueError(f"{figure.run.name} was not evaluated under {name}: give the same command again.")
    return replace(figure, values=figure.perturbed[name], perturbed={})


def _changes(before: Sequence[Figures], after: Sequence[Figures], level: float, seed: int) -> dict[str, Any]:
    """Perturbed - unperturbed of each measure of one policy."""
    plain, moved = stack(before), stack(after)
    found = {}
    for measure in (name for name in plain if name in moved):
        bounds = measure_bounds(measure, [*plain[measure].ravel(), *moved[measure].ravel()])
        found[measure] = difference(moved[measure] - plain[measure], level, bounds, seed)
    return found
