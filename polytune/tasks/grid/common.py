"""What the MiniGrid tasks share: a quiet import, an environment without eager images, the agent's frame, RNG bytes."""

from __future__ import annotations

import os
import struct
import warnings

import numpy as np

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
with warnings.catch_warnings():  # MiniGrid registers its ids twice, and gymnasium warns about each
    warnings.simplefilter("ignore")
    from minigrid.core.grid import Grid
    from minigrid.core.world_object import Goal, Wall
    from minigrid.envs.fourrooms import FourRoomsEnv
    from minigrid.minigrid_env import MiniGridEnv

__all__ = [
    "DIRECTIONS",
    "RNG_BYTES",
    "VIEW_SIZE",
    "FourRoomsEnv",
    "Goal",
    "Grid",
    "LazyView",
    "MiniGridEnv",
    "Wall",
    "all_offset_words",
    "offset_word",
    "rng_from_bytes",
    "rng_to_bytes",
    "visible_cells",
]

VIEW_SIZE = 7
"""The agent sees 7 x 7 cells: itself in the middle of the last row, 6 cells ahead, 3 to either side."""

DIRECTIONS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""(dx, dy) of MiniGrid's directions 0..3; y grows downwards, so direction + 1 is a right turn."""

_RNG_STATE = struct.Struct("<16s16sBI")


class LazyView:
    """Mixed into a MiniGrid environment, the only change: `reset` and `step` return no image (most of their cost).
    `gen_obs_grid` still computes the view when somebody looks."""

    def gen_obs(self) -> dict:
        """Nothing: text is made when it is asked for."""
        return {}


def visible_cells(env: MiniGridEnv) -> dict[tuple[int, int], tuple[int, int]]:
    """The cells in MiniGrid's visibility mask, as {(ahead, side): (x, y)}; side is negative to the agent's left."""
    _, mask = env.gen_obs_grid()
    x, y = (int(value) for value in env.agent_pos)
    dx, dy = DIRECTIONS[env.agent_dir]
    cells = {}
    for column, row in np.argwhere(mask).tolist():
        ahead, side = VIEW_SIZE - 1 - row, column - VIEW_SIZE // 2
        cells[ahead, side] = (x + ahead * dx - side * dy, y + ahead * dy + side * dx)
    return cells


def offset_word(ahead: int, side: int) -> str:
    """ "ahead3-left1" for 3 cells ahead and 1 to the left; zeros are left out, and (0, 0) is "here"."""
    parts = []
    if ahead:
        parts.append(f"ahead{ahead}")
    if side:
        parts.append(f"left{-side}" if side < 0 else f"right{side}")
    return "-".join(parts) or "here"


def all_offset_words() -> list[str]:
    """`offset_word` of each of the 49 cells of the view, from the agent outwards."""
    half = VIEW_SIZE // 2
    return [offset_word(ahead, side) for ahead in range(VIEW_SIZE) for side in range(-half, half + 1)]


def rng_to_bytes(rng: np.random.Generator) -> bytes:
    """The state of a PCG64 generator in 37 bytes."""
    state = rng.bit_generator.state
    words, increment = (state["state"][part].to_bytes(16, "little") for part in ("state", "inc"))
    return _RNG_STATE.pack(words, increment, state["has_uint32"], state["uinteger"])


def rng_from_bytes(packed: bytes) -> np.random.Generator:
    """The generator whose state `rng_to_bytes` packed."""
    state, increment, has_uint32, uinteger = _RNG_STATE.unpack(packed)
    bits = np.random.PCG64(0)
    bits.state = {
        "bit_generator": "PCG64",
        "state": {"state": int.from_bytes(state, "little"), "inc": int.from_bytes(increment, "little")},
        "has_uint32": has_uint32,
        "uinteger": uinteger,
    }
    return np.random.Generator(bits)


RNG_BYTES = _RNG_STATE.size
