"""f(G) = sum over the signatures of G that succeed of the highest reward among its members / n: the QD-score of a set.

Source: quality-diversity's measure of an archive, the summed quality of the best of each cell (Pugh, Soros and
Stanley, 2016), here of a set and divided by n. Another member of a kind that the set has adds nothing, however much it
is paid, so rewards that prefer some kinds (novelty) do not make the policy repeat them. With rewards in {0, 1} it is
`coverage`. Assumes that a reward above 0 means success; others, and a signature of None, add nothing. d is not read.

Closed form, O(N log N + N K) for K kinds. Of a kind, by falling rewards r_(1) >= ... >= r_(m), none of the first j is
in a set that contains somebody else with probability q_j = C(N-1-j, n-1) / C(N-1, n-1), so
    its best is worth    sum_j r_(j) (q_(j-1) - q_j)                    to a member of another kind,
    and to its member i  sum_(j <= s) r_(j) (q_(j-1) - q_j) + r_i q_s,  s: how many of its kind have more than r_i.
E[f | i in G] is the sum over the kinds / n. Degenerate cases: one kind is max@k of it / n; n = 1 is the reward itself.
"""

from collections.abc import Hashable

import torch

from polytune.objective.binomial import pool_tables
from polytune.objective.diversity.base import CountForm
from polytune.objective.groups import NO_CLASS, Groups
from polytune.objective.runs import run_starts
from polytune.objective.set_objectives.base import Measure, Members, Objective
from polytune.objective.sets import Sets


def score(sets: Sets) -> torch.Tensor:
    """f of each set, (S,)."""
    return best_of_kinds(sets).sum(dim=1) / sets.classes_S_n.shape[1]


def best_of_kinds(sets: Sets) -> torch.Tensor:
    """Of each set the highest reward of each signature that succeeds in it, 0 in the other places, (S, n)."""
    rewards_S_n, classes_S_n, first_S_n, _ = by_kind(sets.rewards_S_n, sets.classes_S_n)
    best_S_n = (classes_S_n != NO_CLASS) & (first_S_n == torch.arange(classes_S_n.shape[1]))
    return torch.where(best_S_n, rewards_S_n, 0.0)


def given_member(groups: Groups, set_size: int, form: CountForm | None, diversity_coef: float) -> torch.Tensor:
    """E[f(G) | i in G] over all sets G of `set_size` members, float64 (P, N)."""
    num_groups, num_members = groups.rewards_P_N.shape
    rewards_P_N, classes_P_N, first_P_N, order_P_N = by_kind(groups.rewards_P_N, groups.classes_P_N)
    num_kinds = int(classes_P_N.max()) + 1 if classes_P_N.numel() else 0
    places_N = torch.arange(num_members)
    missed_N = pool_tables(num_members, set_size).alone.flip(0)  # q_j
    worth_P_N = rewards_P_N * (missed_N[:-1] - missed_N[1:])[places_N - first_P_N]

    # of each kind the first j members' worth, so that kinds of the same rewards have the same numbers to the last bit
    table_P_K_N = rewards_P_N.new_zeros(num_groups, num_kinds + 1, num_members + 1)
    kinds_P_N = torch.where(classes_P_N == NO_CLASS, num_kinds, classes_P_N)
    rows_P_1 = torch.arange(num_groups)[:, None]
    table_P_K_N[rows_P_1, kinds_P_N, places_N - first_P_N + 1] = worth_P_N
    table_P_K_N[:, num_kinds] = 0.0
    table_P_K_N = table_P_K_N.cumsum(dim=2)
    better_P_N = torch.maximum(run_starts(rewards_P_N), first_P_N) - first_P_N
    own_P_N = table_P_K_N[rows_P_1, kinds_P_N, better_P_N] + rewards_P_N * missed_N[better_P_N]
    of_kind_P_K = table_P_K_N[:, :, -1]
    others_P_N = of_kind_P_K.sum(dim=1, keepdim=True) - of_kind_P_K.gather(1, kinds_P_N)
    sorted_P_N = others_P_N + torch.where(classes_P_N == NO_CLASS, 0.0, own_P_N)
    return torch.empty_like(sorted_P_N).scatter_(1, order_P_N, sorted_P_N) / set_size


def by_kind(rewards_P_N: torch.Tensor, classes_P_N: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Members sorted by class and falling rewards: rewards, classes (`NO_CLASS` for those that do not succeed), the
    place at which each one's class begins, and the places that they had, all (P, N)."""
    kinds_P_N = torch.where(rewards_P_N > 0, classes_P_N, NO_CLASS)
    by_reward_P_N = rewards_P_N.argsort(dim=1, descending=True, stable=True)
    order_P_N = by_reward_P_N.gather(1, kinds_P_N.gather(1, by_reward_P_N).argsort(dim=1, stable=True))
    kinds_P_N = kinds_P_N.gather(1, order_P_N)
    return rewards_P_N.gather(1, order_P_N), kinds_P_N, run_starts(kinds_P_N), order_P_N


def reference(members: Members, d: Measure, diversity_coef: float) -> float:
    """f of one set."""
    return sum(best_by_signature(members).values()) / len(members)


def best_by_signature(members: Members) -> dict[Hashable, float]:
    """For references: the best reward of each signature that succeeds."""
    best: dict[Hashable, float] = {}
    for reward, signature in members:
        if reward > 0 and signature is not None:
            best[signature] = max(best.get(signature, 0.0), reward)
    return best


QD_SCORE = Objective(
    score,
    given_member,
    reads_diversity=False,
    wins_above_0=True,
    reference=reference,
    says="**QD-score**: f(G) = sum over the signatures that succeed in G of their best reward / n (Pugh et al. 2016)",
)
