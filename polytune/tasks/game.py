"""An episode that somebody plays or watches: its past, so that turns can be undone, and what the screen shows of it."""

from __future__ import annotations

import shutil
import textwrap
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import NamedTuple

from polytune.tasks.base import Episode, ExpertError, Step, Task
from polytune.tasks.keys import key_of_action, said_by_key, said_by_line
from polytune.tasks.own import said

NARROWEST_TEXT = 30
"""Fewer columns beside the map than these, and the text goes below it."""


_FIXED_SPACE = "\u00a0"  # where no line may be broken


class Taken(NamedTuple):
    """One turn: the state before it, the action, what it brought."""

    before: bytes
    action: str
    step: Step


class Game:
    """An episode and the turns that led to its state."""

    def __init__(self, task: Task, seed: int):
        self.task = task
        self.episode: Episode = task.start(seed)
        self.past: list[Taken] = []

    def take(self, action: str) -> Step:
        """One turn."""
        before = self.episode.snapshot()
        step = self.episode.step(action)
        self.past.append(Taken(before, action, step))
        return step

    def undo(self) -> bool:
        """Go back one turn; False at the start."""
        if not self.past:
            return False
        self.episode = self.task.restore(self.past.pop().before)
        return True

    @property
    def actions(self) -> list[str]:
        """What was done and not undone: from the start state, it leads here."""
        return [taken.action for taken in self.past]

    @property
    def total_reward(self) -> float:
        """What the episode has earned so far, not discounted."""
        return sum(taken.step.reward for taken in self.past)

    def summary(self) -> str:
        """One line: how it ended."""
        episode = self.episode
        turns = f"{episode.turn} turn{'' if episode.turn == 1 else 's'}"
        told = [f"{episode.stop_reason or 'stopped'} after {turns}", f"return {self.total_reward:.4g}"]
        if episode.invalid_actions:
            told.append(f"{episode.invalid_actions} of them no action")
        return ", ".join([*told, *_signature(episode)])


def signature_text(signature: Hashable | None) -> str:
    """A signature for people: the members of a set in order."""
    if not isinstance(signature, frozenset):
        return str(signature)
    try:
        members = sorted(signature)
    except TypeError:
        members = sorted(signature, key=repr)
    return f"{{{', '.join(map(str, members))}}}"


def map_of(episode: Episode):
    """The MiniGrid environment of an episode, None for a world that has no map."""
    env = getattr(episode, "env", None)
    if env is None:
        return None
    from polytune.tasks.grid.common import MiniGridEnv  # worlds without a map load no MiniGrid

    return env if isinstance(env, MiniGridEnv) else None


def mission_line(episode: Episode) -> list[str]:
    """What the episode asks for as one line; nothing for worlds that always ask for the same."""
    mission = getattr(episode, "mission", None)
    return [f"mission: {mission}"] if isinstance(mission, str) else []


