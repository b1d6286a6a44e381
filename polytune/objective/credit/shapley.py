"""A_i = Shapley value of i in the sets G that hold it: what i adds to those who came before, over all orders of G
(Shapley 1953; marginal gains as the reward of an action: SubPO, arXiv 2307.13372).

    A_i = mean over the sets G with i, and over m = 0 .. n-1 and the subsets S of m of the others in G, of
          f(S and i) - f(S),   f(nothing) = 0
Over all sets of a group, S is a uniform set of m of the others, so A_i is the mean of the advantages of
`leave_one_out` for set sizes 1 .. n: closed forms instead of enumeration.
Bias: that of `leave_one_out` at each size, none in direction, but of the mean over m = 1 .. n of E[f] of m attempts,
not of E[f] of n: early places count, where a first success is worth most. The values of a set add up to f(G).
Degenerate cases: n = 1 is the plain score; a group whose sets all tie need not give 0 (f(nothing) = 0); drawn sets cost
2^n scores each, so n is at most 12 there; a member in no drawn set is not scored.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import comb

import torch

from polytune.objective.credit import leave_one_out
from polytune.objective.credit.base import Credit, ExpectedScore, Members, ScoredSets

LARGEST = 12  # of drawn sets: 4,096 subsets each


def of_sets(scored: ScoredSets) -> torch.Tensor:
    """Advantages (N,) from explicit sets."""
    size = scored.members_S_n.shape[1]
    if size > LARGEST:
        raise ValueError(
            f"credit 'shapley' scores all subsets of a drawn set, and sets have {size} members (limit {LARGEST}): use "
            'num_sets "all", or smaller sets'
        )
    values_S_n = torch.zeros(scored.members_S_n.shape, dtype=torch.float64)
    for m in range(size):
        for places in combinations(range(size), m + 1):
            with_i_S = scored.score(scored.members_S_n[:, places])
            for i in places:  # each subset of m + 1 is "S and i" for each of its members
                values_S_n[:, i] += with_i_S / (comb(size - 1, m) * size)
            for i in set(range(size)) - {*places}:  # and S itself for each of the others
                values_S_n[:, i] -= with_i_S / (comb(size - 1, m + 1) * size)
    return scored.member_mean(values_S_n)


def of_expectations(expected: ExpectedScore, set_size: int) -> torch.Tensor:
    """Advantages (P, N) over all sets."""
    return torch.stack([leave_one_out.of_expectations(expected, m) for m in range(1, set_size + 1)]).mean(dim=0)


def reference(i: int, mine: Sequence[Members], scores: Mapping[Members, float], f: Callable) -> float:
    """Advantage of one member."""
    total = 0.0
    for members in mine:
        others = [j for j in members if j != i]
        for m in range(len(members)):
            gains = [f(tuple(sorted((*s, i)))) - (f(s) if s else 0.0) for s in combinations(others, m)]
            total += sum(gains) / len(gains) / len(members)
    return total / len(mine)


SHAPLEY = Credit(
    of_sets,
    of_expectations,
    reference=reference,
    says="**Shapley credit** (marginal gains, SubPO, arXiv 2307.13372): a member's advantage is what it adds to its "
    "sets, over all orders of their members",
)
