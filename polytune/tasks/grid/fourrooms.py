"""FourRooms: find the goal in four connected rooms, seeing only what is in front. MiniGrid does the dynamics."""

from __future__ import annotations

import copy
import struct
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from polytune.digests import short_digest
from polytune.tasks.base import Task
from polytune.tasks.grid.common import (
    DIRECTIONS,
    RNG_BYTES,
    VIEW_SIZE,
    FourRoomsEnv,
    LazyView,
    all_offset_words,
    rng_from_bytes,
    rng_to_bytes,
)
from polytune.tasks.grid.floorplan import FAR, encode_level, floor_plan
from polytune.tasks.grid.signatures import ROOMS, ROOMS_IN_ORDER, GridEpisode, check_signature

ACTIONS = ("left", "right", "forward")  # in the order of MiniGrid's action numbers 0, 1, 2
_STOP_REASONS = (None, "success", "horizon")
_STATE = struct.Struct(f"<QIIBBBB{RNG_BYTES}sH")  # seed, turn, invalid, stop reason, x, y, direction, RNG, level length
_NO_ROOM = 255


class LeanFourRoomsEnv(LazyView, FourRoomsEnv):
    """MiniGrid's FourRooms without eager images."""


class Start(NamedTuple):
    """A generated start state: the encoded level, the agent's pose and the RNG left behind by the generation."""

    level: bytes
    x: int
    y: int
    direction: int
    rng: bytes


@lru_cache(maxsize=1)
def _blank_env() -> LeanFourRoomsEnv:
    """Built once and copied shallowly: building MiniGrid's spaces takes longer than an episode's first turns."""
    return LeanFourRoomsEnv()


@lru_cache(maxsize=4096)
def generate(seed: int) -> Start:
    """The start state that MiniGrid generates from `seed`."""
    env = copy.copy(_blank_env())
    env.reset(seed=seed)
    x, y = env.agent_pos
    return Start(encode_level(env.grid), int(x), int(y), int(env.agent_dir), rng_to_bytes(env.np_random))


@lru_cache(maxsize=4096)
def in_another_room(seed: int, perturb_seed: int) -> Start:
    """`generate(seed)` with the agent put into another room, from where there is a way to the goal.

    Uniform over the other rooms, then over the room's free cells but the goal, then over the four directions; the
    goal's room is as good as any. An agent that starts in a doorway is in neither room that the doorway joins, and is
    put into none of the two. PCG64 seeded with (seed, perturb_seed). ValueError if there is no other room.
    """
    start, rng = generate(seed), np.random.Generator(np.random.PCG64([seed, perturb_seed]))
    plan = floor_plan(start.level)
    here = (start.x, start.y)
    near = [(start.x + dx, start.y + dy) for dx, dy in DIRECTIONS] if here in plan.doorways else [here]
    own = {plan.room_at[y * plan.width + x] for x, y in near if not plan.wall_at(x, y)}
    rooms: dict[int, list[tuple[int, int]]] = {}
    for index, room in enumerate(plan.room_at):
        y, x = divmod(index, plan.width)
        if room not in {None, *own} and (x, y) != plan.goal and plan.distance(x, y, 0) is not None:
            rooms.setdefault(room, []).append((x, y))
    if not rooms:
        raise ValueError(f"the level of seed {seed} has no other room to start in")
    cells = rooms[sorted(rooms)[rng.integers(len(rooms))]]
    x, y = cells[rng.integers(len(cells))]
    return start._replace(x=x, y=y, direction=int(rng.integers(4)))


