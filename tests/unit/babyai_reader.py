"""A scripted player of BabyAI's GoTo and Pickup that knows nothing but the words it is given and what it did.

It turns the words into a map in its own coordinates (it begins at (0, 0), and `forward` moved it unless front=0), goes
to what the mission names once that has been in sight, and otherwise where most unseen cells come into sight soonest.
What it knows of all levels: rooms have 6 x 6 cells, walls are one cell thick, and what is behind a wall or a door that
is not open is hidden. A word that it does not know, or that its map contradicts, is an error.
"""

from __future__ import annotations

import re
from collections import defaultdict

Cell = tuple[int, int]
Pose = tuple[int, int, int]

COLOURS = "red|green|blue|purple|yellow|grey"
MISSION = re.compile(rf"mission: (go to|pick up) (?:a|the) ({COLOURS}) (ball|box|key)")
RAY = re.compile(r"(front|left|right)=([0-5]|far)")
NAME = re.compile(rf"({COLOURS})-(?:(ball|box|key)|door-(open|closed|locked)):")
PLACE = re.compile(r"here|(?:ahead([1-6]))?(?:(?:^|(?<=\d)-)(left|right)([1-3]))?")
CARRYING = re.compile(rf"carrying=({COLOURS})-(ball|box|key)")

STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # a right turn is the next one
ROOM = 7  # cells from wall to wall
RAYS = {"front": (1, 0, 6), "left": (0, -1, 3), "right": (0, 1, 3)}  # ahead, to the right, reach
SIDE = 64  # the map has SIDE x SIDE cells, numbered row by row, the origin in its middle
PATIENCE = 8  # turns that a look costs beside the way there: few make it look around on the spot, many make it travel


