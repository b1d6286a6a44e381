"""What a world is: `Task` starts and restores episodes, `Episode` shows text and takes text, `Step` is what comes back.

A new world is two small classes: a `Task` with its words and an `Episode` with three hooks (`_begin`, `observation`,
`_act`) and, for set objectives, a fourth (`_place`). Turns, horizon, reward, strict parsing and snapshots are here; a
world that pays otherwise, or ends without success, says so in `_reward` and `_failure`.
"""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from polytune.digests import short_digest

MAX_SEED = 2**63 - 1
ASCII_WHITESPACE = " \t\r\n"

_MAGIC = b"PTSN"
_SNAPSHOT_VERSION = 1
_HEADER = struct.Struct("<4sBIIB")  # magic, version, checksum of all that follows, horizon, length of the name
_CHECKED_FROM = 9  # first byte after the checksum


@dataclass(frozen=True, slots=True)
class Step:
    """What one action brought: the reward of this turn, whether the episode is over, and why."""

    reward: float
    done: bool
    stop_reason: str | None
    """`None` while the episode runs, `"success"` or `"horizon"` at its end. Tasks may add words."""


def is_missing(value: Any) -> bool:
    """None, NaN, or a missing value of pandas."""
    if value is None:
        return True
    try:
        return isinstance(value, float | Hashable) and not isinstance(value, tuple | frozenset) and bool(value != value)
    except (TypeError, ValueError):  # pandas' NA is neither equal to itself nor different
        return True


def as_strategy(signature: Hashable | None) -> Hashable | None:
    """A signature as it is; None for one that names nothing: NaN, a missing value of pandas, blank text."""
    blank = isinstance(signature, str) and not signature.strip()
    return None if blank or is_missing(signature) else signature


class ExpertError(RuntimeError):
    """An expert that does not know what to do."""


class Episode(ABC):
    """One run of a world from its start state: text out, text in.

    Attributes: `task`, `seed`, `turn` (turns taken so far), `invalid_actions` (turns spent on unparseable text),
    `stop_reason`. Same seed and actions give the same outputs. A subclass keeps its state in plain attributes
    (numbers, strings, lists, dicts) set in `_begin` and changed in `_act`.
    """

    def __init__(self, task: Task, seed: int):
        self.task = task
        self.seed = seed
        self.turn = 0
        self.invalid_actions = 0
        self.stop_reason: str | None = None
        self._begin()
        self._trail: list[Hashable | None] = [self._place()]

    # What a world writes

    @abstractmethod
    def _begin(self) -> None:
        """Build the start state from `self.seed`."""

    @abstractmethod
    def observation(self) -> str:
        """What the policy sees now: one line of whitespace-separated words."""

    @abstractmethod
    def _act(self, action: str) -> bool:
        """Apply one legal action; return whether it solved the task."""

    def _place(self) -> Hashable | None:
        """Where the current state counts as being (a room, say); `None` for nowhere. Signatures are sets of these."""
        return None

    def _failure(self) -> str | None:
        """Why the episode is over without success (a word for `stop_reason`); `None` as long as it goes on."""
        return None

    def _reward(self) -> float:
        """What the turn just taken pays: by default `1 - 0.5 * turns taken / horizon` if it solved the task, else 0."""
        return 1.0 - 0.5 * self.turn / self.task.horizon if self.stop_reason == "success" else 0.0

    # What every world shares

    @property
    def done(self) -> bool:
        """Whether it is over: solved, out of turns, or ended by the world."""
        return self.stop_reason is not None

    def step(self, action: str) -> Step:
        """Take one turn with the policy's text. Text that is not one legal action spends the turn and does nothing.

        The reward is `1 - 0.5 * turns taken / horizon` on the turn that solves the task and 0 otherwise, unless the
        world says something else (`_reward`).
        Raises RuntimeError on a finished episode and TypeError if `action` is not a string.
        """
        if self.stop_reason is not None:
            raise RuntimeError(
                f"this {self.task.name!r} episode (seed {self.seed}) ended after {self.turn} turns "
                f"({self.stop_reason}); start or restore another one"
            )
        word = self.task.parse_action(action)
        self.turn += 1
        solved = False
        if word is None:
            self.invalid_actions += 1
        else:
            solved = self._act(word)
        self._trail.append(self._place())
        out_of_turns = "horizon" if self.turn >= self.task.horizon else None
        self.stop_reason = "success" if solved else self._failure() or out_of_turns
        return Step(self._reward(), self.done, self.stop_reason)

    def signature(self, since_turn: int = 0) -> Hashable | None:
        """The frozenset of places (`_place`, without None) of the states from turn `since_turn` to now, both included.

        `None` if the world names no places. Raises ValueError unless 0 <= since_turn <= turn.
        """
        if not 0 <= since_turn <= self.turn:
            raise ValueError(f"since_turn must be in 0..{self.turn} (the turns taken so far), got {since_turn!r}")
        if type(self)._place is Episode._place:
            return None
        return frozenset(place for place in self._trail[since_turn:] if place is not None)

    def snapshot(self) -> bytes:
        """The whole state as bytes for `Task.restore`; equal states give equal bytes."""
        return pack_snapshot(self.task, self._save())

    def _save(self) -> bytes:
        """The state as bytes. The default pickles the attributes by value: two attributes that hold one and the same
        object come back as two, and sets have no fixed byte order (keep sorted lists)."""
        return pickle_by_value(sorted((name, value) for name, value in vars(self).items() if name != "task"))

    def _load(self, payload: bytes) -> None:
        """Take the state written by `_save`. `self.task` is set already, `__init__` has not run."""
        vars(self).update(pickle.loads(payload))

    def _layout(self) -> bytes:
        """The bytes whose hash names this start state. The default takes every attribute the world itself added, so
        override it if one of them differs between equal levels (an RNG, say)."""
        shared = {"task", "seed", "turn", "invalid_actions", "stop_reason", "_trail"}
        return pickle_by_value(sorted((name, value) for name, value in vars(self).items() if name not in shared))


