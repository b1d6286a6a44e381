"""Gymnasium environments as tasks, `--task gym:ENV_ID`: text in, text out, snapshots and seeds as every world's.

Observations are text, or become it: MiniGrid's by `polytune.tasks.grid.minigrid_text`, others by a function of the
user's, `show(observation, env) -> text`. Actions are words (MiniGrid's, or `actions=west,east` in the order of a
discrete space's numbers), free text (a text space), or what `act(text, env) -> action or None` makes of them.

A state is saved as the environment itself gives it (`get_state` and `set_state`, or `clone_state` and `restore_state`),
else the environment is copied (pickled); a task is refused where a restored copy does not go on as the original did.
`snapshots=replay` keeps the actions instead and takes them again from the seed: slow, and right wherever the same seed
and actions give the same episode.
"""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Hashable, Iterator
from typing import Any

import gymnasium

from polytune.lookup import find, import_own, said
from polytune.tasks.base import Episode, Task
from polytune.tasks.grid import minigrid_text
from polytune.tasks.grid.common import MiniGridEnv

#: (save, load) of an environment that gives its own state
OWN_STATE = (("get_state", "set_state"), ("clone_state", "restore_state"))
SNAPSHOTS = ("auto", "state", "copy", "replay")
#: what a wrapper has beside its state
NO_STATE = frozenset({"env", "_saved_kwargs", "_cached_spec", "_action_space", "_observation_space", "_metadata"})
LONGEST_TEXT = 1000
PROBED_TURNS = 12


class GymEpisode(Episode):
    """One episode of an environment. `env` is the environment, `last` its last observation."""

    task: GymTask

    def _begin(self) -> None:
        self.taken: list[Any] = []
        self.env = self.task.make()
        for space in (self.env.action_space, self.env.observation_space):
            space.seed(self.seed % 2**31)  # they hold generators of their own, part of every copy
        self.last, _ = self.env.reset(seed=self.seed)
        self.paid, self.solved, self.ended = 0.0, False, None

    def observation(self) -> str:
        text = self.task.show(self.last, self.env, self.turn)
        if not isinstance(text, str):
            raise ValueError(
                f"show of task {self.task.name!r} returned a {type(text).__name__}, not text: {text!r:.80}"
            )
        return text.strip()

    def step(self, action: str):
        self.paid = 0.0  # of this turn, whether or not it is an action
        return super().step(action)

    def _act(self, action: str) -> bool:
        chosen = self.task.act(action, self.env)
        if chosen is None:
            self.invalid_actions += 1
            return False
        if self.task.snapshots == "replay":
            self.taken.append(chosen)
        return self._take(chosen)

    def _take(self, chosen: Any) -> bool:
        self.last, paid, terminated, truncated, info = self.env.step(chosen)
        self.paid = self._paid(paid)
        self.solved = bool(self.task.solves(self.paid, bool(terminated), info))
        self.ended = "failure" if terminated else "truncated" if truncated else None
        return self.solved

    def _paid(self, paid: Any) -> float:
        try:
            number = float(paid)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(
                f"task {self.task.name!r}, seed {self.seed}, turn {self.turn}: its step pays {paid!r:.80}: return a "
                "finite number"
            )
        return number

    def _failure(self) -> str | None:
        return self.ended

    def _reward(self) -> float:
        return self.paid if self.task.own_reward else super()._reward()

    def _place(self) -> Hashable | None:
        return None if self.task.place_of is None else self.task.place_of(self.env)

    def signature(self, since_turn: int = 0) -> Hashable | None:
        places = super().signature(since_turn)
        return places if self.task.gives_signatures else None

    def _layout(self) -> bytes:
        env = self.env.unwrapped
        if isinstance(env, MiniGridEnv):
            return minigrid_text.layout(env)
        return pickle.dumps((self.observation(), repr(self.last)))

    def _save(self) -> bytes:
        kept = {name: value for name, value in vars(self).items() if name not in ("task", "env", "last")}
        if self.task.snapshots == "replay":
            state = None
        else:
            state = (self._own_state() if self.task.own_state else self.env, self.last)
        packed = pickle.dumps((sorted(kept.items()), state))
        return pickle.dumps(pickle.loads(packed))  # which objects are shared is then as in a restored one

    def _own_state(self) -> tuple[Any, list[dict[str, Any]]]:
        """What the environment gives, and what its wrappers keep (the turns of a time limit, say), outermost first."""
        of_wrappers = [
            {name: value for name, value in vars(wrapper).items() if name not in NO_STATE and not callable(value)}
            for wrapper in _wrappers(self.env)
        ]
        return getattr(self.env.unwrapped, self.task.own_state[0])(), of_wrappers

    def _load(self, payload: bytes) -> None:
        kept, state = pickle.loads(payload)
        vars(self).update(kept)
        if state is not None and not self.task.own_state:
            self.env, self.last = state
            return
        self.env = self.task.make()
        self.last, _ = self.env.reset(seed=self.seed)
        if state is not None:
            (own, of_wrappers), self.last = state
            getattr(self.env.unwrapped, self.task.own_state[1])(own)
            for wrapper, attributes in zip(_wrappers(self.env), of_wrappers, strict=True):
                vars(wrapper).update(attributes)
            return
        paid, solved, ended = self.paid, self.solved, self.ended
        for chosen in self.taken:
            self._take(chosen)
        self.paid, self.solved, self.ended = paid, solved, ended


