"""Trees -> advantages per turn: set advantages inside the polychromic window, GAE outside (Poly-PPO, steps 4 to 6).

An action is credited by exactly one of the two, or by neither. *Never scored* (no critic, outside every window) is
recorded by both masks being False; *scored without signal* is an advantage of 0 under a True mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from polytune.config import ObjectiveConfig
from polytune.objective import (
    DIVERSITY,
    draw_sets,
    gae,
    group_signal,
    mean_diversity,
    polychromic_window,
    returns_to_go,
    set_advantages,
)
from polytune.rollout import Trajectory, Tree


@dataclass
class TurnAdvantages:
    """Advantages of B rows with T turns at most, float64. The two masks never overlap."""

    advantages_B_T: torch.Tensor
    set_mask_B_T: torch.Tensor
    gae_mask_B_T: torch.Tensor
    returns_B_T: torch.Tensor
    turns_mask_B_T: torch.Tensor
    groups: GroupStatistics


@dataclass
class GroupStatistics:
    """Sums over groups, to be averaged over processes."""

    groups: int = 0
    without_signal: int = 0
    equal_rewards: int = 0
    equal_signatures: int = 0
    diversity: float = 0.0
    distinct_signatures: int = 0
    distinct_winning: int = 0


def set_groups(trees: Sequence[Tree], scope: str) -> list[list[list[Trajectory]]]:
    """The groups that sets are formed in, as batches of groups of one size: vine groups and/or seed trajectories."""
    batches = []
    if scope in ("vines", "both"):
        batches.append([group for tree in trees for group in tree.vine_groups()])
    if scope in ("seeds", "both"):
        batches.append([tree.seeds for tree in trees])
    return [batch for batch in batches if batch]


def turn_advantages(
    trees: Sequence[Tree], objective: ObjectiveConfig, values_B_T: torch.Tensor | None, *, seed: int = 0
) -> TurnAdvantages:
    """Advantages of every own turn of every trajectory, rows in the order of ``Tree.trajectories``.

    Args:
        values_B_T: the critic's values before each turn, or None without a critic (then nothing outside the windows
            is scored).
        seed: of the random sets when ``objective.num_sets`` is a number.
    """
    trajectories = [trajectory for tree in trees for trajectory in tree.trajectories()]
    rows = {id(trajectory): row for row, trajectory in enumerate(trajectories)}
    turns = max(len(trajectory.turns) for trajectory in trajectories)
    rewards_B_T = torch.zeros(len(trajectories), turns, dtype=torch.float64)
    turns_mask_B_T = torch.zeros(len(trajectories), turns, dtype=torch.bool)
    for row, trajectory in enumerate(trajectories):
        count = len(trajectory.turns)
        rewards_B_T[row, :count] = torch.tensor([turn.reward for turn in trajectory.turns], dtype=torch.float64)
        turns_mask_B_T[row, :count] = True
    if values_B_T is None:
        advantages_B_T, gae_mask_B_T = torch.zeros_like(rewards_B_T), torch.zeros_like(turns_mask_B_T)
    else:
        advantages_B_T = gae(rewards_B_T, values_B_T, turns_mask_B_T, objective.gamma, objective.gae_lambda)
        gae_mask_B_T = turns_mask_B_T.clone()
    set_mask_B_T = torch.zeros_like(turns_mask_B_T)
    statistics = GroupStatistics()
    window = None if objective.window in (None, -1) else objective.window
    for batch in set_groups(trees, objective.set_scope):
        sets_P = drawn_sets(batch, objective, seed)
        scores_P_N = _score(batch, objective, seed, sets_P, statistics)
        for index, (group, scores_N) in enumerate(zip(batch, scores_P_N, strict=True)):
            scored = None if sets_P is None else set(sets_P[index].flatten().tolist())
            for member, (trajectory, score) in enumerate(zip(group, scores_N.tolist(), strict=True)):
                if scored is not None and member not in scored:
                    continue  # in none of the drawn sets: never scored, so the critic's advantage stays
                row, count = rows[id(trajectory)], len(trajectory.turns)
                inside = polychromic_window(count, window)
                advantages_B_T[row, :count][inside] = score
                set_mask_B_T[row, :count] |= inside
    gae_mask_B_T &= ~set_mask_B_T
    returns_B_T = returns_to_go(rewards_B_T, turns_mask_B_T, objective.gamma)
    return TurnAdvantages(advantages_B_T, set_mask_B_T, gae_mask_B_T, returns_B_T, turns_mask_B_T, statistics)


def drawn_sets(batch: list[list[Trajectory]], objective: ObjectiveConfig, seed: int) -> list[torch.Tensor] | None:
    """The random sets (M, n) of each group that ``set_advantages`` draws from ``seed``; None when all are scored."""
    if objective.num_sets == "all":
        return None
    generator = torch.Generator().manual_seed(seed)
    return [draw_sets(len(group), objective.set_size, objective.num_sets, generator) for group in batch]


def _group_diversity(signatures: list, objective: ObjectiveConfig, sets_M_n: torch.Tensor | None) -> float:
    """Mean d of a group's sets: of all of them, or of those drawn when the measure has no closed form."""
    measure = DIVERSITY[objective.diversity]
    if sets_M_n is None or measure.count_form is not None:
        return mean_diversity(signatures, objective.set_size, objective.diversity)
    return sum(measure.of_set([signatures[i] for i in members]) for members in sets_M_n.tolist()) / len(sets_M_n)


def _score(
    batch: list[list[Trajectory]],
    objective: ObjectiveConfig,
    seed: int,
    sets_P: list[torch.Tensor] | None,
    statistics: GroupStatistics,
) -> torch.Tensor:
    """Set advantages (P, N) of a batch of groups; adds to ``statistics``."""
    rewards = [[trajectory.discounted_return(objective.gamma) for trajectory in group] for group in batch]
    signatures = [[trajectory.signature for trajectory in group] for group in batch]
    scores_P_N = set_advantages(
        rewards,
        signatures,
        objective.set_size,
        objective=objective.objective,
        diversity=objective.diversity,
        credit=objective.credit,
        num_sets=objective.num_sets,
        seed=seed,
    )
    statistics.groups += len(batch)
    statistics.without_signal += int((~group_signal(scores_P_N)).sum())
    for index, (group_rewards, group_signatures, group) in enumerate(zip(rewards, signatures, batch, strict=True)):
        distinct = len(set(group_signatures) - {None})
        statistics.equal_rewards += len(set(group_rewards)) == 1
        statistics.equal_signatures += distinct <= 1
        statistics.distinct_signatures += distinct
        statistics.distinct_winning += len({t.signature for t in group if t.success} - {None})
        statistics.diversity += _group_diversity(group_signatures, objective, None if sets_P is None else sets_P[index])
    return scores_P_N
