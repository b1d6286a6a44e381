"""Sets of n members of one group: which ones, and what an objective sees of them."""

import functools
import itertools
import math
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import torch

from polytune.objective.diversity.of_sets import GroupDiversity

MAX_SETS = 2_000_000
MAX_MEMBERSHIPS = 40_000_000  # sets times members: 320 MB of indices


@dataclass
class Sets:
    """S sets of n members of one group. An objective is a function of them that returns one score per set.

    rewards_S_n: float64. classes_S_n: int64, equal numbers for equal signatures of the group, -1 for None.
    diversity_coef: the weight that an objective may give d. members_S_n: the members' places in the group.
    """

    rewards_S_n: torch.Tensor
    classes_S_n: torch.Tensor
    diversity_coef: float
    members_S_n: torch.Tensor
    _diversity: GroupDiversity = field(repr=False)

    @classmethod
    def of_group(
        cls, rewards_N: torch.Tensor, diversity: GroupDiversity, members_S_n: torch.Tensor, diversity_coef: float
    ) -> "Sets":
        """The sets `members_S_n` of one group."""
        return cls(rewards_N[members_S_n], diversity.classes_N[members_S_n], diversity_coef, members_S_n, diversity)

    @functools.cached_property
    def diversity_S(self) -> torch.Tensor:
        """d of each set by the chosen measure, float64 (S,); computed when first read."""
        return self._diversity.of_members(self.members_S_n)

    def signatures(self, s: int) -> list[Hashable | None]:
        """The signatures of set s as they were given."""
        return [self._diversity.signatures_N[i] for i in self.members_S_n[s].tolist()]

    def __len__(self) -> int:
        return len(self.members_S_n)


def check_enumerable(num_members: int, set_size: int) -> int:
    """C(N, n); ValueError beyond MAX_SETS."""
    count = math.comb(num_members, set_size)
    if count > MAX_SETS or count * set_size > MAX_MEMBERSHIPS:
        raise ValueError(
            f"C({num_members}, {set_size}) = {count} sets are too many to enumerate (limit {MAX_SETS} sets, "
            f'{MAX_MEMBERSHIPS} memberships): use num_sets=M, or credit "mean" or "leave_one_out" with an objective '
            "and a diversity that have a closed form"
        )
    return count


def all_sets(num_members: int, set_size: int) -> torch.Tensor:
    """Every set of `set_size` of `num_members` members as indices (C(N, n), n); ValueError beyond MAX_SETS.

    >>> all_sets(3, 2).tolist()
    [[0, 1], [0, 2], [1, 2]]
    """
    count = check_enumerable(num_members, set_size)
    flat = itertools.chain.from_iterable(itertools.combinations(range(num_members), set_size))
    return torch.from_numpy(np.fromiter(flat, dtype=np.int64, count=count * set_size)).reshape(count, set_size)


def draw_sets(num_members: int, set_size: int, num_sets: int, generator: torch.Generator) -> torch.Tensor:
    """`num_sets` uniform sets as indices (M, n). Members of a set differ; draws are independent, so sets may repeat."""
    keys_S_N = torch.rand(num_sets, num_members, generator=generator, dtype=torch.float64)
    return keys_S_N.argsort(dim=1)[:, :set_size]
