"""The definition of the set advantage in plain loops: what the fast paths are checked and timed against."""

import itertools
from collections.abc import Hashable, Sequence

import torch

from polytune.objective.diversity import DIVERSITY
from polytune.objective.groups import as_groups, check_set_size, named


def enumerate_set_advantages(
    rewards: Sequence[float],
    signatures: Sequence[Hashable | None],
    set_size: int,
    *,
    diversity: str = "distinct_fraction",
    credit: str = "mean",
) -> torch.Tensor:
    """Polychromic set advantages (N,) of one group, over all C(N, n) sets one by one; float64.

    Time grows with C(N, n) * n: about 1 s at N = 20, n = 10. ValueError as in `set_advantages`.
    """
    if credit not in ("mean", "max"):
        raise ValueError(f"unknown credit {credit!r}; known: max, mean")
    measure = named("diversity", diversity, DIVERSITY).of_set
    groups = as_groups([rewards], [signatures])
    reward_N, num_members = groups.rewards_P_N[0].tolist(), groups.num_members
    size = check_set_size(set_size, num_members)

    scores: dict[tuple[int, ...], float] = {}
    for members in itertools.combinations(range(num_members), size):
        mean_reward = sum(reward_N[i] for i in members) / size
        scores[members] = mean_reward * measure([signatures[i] for i in members])
    baseline = sum(scores.values()) / len(scores)

    set_advantages_of: list[list[float]] = [[] for _ in range(num_members)]
    for members, score in scores.items():
        for i in members:
            set_advantages_of[i].append(score - baseline)
    if credit == "max":
        return torch.tensor([max(values) for values in set_advantages_of], dtype=torch.float64)
    return torch.tensor([sum(values) / len(values) for values in set_advantages_of], dtype=torch.float64)
