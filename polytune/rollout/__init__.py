"""Rollouts: typed trees, the growth of vines, and the training rows they become."""

from polytune.rollout.rows import Row, tree_rows
from polytune.rollout.tree import Trajectory, Tree, Turn
from polytune.rollout.vines import (
    RolloutCounters,
    RolloutError,
    Start,
    equally_spaced,
    grow_trees,
    sample_episodes,
)

__all__ = [
    "RolloutCounters",
    "RolloutError",
    "Row",
    "Start",
    "Trajectory",
    "Tree",
    "Turn",
    "equally_spaced",
    "grow_trees",
    "sample_episodes",
    "tree_rows",
]
