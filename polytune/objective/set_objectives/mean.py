"""f(G) = mean reward of G: standard RL, whatever the set size.

Closed form: E[f | i in G] = (r_i + (n-1)/(N-1) * sum_{j != i} r_j) / n, so an advantage under credit "mean" is
(N-n) / (n (N-1)) times (r_i - mean reward of the group); with n = 1 it is mean-centred GRPO (Dr. GRPO, arXiv
2503.20783), exactly. d is not read. Degenerate cases: equal rewards or n = N give no signal.
"""

import torch

from polytune.objective.binomial import pool_tables
from polytune.objective.diversity.base import CountForm
from polytune.objective.groups import Groups
from polytune.objective.set_objectives.base import Measure, Members, Objective, mean_reward
from polytune.objective.sets import Sets


def score(sets: Sets) -> torch.Tensor:
    """f of each set, (S,)."""
    return sets.rewards_S_n.mean(dim=1)


def given_member(groups: Groups, set_size: int, form: CountForm | None, diversity_coef: float) -> torch.Tensor:
    """E[f(G) | i in G] over all sets G of `set_size` members, float64 (P, N)."""
    together = pool_tables(groups.num_members, set_size).pair[groups.num_members]  # P(j in G | i in G)
    others_P_N = groups.rewards_P_N.sum(dim=1, keepdim=True) - groups.rewards_P_N
    return (groups.rewards_P_N + together * others_P_N) / set_size


def reference(members: Members, d: Measure, diversity_coef: float) -> float:
    """f of one set."""
    return mean_reward(members)


MEAN = Objective(
    score,
    given_member,
    reads_diversity=False,
    reads_signatures=False,
    reference=reference,
    says="the **mean reward** of G, which is standard RL",
)
