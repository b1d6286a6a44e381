"""How a population of advantages is scaled: the rows of GAE_NORMALISE and SET_NORMALISE.

    (A - shift) / size,   shift and size from the population's mean and std, over all processes
"std" divides by the std and keeps the mean: set advantages sum to 0 over a group already, and subtracting the mean of a
batch would move members of tied groups off 0. Where |mean| is larger than the std, as leave_one_out can have it, |mean|
is the size of the population and divides it, so that values which hardly differ do not become large. "mean_std"
subtracts the mean and divides by the std (usual for GAE). "group_std" has scaled each group by its own.
Degenerate case: a size of `least` or below is that of rounding, and nothing is divided by it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.config import require
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
        """`values` scaled, given the mean and std of their population. ValueError for no two finite numbers."""
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


def _check_centred(trainer: Any, rollout: Any, objective: Any) -> None:
    """A group's mean, which is taken away, must not have been given on purpose."""
    centred = [name for name in CREDIT if find_credit(name).centred]
    require(
        find_credit(objective.credit).centred,
        f"credit {objective.credit!r} gives a group's members a mean on purpose, which set_normalise 'group_std' would "
        f"take away: set set_normalise to 'std' or 'none', or credit to {' or '.join(map(repr, centred))}.",
    )


NONE = Scaling(_unscaled, says="not scaled")
STD = Scaling(_by_size, says="divided by their standard deviation over the update (their mean, where that is larger)")
MEAN_STD = Scaling(_standard, says="standardised over the update")
GROUP_STD = Scaling(
    _unscaled,
    standardise_groups,
    check=_check_centred,
    says="centred and divided by each group's standard deviation",
)
