"""A_i = mean over the sets G that contain i of f(G) - f(G without i): what i adds to its sets.

f of the smaller set is the same objective on n-1 members; f of the empty set is 0. No baseline besides: the others are
the baseline. Over all sets, G without i is a uniform set of n-1 of the others, so with e_m(i) = E[f(G) | i in G] for
sets of m, and their mean m-set score e_m (the mean of e_m(i)),
    A_i = e_n(i) - (N e_{n-1} - (n-1) e_{n-1}(i)) / (N - n + 1)
which takes two closed forms instead of enumeration.
Bias: none in direction. f(G without i) does not depend on y_i, so E[sum_i A_i grad log pi(y_i)] = (N/n) grad E[f], for
every n up to N; with M random sets (N/n) (1 - (1 - n/N)^M) grad E[f]. Beside `mean` it is less noisy for a maximum
(pass_at_k, max_at_k) and noisier where f shrinks with every failure (polychromic, coverage): see test_credit_bias.py.
Degenerate cases: n = 1 is the plain score, without any baseline: unbiased and noisy. n = N has one set and still a
signal, unlike `mean`. A group whose sets all tie need not give 0: for an objective that divides by n (polychromic with
u/n, coverage) members alike that all win, one class, get f (1/n - 1/(n-1)) < 0 each, which is noise that cancels over
groups, not within one. A member in no drawn set is not scored.
"""

from collections.abc import Callable, Mapping, Sequence

import torch

from polytune.objective.credit.base import Credit, ExpectedScore, Members, ScoredSets


def of_sets(scored: ScoredSets) -> torch.Tensor:
    """Advantages (N,) from explicit sets."""
    return scored.member_mean(scored.scores_S[:, None] - scored.scores_without_S_n)


def of_expectations(expected: ExpectedScore, set_size: int) -> torch.Tensor:
    """Advantages (P, N) over all sets."""
    given_member_P_N = expected(set_size)
    if set_size == 1:
        return given_member_P_N
    smaller_P_N, num_members = expected(set_size - 1), given_member_P_N.shape[1]
    total_P_1 = num_members * smaller_P_N.mean(dim=1, keepdim=True)
    return given_member_P_N - (total_P_1 - (set_size - 1) * smaller_P_N) / (num_members - set_size + 1)


def reference(i: int, mine: Sequence[Members], scores: Mapping[Members, float], f: Callable) -> float:
    """Advantage of one member."""
    return sum(scores[members] - f(tuple(j for j in members if j != i)) for members in mine) / len(mine)


LEAVE_ONE_OUT = Credit(
    of_sets,
    of_expectations,
    reference=reference,
    says="**leave-one-out credit**: a member's advantage is the mean over its sets G of f(G) - f(G without it)",
)
