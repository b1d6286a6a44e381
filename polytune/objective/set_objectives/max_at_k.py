"""f(G) = highest reward in G: max@k with k = n, for any finite rewards, negative ones too (PKPO, arXiv 2505.15201).

Closed form by sorting, O(N log N). With r_(0) <= ... <= r_(N-1), member i at place p, the set's maximum sits
    at p      with probability C(p, n-1) / C(N-1, n-1)      (the others all from below p)
    at q > p  with probability C(q-1, n-2) / C(N-1, n-1)    (q in, the other n-2 from below q)
so E[f | i in G] is a weight times r_i plus a suffix sum. Members of equal reward read the same place, the last of
their run, and get the same number to the last bit. d is not read. Degenerate cases: n = 1 is the reward itself; equal
rewards tie; when the best reward occurs more than N-n times all sets tie.
"""

import torch

from polytune.objective.binomial import pool_tables
from polytune.objective.diversity.base import CountForm
from polytune.objective.groups import Groups
from polytune.objective.runs import run_ends
from polytune.objective.set_objectives.base import Measure, Members, Objective
from polytune.objective.sets import Sets


def score(sets: Sets) -> torch.Tensor:
    """f of each set, (S,)."""
    return sets.rewards_S_n.amax(dim=1)


def given_member(groups: Groups, set_size: int, form: CountForm | None, diversity_coef: float) -> torch.Tensor:
    """E[f(G) | i in G] over all sets G of `set_size` members, float64 (P, N)."""
    tables = pool_tables(groups.num_members, set_size)
    sorted_P_N, order_P_N = groups.rewards_P_N.sort(dim=1)
    from_above_P_N = (sorted_P_N * tables.pair[1:]).flip(1).cumsum(1).flip(1)  # sum over q >= p
    at_place_P_N = sorted_P_N * tables.alone[1:] + torch.nn.functional.pad(from_above_P_N[:, 1:], (0, 1))
    return torch.empty_like(at_place_P_N).scatter_(1, order_P_N, at_place_P_N.gather(1, run_ends(sorted_P_N)))


def reference(members: Members, d: Measure, diversity_coef: float) -> float:
    """f of one set."""
    return max(reward for reward, _ in members)


MAX_AT_K = Objective(
    score,
    given_member,
    reads_diversity=False,
    reads_signatures=False,
    best_of_set=True,
    reference=reference,
    says="**max@k**: f(G) = highest reward in G (PKPO, arXiv 2505.15201)",
)
