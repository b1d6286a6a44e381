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
    GroupScores,
    find_credit,
    find_scaling,
    gae,
    group_signal,
    polychromic_window,
    returns_to_go,
    score_groups,
)
from polytune.rollout import ROUNDING, Trajectory, Tree, discounted, total_of


@dataclass
class TurnAdvantages:
    """Advantages of B rows with T turns at most, float64. The two masks never overlap.

    ``deductions_B_T`` (a credit rule with deductions, ``per_set``, only): what a member's losing sets take from it,
    >= 0, averaged over all its sets; its advantage is what the winning ones give less this. ``raw_B_T``: the advantages
    before any division, those of sets before their groups are scaled. ``score_scale``: the largest |f| of a set.
    """

    advantages_B_T: torch.Tensor
    set_mask_B_T: torch.Tensor
    gae_mask_B_T: torch.Tensor
    returns_B_T: torch.Tensor
    turns_mask_B_T: torch.Tensor
    deductions_B_T: torch.Tensor | None
    groups: GroupStatistics
    raw_B_T: torch.Tensor
    score_scale: float


@dataclass
class GroupStatistics:
    """Sums over groups, to be averaged over processes.

    A group without signal has one cause, the first that holds: all its rewards are equal, all its signatures are, or
    the scores of its sets tie although neither is.
    """

    groups: int = 0
    without_signal: int = 0
    without_signal_equal_rewards: int = 0
    without_signal_equal_signatures: int = 0
    without_signal_ties: int = 0
    equal_rewards: int = 0
    equal_signatures: int = 0
    diversity: float = 0.0
    distinct_signatures: int = 0
    distinct_share: float = 0.0
    distinct_winning: int = 0

    def add(self, group: Sequence[Trajectory], rewards: Sequence[float], signal: bool, diversity: float) -> None:
        """Count one group: its members, their rewards, whether sets tell them apart, the mean diversity of its sets."""
        distinct = len({trajectory.signature for trajectory in group} - {None})
        equal_rewards = max(rewards) - min(rewards) <= ROUNDING * max(map(abs, rewards))
        equal_signatures = distinct <= 1
        self.groups += 1
        self.without_signal += not signal
        self.without_signal_equal_rewards += not signal and equal_rewards
        self.without_signal_equal_signatures += not signal and equal_signatures and not equal_rewards
        self.without_signal_ties += not signal and not equal_signatures and not equal_rewards
        self.equal_rewards += equal_rewards
        self.equal_signatures += equal_signatures
        self.diversity += diversity
        self.distinct_signatures += distinct
        self.distinct_share += max(distinct - 1, 0) / max(len(group) - 1, 1)
        self.distinct_winning += len({t.signature for t in group if t.success} - {None})


def set_groups(trees: Sequence[Tree], scope: str) -> list[list[list[Trajectory]]]:
    """The groups that sets are formed in, as batches of groups of one size: vine groups and/or seed trajectories."""
    batches = []
    if scope in ("vines", "both"):
        batches.append([group for tree in trees for group in tree.vine_groups()])
    if scope in ("seeds", "both"):
        of_size: dict[int, list[list[Trajectory]]] = {}
        for tree in trees:
            of_size.setdefault(len(tree.seeds), []).append(tree.seeds)
        batches += of_size.values()
    return [batch for batch in batches if batch]


def sibling_groups(trees: Sequence[Tree]) -> list[list[Trajectory]]:
    """All groups of independent attempts from one state: vines of a rollout state, seed trajectories of a tree."""
    return [*(group for tree in trees for group in tree.vine_groups()), *(tree.seeds for tree in trees)]


def turn_rewards(trees: Sequence[Tree]) -> tuple[torch.Tensor, torch.Tensor]:
    """(rewards (B, T), float64; True at own turns (B, T)), rows in the order of ``Tree.trajectories``."""
    trajectories = [trajectory for tree in trees for trajectory in tree.trajectories()]
    turns = max(len(trajectory.turns) for trajectory in trajectories)
    rewards_B_T = torch.zeros(len(trajectories), turns, dtype=torch.float64)
    turns_mask_B_T = torch.zeros(len(trajectories), turns, dtype=torch.bool)
    for row, trajectory in enumerate(trajectories):
        count = len(trajectory.turns)
        rewards_B_T[row, :count] = torch.tensor([turn.reward for turn in trajectory.turns], dtype=torch.float64)
        turns_mask_B_T[row, :count] = True
    return rewards_B_T, turns_mask_B_T


