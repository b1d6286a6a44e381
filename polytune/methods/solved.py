"""What is known of start states: numbers of each, from whole episodes of all processes, for methods that choose."""

from collections.abc import Mapping, Sequence

import torch

from polytune.methods.base import Update
from polytune.rollout import Trajectory, Tree

Known = dict[int, tuple[float, ...]]


def whole_trees(update: Update) -> list[Tree]:
    """This process's trees that began in their start states."""
    return [tree for tree in update.trees if tree.root is None]


def success_rate(episodes: Sequence[Trajectory]) -> float:
    """Share of the episodes that succeeded."""
    return sum(episode.success for episode in episodes) / len(episodes)


def note(known: Known, update: Update, found: Sequence[tuple[int, tuple[float, ...]]]) -> Known:
    """``known`` with what all processes found in an update, the mean of a start state's trees in the place of what was
    known of it before."""
    of_state: dict[int, list[tuple[float, ...]]] = {}
    for start_state, numbers in sorted(update.gather(list(found))):
        of_state.setdefault(start_state, []).append(numbers)
    means = {s: tuple(sum(column) / len(rows) for column in zip(*rows, strict=True)) for s, rows in of_state.items()}
    return known | means


def pack_known(known: Mapping[int, tuple[float, ...]], columns: int) -> dict[str, torch.Tensor]:
    """For a checkpoint: start_states (K,), numbers (K, columns)."""
    numbers = torch.tensor(list(known.values()), dtype=torch.float64).reshape(-1, columns)
    return {"start_states": torch.tensor(list(known), dtype=torch.int64), "numbers": numbers}


def unpack_known(state: Mapping[str, torch.Tensor]) -> Known:
    """What :func:`pack_known` was given."""
    return dict(zip(state["start_states"].tolist(), map(tuple, state["numbers"].tolist()), strict=True))