class Task(ABC):
    """A family of start states, one per seed, with its action words and its text.

    A subclass sets `name`, `actions`, `instructions` and `episode_class` and writes `vocabulary`. Keyword arguments
    of its `__init__` are the options of `load_task`.
    """

    name: ClassVar[str]
    actions: ClassVar[tuple[str, ...]]
    instructions: ClassVar[str]
    """A short paragraph for language models: what the world is, what its words mean, which actions exist."""
    episode_class: ClassVar[type[Episode]]
    answer_end: ClassVar[str | None] = None
    """How an action ends, for tasks whose actions are free text (`polytune.tasks.answers`)."""
    max_action_tokens: int = 1
    """Tokens of the longest action, each word of `vocabulary` being one."""
    splits: ClassVar[Mapping[str, range]] = {}
    """Splits without files: name -> seeds."""
    default_split: ClassVar[str] = "train"
    """The start states of an evaluation that names none."""
    prompts_alike: ClassVar[bool] = False
    """Whether prompts are about as long as each other, so that a few tell whether all fit a policy."""
    starts: ClassVar[str] = "start states"
    """What tables and messages call them."""
    perturbations: ClassVar[tuple[str, ...]] = ()
    """Changes of a start state that the options `perturb` and `perturb_seed` can name."""
    expert_turns: ClassVar[int | None] = None
    """Turns that the expert may take in a demonstration; None: the horizon."""

    def __init__(self, horizon: int = 100):
        """`horizon`: the most turns an episode takes. Raises ValueError unless it is an int in 1..2**32 - 1."""
        if isinstance(horizon, bool) or not isinstance(horizon, int) or not 0 < horizon < 2**32:
            raise ValueError(f"horizon of task {self.name!r} must be a positive int, got {horizon!r}")
        self.horizon = horizon

    def content(self) -> str | None:
        """A digest of data that its episodes depend on beside its options; None where there is none."""
        return None

    def start(self, seed: int) -> Episode:
        """A new episode of the level that `seed` generates. Raises ValueError unless seed is in 0..2**63 - 1."""
        return self.episode_class(self, self.check_seed(seed))

    def restore(self, snapshot: bytes) -> Episode:
        """An episode that goes on exactly as the one `snapshot` was taken of.

        Raises ValueError if the bytes are damaged or come from another task, horizon or version.
        """
        payload = unpack_snapshot(self, snapshot)
        episode = self.episode_class.__new__(self.episode_class)
        episode.task = self
        episode._load(payload)
        return episode

    def parse_action(self, text: str) -> str | None:
        """The one legal action that `text` is, surrounding ASCII whitespace aside, or `None`. No text ever raises;
        anything but a string is a TypeError."""
        if not isinstance(text, str):
            raise TypeError(f"an action is text straight from the policy, got {type(text).__name__}: {text!r}")
        word = text.strip(ASCII_WHITESPACE)
        return next((action for action in self.actions if action == word), None)

    def start_hash(self, seed: int) -> str:
        """16 hex characters that name the generated start state: equal for equal levels, whatever their seeds."""
        return short_digest(self.start(seed)._layout())

    @property
    def gives_signatures(self) -> bool:
        """Whether episodes can have a signature other than `None`: set objectives need one."""
        episode = self.episode_class
        return episode._place is not Episode._place or episode.signature is not Episode.signature

    @abstractmethod
    def vocabulary(self) -> list[str]:
        """Every whitespace-separated word that observations or actions can contain, each once, in a fixed order."""

    def shown_signatures(self) -> frozenset[Hashable]:
        """Signatures of the solutions that the task's training data shows; none where it has no such data."""
        return frozenset()

    def expert(self, episode: Episode) -> str:
        """The action an expert takes now. Raises ExpertError if it knows none, NotImplementedError if the task has no
        expert."""
        raise NotImplementedError(f"task {self.name!r} has no expert; {type(self).__name__}.expert would be one")

    def check_perturbation(self, perturb: str | None, perturb_seed: int) -> tuple[str | None, int]:
        """Both; ValueError unless `perturb` is None or one of `perturbations` and `perturb_seed` a seed."""
        if perturb is not None and perturb not in self.perturbations:
            known = f"it offers {', '.join(self.perturbations)}" if self.perturbations else "it offers none"
            raise ValueError(f"task {self.name!r} has no perturbation {perturb!r}: {known}")
        return perturb, self.check_seed(perturb_seed)

    def check_seed(self, seed: Any) -> int:
        """The seed itself; ValueError unless it is an int in 0..2**63 - 1."""
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
            raise ValueError(f"a seed of task {self.name!r} must be an int in 0..2**63 - 1, got {seed!r}")
        return seed


