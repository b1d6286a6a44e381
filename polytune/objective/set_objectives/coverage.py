"""f(G) = distinct signatures among the members of G that succeed (reward > 0) / n: how many ways to win a set shows.

Assumes that a reward above 0 means success and that its size beyond 0 does not matter. A member whose signature is
None adds nothing. Closed form: with m_k successful members of class k, class k is missed by a set that contains i with
probability C(N-1-m_k, n-1) / C(N-1, n-1), and for sure not when i is one of them; E[f | i in G] sums 1 minus that over
the classes, divided by n. d is not read.
Degenerate cases: one winning class is pass@k / n, no success no signal; n = 1 is the success itself.
"""

import torch

from polytune.objective.binomial import pool_tables
from polytune.objective.diversity.base import CountForm
from polytune.objective.diversity.of_sets import count_classes
from polytune.objective.groups import NO_CLASS, Groups
from polytune.objective.set_objectives.base import Measure, Members, Objective
from polytune.objective.sets import Sets


def score(sets: Sets) -> torch.Tensor:
    """f of each set, (S,)."""
    winning_S_n = torch.where(sets.rewards_S_n > 0, sets.classes_S_n, NO_CLASS)
    return count_classes(winning_S_n).double() / winning_S_n.shape[1]


def given_member(groups: Groups, set_size: int, form: CountForm | None, diversity_coef: float) -> torch.Tensor:
    """E[f(G) | i in G] over all sets G of `set_size` members, float64 (P, N)."""
    winning_P_N = torch.where(groups.rewards_P_N > 0, groups.classes_P_N, NO_CLASS)
    num_classes = int(winning_P_N.max()) + 1 if winning_P_N.numel() else 0
    own_P_N = torch.where(winning_P_N == NO_CLASS, num_classes, winning_P_N)  # the rest sits in a last column
    sizes_P_K = torch.zeros(len(own_P_N), num_classes + 1, dtype=torch.int64)
    sizes_P_K.scatter_add_(1, own_P_N, torch.ones_like(own_P_N))
    sizes_P_K[:, -1] = groups.num_members  # a set avoids these with probability 0: nothing to add
    missed_P_K = pool_tables(groups.num_members, set_size).alone[groups.num_members - sizes_P_K]
    hit_P_1 = num_classes - missed_P_K.sum(dim=1, keepdim=True)
    return (hit_P_1 + missed_P_K.gather(1, own_P_N)) / set_size


def reference(members: Members, d: Measure, diversity_coef: float) -> float:
    """f of one set."""
    return len({s for r, s in members if r > 0 and s is not None}) / len(members)


COVERAGE = Objective(
    score,
    given_member,
    reads_diversity=False,
    wins_above_0=True,
    reference=reference,
    says="**coverage**: f(G) = distinct signatures among the winning members of G / n",
)
