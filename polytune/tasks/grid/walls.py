"""The walls of a level and what follows from them: its doorways and its rooms."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from polytune.tasks.grid.common import DIRECTIONS, Grid

Cell = tuple[int, int]


def pack_walls(grid: Grid) -> bytes:
    """One bit per cell, row by row, set for a wall."""
    return np.packbits([cell is not None and cell.type == "wall" for cell in grid.grid]).tobytes()


class Walls:
    """Cells are (x, y), y downwards; `index = y * width + x`.

    `room_at[index]` is the room of a cell (rooms are numbered 0, 1, ... by their first cell in reading order), or None
    for walls and doorways. A doorway is a cell without a wall that lies between two walls and has none on its other two
    sides; it belongs to no room, and without the doorways the rooms fall apart. Doors and objects are no walls.
    """

    def __init__(self, width: int, height: int, packed: bytes):
        """`packed`: what `pack_walls` wrote."""
        self.width, self.height = width, height
        bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=width * height)
        self.is_wall: list[bool] = bits.astype(bool).tolist()

    @cached_property
    def doorways(self) -> frozenset[Cell]:
        return frozenset((x, y) for y in range(self.height) for x in range(self.width) if self._is_doorway(x, y))

    @cached_property
    def room_at(self) -> list[int | None]:
        return self._rooms()

    def wall_at(self, x: int, y: int) -> bool:
        """Whether a cell is a wall; everything outside the grid is."""
        return not (0 <= x < self.width and 0 <= y < self.height) or self.is_wall[y * self.width + x]

    def room(self, x: int, y: int) -> int | None:
        """The room of a cell, None in a doorway."""
        return self.room_at[y * self.width + x]

    def _is_doorway(self, x: int, y: int) -> bool:
        if self.wall_at(x, y):
            return False
        east, south, west, north = (self.wall_at(x + dx, y + dy) for dx, dy in DIRECTIONS)
        return east == west and south == north and east != south

    def _rooms(self) -> list[int | None]:
        room_at: list[int | None] = [None] * (self.width * self.height)
        rooms = 0
        for index, wall in enumerate(self.is_wall):
            y, x = divmod(index, self.width)
            if wall or room_at[index] is not None or (x, y) in self.doorways:
                continue
            frontier = [(x, y)]
            while frontier:
                x, y = frontier.pop()
                at = y * self.width + x
                if self.wall_at(x, y) or (x, y) in self.doorways or room_at[at] is not None:
                    continue
                room_at[at] = rooms
                frontier += [(x + dx, y + dy) for dx, dy in DIRECTIONS]
            rooms += 1
        return room_at