def pack_snapshot(task: Task, payload: bytes) -> bytes:
    """Header (version, checksum, horizon, task name), then `payload`."""
    name = task.name.encode()
    packed = _HEADER.pack(_MAGIC, _SNAPSHOT_VERSION, 0, task.horizon, len(name)) + name + payload
    return packed[:5] + struct.pack("<I", zlib.crc32(packed[_CHECKED_FROM:])) + packed[_CHECKED_FROM:]


def unpack_snapshot(task: Task, snapshot: bytes) -> bytes:
    """The payload of a snapshot that `task` may restore; ValueError names what does not fit."""
    if not isinstance(snapshot, bytes) or len(snapshot) < _HEADER.size or snapshot[:4] != _MAGIC:
        raise ValueError(f"not a snapshot (bytes that begin with {_MAGIC!r}): {repr(snapshot)[:60]}")
    _, version, checksum, horizon, name_length = _HEADER.unpack_from(snapshot)
    if version != _SNAPSHOT_VERSION:
        raise ValueError(f"snapshot of version {version}, this code reads {_SNAPSHOT_VERSION}; take the snapshot anew")
    if zlib.crc32(snapshot[_CHECKED_FROM:]) != checksum:
        raise ValueError(f"damaged snapshot: the checksum of its {len(snapshot)} bytes does not fit")
    start = _HEADER.size + name_length
    name = snapshot[_HEADER.size : start].decode()
    if name != task.name:
        raise ValueError(f"snapshot of task {name!r} given to task {task.name!r}; restore it with load_task({name!r})")
    if horizon != task.horizon:
        raise ValueError(f"snapshot taken with horizon {horizon}, this {name!r} task has {task.horizon}; use the same")
    return snapshot[start:]


def pickle_by_value(value: Any) -> bytes:
    """Pickle without back references, so that the bytes depend on values only and not on which objects are shared."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=5)
    pickler.fast = True
    pickler.dump(value)
    return buffer.getvalue()
