"""A_i = best score of the sets that contain i - baseline, baseline = mean f over the sets.

Differs between members, unlike "best score minus baseline" given to everybody, which is never negative. All members of
one best set get the same number, so a failure beside three winners is praised as they are.
Bias: the expected update is not along grad E[f]; TODO cosine.
Degenerate cases: sums to 0 or more over a group; when every member belongs to some best set all advantages are
alike and 0 or above; one set is its own baseline; a member in no drawn set is not scored.
"""

import torch

from polytune.objective.credit.base import Credit, ScoredSets


def of_sets(scored: ScoredSets) -> torch.Tensor:
    """Advantages (N,) from explicit sets."""
    values = scored.advantages_S[:, None].expand_as(scored.members_S_n).reshape(-1)
    best_N = torch.full((scored.num_members,), -torch.inf, dtype=torch.float64)
    best_N.scatter_reduce_(0, scored.members_S_n.reshape(-1), values, "amax")
    return torch.where(torch.isinf(best_N), torch.nan, best_N)


MAX = Credit(of_sets)
