"""Rollouts: typed trees, the growth of vines, and the training rows they become."""

from polytune.rollout.branching import BRANCHING, Branching, SeedView, find_branching
from polytune.rollout.duplicates import Duplicates, count_duplicates
from polytune.rollout.rows import Row, blank_row, trajectory_row, tree_rows
from polytune.rollout.tree import ROUNDING, Root, Trajectory, Tree, Turn, discounted, signature_as_json, total_of
from polytune.rollout.vines import (
    STOPPED,
    RolloutCounters,
    RolloutError,
    Start,
    grow_trees,
    sample_episodes,
)
from polytune.rollout.walked import Walk, snapshots_on

__all__ = [
    "BRANCHING",
    "ROUNDING",
    "STOPPED",
    "Branching",
    "Duplicates",
    "RolloutCounters",
    "RolloutError",
    "Root",
    "Row",
    "SeedView",
    "Start",
    "Trajectory",
    "Tree",
    "Turn",
    "Walk",
    "blank_row",
    "count_duplicates",
    "discounted",
    "find_branching",
    "grow_trees",
    "sample_episodes",
    "signature_as_json",
    "snapshots_on",
    "total_of",
    "trajectory_row",
    "tree_rows",
]
