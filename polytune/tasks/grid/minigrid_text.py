"""Any MiniGrid level as text, for `--task gym:MiniGrid-...`: the mission once, then what is around and in sight.

    mission: use the key to open the door and then get to the goal front=1 left=0 right=2 yellow-key: ahead2-left1

The words are those of the BabyAI tasks: free cells in front and beside, what is carried, then each thing in sight with
its place counted from the agent, nearest first. Floors have no word; walls are what free cells end at.
"""

from __future__ import annotations

import re
from collections.abc import Hashable

from polytune.tasks.grid import babyai_text
from polytune.tasks.grid.common import DIRECTIONS, VIEW_SIZE, MiniGridEnv, all_offset_words, offset_word, visible_cells

# isort: split
from minigrid.core.constants import COLOR_NAMES
from minigrid.core.world_object import WorldObj

ACTIONS = ("left", "right", "forward", "pickup", "drop", "toggle")  # in the order of MiniGrid's action numbers 0 to 5
FAR = "far"
HALF = VIEW_SIZE // 2
THINGS = ("key", "ball", "box", "goal", "lava")
SIDES = {"front": (1, 0, VIEW_SIZE - 1), "left": (0, -1, HALF), "right": (0, 1, HALF)}
"""Word -> (ahead, side) of one step, and the cells in sight that way."""


def check_view(env: MiniGridEnv) -> None:
    """Raise ValueError for a view of another size."""
    if env.agent_view_size != VIEW_SIZE:
        raise ValueError(
            f"a view of {env.agent_view_size} cells cannot be told, only {VIEW_SIZE}: give show=module:name"
        )


def describe(env: MiniGridEnv, *, with_mission: bool) -> str:
    """What the agent sees in `env`."""
    cells = visible_cells(env)
    words = _mission(env.mission) if with_mission else []
    for name, step in SIDES.items():
        words.append(f"{name}={_free_cells(env, cells, *step)}")
    if env.carrying is not None:
        words.append(f"carrying={env.carrying.color}-{env.carrying.type}")
    for ahead, side in sorted(cells, key=lambda offset: (offset[0] + abs(offset[1]), offset)):
        thing = _thing(env, cells[ahead, side])
        if (ahead, side) != (0, 0) and thing is not None and thing.type not in ("wall", "floor"):
            words += [f"{_name(thing)}:", offset_word(ahead, side)]
    return " ".join(words)


def place(env: MiniGridEnv) -> Hashable | None:
    """The room that the agent is in, in levels made of rooms; elsewhere the thing that it stands before, if any."""
    x, y = (int(value) for value in env.agent_pos)
    if hasattr(env, "room_from_pos"):
        return x // (env.room_size - 1), y // (env.room_size - 1)
    dx, dy = DIRECTIONS[env.agent_dir]
    thing = _thing(env, (x + dx, y + dy))
    return None if thing is None or thing.type in ("wall", "floor") else f"{thing.color}-{thing.type}"


def layout(env: MiniGridEnv) -> bytes:
    """What names a level: its cells, the agent's pose, the mission."""
    pose = tuple(int(value) for value in (*env.agent_pos, env.agent_dir))
    return env.grid.encode().tobytes() + repr((env.width, env.height, pose, env.mission)).encode()


def vocabulary(env: MiniGridEnv) -> list[str]:
    """Every word of `describe` and of the actions."""
    words = [*ACTIONS, "mission:"]
    space = env.observation_space["mission"]
    lists = space.ordered_placeholders or []
    firsts = [values[0] for values in lists]
    for place_, values in enumerate(lists or [[None]]):
        for value in values:
            said = [*firsts[:place_], value, *firsts[place_ + 1 :]] if lists else []
            words += _mission(space.mission_func(*said))
    for name, (_, _, cells) in SIDES.items():
        words += [f"{name}={count}" for count in [*range(cells + 1), FAR]]
    names = [f"{colour}-{thing}" for thing in THINGS for colour in COLOR_NAMES]
    words += [f"carrying={name}" for name in names if name.split("-")[1] not in ("goal", "lava")]
    doors = [f"{colour}-door-{state}" for state in ("open", "closed", "locked") for colour in COLOR_NAMES]
    if hasattr(env, "instrs"):  # a BabyAI level: its missions have a grammar of their own
        words += babyai_text.vocabulary(ACTIONS)
    return list(dict.fromkeys([*words, *(f"{name}:" for name in [*names, *doors]), *all_offset_words()]))


def _mission(mission: str) -> list[str]:
    return ["mission:", *re.sub(r"([,.])", r" \1", mission).split()]


def _thing(env: MiniGridEnv, cell: tuple[int, int]) -> WorldObj | None:
    x, y = cell
    return env.grid.get(x, y) if 0 <= x < env.width and 0 <= y < env.height else None


def _free_cells(env: MiniGridEnv, cells: dict, ahead: int, side: int, in_sight: int) -> int | str:
    """Cells this way that the agent could walk through; far when nothing in sight ends them."""
    for steps in range(1, in_sight + 1):
        cell = cells.get((steps * ahead, steps * side))
        if cell is None:
            return FAR
        thing = _thing(env, cell)
        if thing is not None and not thing.can_overlap():
            return steps - 1
    return FAR


def _name(thing: WorldObj) -> str:
    if thing.type != "door":
        return f"{thing.color}-{thing.type}"
    return f"{thing.color}-door-{'open' if thing.is_open else 'locked' if thing.is_locked else 'closed'}"