class Screen:
    """What is shown of a game. `blind`: what the policy is told, and nothing else until the episode is over."""

    def __init__(self, game: Game, *, blind: bool = False, colours: bool = False, width: int | None = None):
        self.game, self.blind, self.colours = game, blind, colours
        self.width = shutil.get_terminal_size().columns if width is None else width
        self.keys = key_of_action(game.task.actions)

    def text(self, *more: str) -> str:
        """The state now; `more`: paragraphs after it."""
        left = self._map()
        columns = 2 * self.game.episode.env.grid.width if left else 0
        beside = left and self.width - columns - 3 >= NARROWEST_TEXT
        right = self._wrapped([*self._facts(), *more], self.width - columns - 3 if beside else self.width)
        if not beside:
            return "\n".join([*left, *([""] if left else []), *right])
        lines = []
        for row in range(max(len(left), len(right))):
            cells = left[row] if row < len(left) else ""
            padding = " " * (columns - len(cells)) if row >= len(left) or not self.colours else ""
            lines.append(f"{cells}{padding}   {right[row] if row < len(right) else ''}".rstrip())
        return "\n".join(lines)

    def help(self) -> str:
        """The task, its keys, and what the map's characters mean."""
        task, env = self.game.task, map_of(self.game.episode)
        parts = [task.instructions, "", f"Keys: {self._bar()}."]
        if "forward" in task.actions:
            parts.append("Arrows: up is forward; left and right turn.")
        if env is not None and not self.blind:
            parts += ["", f"Map: {self._legend()}. The brighter cells (dots, without colours) are what you see."]
        return "\n".join(self._wrapped(parts, self.width))

    def with_keys(self, told: str = "") -> str:
        """The state now with the keys and the map's legend; `told`: a last line."""
        return self.text("", self._bar(), *self._legend_paragraph(), *(["", told] if told else []))

    def _bar(self) -> str:
        """The keys in one line."""
        keys = [f"{key} {action}" for key, action in self.keys.items()]
        return ", ".join(entry.replace(" ", _FIXED_SPACE) for entry in [*keys, "u undo", "q quit", "? help"])

    def _legend(self) -> str:
        from polytune.tasks.grid.text_map import map_legend

        return ", ".join(entry.replace(" ", _FIXED_SPACE) for entry in map_legend(self.game.episode.env).split(", "))

    def _legend_paragraph(self) -> list[str]:
        return ["", self._legend()] if self._map() else []

    def _facts(self) -> Iterator[str]:
        """Paragraphs: where the episode is, what the policy is told, what the last turn brought."""
        game, episode, task = self.game, self.game.episode, self.game.task
        yield f"{task.name}, seed {episode.seed}, turn {episode.turn} of {task.horizon}"
        yield from mission_line(episode)
        if game.past:
            action, step = game.past[-1].action, game.past[-1].step
            valid = task.parse_action(action) is not None
            yield f"did: {action.strip() or repr(action)}{'' if valid else ' (no action)'}; reward {step.reward:.4g}"
        if not episode.done:
            yield f"sees: {episode.observation()}"
        if map_of(episode) is not None and not self.blind:
            from polytune.tasks.grid.text_map import carried

            if (thing := carried(episode.env)) is not None:
                yield f"carries: {thing}"
        if episode.done:
            yield game.summary()
        elif not self.blind:
            yield from _signature(episode, " so far")

    def _map(self) -> list[str]:
        env = None if self.blind else map_of(self.game.episode)
        if env is None:
            return []
        from polytune.tasks.grid.text_map import text_map

        return text_map(env, colours=self.colours).split("\n")

    @staticmethod
    def _wrapped(paragraphs: Iterable[str], width: int) -> list[str]:
        options = {"break_long_words": False, "break_on_hyphens": False}
        wrapped = (textwrap.wrap(text, max(width, NARROWEST_TEXT), **options) or [""] for text in paragraphs)
        return [line.replace(_FIXED_SPACE, " ") for lines in wrapped for line in lines]


def _signature(episode: Episode, when: str = "") -> list[str]:
    signature = episode.signature()
    return [] if signature is None else [f"signature{when} {signature_text(signature)}"]


def play_lines(game: Game, screen: Screen, lines: Iterable[str], show: Callable[[str], None]) -> None:
    """A line is an action, its key, or undo, quit, help; in tasks of free text it is the answer. Anything else is
    answered with what could have been said and costs no turn. Ends with the input, or with the answer."""
    free_text = game.task.answer_end is not None
    show(screen.text())
    for line in lines:
        if free_text:
            end = game.task.answer_end
            answer = line.rstrip("\r\n")
            game.take(answer if answer.endswith(end) else answer + end)
            show(screen.text())
            return
        said = said_by_line(line, screen.keys, game.task.actions)
        if said == "quit":
            return
        if said is None:
            show(f"{line.strip()!r} is nothing to say here: {', '.join(game.task.actions)}, undo, quit, help.")
        else:
            show(_said(game, screen, said))


def play_keys(game: Game, screen: Screen, pressed: Iterable[str], show: Callable[[str], None]) -> None:
    """Each key press is an action or a command; `show` draws the whole screen anew. Ends with q."""
    show(screen.with_keys())
    for key in pressed:
        said = said_by_key(key, screen.keys)
        if said == "quit":
            return
        if said is None:
            show(screen.with_keys(f"key {key!r} does nothing" if key else "that key does nothing"))
        elif said == "help":
            show(f"{screen.help()}\n\nAny action goes on.")
        else:
            told = _said(game, screen, said)
            show(screen.with_keys("" if told == screen.text() else told))


def watch(game: Game, screen: Screen, actions: Iterable[str], show: Callable[[str], None], delay: float = 0.0) -> None:
    """Take the actions one after the other, `delay` seconds apart."""
    show(screen.text())
    for action in actions:
        time.sleep(delay)
        game.take(action)
        show(screen.text())


def expert_actions(game: Game) -> Iterator[str]:
    """What the task's expert does, until the episode is over."""
    while not game.episode.done:
        yield asked(game.task, game.episode)


def asked(task: Task, episode: Episode) -> str:
    """The expert's action. Raises what its code may raise, and ValueError with the line of anything else."""
    lets = (ExpertError, NotImplementedError, ValueError)
    return said(task.name, "expert()", lambda: task.expert(episode), lets=lets)


def _said(game: Game, screen: Screen, said: str) -> str:
    """Do what was said; what is to be shown then."""
    if said == "help":
        return screen.help()
    if said == "undo":
        return screen.text() if game.undo() else "nothing to undo: this is the start."
    if game.episode.done:
        return f"the episode is over ({game.episode.stop_reason}): undo or quit."
    game.take(said)
    return screen.text()
