"""How a population of advantages is scaled: the rows of GAE_NORMALISE and SET_NORMALISE.

    (A - shift) / size,   shift and size from the population's mean and std, over all processes
"std" divides by the std and keeps the mean: set advantages sum to 0 over a group already, and subtracting the mean of a
batch would move members of tied groups off 0. Where |mean| is larger than the std, as leave_one_out can have it, |mean|
is the size of the population and divides it, so that values which hardly differ do not become large. "mean_std"
subtracts the mean and divides by the std (usual for GAE). "group_std" has scaled each group by its own. "group_mean"
has divided each group by the mean score of its sets, which with objective "mean" and sets of one is MaxRL (arXiv
2602.02710): (r - mean) / mean, towards the gradient of log p where p is a start state's success rate. Groups whose mean
is 0 or below are left as they are: nothing in them won.
Degenerate case: a size of `least` or below is that of rounding, and nothing is divided by it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from polytune.checks import require
from polytune.lookup import Row, find_row
from polytune.objective.credit import find_credit
from polytune.objective.scale import MIN_STD, standardise_groups
from polytune.objective.scores import GroupScores
from polytune.tables import CREDIT, GAE_NORMALISE, SET_NORMALISE, Entry


@dataclass(frozen=True)
class Scaling(Row):
    """shift_and_size(mean, std) -> (shift, size) of a whole population.

    within_groups(scores) -> scores: what is done to each group before, of sets only.
    """

    shift_and_size: Callable[[float, float], tuple[float, float]]
    within_groups: Callable[[GroupScores], GroupScores] | None = None
    function: ClassVar[str] = "shift_and_size"
    form: ClassVar[str] = "a Scaling or a function f(mean, std) -> (shift, size)"

    @property
    def shifts(self) -> bool:
        """Whether it takes something away, that is: does more than to divide."""
        return self.shift_and_size(1.0, 1.0)[0] != 0

    def apply(self, values: torch.Tensor, mean: float, std: float, least: float = MIN_STD) -> torch.Tensor:
        """`values` (...) scaled, in their shape, given the mean and std of their population. ValueError for no two
        finite numbers."""
        found = self.shift_and_size(mean, std)
        require(
            isinstance(found, tuple) and len(found) == 2 and all(isinstance(x, int | float) for x in found)
            and all(map(math.isfinite, found)),
            f"the scaling {self.name!r} of mean {mean} and std {std} returned {found!r}: (shift, size) are "
            "due, two finite numbers",
        )  # fmt: skip
        shift, size = found
        centred = values - shift
        return centred if size <= least else centred / size


def find_scaling(field: str, name: Any) -> Scaling:
    """A row of SET_NORMALISE (GAE_NORMALISE where `field` is "gae_normalise"), or "package.module:name": a `Scaling`,
    or a function f(mean, std) -> (shift, size). ValueError for anything else."""
    table: Mapping[str, Entry] = GAE_NORMALISE if field == "gae_normalise" else SET_NORMALISE
    return find_row(field, name, table, Scaling)


def _unscaled(mean: float, std: float) -> tuple[float, float]:
    return 0.0, 1.0


def _by_size(mean: float, std: float) -> tuple[float, float]:
    return 0.0, max(std, abs(mean))


def _standard(mean: float, std: float) -> tuple[float, float]:
    return mean, std


def divide_by_means(scores: GroupScores) -> GroupScores:
    """Each group divided by the mean score of its sets, where that is above 0."""
    means_P_1 = torch.where(scores.mean_P > MIN_STD, scores.mean_P, 1.0)[:, None]
    deductions_P_N = None if scores.deductions_P_N is None else scores.deductions_P_N / means_P_1
    return replace(scores, advantages_P_N=scores.advantages_P_N / means_P_1, deductions_P_N=deductions_P_N)


def _check_centred(trainer: Any, rollout: Any, objective: Any) -> None:
    """A group's mean, which is taken away, must not have been given on purpose."""
    centred = [name for name in CREDIT if find_credit(name).centred]
    require(
        find_credit(objective.credit).centred,
        f"credit {objective.credit!r} gives a group's members a mean on purpose, which set_normalise "
        f"{objective.set_normalise!r} would take away: set set_normalise to 'std' or 'none', or credit to "
        f"{' or '.join(map(repr, centred))}.",
    )


NONE = Scaling(_unscaled, says="not scaled")
STD = Scaling(_by_size, says="divided by their standard deviation over the update (their mean, where that is larger)")
MEAN_STD = Scaling(_standard, says="standardised over the update")
GROUP_MEAN = Scaling(
    _unscaled,
    divide_by_means,
    check=_check_centred,
    says="divided by each group's mean score (MaxRL, arXiv 2602.02710)",
)
GROUP_STD = Scaling(
    _unscaled,
    standardise_groups,
    check=_check_centred,
    says="centred and divided by each group's standard deviation",
)
