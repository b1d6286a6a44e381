"""Signatures of grid worlds: what makes two trajectories the same strategy."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import groupby

from polytune.tasks.base import Episode

ROOMS, ROOMS_IN_ORDER, OBJECTS_TOUCHED = "rooms", "rooms_in_order", "objects_touched"


class GridEpisode(Episode):
    """An episode whose `task.signature` names what its signature is made of: `rooms`, the set of rooms visited (arXiv
    2509.25424), `rooms_in_order`, their sequence, or `objects_touched`, the set of objects that the agent stood before.
    """

    def signature(self, since_turn: int = 0) -> Hashable | None:
        """A frozenset of places, or with `rooms_in_order` a tuple of rooms, none twice in a row."""
        visited = super().signature(since_turn)
        if self.task.signature != ROOMS_IN_ORDER:
            return visited
        return tuple(room for room, _ in groupby(place for place in self._trail[since_turn:] if place is not None))


def check_signature(name: str, known: tuple[str, ...], task: str) -> str:
    """`name`; ValueError unless it is one of `known`."""
    if name not in known:
        raise ValueError(f"signature of task {task!r} must be one of {', '.join(known)}, got {name!r}")
    return name