class FourRoomsEpisode(GridEpisode):
    """One FourRooms run. Its places are the rooms; doorways belong to none, so that the signature of a path that never
    leaves a doorway is empty."""

    def _begin(self) -> None:
        moved = self.task.perturb == "start_room"
        self._set_up(in_another_room(self.seed, self.task.perturb_seed) if moved else generate(self.seed))

    def _set_up(self, state: Start) -> None:
        self.plan = floor_plan(state.level)
        env = self.env = copy.copy(_blank_env())
        env.max_steps = self.task.horizon
        env.grid = self.plan.grid
        env.agent_pos = (state.x, state.y)
        env.agent_dir = state.direction
        env.np_random = rng_from_bytes(state.rng)

    def observation(self) -> str:
        return self.plan.text(self.env)

    def _act(self, action: str) -> bool:
        env = self.env
        env.step_count = self.turn - 1  # turns spent on unparseable text count as well
        _, _, solved, _, _ = env.step(ACTIONS.index(action))
        x, y = env.agent_pos
        env.agent_pos = (int(x), int(y))
        return solved

    def _place(self) -> int | None:
        x, y = self.env.agent_pos
        return self.plan.room_at[y * self.plan.width + x]

    def _save(self) -> bytes:
        env, level = self.env, self.plan.encoded
        counts = (self.seed, self.turn, self.invalid_actions, _STOP_REASONS.index(self.stop_reason))
        state = _STATE.pack(*counts, *env.agent_pos, env.agent_dir, rng_to_bytes(env.np_random), len(level))
        return state + level + bytes(_NO_ROOM if room is None else room for room in self._trail)

    def _load(self, payload: bytes) -> None:
        self.seed, self.turn, self.invalid_actions, stop, x, y, direction, rng, length = _STATE.unpack_from(payload)
        level_end = _STATE.size + length
        self.stop_reason = _STOP_REASONS[stop]
        self._trail = [None if room == _NO_ROOM else room for room in payload[level_end:]]
        self._set_up(Start(payload[_STATE.size : level_end], x, y, direction, rng))
        self.env.step_count = self.turn


class FourRooms(Task):
    """MiniGrid's FourRooms, 19 x 19 cells.

    Options: `horizon`, the most turns of an episode; `signature`, what makes a strategy: `rooms` (default) or
    `rooms_in_order`; `perturb`, `start_room` puts the agent into another room (see `in_another_room`), drawn with
    `perturb_seed`.
    """

    name = "fourrooms"
    perturbations = ("start_room",)
    actions = ACTIONS
    episode_class = FourRoomsEpisode
    instructions = (
        "You are in a building of four rooms on a grid, joined by one-cell doorways in the walls. Reach the goal cell "
        "in as few turns as you can. You see only what is in front of you: up to 6 cells ahead and 3 to either side, "
        "nothing behind walls. front=, left= and right= give the number of free cells before the nearest wall in that "
        'direction ("far": no wall in sight). Each door= word is a doorway in sight and goal= is the goal, at a place '
        "counted from you: door=ahead3-left1 is 3 cells ahead and 1 to the left, door=here means you stand in it. "
        "No goal= word means the goal is not in sight, so explore through the doorways. Answer with one word: "
        "left (turn left on the spot), right (turn right on the spot) or forward (move one cell ahead)."
    )

    def __init__(self, horizon: int = 100, signature: str = ROOMS, perturb: str | None = None, perturb_seed: int = 0):
        super().__init__(horizon)
        self.signature = check_signature(signature, (ROOMS, ROOMS_IN_ORDER), self.name)
        self.perturb, self.perturb_seed = self.check_perturbation(perturb, perturb_seed)

    def start_hash(self, seed: int) -> str:
        start = generate(self.check_seed(seed))
        return short_digest(start.level + bytes([start.x, start.y, start.direction]))

    def vocabulary(self) -> list[str]:
        ahead = [f"front={cells}" for cells in [*range(VIEW_SIZE - 1), FAR]]
        sides = [f"{side}={cells}" for side in ("left", "right") for cells in [*range(VIEW_SIZE // 2), FAR]]
        places = [f"{what}={offset}" for what in ("door", "goal") for offset in all_offset_words()]
        return [*self.actions, *ahead, *sides, *places]

    def expert(self, episode: FourRoomsEpisode) -> str:
        """The first action of a shortest way to the goal; of several, forward before left before right.

        Raises RuntimeError on a finished episode and ValueError if walls cut the goal off.
        """
        if episode.done:
            raise RuntimeError(f"this episode (seed {episode.seed}) is over ({episode.stop_reason}): nothing to do")
        plan, (x, y), direction = episode.plan, episode.env.agent_pos, episode.env.agent_dir
        distance = plan.distance(x, y, direction)
        if distance is None:
            raise ValueError(f"no way to the goal {plan.goal} from {(x, y)} in the level of seed {episode.seed}")
        dx, dy = DIRECTIONS[direction]
        if plan.distance(x + dx, y + dy, direction) == distance - 1:
            return "forward"
        return "left" if plan.distance(x, y, (direction - 1) % 4) == distance - 1 else "right"
