"""What the critic is told beside the text, and values that vines give away.

Three features of each decision:
    turns left / horizon     an episode ends at the horizon, and no observation says how far it is
    mean return of siblings  of the other members of the row's group, which began in the same state and were sampled
                             independently of it: it holds what lies between start states, which groups remove
    whether there are any    0 where a row has no siblings, the mean is 0 then

Unbiased as a baseline: the siblings of a row, given the state they share, are independent of every action that it
takes from there on. So is the mean of vines from their rollout state on, for the seed trajectory on which they branch
(E[return | state], Monte Carlo as in VinePPO, arXiv 2410.01679), as long as *where* they branch says nothing of what
comes. Under a rule that foresees (``Branching.foresees``) it does: equally spaced states say how long the seed
trajectory is, and a critic that is told so takes part of the action's own credit away. So seed trajectories are told of
their vines, and take values from them, under the other rules only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from polytune.rollout import Trajectory, Tree

NUM_FEATURES = 3


def vine_returns(tree: Tree, gamma: float) -> Iterator[tuple[Trajectory, int, list[float]]]:
    """(seed trajectory, turn, returns of all vines that branch there), turn by turn; none for branches in an answer."""
    for seed, groups in zip(tree.seeds, tree.vines, strict=True):
        returns: dict[int, list[float]] = {}
        for vine in (vine for group in groups for vine in group if vine.branch_token == 0):
            returns.setdefault(vine.branch_turn, []).append(vine.discounted_return(gamma))
        yield from ((seed, turn, returns[turn]) for turn in sorted(returns))


def value_features(
    trees: Sequence[Tree], horizon: int, gamma: float, *, foresees: bool = True, vine_values: bool = False
) -> torch.Tensor:
    """(B, T, 3) float64 of every own turn, rows in the order of ``Tree.trajectories``; 0 beyond a row's end.

    Args:
        horizon: most turns of an episode.
        gamma: discount of the returns.
        foresees: whether the rule that placed the vines did; then seed trajectories are not told of theirs.
        vine_values: the vines' mean return is the target at their rollout state, so there it is no feature.
    """
    trajectories = [trajectory for tree in trees for trajectory in tree.trajectories()]
    rows = {id(trajectory): row for row, trajectory in enumerate(trajectories)}
    turns = max(len(trajectory.turns) for trajectory in trajectories)
    features_B_T_F = torch.zeros(len(trajectories), turns, NUM_FEATURES, dtype=torch.float64)

    def tell(trajectory: Trajectory, since: int, returns: list[float]) -> None:
        if returns:
            known = torch.tensor([sum(returns) / len(returns), 1.0], dtype=torch.float64)
            features_B_T_F[rows[id(trajectory)], since : len(trajectory.turns), 1:] = known

    for row, trajectory in enumerate(trajectories):
        count = len(trajectory.turns)
        first = horizon - trajectory.first_turn
        features_B_T_F[row, :count, 0] = torch.arange(first, first - count, -1, dtype=torch.float64) / horizon
    for tree in trees:
        for group in [tree.seeds, *tree.vine_groups()]:
            returns = [member.discounted_return(gamma) for member in group]
            for index, member in enumerate(group):
                tell(member, 0, returns[:index] + returns[index + 1 :])
        for seed, turn, returns in () if foresees else vine_returns(tree, gamma):
            tell(seed, turn + vine_values, returns)
    return features_B_T_F


def with_vine_values(trees: Sequence[Tree], numbers_B_T: torch.Tensor, gamma: float) -> torch.Tensor:
    """Values or targets (B, T); at rollout states on seed trajectories, the mean return of their vines. For rules that
    do not foresee."""
    rows = {id(t): row for row, t in enumerate(t for tree in trees for t in tree.trajectories())}
    numbers_B_T = numbers_B_T.clone()
    for tree in trees:
        for seed, turn, returns in vine_returns(tree, gamma):
            numbers_B_T[rows[id(seed)], turn] = sum(returns) / len(returns)
    return numbers_B_T
