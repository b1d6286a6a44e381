"""BabyAI's GoTo, Pickup, SynthSeq and BossLevel: nine rooms, doors, objects, a mission. MiniGrid does the dynamics.

Nothing is simplified but the horizon. BabyAIBot, which explores as a policy must, solves every level of the four (1,000
each), in 53 and 54 turns on average on GoTo and Pickup, 78 on SynthSeq, 85 on BossLevel. Within the 100 turns that the
paper gives (arXiv 2509.25424) it solves 84 and 83 %; 130 and 150 turns give the other two about the same share (78 and
81 %).
"""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
from functools import lru_cache, partial
from typing import ClassVar

import numpy as np

from polytune.digests import short_digest
from polytune.tasks.base import Task, pickle_by_value
from polytune.tasks.grid.babyai_expert import Guide, QuickBot
from polytune.tasks.grid.babyai_state import State, capture, objects_of, rebuild, walls_of
from polytune.tasks.grid.babyai_text import Sight, mission_text, vocabulary
from polytune.tasks.grid.common import DIRECTIONS, LazyView, rng_from_bytes, rng_to_bytes
from polytune.tasks.grid.perturbations import PERTURBATIONS
from polytune.tasks.grid.signatures import OBJECTS_TOUCHED, ROOMS, ROOMS_IN_ORDER, GridEpisode, check_signature

# isort: split
from minigrid.envs.babyai.core import verifier
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
from minigrid.envs.babyai.goto import GoTo
from minigrid.envs.babyai.pickup import Pickup
from minigrid.envs.babyai.synth import BossLevel, SynthSeq

ACTIONS = ("left", "right", "forward", "pickup", "drop", "toggle")  # in the order of MiniGrid's action numbers 0 to 5
HANDLING = ("pickup", "drop", "toggle")  # what changes more than the agent's pose
_SIGHTS = 256  # levels whose visibility is remembered


class LeanGoTo(LazyView, GoTo):
    """BabyAI's GoTo without eager images."""


class LeanPickup(LazyView, Pickup):
    """BabyAI's Pickup without eager images."""


class LeanSynthSeq(LazyView, SynthSeq):
    """BabyAI's SynthSeq without eager images."""


class LeanBossLevel(LazyView, BossLevel):
    """BabyAI's BossLevel without eager images."""


@lru_cache(maxsize=8)
def _blank_env(level: type[RoomGridLevel]) -> RoomGridLevel:
    """Built and generated once (its rooms' outlines are those of every level), then copied shallowly."""
    with contextlib.redirect_stdout(io.StringIO()):  # BabyAI prints about every level that it rejects
        env = level(max_steps=1)
        env.reset(seed=0)
    return env


@lru_cache(maxsize=4096)
def generate(level: type[RoomGridLevel], seed: int, perturb: str | None, perturb_seed: int) -> tuple[State, bytes]:
    """The start state that MiniGrid generates from `seed`, perturbed if asked, and the RNG that generation left."""
    env = copy.copy(_blank_env(level))
    with contextlib.redirect_stdout(io.StringIO()):
        env.reset(seed=seed)
    rng = rng_to_bytes(env.np_random)
    if perturb is not None:
        PERTURBATIONS[perturb](env, np.random.default_rng([perturb_seed, seed]))
        env.instrs.reset_verifier(env)
    return capture(env, objects_of(env)), rng


@lru_cache(maxsize=_SIGHTS)
def _sight(width: int, height: int, walls: bytes) -> Sight:
    return Sight(walls_of(width, height, walls))


class BabyAIEpisode(GridEpisode):
    """One run of a BabyAI level. `mission` is BabyAI's own sentence, `objects` the level's objects in a fixed order."""

    def _begin(self) -> None:
        task = self.task
        self._set_up(*generate(task.level, self.seed, task.perturb, task.perturb_seed))

    def _set_up(self, state: State, rng: bytes) -> None:
        env = self.env = copy.copy(_blank_env(self.task.level))
        self.objects = rebuild(env, state)
        self.sight = _sight(state.width, state.height, state.walls)
        env.max_steps = self.task.horizon
        env.np_random = rng_from_bytes(rng)
        self._rng, self._walls = rng, state.walls
        self._arrange(state)
        self._guide: Guide | None = None
        self._last_action: str | None = None

    def _arrange(self, state: State) -> None:
        self._layout = (state.kinds, state.things, state.carried)

    @property
    def mission(self) -> str:
        """In the level's words."""
        return self.env.mission

    def observation(self) -> str:
        seen = self.sight.text(self.env, self.objects, self._layout)
        return seen if self.turn else f"{mission_text(self.mission)} {seen}"

    def step(self, action: str):
        self._last_action = None
        return super().step(action)

    def _act(self, action: str) -> bool:
        env = self.env
        env.step_count = self.turn - 1  # turns spent on unparseable text count as well
        self._last_action = action
        _, reward, *_ = env.step(ACTIONS.index(action))
        x, y = env.agent_pos
        env.agent_pos = (int(x), int(y))
        if action in HANDLING:
            self._arrange(capture(env, self.objects, self._walls))
        return reward > 0

    def _place(self) -> int | None:
        x, y = self.env.agent_pos
        if self.task.signature != OBJECTS_TOUCHED:
            return self.sight.walls.room(x, y)
        dx, dy = DIRECTIONS[self.env.agent_dir]
        ahead = self.env.grid.get(x + dx, y + dy)
        return next((number for number, thing in enumerate(self.objects) if thing is ahead), None)

    def _save(self) -> bytes:
        state = capture(self.env, self.objects, self._walls)
        counts = (self.seed, self.turn, self.invalid_actions, self.stop_reason)
        return pickle_by_value((self.task.signature, counts, tuple(self._trail), self._rng, tuple(state)))

    def _load(self, payload: bytes) -> None:
        signature, counts, trail, rng, state = pickle.loads(payload)
        if signature != self.task.signature:
            raise ValueError(f"snapshot taken with signature {signature!r}, this task has {self.task.signature!r}")
        self.seed, self.turn, self.invalid_actions, self.stop_reason = counts
        self._trail = list(trail)
        self._set_up(State(*state), rng)
        self.env.step_count = self.turn

    def guide(self) -> str:
        """BabyAIBot's next action."""
        if self._guide is None or not self._guide.follows(self.turn):
            sight = partial(self.sight.cells, self.env, self.objects)
            self._guide = Guide(QuickBot(self.env, sight), ACTIONS)
        guide, self._guide = self._guide, None  # one that gives up is not asked again
        advice = guide.advise(self, self._last_action)
        self._guide = guide
        return advice


