"""f(G) = 1 if some member of G succeeds (reward > 0), else 0: pass@k with k = n (PKPO, arXiv 2505.15201).

On 0/1 rewards it is the maximum. Assumes that a reward above 0 means success; a negative reward is a failure.
Closed form: E[f | i in G] = 1 for a success; for a failure, with c successes among the N,
1 - C(N-1-c, n-1) / C(N-1, n-1). d is not read. Degenerate cases: no success, or fewer than n failures: all sets tie.
"""

import torch

from polytune.objective.binomial import pool_tables
from polytune.objective.diversity.base import CountForm
from polytune.objective.groups import Groups
from polytune.objective.set_objectives.base import Measure, Members, Objective
from polytune.objective.sets import Sets


def score(sets: Sets) -> torch.Tensor:
    """f of each set, (S,)."""
    return (sets.rewards_S_n > 0).any(dim=1).double()


def given_member(groups: Groups, set_size: int, form: CountForm | None, diversity_coef: float) -> torch.Tensor:
    """E[f(G) | i in G] over all sets G of `set_size` members, float64 (P, N)."""
    success_P_N = groups.rewards_P_N > 0
    num_failures_P_1 = (~success_P_N).sum(dim=1, keepdim=True)
    all_fail_P_1 = pool_tables(groups.num_members, set_size).alone[num_failures_P_1]
    return torch.where(success_P_N, 1.0, 1 - all_fail_P_1)


def reference(members: Members, d: Measure, diversity_coef: float) -> float:
    """f of one set."""
    return float(any(reward > 0 for reward, _ in members))


PASS_AT_K = Objective(
    score,
    given_member,
    reads_diversity=False,
    reads_signatures=False,
    best_of_set=True,
    wins_above_0=True,
    reference=reference,
    says="**pass@k**: f(G) = 1 when a member of G succeeds, else 0 (PKPO, arXiv 2505.15201)",
)
