"""A_i = mean over the sets G that contain i of f(G) - baseline, baseline = mean f over the sets (Poly-EPO, 2604.17654).

Over all sets the advantages of a group sum to 0, and the baseline is the mean of E[f(G) | i in G] over the members.
Bias: none in direction. For N independent samples, E[sum_i A_i grad log pi(y_i)] = (N/n) (1 - n/N) grad E[f]: the
first factor counts the sets of a member, the second is what the baseline, which holds i's own sets, takes away. With
M random sets it is (N/n) (1 - (1 - n/N)^M - n/N) grad E[f].
Degenerate cases: n = N or M = 1 has one set, which is its own baseline, so nothing is left; a member in no drawn set
is not scored.
"""

from collections.abc import Callable, Mapping, Sequence

import torch

from polytune.objective.credit.base import Credit, ExpectedScore, Members, ScoredSets


def of_sets(scored: ScoredSets) -> torch.Tensor:
    """Advantages (N,) from explicit sets."""
    return scored.member_mean(scored.advantages_S)


def of_expectations(expected: ExpectedScore, set_size: int) -> torch.Tensor:
    """Advantages (P, N) over all sets."""
    given_member_P_N = expected(set_size)
    return given_member_P_N - given_member_P_N.mean(dim=1, keepdim=True)


def reference(i: int, mine: Sequence[Members], scores: Mapping[Members, float], f: Callable) -> float:
    """Advantage of one member."""
    return sum(scores[members] for members in mine) / len(mine) - sum(scores.values()) / len(scores)


MEAN = Credit(
    of_sets,
    of_expectations,
    centred=True,
    needs_others=True,
    reference=reference,
    says="**marginal set advantage** (Poly-EPO, arXiv 2604.17654): a member's advantage is the mean score of the sets "
    "that hold it, less the mean over all sets",
)
