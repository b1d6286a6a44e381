"""The state of a BabyAI level as plain values, and back: grid, objects, doors, what is carried, the verifier.

Objects are numbered by their place in the generated level, in reading order; the number stays with the object wherever
it is carried, so that the verifier, which compares objects by identity, goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from polytune.tasks.grid.common import Grid, Wall
from polytune.tasks.grid.walls import Walls, pack_walls

# isort: split
from minigrid.core.world_object import Ball, Box, Door, Key, WorldObj
from minigrid.envs.babyai.core import verifier
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel

NO_DOOR, OPEN, CLOSED, LOCKED = range(4)
AWAY = (-1, -1, NO_DOOR)
"""An object that is on no cell: carried, or a box that was opened."""

_KINDS = {"key": Key, "ball": Ball, "box": Box, "door": Door}
_INSTRUCTIONS = {
    kind.__name__: kind
    for kind in (
        verifier.GoToInstr,
        verifier.PickupInstr,
        verifier.OpenInstr,
        verifier.PutNextInstr,
        verifier.BeforeInstr,
        verifier.AfterInstr,
        verifier.AndInstr,
    )
}


class State(NamedTuple):
    """A level in mid-episode, in numbers and words alone."""

    width: int
    height: int
    walls: bytes
    kinds: tuple[tuple[str, str], ...]
    """(type, colour) of each object."""
    things: tuple[tuple[int, int, int], ...]
    """(x, y, door state) of each object, or `AWAY`."""
    carried: int
    """Number of the object that the agent carries, -1 for none."""
    x: int
    y: int
    direction: int
    mission: str
    instruction: tuple[Any, ...]
    """The verifier (`pack_instruction`)."""


@lru_cache(maxsize=256)
def walls_of(width: int, height: int, packed: bytes) -> Walls:
    """The walls of a level, from a bounded cache."""
    return Walls(width, height, packed)


@lru_cache(maxsize=256)
def _bare_cells(width: int, height: int, packed: bytes) -> tuple[Wall | None, ...]:
    """The cells of a grid that has nothing but walls; walls never change, so all grids share them."""
    return tuple(Wall() if wall else None for wall in walls_of(width, height, packed).is_wall)


def objects_of(env: RoomGridLevel) -> list[WorldObj]:
    """The objects of a freshly generated level, in reading order. Raises ValueError for one it has no name for."""
    objects = [cell for cell in env.grid.grid if cell is not None and cell.type != "wall"]
    strange = [cell.type for cell in objects if cell.type not in _KINDS or cell.contains is not None]
    if strange:
        raise ValueError(
            f"a BabyAI level has keys, balls, doors and empty boxes, this one holds {sorted(set(strange))}"
        )
    return objects


def capture(env: RoomGridLevel, objects: Sequence[WorldObj], walls: bytes | None = None) -> State:
    """The state of `env`, whose objects are `objects` in their fixed order; `walls`, which never change, if known."""
    numbers = {id(thing): number for number, thing in enumerate(objects)}
    x, y = env.agent_pos
    return State(
        width=env.grid.width,
        height=env.grid.height,
        walls=pack_walls(env.grid) if walls is None else walls,
        kinds=tuple((thing.type, thing.color) for thing in objects),
        things=tuple(_place_of(env, thing) for thing in objects),
        carried=-1 if env.carrying is None else numbers[id(env.carrying)],
        x=int(x),
        y=int(y),
        direction=int(env.agent_dir),
        mission=env.mission,
        instruction=pack_instruction(env.instrs, numbers),
    )


def rebuild(env: RoomGridLevel, state: State) -> list[WorldObj]:
    """Put `env`, any level of the same class, into `state`; its objects in their fixed order."""
    env.grid = Grid.__new__(Grid)
    env.grid.width, env.grid.height = state.width, state.height
    env.grid.grid = list(_bare_cells(state.width, state.height, state.walls))
    objects = []
    for (kind, colour), (x, y, door) in zip(state.kinds, state.things, strict=True):
        thing = _KINDS[kind](colour)
        if door != NO_DOOR:
            thing.is_open, thing.is_locked = door == OPEN, door == LOCKED
        thing.cur_pos = thing.init_pos = (x, y)
        if x >= 0:
            env.grid.grid[y * state.width + x] = thing
        objects.append(thing)
    env.carrying = None if state.carried < 0 else objects[state.carried]
    env.agent_pos, env.agent_dir = (state.x, state.y), state.direction
    env.mission = env.surface = state.mission
    env.instrs = unpack_instruction(state.instruction, objects, env)
    return objects


def _place_of(env: RoomGridLevel, thing: WorldObj) -> tuple[int, int, int]:
    x, y = int(thing.cur_pos[0]), int(thing.cur_pos[1])
    if x < 0 or env.grid.grid[y * env.grid.width + x] is not thing:
        return AWAY
    if thing.type != "door":
        return x, y, NO_DOOR
    return x, y, OPEN if thing.is_open else LOCKED if thing.is_locked else CLOSED


# The verifier: instructions hold instructions, descriptions, objects, and words


def pack_instruction(instruction: verifier.Instr, numbers: dict[int, int]) -> tuple[Any, ...]:
    """(class, ((attribute, tag, value), ...)) by attribute; `numbers` has the number of each object by its id."""

    def pack(value: Any) -> tuple[str, Any]:
        if isinstance(value, verifier.Instr):
            return "instruction", pack_instruction(value, numbers)
        if isinstance(value, verifier.ObjDesc):
            members = tuple(numbers[id(thing)] for thing in value.obj_set)
            places = tuple((int(x), int(y)) for x, y in value.obj_poss)
            return "description", (value.type, value.color, value.loc, members, places)
        if isinstance(value, WorldObj):
            return "object", numbers[id(value)]
        if value is None or isinstance(value, bool | str):
            return "value", value
        raise TypeError(f"{type(instruction).__name__} holds a {type(value).__name__}, which a snapshot cannot keep")

    held = sorted((name, value) for name, value in vars(instruction).items() if name != "env")
    return type(instruction).__name__, tuple((name, *pack(value)) for name, value in held)


def unpack_instruction(packed: tuple[Any, ...], objects: Sequence[WorldObj], env: RoomGridLevel) -> verifier.Instr:
    """The instruction that `pack_instruction` wrote, on `objects` and `env`."""
    kind, held = packed
    instruction = _INSTRUCTIONS[kind].__new__(_INSTRUCTIONS[kind])
    instruction.env = env
    for name, tag, value in held:
        if tag == "instruction":
            value = unpack_instruction(value, objects, env)
        elif tag == "object":
            value = objects[value]
        elif tag == "description":
            *words, members, places = value
            value = verifier.ObjDesc(*words)
            value.obj_set, value.obj_poss = [objects[number] for number in members], list(places)
        setattr(instruction, name, value)
    return instruction


def descriptions(instruction: verifier.Instr) -> list[verifier.ObjDesc]:
    """Every description of objects in an instruction."""
    found: list[verifier.ObjDesc] = []
    for _, value in sorted((name, value) for name, value in vars(instruction).items() if name != "env"):
        if isinstance(value, verifier.ObjDesc):
            found.append(value)
        elif isinstance(value, verifier.Instr):
            found += descriptions(value)
    return found