def turn_advantages(
    trees: Sequence[Tree],
    objective: ObjectiveConfig,
    values_B_T: torch.Tensor | None,
    *,
    seed: int = 0,
    bonus_B_T: torch.Tensor | float = 0.0,
) -> TurnAdvantages:
    """Advantages of every own turn of every trajectory, rows in the order of ``Tree.trajectories``.

    Args:
        values_B_T: the critic's values before each turn, or None without a critic (then nothing outside the windows
            is scored).
        seed: of the random sets when ``objective.num_sets`` is a number.
        bonus_B_T: added to the rewards of own turns.
    """
    rewards_B_T, turns_mask_B_T = turn_rewards(trees)
    rewards_B_T = rewards_B_T + bonus_B_T * turns_mask_B_T
    rows = {id(t): row for row, t in enumerate(t for tree in trees for t in tree.trajectories())}
    if values_B_T is None:
        advantages_B_T, gae_mask_B_T = torch.zeros_like(rewards_B_T), torch.zeros_like(turns_mask_B_T)
    else:
        advantages_B_T = gae(rewards_B_T, values_B_T, turns_mask_B_T, objective.gamma, objective.gae_lambda)
        gae_mask_B_T = turns_mask_B_T.clone()
    set_mask_B_T = torch.zeros_like(turns_mask_B_T)
    deductions_B_T = torch.zeros_like(rewards_B_T) if find_credit(objective.credit).deductions is not None else None
    within_groups = find_scaling("set_normalise", objective.set_normalise).within_groups
    raw_B_T, score_scale, statistics = advantages_B_T.clone(), 0.0, GroupStatistics()
    window = None if objective.window in (None, -1) else objective.window
    for batch in set_groups(trees, objective.set_scope):
        returns = [
            [discounted(rewards_B_T[rows[id(t)], : len(t.turns)].tolist(), objective.gamma) for t in g] for g in batch
        ]
        raw = score_batch(batch, objective, seed, statistics, returns)
        scores = raw if within_groups is None else within_groups(raw)
        score_scale = max(score_scale, raw.scale_P.max().item())
        for p, group in enumerate(batch):
            for member, trajectory in enumerate(group):
                if not scores.scored_P_N[p, member]:
                    continue  # in none of the drawn sets: never scored, so the critic's advantage stays
                row, count = rows[id(trajectory)], len(trajectory.turns)
                inside = polychromic_window(count, window)
                advantages_B_T[row, :count][inside] = scores.advantages_P_N[p, member]
                raw_B_T[row, :count][inside] = raw.advantages_P_N[p, member]
                set_mask_B_T[row, :count] |= inside
                if deductions_B_T is not None:
                    deductions_B_T[row, :count][inside] = scores.deductions_P_N[p, member]
    gae_mask_B_T &= ~set_mask_B_T
    returns_B_T = returns_to_go(rewards_B_T, turns_mask_B_T, objective.gamma)
    return TurnAdvantages(
        advantages_B_T, set_mask_B_T, gae_mask_B_T, returns_B_T, turns_mask_B_T, deductions_B_T, statistics, raw_B_T,
        score_scale,
    )  # fmt: skip


def score_with(objective: ObjectiveConfig, rewards_P_N: list, signatures_P_N: list, seed: int) -> GroupScores:
    """``score_groups`` by the fields of a run; a ValueError also says which objective and diversity it was."""
    try:
        return score_groups(
            rewards_P_N,
            signatures_P_N,
            objective.set_size,
            objective=objective.objective,
            diversity=objective.diversity,
            diversity_coef=objective.diversity_coef,
            credit=objective.credit,
            num_sets=objective.num_sets,
            seed=seed,
        )
    except ValueError as error:
        raise ValueError(f"objective {objective.objective!r}, diversity {objective.diversity!r}: {error}") from error


def score_batch(
    batch: list[list[Trajectory]],
    objective: ObjectiveConfig,
    seed: int,
    statistics: GroupStatistics,
    rewards: list[list[float]] | None = None,
) -> GroupScores:
    """Set advantages (P, N) of P groups of one size; adds to ``statistics``. ``rewards``: of the members, unset: their
    discounted returns."""
    if rewards is None:
        rewards = [[trajectory.discounted_return(objective.gamma) for trajectory in group] for group in batch]
    if objective.reward_shift:
        rewards = [[total_of([reward, objective.reward_shift]) for reward in group] for group in rewards]
    scores = score_with(objective, rewards, [[trajectory.signature for trajectory in group] for group in batch], seed)
    signal_P = group_signal(scores).tolist()
    diversity_P = [float("nan")] * len(batch) if scores.diversity_P is None else scores.diversity_P.tolist()
    for group, group_rewards, signal, diversity in zip(batch, rewards, signal_P, diversity_P, strict=True):
        statistics.add(group, group_rewards, signal, diversity)
    return scores
