"""Start states of BabyAI levels, changed: another room, more objects, other words. The walls and what is asked stay.

Each function changes a level that MiniGrid has just generated, with an RNG of its own, before the verifier is set up.
(arXiv 2509.25424 moves the start to another room; the other two are ours.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import numpy as np

from polytune.tasks.grid.babyai_state import descriptions, walls_of
from polytune.tasks.grid.babyai_text import ITEMS
from polytune.tasks.grid.common import DIRECTIONS
from polytune.tasks.grid.walls import Cell, Walls, pack_walls

# isort: split
from minigrid.core.constants import COLOR_NAMES
from minigrid.core.world_object import Ball, Box, Key
from minigrid.envs.babyai.core import verifier
from minigrid.envs.babyai.core.roomgrid_level import RejectSampling, RoomGridLevel

EXTRA_OBJECTS = 9
"""Objects that `distractors` adds: half as many again as the 18 of a level."""

_VERBS = {
    verifier.GoToInstr: ("find {desc}", "go up to {desc}", "go and find {desc}"),
    verifier.PickupInstr: ("grab {desc}", "go and grab {desc}"),
    verifier.OpenInstr: ("unlatch {desc}", "go and unlatch {desc}"),
    verifier.PutNextInstr: (
        "place {desc_move} beside {desc_fixed}",
        "grab {desc_move} and place it beside {desc_fixed}",
    ),
}
_SEQUENCES = {
    verifier.BeforeInstr: ("{a}, afterwards {b}", "{b}, but before that {a}"),
    verifier.AfterInstr: ("{b}, afterwards {a}", "{a}, but before that {b}"),
    verifier.AndInstr: ("{a} and also {b}", "{b} and also {a}"),
}
_PLACES = {"front": "ahead", "behind": "at your back", "left": "to your left side", "right": "to your right side"}


def start_room(env: RoomGridLevel, rng: np.random.Generator) -> None:
    """Put the agent into another room: a room at random among those it can walk to without a key, a free cell of it at
    random, a direction at random, no object right in front of it (as in BabyAI's own starts). The way there moves
    nothing, unless there is no other (levels of BabyAI that ask for unblocking: 5 % of SynthSeq). What could be reached
    from the start can be reached from there. Raises ValueError where only a locked door leads out of the room.

    A description by place ("on your left") is meant from the new start, and the mission is one that BabyAI would pose
    there. Where no new start gives every such description a meaning, the places without one are left out of the
    mission, as few as possible. Where BabyAI would refuse what is left at every new start, colours replace places, as
    few as possible: of what was meant from the old start, or else others. Raises ValueError where none will do.
    """
    walls = _walls(env)
    start = (int(env.agent_pos[0]), int(env.agent_pos[1]))
    items, locked = _cells_of(env, *ITEMS), _cells_of(env, "door", locked=True)
    cells: dict[int, list[Cell]] = {}
    for blocked in (items | locked, locked):
        for cell in sorted(reachable(walls, start, blocked) - items) if not cells else ():
            room = walls.room(*cell)
            if room is not None and room != walls.room(*start):
                cells.setdefault(room, []).append(cell)
    if not cells:
        raise ValueError(f"no other room can be reached from {start} without a key: leave out perturb=start_room")
    poses = [(cell, direction) for room in _shuffled(sorted(cells), rng)
             for cell in _shuffled(cells[room], rng) for direction in rng.permutation(4).tolist()]  # fmt: skip
    _pose_mission(env, [pose for pose in poses if _faces_nothing(env, *pose)])
    env.mission = env.surface = env.instrs.surface(env)


def distractors(env: RoomGridLevel, rng: np.random.Generator) -> None:
    """Add `EXTRA_OBJECTS` keys, balls and boxes that no description of the mission fits, in cells where they cut
    nothing off: what could be walked to still can be, and beside each object there is still a free cell to face it
    from, if there was one. No keys that open a locked door. Raises ValueError where there is no room for them, or where
    the mission means every kind of object."""
    walls = _walls(env)
    wanted = descriptions(env.instrs)
    locked = {cell.color for cell in env.grid.grid if cell is not None and cell.type == "door" and cell.is_locked}
    kinds = [
        (kind, colour)
        for kind in (Key, Ball, Box)
        for colour in COLOR_NAMES
        if not (kind is Key and colour in locked)
        and not any(d.type in (None, kind.__name__.lower()) and d.color in (None, colour) for d in wanted)
    ]
    if not kinds:
        raise ValueError(f"every kind of object is meant by the mission {env.mission!r}: leave out perturb=distractors")
    agent = (int(env.agent_pos[0]), int(env.agent_pos[1]))
    taken = _cells_of(env, *ITEMS)
    for _ in range(EXTRA_OBJECTS):
        free = [
            (x, y)
            for y in range(walls.height)
            for x in range(walls.width)
            if walls.room(x, y) is not None and (x, y) not in taken and _apart((x, y), [agent, *walls.doorways])
        ]
        before = reachable(walls, agent, blocked=taken)
        faced = {thing for thing in taken if _is_beside(thing, before)}
        for cell in _shuffled(free, rng):
            after = reachable(walls, agent, blocked=taken | {cell})
            if before - after <= {cell} and all(_is_beside(thing, after) for thing in faced | {cell}):
                break
        else:
            raise ValueError("this level has no room for more objects: leave out perturb=distractors")
        kind, colour = kinds[rng.integers(len(kinds))]
        thing = kind(colour)
        thing.init_pos = thing.cur_pos = cell
        env.grid.set(*cell, thing)
        taken.add(cell)


def reworded(env: RoomGridLevel, rng: np.random.Generator) -> None:
    """Say the mission in other words, with the same meaning."""
    env.mission = env.surface = _say(env.instrs, env, rng)


PERTURBATIONS: dict[str, Callable[[RoomGridLevel, np.random.Generator], None]] = {
    "start_room": start_room,
    "distractors": distractors,
    "reworded": reworded,
}
"""Name -> change of a generated level: the values of the option `perturb`."""


def reachable(walls: Walls, start: Cell, blocked: Iterable[Cell]) -> set[Cell]:
    """The cells that can be walked to from `start`, itself included; closed doors are opened on the way."""
    blocked, found, frontier = set(blocked), {start}, [start]
    while frontier:
        x, y = frontier.pop()
        for dx, dy in DIRECTIONS:
            cell = (x + dx, y + dy)
            if cell not in found and cell not in blocked and not walls.wall_at(*cell):
                found.add(cell)
                frontier.append(cell)
    return found


def _walls(env: RoomGridLevel) -> Walls:
    return walls_of(env.grid.width, env.grid.height, pack_walls(env.grid))


def _cells_of(env: RoomGridLevel, *kinds: str, locked: bool = False) -> set[Cell]:
    """Cells with an object of these kinds; of doors those that are locked."""
    return {
        (index % env.grid.width, index // env.grid.width)
        for index, cell in enumerate(env.grid.grid)
        if cell is not None and cell.type in kinds and (not locked or cell.is_locked)
    }


def _shuffled(items: list, rng: np.random.Generator) -> list:
    return [items[index] for index in rng.permutation(len(items)).tolist()]


def _apart(cell: Cell, others: Iterable[Cell]) -> bool:
    return all(abs(cell[0] - x) + abs(cell[1] - y) > 1 for x, y in others)


def _is_beside(thing: Cell, cells: set[Cell]) -> bool:
    return any((thing[0] + dx, thing[1] + dy) in cells for dx, dy in DIRECTIONS)


def _faces_nothing(env: RoomGridLevel, cell: Cell, direction: int) -> bool:
    dx, dy = DIRECTIONS[direction]
    ahead = env.grid.get(cell[0] + dx, cell[1] + dy)
    return ahead is None or ahead.type == "wall"


def _pose_mission(env: RoomGridLevel, poses: list[tuple[Cell, int]]) -> None:
    """Put the agent into one of `poses` where BabyAI would pose the mission, changed as little as it can be (see
    `start_room`). Raises ValueError where no change that is tried makes it one."""
    placed = []  # (description, its words, colours that may replace its place)
    for described in descriptions(env.instrs):
        if described.loc:
            meant = described.find_matching_objs(env)[0][0].color
            placed.append((described, (described.color, described.loc), dict.fromkeys((meant, *COLOR_NAMES))))
    for number in range(len(placed) + 1):
        for chosen in itertools.combinations(placed, number):
            for colours in itertools.product(*(colours for *_, colours in chosen)):
                for (described, *_), colour in zip(chosen, colours, strict=True):
                    described.color, described.loc = colour, None
                if _pose_without_places(env, poses):
                    return
            for described, words, _ in chosen:
                described.color, described.loc = words
    raise ValueError(f"no other room gives the mission {env.mission!r} a meaning: leave out perturb=start_room")


def _pose_without_places(env: RoomGridLevel, poses: list[tuple[Cell, int]]) -> bool:
    """Put the agent into the first of `poses` where the mission has to lose the fewest places, and take those out;
    whether there is one.

    At a pose the places that fit nothing have to go, and no more: without a place a description fits more objects,
    which mends nothing that BabyAI refuses.
    """
    fewest, best = len(descriptions(env.instrs)) + 1, None
    for cell, direction in poses:
        env.agent_pos, env.agent_dir = cell, direction
        lost = [described for described in descriptions(env.instrs) if not _fits_something(described, env)]
        if any(described.loc is None for described in lost):
            return False  # a colour that nothing has
        if len(lost) < fewest and _would_be_posed(env, lost):
            fewest, best = len(lost), (cell, direction, lost)
        if not fewest:
            break
    if best is None:
        return False
    env.agent_pos, env.agent_dir, lost = best
    for described in lost:
        described.loc = None
    return True


def _fits_something(described: verifier.ObjDesc, env: RoomGridLevel) -> bool:
    """Whether BabyAI would describe something so: where it locks a room whose key no mission implies (SynthSeq),
    something outside of that room."""
    places = described.find_matching_objs(env)[1]
    locked_room = None if getattr(env, "implicit_unlock", True) else env.locked_room
    return any(locked_room is None or not locked_room.pos_inside(*place) for place in places)


def _would_be_posed(env: RoomGridLevel, lost: Iterable[verifier.ObjDesc]) -> bool:
    """Whether BabyAI's own validation passes the mission without the places of `lost`."""
    places = [(described, described.loc) for described in lost]
    try:
        for described in lost:
            described.loc = None
        env.validate_instrs(env.instrs)
    except RejectSampling:
        return False
    finally:
        for described, place in places:
            described.loc = place
    return True


def _say(instruction: verifier.Instr, env: RoomGridLevel, rng: np.random.Generator) -> str:
    kind = type(instruction)
    if kind in _SEQUENCES:
        phrase = _SEQUENCES[kind][rng.integers(len(_SEQUENCES[kind]))]
        return phrase.format(a=_say(instruction.instr_a, env, rng), b=_say(instruction.instr_b, env, rng))
    phrase = _VERBS[kind][rng.integers(len(_VERBS[kind]))]
    named = {name: value for name, value in vars(instruction).items() if isinstance(value, verifier.ObjDesc)}
    return phrase.format(**{name: _named(value, env) for name, value in named.items()})


def _named(described: verifier.ObjDesc, env: RoomGridLevel) -> str:
    """A description in other words: "any one" for "a", places said otherwise."""
    described.find_matching_objs(env)
    article = "any one" if len(described.obj_set) > 1 else "the one"
    words = [article, described.color, described.type or "object", _PLACES.get(described.loc)]
    return " ".join(word for word in words if word)