def number(x: int, y: int) -> int:
    return (y + SIDE // 2) * SIDE + x + SIDE // 2


class Reader:
    """`act(observation)` names the next action. One reader plays one episode."""

    def __init__(self):
        self.x = self.y = self.facing = 0
        self.wanted: str | None = None
        self.takes = False
        self.carrying: str | None = None
        self.walls: list[int | None] = [None, None]  # x and y of one wall, by which all others are known
        self.items: dict[Cell, str] = {}
        self.doors: dict[Cell, str] = {}
        self.unseen = bytearray([1]) * SIDE**2
        self.front: str | None = None
        self.action: str | None = None
        self._plan: list[str] = []
        self._planned_with: tuple[dict[Cell, str], set[Cell]] | None = None  # another map asks for another plan
        self._views: dict[Pose, tuple[int, ...]] = {}
        self._clears: dict[int, bool] = {}

    def act(self, observation: str) -> str:
        """Read, remember, and decide."""
        self._moved()
        self._read(observation)
        self.action = self._decide()
        return self.action

    # What the words say

    def _moved(self) -> None:
        """Where the last action led."""
        if self.action in ("left", "right"):
            self.facing = (self.facing + (1 if self.action == "right" else -1)) % 4
        elif self.action == "forward" and self.front != "0":
            self.x, self.y = self._cell(1, 0)

    def _cell(self, ahead: int, side: int) -> Cell:
        dx, dy = STEPS[self.facing]
        return self.x + ahead * dx - side * dy, self.y + ahead * dy + side * dx

    def _read(self, observation: str) -> None:
        mission, found, rest = observation.rpartition(" . ")
        if found:
            verb, colour, kind = _match(MISSION, mission).groups()
            self.wanted, self.takes = f"{colour}-{kind}", verb == "pick up"
        words = rest.split()
        rays = dict(_match(RAY, word).groups() for word in words[:3])
        self.front, words = rays["front"], words[3:]
        self.carrying = None
        if words and words[0].startswith("carrying="):
            self.carrying = "-".join(_match(CARRYING, words.pop(0)).groups())
        told = {}
        for name, place in zip(words[::2], words[1::2], strict=True):
            ahead, side, steps = _match(PLACE, place).groups()
            told[int(ahead or 0), int(steps or 0) * (-1 if side == "left" else 1)] = _match(NAME, name).groups()
        self._find_walls(rays, told)
        self._note(told)
        self._check(rays)

    def _find_walls(self, rays: dict[str, str], told: dict[Cell, tuple]) -> None:
        """A ray that ends at a cell where nothing is told of ends at a wall across it."""
        for ray, (ahead, side, _) in RAYS.items():
            if rays[ray] == "far" or (self.x, self.y) in self.doors:
                continue
            steps = int(rays[ray]) + 1
            if (steps * ahead, steps * side) not in told:
                axis = (self.facing + (side != 0)) % 2
                if self.walls[axis] is None:
                    self.walls[axis] = self._cell(steps * ahead, steps * side)[axis]

    def _note(self, told: dict[Cell, tuple]) -> None:
        """Put what is told of on the map, and take off what should be in sight and is not told of."""
        doors = dict(self.doors)
        for (ahead, side), (colour, item, door) in told.items():
            if item:
                self.items[self._cell(ahead, side)] = f"{colour}-{item}"
            else:
                doors[self._cell(ahead, side)] = door
        if doors != self.doors:
            self.doors = doors
            self._views.clear()
            self._clears.clear()
        if None in self.walls:
            return
        view = self._view(self.x, self.y, self.facing)
        for cell in view:
            self.unseen[cell] = 0
        here = {self._cell(*offset) for offset in told}
        for cell in [cell for cell in self.items if cell not in here and number(*cell) in view]:
            del self.items[cell]
        missing = [cell for cell in self.doors if cell not in here and number(*cell) in view]
        unseen = [cell for cell in here if number(*cell) not in view]
        if missing or unseen:
            raise ValueError(f"the words name no doors at {missing}, where they should, and something at {unseen}")

    def _check(self, rays: dict[str, str]) -> None:
        """The rays must end where the map says."""
        for ray, (ahead, side, reach) in RAYS.items() if None not in self.walls else ():
            expected, view = "far", self._view(self.x, self.y, self.facing)
            for steps in range(1, reach + 1):
                cell = self._cell(steps * ahead, steps * side)
                if number(*cell) not in view:
                    break
                if not self._passable(cell) or self.doors.get(cell, "open") != "open":
                    expected = str(steps - 1)
                    break
            if rays[ray] != expected:
                raise ValueError(f"the map says {ray}={expected}, the words say {ray}={rays[ray]}")

    # What the map says

    def _wall(self, x: int, y: int) -> bool:
        return ((x - self.walls[0]) % ROOM == 0 or (y - self.walls[1]) % ROOM == 0) and (x, y) not in self.doors

    def _passable(self, cell: Cell) -> bool:
        """Whether it can be entered, perhaps after a door was opened; cells never seen are taken to be free."""
        return not self._wall(*cell) and cell not in self.items and self.doors.get(cell) != "locked"

    def _view(self, x: int, y: int, facing: int, opening: Cell | None = None) -> tuple[int, ...]:
        """Numbers of the cells in sight from a pose. Sight goes from each cell that hides nothing to the cells beside
        it and to the three ahead of it."""
        if opening is None and (x, y, facing) in self._views:
            return self._views[x, y, facing]
        dx, dy = STEPS[facing]
        to_side, opened = number(-dy, dx) - number(0, 0), opening and number(*opening)
        view, row = [], 1 << 3  # a bit for each cell of a row, the leftmost first
        for ahead in range(7):
            leftmost = number(x + ahead * dx, y + ahead * dy) - 3 * to_side
            clear = 0
            for column in range(7):
                cell = leftmost + column * to_side
                if self._clear(cell) or cell == opened:
                    clear |= 1 << column
            before = 0
            while row != before:
                before, through = row, row & clear
                row = (row | through << 1 | through >> 1) & 127
            view += [leftmost + column * to_side for column in range(7) if row >> column & 1]
            through = row & clear
            row = (through | through << 1 | through >> 1) & 127
            if not row:
                break
        if opening is None:
            self._views[x, y, facing] = tuple(view)
        return tuple(view)

    def _clear(self, cell: int) -> bool:
        """Whether one can look through the cell of this number."""
        clear = self._clears.get(cell)
        if clear is None:
            x, y = cell % SIDE - SIDE // 2, cell // SIDE - SIDE // 2
            clear = self._clears[cell] = not self._wall(x, y) and self.doors.get((x, y), "open") == "open"
        return clear

    # What to do

    def _decide(self) -> str:
        if None in self.walls:  # objects stand before them: another row will tell
            return "right" if self.front == "0" else "forward"
        ahead = self._cell(1, 0)
        if self.takes and self.items.get(ahead) == self.wanted:
            return "pickup"
        known = (dict(self.items), set(self.doors))
        if not self._plan or known != self._planned_with:
            knows_one = self.wanted in self.items.values()
            self._plan = (knows_one and self._way(to_target=True)) or self._way(to_target=False) or ["right"]
            self._planned_with = known
        return self._plan.pop(0)

    def _way(self, to_target: bool) -> list[str]:
        """The cheapest way to face the target, or the way to the look that shows most for its turns."""
        frontier: dict[int, list[tuple[Pose, tuple[str, ...]]]] = defaultdict(list)
        frontier[0].append(((self.x, self.y, self.facing), ()))
        done: set[Pose] = set()
        best, choice, cost = 0.0, (), 0
        while frontier:
            for (x, y, facing), way in frontier.pop(cost, ()):
                if (x, y, facing) in done:
                    continue
                done.add((x, y, facing))
                cell = (x + STEPS[facing][0], y + STEPS[facing][1])
                closed = self.doors.get(cell) == "closed"
                if to_target:
                    if self.items.get(cell) == self.wanted:
                        return list(way)
                else:
                    view = self._view(x, y, facing, cell if closed else None)
                    worth = sum(map(self.unseen.__getitem__, view)) / (cost + closed + PATIENCE)
                    if worth > best and (closed or way):
                        best, choice = worth, (*way, "toggle") if closed else way
                for turn, step in (("left", -1), ("right", 1)):
                    frontier[cost + 1].append(((x, y, (facing + step) % 4), (*way, turn)))
                if self._passable(cell):
                    enter = ("toggle", "forward") if closed else ("forward",)
                    frontier[cost + len(enter)].append(((*cell, facing), (*way, *enter)))
            cost += 1
            if best and 49 / (cost + PATIENCE) < best:
                break
        return list(choice)


def _match(pattern: re.Pattern, text: str) -> re.Match:
    found = pattern.fullmatch(text)
    if found is None:
        raise ValueError(f"not words of this world: {text!r}")
    return found