def _wrappers(env: gymnasium.Env) -> Iterator[gymnasium.Wrapper]:
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env


class GymTask(Task):
    """The episodes of one environment.

    Args:
        env_id: as `gymnasium.make` takes it ("module:Env-v0" imports the module first).
        horizon: turns of an episode at most; the environment may end it before.
        show: dotted path of a function of (observation, env); None: the observation is text, or the level a MiniGrid.
        act: dotted path of a function of (text, env) that gives an action, or None for text that is no action.
        actions: the legal words with commas between; None: MiniGrid's, numbers of a discrete space, free text else.
        success: dotted path of a function of (reward, terminated, info); None: info["success"] or info["is_success"]
            where the environment says so, else whether it terminated with a reward above 0.
        reward: "environment", its own, or "success", 1 - 0.5 t / horizon on success, as the other tasks.
        place: dotted path of a function of env, what signatures are sets of; None: MiniGrid's rooms or things, else
            there is no signature.
        vocabulary: dotted path of a list of words or a function that gives one; None: MiniGrid's, else the words that
            100 episodes of random actions show. Language models need none.
        snapshots: auto, state, copy or replay.
        max_action_tokens: tokens of an action of free text at most.
        instructions: None: the name of the environment and its actions.
        make_args: whatever else `gymnasium.make` takes (`size=8`, say).

    Raises:
        ValueError: the environment cannot be made, its observations or actions are no text and no function makes them
            text, it does not repeat itself, or a restored copy does not go on as the original.
    """

    episode_class = GymEpisode

    def __init__(
        self,
        env_id: str = "",
        horizon: int = 100,
        show: str | None = None,
        act: str | None = None,
        actions: str | None = None,
        success: str | None = None,
        reward: str = "environment",
        place: str | None = None,
        vocabulary: str | None = None,
        snapshots: str = "auto",
        max_action_tokens: int = 16,
        instructions: str | None = None,
        **make_args: Any,
    ):
        self.name = f"gym:{env_id}"
        super().__init__(horizon)
        self.env_id, self.make_args = env_id, make_args
        for option, value, known in (
            ("reward", reward, ("environment", "success")),
            ("snapshots", snapshots, SNAPSHOTS),
        ):
            if value not in known:
                raise ValueError(f"{option} of task {self.name!r} must be one of {', '.join(known)}, got {value!r}")
        self.own_reward = reward == "environment"
        self._import()
        env = self.make()
        self.grid = env.unwrapped if isinstance(env.unwrapped, MiniGridEnv) else None
        self._show, self._success = self._function("show", show), self._function("success", success)
        self._words = None if vocabulary is None else find("vocabulary", vocabulary, {})
        self.place_of = self._function("place", place)
        if self.place_of is None and self.grid is not None:
            self.place_of = lambda env: minigrid_text.place(env.unwrapped)
        self._set_actions(env, self._function("act", act), actions)
        if self.answer_end is not None:
            self.max_action_tokens = max_action_tokens
        self.instructions = instructions or self._told()
        self._check_text(env)
        self._choose_snapshots(env, snapshots)
        self._check_repeats()

    def make(self) -> gymnasium.Env:
        """A new environment."""
        try:
            return gymnasium.make(self.env_id.rpartition(":")[2], disable_env_checker=True, **self.make_args)
        except Exception as error:  # an environment's constructor may raise anything
            raise self._unmade(error) from error

    def _import(self) -> None:
        """The module that registers it, where its id names one; as everywhere, one of the working directory first."""
        module, colon, _ = self.env_id.rpartition(":")
        try:
            if colon:
                import_own(module)
        except Exception as error:  # a user's module may raise anything while it loads
            raise self._unmade(error) from error

    def _unmade(self, error: Exception) -> ValueError:
        return ValueError(
            f"task {self.name!r}: gymnasium cannot make {self.env_id!r} ({type(error).__name__}: {error})"
        )

    # ------------------------------------------------------------------ text

    def show(self, observation: Any, env: gymnasium.Env, turn: int) -> str:
        """The text of an observation."""
        if self._show is not None:
            return self._show(observation, env)
        if self.grid is not None:
            return minigrid_text.describe(env.unwrapped, with_mission=turn == 0)
        return observation

    def act(self, text: str, env: gymnasium.Env) -> Any | None:
        """The action of a text that `parse_action` let pass; None where the user's function says it is none."""
        return self._act(text, env)

    def parse_action(self, text: Any) -> str | None:
        """One of the words; free text up to 1,000 characters, stripped, unless it is empty."""
        if self.answer_end is None:
            return super().parse_action(text)
        if not isinstance(text, str):
            raise TypeError(f"an action is text straight from the policy, got {type(text).__name__}: {text!r}")
        return text.strip()[:LONGEST_TEXT] or None

    def solves(self, paid: float, terminated: bool, info: dict[str, Any]) -> bool:
        """Whether a step solved the task."""
        if self._success is not None:
            return self._success(paid, terminated, info)
        told = info.get("success", info.get("is_success"))
        return terminated and paid > 0 if told is None else bool(told)

    @property
    def gives_signatures(self) -> bool:
        return self.place_of is not None

    def vocabulary(self) -> list[str]:
        if self._words is not None:
            return list(self._words() if callable(self._words) else self._words)
        if self.grid is not None and self._show is None:
            return minigrid_text.vocabulary(self.grid)
        return [*self.actions, *sorted(self._words_seen() - set(self.actions))]

    def _words_seen(self) -> set[str]:
        words: set[str] = set()
        for seed in range(100):
            draw, episode = random.Random(seed), self.start(seed)
            words.update(episode.observation().split())
            while not episode.done and episode.turn < 50:
                episode.step(self._random_text(draw, episode))
                words.update(episode.observation().split())
        return words

    # ------------------------------------------------------------------ what is checked at start

    def _function(self, option: str, path: str | None):
        return None if path is None else said(option, path, find(option, path, {}))

    def _set_actions(self, env: gymnasium.Env, act, words: str | None) -> None:
        space = env.action_space
        named = tuple(word.strip() for word in words.split(",")) if words else ()
        if act is not None:
            self.actions, self._act = named, act
        elif isinstance(space, gymnasium.spaces.Discrete):
            count, first = int(space.n), int(space.start)
            grid = minigrid_text.ACTIONS if self.grid is not None and count >= len(minigrid_text.ACTIONS) else ()
            self.actions = named or grid or tuple(str(first + index) for index in range(count))
            if len(self.actions) > count:
                raise ValueError(
                    f"actions of task {self.name!r} name {len(self.actions)} words, there are {count} actions"
                )
            numbers = {word: first + index for index, word in enumerate(self.actions)}
            self._act = lambda text, env: numbers[text]
        elif isinstance(space, gymnasium.spaces.Text):
            self.actions = named
            self._act = lambda text, env: text if env.action_space.contains(text) else None
        else:
            raise ValueError(
                f"task {self.name!r} takes actions of {space}, not text: give act=module:name, "
                "a function of (text, env)"
            )
        self.answer_end = None if self.actions else ""

    def _told(self) -> str:
        told = f"You act in the world {self.env_id}, one action a turn."
        return (
            f"{told} Answer with one word: {', '.join(self.actions)}."
            if self.actions
            else f"{told} Answer with it alone."
        )

    def _check_text(self, env: gymnasium.Env) -> None:
        first, _ = env.reset(seed=0)
        if self.grid is not None and self._show is None:
            minigrid_text.check_view(self.grid)
        elif self._show is None and not isinstance(first, str):
            raise ValueError(
                f"task {self.name!r} shows a {type(first).__name__}, not text: give show=module:name, a function of "
                "(observation, env)"
            )

    def _choose_snapshots(self, env: gymnasium.Env, wanted: str) -> None:
        pairs = [pair for pair in OWN_STATE if all(callable(getattr(env.unwrapped, name, None)) for name in pair)]
        if wanted == "state" and not pairs:
            raise ValueError(f"task {self.name!r} has no state of its own ({OWN_STATE}): use snapshots=copy or replay")
        self.own_state = pairs[0] if pairs and wanted in ("auto", "state") else None
        self.snapshots = ("state" if self.own_state else "copy") if wanted == "auto" else wanted

    def _check_repeats(self) -> None:
        """Refuse an environment that the same seed and actions, or a restored state, do not repeat."""
        for seed in range(3):
            draw = random.Random(seed)
            one, other = self.start(seed), self.start(seed)
            texts = [self._random_text(draw, one) for _ in range(PROBED_TURNS)]
            whole, again = self._play(texts, one, other)
            if whole != again:
                raise ValueError(
                    f"task {self.name!r} does not repeat itself: seed {seed} and the same actions give other outcomes, "
                    "so its reset(seed=...) does not seed all of its randomness, or episodes share a state"
                )
            half = self.start(seed)
            [begun] = self._play(texts[: PROBED_TURNS // 2], half)
            try:
                copy = self.restore(half.snapshot())
            except Exception as error:  # whatever cannot be pickled, or a state that does not fit
                raise ValueError(
                    f"task {self.name!r} cannot be saved by snapshots={self.snapshots} ({type(error).__name__}: "
                    f"{error}): use snapshots=replay"
                ) from error
            [rest] = self._play(texts[PROBED_TURNS // 2 :], copy)
            if [*begun, *rest] != whole:
                raise ValueError(
                    f"a copy of task {self.name!r}, restored by snapshots={self.snapshots}, does not go on as the "
                    "original (part of its state lies elsewhere): use snapshots=replay"
                )

    def _random_text(self, draw: random.Random, episode: GymEpisode) -> str:
        return draw.choice(self.actions) if self.actions else draw.choice(("look", "go east", "wait", "take it"))

    @staticmethod
    def _play(texts: list[str], *episodes: Episode) -> list[list[Any]]:
        """What each of some episodes shows, all played at the same time."""
        seen: list[list[Any]] = [[] for _ in episodes]
        for text in texts:
            for shown, episode in zip(seen, episodes, strict=True):
                if not episode.done:
                    shown += [episode.step(text), episode.observation(), episode.turn]
        return seen
