"""What a diversity measure is."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

Signatures = Sequence[Hashable | None]


class CountForm(NamedTuple):
    """d written in u, the number of distinct signatures other than None, for one set size:

    d = slope * u + constant + at_one * [u = 1] + at_zero * [u = 0]
    """

    slope: float
    constant: float = 0.0
    at_one: float = 0.0
    at_zero: float = 0.0

    def of_counts(self, counts_S: torch.Tensor) -> torch.Tensor:
        """d of S sets from their u, float64 (S,)."""
        one_S, zero_S = (counts_S == 1).double(), (counts_S == 0).double()  # a number times a bool would be float32
        return self.slope * counts_S.double() + self.constant + self.at_one * one_S + self.at_zero * zero_S


@dataclass(frozen=True)
class Diversity:
    """`of_set(signatures) -> d in [0, 1]`; `count_form(set_size)` gives the same numbers, None where there is none."""

    of_set: Callable[[Signatures], float]
    count_form: Callable[[int], CountForm] | None = None


def num_distinct(signatures: Signatures) -> int:
    """u: distinct signatures; None members (degenerate outputs) add nothing."""
    return len({signature for signature in signatures if signature is not None})
