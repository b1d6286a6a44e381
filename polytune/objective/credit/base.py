"""What a credit rule is: from the scores of sets to one number per member."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from polytune.lookup import Row

ExpectedScore = Callable[[int], torch.Tensor]
Members = tuple[int, ...]  # a set: places in its group
#: (i, the sets that hold i, f of each set, f of any members) -> advantage of i
Reference = Callable[[int, Sequence[Members], Mapping[Members, float], Callable[[Members], float]], float]


@dataclass
class ScoredSets:
    """Sets of one group with their scores f(G); `_score` scores other sets of the same group."""

    scores_S: torch.Tensor
    members_S_n: torch.Tensor
    num_members: int
    _score: Callable[[torch.Tensor], torch.Tensor]

    @property
    def advantages_S(self) -> torch.Tensor:
        """A(G) = f(G) - mean score of the sets, (S,)."""
        return self.scores_S - self.scores_S.mean()

    @functools.cached_property
    def scores_without_S_n(self) -> torch.Tensor:
        """f of each set without its j-th member, (S, n); f of the empty set is 0."""
        num_sets, size = self.members_S_n.shape
        if size == 1:
            return torch.zeros(num_sets, 1, dtype=torch.float64)
        others_n_m = torch.arange(size).repeat(size, 1)[~torch.eye(size, dtype=torch.bool)].reshape(size, size - 1)
        return self._score(self.members_S_n[:, others_n_m].reshape(-1, size - 1)).reshape(num_sets, size)

    def score(self, members_S_m: torch.Tensor) -> torch.Tensor:
        """f of other sets of the group, (S,)."""
        return self._score(members_S_m)

    def member_mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over the sets of each member of `values` (S,) or (S, n), as (N,); NaN for a member in no set."""
        values_S_n = values if values.ndim == 2 else values[:, None].expand_as(self.members_S_n)
        index = self.members_S_n.reshape(-1)
        sums_N = torch.zeros(self.num_members, dtype=torch.float64).index_add_(0, index, values_S_n.reshape(-1))
        return sums_N / torch.bincount(index, minlength=self.num_members)  # 0 / 0 = NaN


@dataclass(frozen=True)
class Credit(Row):
    """A rule on explicit sets, and over all sets in expectation where it has such a form.

    of_sets(scored) -> (N,): advantages of one group; NaN for a member in no set.
    of_expectations(expected, n) -> (P, N): the same over all sets, from expected(m) = E[f(G) | i in G] over all sets
        of m members, (P, N). None: the rule needs the sets themselves.
    deductions(scored) -> (N,): what a member's losing sets take, >= 0, for one clipped row per set: see `per_set`; None
        for a rule that clips a member's advantage as one.
    centred: over all sets the advantages of a group sum to 0 whatever it scored, so that a group may be divided by its
        own std; a mean that the rule gives on purpose would be taken away with it.
    needs_others: the only set of a group (n = N) gives every member 0, since it is its own baseline.
    reference(i, sets with i, f of each set, f) -> the advantage of i in plain Python, from the definition: what the
        others are tested against. None: `of_sets` on scores from plain Python.
    """

    of_sets: Callable[[ScoredSets], torch.Tensor]
    of_expectations: Callable[[ExpectedScore, int], torch.Tensor] | None = None
    deductions: Callable[[ScoredSets], torch.Tensor] | None = None
    centred: bool = False
    needs_others: bool = False
    reference: Reference | None = None
    function: ClassVar[str] = "of_sets"
    form: ClassVar[str] = "a Credit or a function of_sets(scored) -> (N,) advantages"
