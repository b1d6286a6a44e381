"""A_i = best score of the sets that contain i - baseline, baseline = mean f over the sets.

All members of one best set get the same number, so a failure beside three winners is praised as they are. For an
objective that is a maximum (pass_at_k, max_at_k) with n > 1 every member shares a set with the best one: all members
get "best score minus baseline", never negative, and a group says nothing about its actions. Use another rule there.
Bias: the expected update is no multiple of grad E[f]. Its cosine with it on the two bandits of test_credit_bias.py
(graded, binary rewards), N = 8, n = 4: polychromic 1.00, -.65; additive 1.00, .98; coverage -.55, -.54; max_at_k -.99,
-1; pass_at_k -1, -1 (it descends); mean 1, 1.
Degenerate cases: advantages sum to 0 or more over a group; one set is its own baseline; a member in no drawn set is
not scored.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from polytune.checks import require
from polytune.objective.credit.base import Credit, Members, ScoredSets
from polytune.objective.set_objectives import find_objective


def of_sets(scored: ScoredSets) -> torch.Tensor:
    """Advantages (N,) from explicit sets."""
    values = scored.advantages_S[:, None].expand_as(scored.members_S_n).reshape(-1)
    best_N = torch.full((scored.num_members,), -torch.inf, dtype=torch.float64)
    best_N.scatter_reduce_(0, scored.members_S_n.reshape(-1), values, "amax")
    return torch.where(torch.isinf(best_N), torch.nan, best_N)


def reference(i: int, mine: Sequence[Members], scores: Mapping[Members, float], f: Callable) -> float:
    """Advantage of one member."""
    return max(scores[members] for members in mine) - sum(scores.values()) / len(scores)


def check(trainer: Any, rollout: Any, objective: Any) -> None:
    """Some set with the group's best member holds any other member, too."""
    require(
        max(objective.set_sizes) == 1 or not find_objective(objective.objective).best_of_set,
        f"credit 'max' with objective {objective.objective!r} gives every member the score of the group's best set, so "
        "nothing tells actions apart: use credit 'mean' or 'leave_one_out'.",
    )


MAX = Credit(
    of_sets,
    needs_others=True,
    reference=reference,
    check=check,
    says="**best-set credit**: a member's advantage is that of its best set, less the mean over all sets",
)
