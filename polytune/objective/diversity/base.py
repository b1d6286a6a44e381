"""What a diversity measure is."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch

from polytune.lookup import Row

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


class PairForm(NamedTuple):
    """d written in a matrix over pairs of members: computed once per group, cut to every set.

    matrix(signatures_N) -> (N, N) float64; of_sets(matrix_S_n_n) -> d of each set, (S,) float64. The rows and columns
    of None members are 0, the diagonal included. flat_alone: d of a set of one is the same for None and for a strategy.
    """

    matrix: Callable[[Signatures], torch.Tensor]
    of_sets: Callable[[torch.Tensor], torch.Tensor]
    flat_alone: bool = True

    def of_set(self, signatures: Signatures) -> float:
        """d of one set."""
        return self.of_sets(self.matrix(signatures)[None]).item()


@dataclass(frozen=True)
class Diversity(Row):
    """`of_set(signatures) -> d in [0, 1]`, the definition. `count_form(set_size)` or `pair_form` give the same numbers
    faster, None where there is none."""

    of_set: Callable[[Signatures], float]
    count_form: Callable[[int], CountForm] | None = None
    pair_form: PairForm | None = None
    function: ClassVar[str] = "of_set"
    form: ClassVar[str] = "a Diversity or a function d(signatures) -> float"

    @property
    def flat_alone(self) -> bool:
        """Whether d of a set of one is always the same, as far as its forms say."""
        if self.count_form is None:
            return self.pair_form is not None and self.pair_form.flat_alone
        none, one = self.count_form(1).of_counts(torch.tensor([0, 1])).tolist()
        return none == one


def num_distinct(signatures: Signatures) -> int:
    """u: distinct signatures; None members (degenerate outputs) add nothing."""
    return len({signature for signature in signatures if signature is not None})
