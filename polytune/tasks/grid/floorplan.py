"""A level of walls and one goal that never changes: its rooms, doorways, way to the goal, and what is seen from where.

Built once per distinct level and shared by all its episodes, so nothing in it may be modified.
"""

from __future__ import annotations

from collections import deque
from functools import cached_property, lru_cache

from polytune.tasks.grid.common import DIRECTIONS, Goal, Grid, MiniGridEnv, Wall, offset_word, visible_cells
from polytune.tasks.grid.walls import Cell, Walls, pack_walls

FAR = "far"


def encode_level(grid: Grid) -> bytes:
    """Width, height, goal x, goal y, then one bit per cell, row by row, set for a wall."""
    kinds = [None if cell is None else cell.type for cell in grid.grid]
    if kinds.count("goal") != 1 or set(kinds) - {None, "wall", "goal"}:
        raise ValueError(f"a floor plan has walls and exactly one goal, this grid holds {sorted(map(str, set(kinds)))}")
    y, x = divmod(kinds.index("goal"), grid.width)
    return bytes([grid.width, grid.height, x, y]) + pack_walls(grid)


@lru_cache(maxsize=256)
def floor_plan(encoded: bytes) -> FloorPlan:
    """The plan that `encode_level` wrote, from a bounded cache: equal bytes share one plan."""
    return FloorPlan(encoded)


class FloorPlan(Walls):
    """Walls, and one goal."""

    def __init__(self, encoded: bytes):
        self.encoded = encoded
        width, height, *goal = encoded[:4]
        super().__init__(width, height, encoded[4:])
        self.goal: Cell = (goal[0], goal[1])
        self._texts: dict[int, str] = {}

    @cached_property
    def grid(self) -> Grid:
        """The level as a MiniGrid grid."""
        grid = Grid(self.width, self.height)
        grid.grid = [Wall() if wall else None for wall in self.is_wall]
        goal = Goal()
        goal.init_pos = goal.cur_pos = self.goal
        grid.set(*self.goal, goal)
        return grid

    # What is seen

    def text(self, env: MiniGridEnv) -> str:
        """The observation text of the agent's pose in `env`, computed once per pose.

        `front=` free cells ahead before the wall (0..5, or far if no wall is seen), `left=` and `right=` likewise
        (0..2), then one `door=` word per visible doorway, nearest first, then `goal=` if it is visible.
        """
        x, y = env.agent_pos
        pose = (y * self.width + x) * 4 + env.agent_dir
        text = self._texts.get(pose)
        if text is None:
            text = self._texts[pose] = self._describe(visible_cells(env))
        return text

    def _describe(self, seen: dict[Cell, Cell]) -> str:
        """`seen`: (ahead, side) of every visible cell -> its (x, y)."""
        visible = set(seen.values())
        words = [
            f"front={self._free_cells(seen, 1, 0)}",
            f"left={self._free_cells(seen, 0, -1)}",
            f"right={self._free_cells(seen, 0, 1)}",
        ]
        doors = [
            offset
            for offset, cell in seen.items()
            if cell in self.doorways and (offset == (0, 0) or self._shows(cell, visible))
        ]
        doors.sort(key=lambda offset: (offset[0] + abs(offset[1]), offset))
        words += [f"door={offset_word(*offset)}" for offset in doors]
        words += [f"goal={offset_word(*offset)}" for offset, cell in seen.items() if cell == self.goal]
        return " ".join(words)

    def _shows(self, doorway: Cell, visible: set[Cell]) -> bool:
        """Whether the visible cells alone tell that a visible cell is a doorway: next to it is a wall with a free side.
        With the nose to a wall, one in the agent's own row could as well be an open cell along that wall."""
        x, y = doorway
        for dx, dy in DIRECTIONS:
            wall = (x + dx, y + dy)
            beside = {(x + dx - dy, y + dy + dx), (x + dx + dy, y + dy - dx)}
            if self.wall_at(*wall) and wall in visible and any(not self.wall_at(*cell) for cell in beside & visible):
                return True
        return False

    def _free_cells(self, seen: dict[Cell, Cell], ahead: int, side: int) -> int | str:
        steps = 1
        while (cell := seen.get((steps * ahead, steps * side))) is not None:
            if self.wall_at(*cell):
                return steps - 1
            steps += 1
        return FAR

    # The way to the goal

    @cached_property
    def distances(self) -> list[int | None]:
        """Fewest left/right/forward actions to the goal from pose `index * 4 + direction`; None where it is cut off.

        Breadth-first search backwards from the goal, where an episode ends whatever the direction.
        """
        distances: list[int | None] = [None] * (self.width * self.height * 4)
        frontier: deque[tuple[int, int, int]] = deque()

        def reach(x: int, y: int, direction: int, distance: int) -> None:
            pose = (y * self.width + x) * 4 + direction
            if not self.wall_at(x, y) and distances[pose] is None:
                distances[pose] = distance
                frontier.append((x, y, direction))

        for direction in range(4):
            reach(*self.goal, direction, 0)
        while frontier:
            x, y, direction = frontier.popleft()
            dx, dy = DIRECTIONS[direction]
            distance = distances[(y * self.width + x) * 4 + direction] + 1
            reach(x - dx, y - dy, direction, distance)
            reach(x, y, (direction + 1) % 4, distance)
            reach(x, y, (direction - 1) % 4, distance)
        return distances

    def distance(self, x: int, y: int, direction: int) -> int | None:
        """Fewest actions to the goal from this pose, or None if there is no way (or the cell is a wall)."""
        return None if self.wall_at(x, y) else self.distances[(y * self.width + x) * 4 + direction]
