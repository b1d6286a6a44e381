"""What a BabyAI policy reads: the mission once, then on every turn the free cells around it and the objects in sight.

    mission: go to a red ball . front=3 left=0 right=far red-ball: ahead3-left1 green-door-closed: ahead2-right3

An object takes two words, its name and its place counted from the agent. Objects come nearest first.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

from polytune.tasks.grid.common import DIRECTIONS, VIEW_SIZE, all_offset_words, offset_word, visible_cells
from polytune.tasks.grid.walls import Walls

# isort: split
from minigrid.core.constants import COLOR_NAMES
from minigrid.core.world_object import WorldObj
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel

FAR = "far"
#: layouts of a level whose observations are remembered
LAYOUTS = 256
HALF = VIEW_SIZE // 2
ITEMS = ("ball", "box", "key")
DOOR_STATES = ("open", "closed", "locked")

_MISSION_WORDS = (
    "mission: . , go to pick up open put next the a ball box key door object in front of you behind on your left right "
    "and then after"
).split()
_REWORDED = "find grab unlatch place it beside one any also , afterwards but before that ahead at back to side".split()
_CARDINAL = {"front": (1, 0), "left": (0, -1), "right": (0, 1)}
_OFFSET_WORDS = {
    (ahead, side): offset_word(ahead, side) for ahead in range(VIEW_SIZE) for side in range(-HALF, HALF + 1)
}


def vocabulary(actions: Sequence[str]) -> list[str]:
    """Every word of missions, reworded ones included, observations and actions."""
    distances = [f"front={cells}" for cells in [*range(VIEW_SIZE - 1), FAR]]
    distances += [f"{side}={cells}" for side in ("left", "right") for cells in [*range(HALF), FAR]]
    names = [f"{colour}-{kind}" for kind in ITEMS for colour in COLOR_NAMES]
    doors = [f"{colour}-door-{state}:" for state in DOOR_STATES for colour in COLOR_NAMES]
    carried = [f"carrying={name}" for name in names]
    words = [*actions, *_MISSION_WORDS, *COLOR_NAMES, *_REWORDED, *distances, *(f"{name}:" for name in names)]
    return list(dict.fromkeys([*words, *doors, *carried, *all_offset_words()]))


def mission_text(mission: str) -> str:
    """BabyAI's own sentence, punctuation set apart so that a word is always the same word."""
    return f"mission: {mission.replace(',', ' ,')} ."


class Sight:
    """What is seen from where in a level: the 49 cells of the view, a bit each, by the agent's pose and the doors in
    view that stand open. MiniGrid's visibility, computed once for each; only walls and doors ever hide anything."""

    def __init__(self, walls: Walls):
        self.walls = walls
        self._seen: dict[tuple[int, int], int] = {}
        self._texts: dict[Hashable, dict[tuple[int, int, int], str]] = {}

    def text(self, env: RoomGridLevel, objects: Sequence[WorldObj], layout: Hashable) -> str:
        """The observation of the agent's pose in `env`; `layout`: what `objects` are, where, and which is carried.
        Told once of each pose in a layout: agents turn on the spot and come back, in every episode of a level."""
        if layout not in self._texts and len(self._texts) >= LAYOUTS:
            self._texts.clear()
        texts = self._texts.setdefault(layout, {})
        pose = (*env.agent_pos, env.agent_dir)
        if pose not in texts:
            texts[pose] = self._told(env, objects)
        return texts[pose]

    def _told(self, env: RoomGridLevel, objects: Sequence[WorldObj]) -> str:
        around = dict(self._around(env, objects))
        seen = self._visible(env, around)
        words = [f"{word}={self._free_cells(env, around, seen, *step)}" for word, step in _CARDINAL.items()]
        if env.carrying is not None:
            words.append(f"carrying={env.carrying.color}-{env.carrying.type}")
        near_first = sorted(around, key=lambda offset: (offset[0] + abs(offset[1]), offset))
        for ahead, side in near_first:
            if seen >> _bit(ahead, side) & 1:
                words += [_name(around[ahead, side]), _OFFSET_WORDS[ahead, side]]
        return " ".join(words)

    def cells(self, env: RoomGridLevel, objects: Sequence[WorldObj]) -> Iterator[tuple[int, int]]:
        """The cells (x, y) of the level that are seen from the agent's pose in `env`."""
        seen = self._visible(env, dict(self._around(env, objects)))
        (x, y), (dx, dy) = env.agent_pos, DIRECTIONS[env.agent_dir]
        for (ahead, side), bit in _BITS.items():
            if seen >> bit & 1:
                column, row = x + ahead * dx - side * dy, y + ahead * dy + side * dx
                if 0 <= column < self.walls.width and 0 <= row < self.walls.height:
                    yield column, row

    def _around(self, env: RoomGridLevel, objects: Sequence[WorldObj]) -> Iterator[tuple[tuple[int, int], WorldObj]]:
        """The objects on the 49 cells in front of the agent, hidden ones too, by (ahead, side)."""
        x, y = env.agent_pos
        dx, dy = DIRECTIONS[env.agent_dir]
        cells, width = env.grid.grid, env.grid.width
        for thing in objects:
            column, row = thing.cur_pos
            ahead = (column - x) * dx + (row - y) * dy
            side = (row - y) * dx - (column - x) * dy
            if 0 <= ahead < VIEW_SIZE and -HALF <= side <= HALF and cells[row * width + column] is thing:
                yield (int(ahead), int(side)), thing

    def _visible(self, env: RoomGridLevel, around: dict[tuple[int, int], WorldObj]) -> int:
        doors = 0
        for (ahead, side), thing in around.items():
            if thing.type == "door" and thing.is_open:
                doors |= 1 << _bit(ahead, side)
        x, y = env.agent_pos
        key = ((y * self.walls.width + x) * 4 + env.agent_dir, doors)
        seen = self._seen.get(key)
        if seen is None:
            seen = self._seen[key] = sum(1 << _bit(ahead, side) for ahead, side in visible_cells(env))
        return seen

    def _free_cells(self, env, around, seen: int, ahead: int, side: int) -> int | str:
        """Free cells this way before a wall, an object or a door that is not open; far when none is in sight."""
        (x, y), (dx, dy) = env.agent_pos, DIRECTIONS[env.agent_dir]
        for steps in range(1, (VIEW_SIZE if ahead else HALF + 1)):
            offset = (steps * ahead, steps * side)
            if not seen >> _bit(*offset) & 1:
                return FAR
            thing = around.get(offset)
            if thing is not None and not thing.can_overlap():
                return steps - 1
            if self.walls.wall_at(x + offset[0] * dx - offset[1] * dy, y + offset[0] * dy + offset[1] * dx):
                return steps - 1
        return FAR


def _bit(ahead: int, side: int) -> int:
    return ahead * VIEW_SIZE + side + HALF


_BITS = {offset: _bit(*offset) for offset in _OFFSET_WORDS}


def _name(thing: WorldObj) -> str:
    if thing.type != "door":
        return f"{thing.color}-{thing.type}:"
    return f"{thing.color}-door-{'open' if thing.is_open else 'locked' if thing.is_locked else 'closed'}:"
