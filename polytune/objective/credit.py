"""Credit rules: from the scores of the sets to one score per member.

mean  the average over the sets that contain the member (Poly-EPO, arXiv 2604.17654; the default). Over all sets the
      advantages of a group sum to 0.
max   the best set that contains the member. Differs between members, unlike "best score minus baseline" given to
      everybody, which is never negative and says nothing about the action. Sums to 0 or more, so it pushes the whole
      group up on average, and one lucky set lifts all its members.
Degenerate case: a member in no set has no score, NaN here; `set_advantages` turns it into advantage 0.
"""

from collections.abc import Callable

import torch


def mean_credit(scores_S: torch.Tensor, members_S_n: torch.Tensor, num_members: int) -> torch.Tensor:
    """Average score of the sets of each member, (N,)."""
    spread, index = scores_S[:, None].expand_as(members_S_n).reshape(-1), members_S_n.reshape(-1)
    sums_N = torch.zeros(num_members, dtype=torch.float64).index_add_(0, index, spread)
    return sums_N / torch.bincount(index, minlength=num_members)  # 0 / 0 = NaN: in no set


def max_credit(scores_S: torch.Tensor, members_S_n: torch.Tensor, num_members: int) -> torch.Tensor:
    """Best score of the sets of each member, (N,)."""
    spread, index = scores_S[:, None].expand_as(members_S_n).reshape(-1), members_S_n.reshape(-1)
    best_N = torch.full((num_members,), -torch.inf, dtype=torch.float64).scatter_reduce_(0, index, spread, "amax")
    return torch.where(torch.isinf(best_N), torch.nan, best_N)


CREDIT: dict[str, Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]] = {
    "mean": mean_credit,
    "max": max_credit,
}