class BabyAI(Task):
    """A BabyAI level of 3 x 3 rooms, 22 x 22 cells.

    Options: `horizon`, the most turns of an episode; `signature`, what makes a strategy: `rooms` (default),
    `rooms_in_order` or `objects_touched`; `perturb`, a changed start state: `start_room`, `distractors` or `reworded`,
    drawn with `perturb_seed`.

    Raises ValueError for other values, and where the environment variable BABYAI_DONE_ACTIONS is set.
    """

    actions = ACTIONS
    episode_class = BabyAIEpisode
    perturbations = tuple(PERTURBATIONS)
    level: ClassVar[type[RoomGridLevel]]
    default_horizon: ClassVar[int] = 100
    expert_turns = 576
    """MiniGrid's own limit for a mission of one part."""
    asks: ClassVar[str]
    """What missions ask for, in the instructions' words."""

    def __init__(
        self,
        horizon: int | None = None,
        signature: str = ROOMS,
        perturb: str | None = None,
        perturb_seed: int = 0,
    ):
        if verifier.use_done_actions:
            raise ValueError(
                f"the environment variable BABYAI_DONE_ACTIONS is set: MiniGrid would end a mission only at the action "
                f"done, which task {self.name!r} does not have; unset it"
            )
        super().__init__(self.default_horizon if horizon is None else horizon)
        self.signature = check_signature(signature, (ROOMS, ROOMS_IN_ORDER, OBJECTS_TOUCHED), self.name)
        self.perturb, self.perturb_seed = self.check_perturbation(perturb, perturb_seed)

    @property
    def instructions(self) -> str:
        """What a language model is told, the mission's kind included."""
        return (
            "You are in a building of nine rooms of 6 x 6 cells on a grid, joined by doors. The first line names "
            f"your mission: {self.asks} You see only what is in front of you: up to 6 cells ahead and 3 to either "
            "side, nothing behind walls or doors that are not open. front=, left= and right= give the number of "
            "free cells before a wall, an object or a closed door (far: nothing in sight). Then come the objects in "
            "sight, each with its place counted from you: red-ball: ahead3-left1 is a red ball 3 cells ahead and 1 "
            "to the left, here is your own cell. Doors are open, closed or locked. carrying= names what you carry, "
            "one object at a time. Places in the mission (on your left, behind you) are meant from where you began. "
            "Explore when you do not see what you need. Answer with one word: left (turn left on the spot), right "
            "(turn right on the spot), forward (move one cell ahead), pickup (take the object in the cell ahead), "
            "drop (put it down in the cell ahead), or toggle (open or close the door ahead; a locked one needs the "
            "key of its colour in hand; a box ahead is opened and thereby destroyed, and every box is empty)."
        )

    def start_hash(self, seed: int) -> str:
        state, _ = generate(self.level, self.check_seed(seed), None, 0)
        return short_digest(pickle_by_value(tuple(state)))

    def vocabulary(self) -> list[str]:
        return vocabulary(self.actions)

    def expert(self, episode: BabyAIEpisode) -> str:
        """BabyAIBot's next action. Raises RuntimeError on a finished episode, ExpertError where the bot gives up."""
        if episode.done:
            raise RuntimeError(f"this episode (seed {episode.seed}) is over ({episode.stop_reason}): nothing to do")
        return episode.guide()


class BabyAIGoTo(BabyAI):
    """Go to an object."""

    name = "babyai-goto"
    level = LeanGoTo
    asks = "go to an object, that is, stand right before it and face it."


class BabyAIPickup(BabyAI):
    """Pick up an object."""

    name = "babyai-pickup"
    level = LeanPickup
    asks = "pick up an object."


class BabyAISynthSeq(BabyAI):
    """Several instructions in a sequence."""

    name = "babyai-synthseq"
    level = LeanSynthSeq
    default_horizon = 130
    asks = (
        "one thing or several, in the order that it says: go to an object (stand right before it and face it), pick it "
        "up, open a door, put an object next to another."
    )


class BabyAIBossLevel(BabyAI):
    """All kinds of instructions, in sequences."""

    name = "babyai-bosslevel"
    level = LeanBossLevel
    default_horizon = 150
    asks = BabyAISynthSeq.asks
