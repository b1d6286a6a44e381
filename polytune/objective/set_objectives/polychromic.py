"""f(G) = mean reward of G * d(G) (Poly-PPO, arXiv 2509.25424; Poly-EPO, arXiv 2604.17654).

Assumes rewards in [0, 1]. Below 0 the product would punish failures that differ and spare those that are alike, so a
negative reward is refused (`reward_shift` moves them); the algebra holds for any finite one.

Closed form of E[f(G) | i in G] for d = slope * u + constant + at_one * [u = 1] + at_zero * [u = 0]. Every event is
"G lies inside a pool": class k is missed when G lies outside it, u = 0 when G lies among the None members, and
    u       = sum_k (1 - [G outside class k])
    [u = 1] = sum_k ([G inside class k and None] - [G inside None])
For a pool of q members with reward sum Q that holds i,
    E[sum_{j in G} r_j * [G inside pool] | i in G] = r_i * alone[q] + (Q - r_i) * pair[q]
with the tables of `binomial.py`, and 0 when i is not in the pool. Sums over the classes that i is outside of are the
sum over all less the own class, so a group costs O(N + classes) instead of C(N, n).
Degenerate cases: n = N has one set, so every advantage is 0; a group with equal rewards and one class likewise.
"""

import dataclasses

import torch

from polytune.objective.binomial import PoolTables, pool_tables
from polytune.objective.diversity.base import CountForm
from polytune.objective.groups import NO_CLASS, Groups
from polytune.objective.set_objectives.base import Measure, Members, Objective, mean_reward, signatures_of
from polytune.objective.sets import Sets


def score(sets: Sets) -> torch.Tensor:
    """f of each set, (S,)."""
    return sets.rewards_S_n.mean(dim=1) * sets.diversity_S


def given_member(groups: Groups, set_size: int, form: CountForm, diversity_coef: float) -> torch.Tensor:
    """E[f(G) | i in G] over all sets G of `set_size` members, float64 (P, N)."""
    tables, rewards_P_N, num_members = pool_tables(groups.num_members, set_size), groups.rewards_P_N, groups.num_members
    num_classes = int(groups.classes_P_N.max()) + 1 if groups.classes_P_N.numel() else 0
    is_none_P_N = groups.classes_P_N == NO_CLASS
    own_P_N = torch.where(is_none_P_N, num_classes, groups.classes_P_N)  # None members sit in a last column
    empty_P_K = rewards_P_N.new_zeros(len(rewards_P_N), num_classes + 1)
    sizes_P_K = empty_P_K.long().scatter_add(1, own_P_N, torch.ones_like(own_P_N))
    sums_P_K = empty_P_K.scatter_add(1, own_P_N, rewards_P_N)
    sizes_P_K, none_sizes_P_1 = sizes_P_K[:, :-1], sizes_P_K[:, -1:]
    sums_P_K, none_sums_P_1 = sums_P_K[:, :-1], sums_P_K[:, -1:]

    # a pool's value at i is  c + r_i * w  with  w = alone - pair  and  c = Q * pair
    all_sums_P_1 = rewards_P_N.sum(dim=1, keepdim=True)
    everyone_P_N = _value(rewards_P_N, *_pool(torch.full_like(none_sizes_P_1, num_members), all_sums_P_1, tables))
    outside_P_N = _other_classes(rewards_P_N, own_P_N, *_pool(num_members - sizes_P_K, all_sums_P_1 - sums_P_K, tables))
    total_P_N = form.slope * (num_classes * everyone_P_N - outside_P_N) + form.constant * everyone_P_N
    if form.at_one or form.at_zero:
        at_zero_P_N = _value(rewards_P_N, *_pool(none_sizes_P_1, none_sums_P_1, tables)) * is_none_P_N
        total_P_N = total_P_N + form.at_zero * at_zero_P_N
    if form.at_one:
        pools = _pool(sizes_P_K + none_sizes_P_1, sums_P_K + none_sums_P_1, tables)
        in_every_P_N = _value(rewards_P_N, *(part.sum(dim=1, keepdim=True) for part in pools))  # None: in each pool
        own_only_P_N = in_every_P_N - _other_classes(rewards_P_N, own_P_N, *pools)
        at_one_P_N = torch.where(is_none_P_N, in_every_P_N - num_classes * at_zero_P_N, own_only_P_N)
        total_P_N = total_P_N + form.at_one * at_one_P_N
    return total_P_N / set_size


def diversity_given_member(groups: Groups, set_size: int, form: CountForm) -> torch.Tensor:
    """E[d(G) | i in G], float64 (P, N): f with every reward set to 1."""
    ones = dataclasses.replace(groups, rewards_P_N=torch.ones_like(groups.rewards_P_N))
    return given_member(ones, set_size, form, 0.0)


def _pool(sizes: torch.Tensor, sums: torch.Tensor, tables: PoolTables) -> tuple[torch.Tensor, torch.Tensor]:
    """(c, w) of pools with the given sizes and reward sums, in their shape."""
    pair = tables.pair[sizes]
    return sums * pair, tables.alone[sizes] - pair


def _value(rewards_P_N: torch.Tensor, c_P_1: torch.Tensor, w_P_1: torch.Tensor) -> torch.Tensor:
    return c_P_1 + rewards_P_N * w_P_1


def _other_classes(
    rewards_P_N: torch.Tensor, own_P_N: torch.Tensor, c_P_K: torch.Tensor, w_P_K: torch.Tensor
) -> torch.Tensor:
    """Pool values summed over all classes but the member's own; None members (the last column) have no own class."""
    own_c_P_N, own_w_P_N = (torch.nn.functional.pad(part, (0, 1)).gather(1, own_P_N) for part in (c_P_K, w_P_K))
    return c_P_K.sum(dim=1, keepdim=True) - own_c_P_N + rewards_P_N * (w_P_K.sum(dim=1, keepdim=True) - own_w_P_N)


def reference(members: Members, d: Measure, diversity_coef: float) -> float:
    """f of one set."""
    return mean_reward(members) * d(signatures_of(members))


POLYCHROMIC = Objective(
    score,
    given_member,
    takes_negative=False,
    reference=reference,
    says="the **polychromic objective** f(G) = mean reward of G x d(G) (Poly-PPO, arXiv 2509.25424; Poly-EPO, arXiv "
    "2604.17654)",
)
