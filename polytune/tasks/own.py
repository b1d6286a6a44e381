"""A task of a user's own, at "package.module:Class": what it lacks is one line before any work."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from polytune.tasks.base import Episode, Task
from polytune.terminal import say_warning

#: attributes that every task has -> what they are
ATTRIBUTES = {"name": "a word", "instructions": "a text", "episode_class": "a subclass of polytune.tasks.Episode"}
#: start states that are looked at for whether a world heeds its seed
PROBED_SEEDS = 10


def check_class(name: str, factory: Any, options: Mapping[str, Any]) -> None:
    """ValueError unless ``factory`` can be called with ``options``, a class among them if it is a whole task."""
    if not callable(factory):
        raise ValueError(f"task {name!r} is {factory!r}: give a subclass of polytune.tasks.Task, or what builds one")
    parameters = inspect.signature(factory).parameters.values()
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    due = [p.name for p in parameters if p.kind in plain and p.default is p.empty and p.name not in options]
    if due:
        raise ValueError(
            f"task {name!r} needs {', '.join(due)}: give --task_args {' '.join(f'{own}=VALUE' for own in due)}"
        )
    if not (isinstance(factory, type) and issubclass(factory, Task)):
        return
    _refuse(name, [f"the method {method}" for method in sorted(factory.__abstractmethods__)])


def built(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """What ``factory`` makes; ValueError that names the task for whatever it raises, and for a task without words."""
    task = said(name, "building it", lambda: factory(**options))
    if isinstance(task, Task):
        lacks = [f"{own} = {what}" for own, what in ATTRIBUTES.items() if not hasattr(task, own)]
        episode = getattr(task, "episode_class", None)
        if isinstance(episode, type) and issubclass(episode, Episode):
            lacks += [f"the method {method} of {episode.__name__}" for method in sorted(episode.__abstractmethods__)]
        _refuse(name, lacks)
        _check_words(name, task)
    return task


def _refuse(name: str, lacks: Sequence[str]) -> None:
    if lacks:
        raise ValueError(f"task {name!r} lacks {'; '.join(lacks)}: see polytune.tasks.Task for what a task writes")


def check_levels(name: str, task: Task, seeds: Sequence[int]) -> None:
    """ValueError for a start state that cannot be built; a warning where different seeds give the same level."""
    probed = list(dict.fromkeys(seeds))[:PROBED_SEEDS]
    levels = {said(name, f"start state {seed}", lambda seed=seed: task.start_hash(seed)) for seed in probed}
    if len(probed) > 1 and len(levels) == 1:
        say_warning(
            f"the first {len(probed)} start states of task {name!r} are one and the same level: it ignores its seed, "
            "and what was trained on is also what is measured. Let _begin draw from self.seed."
        )


def _check_words(name: str, task: Task) -> None:
    """The vocabulary is a list of words, each once, and has those of the actions."""
    words = said(name, "vocabulary()", task.vocabulary)
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"task {name!r}: vocabulary() gives {words!r}: return a list of words")
    if task.answer_end is not None:
        return
    actions = getattr(task, "actions", ())
    if not actions or isinstance(actions, str) or not all(isinstance(action, str) for action in actions):
        raise ValueError(f"task {name!r}: actions is {actions!r}: give a tuple of words, one for each action")
    missing = sorted({word for action in actions for word in action.split()} - set(words))
    if missing:
        raise ValueError(
            f"task {name!r}: vocabulary() lacks {', '.join(map(repr, missing))} of its actions: name every word of "
            "observations and actions"
        )


def said(name: str, what: str, call: Callable[[], Any], *, lets: tuple[type[Exception], ...] = (ValueError,)) -> Any:
    """What ``call`` gives. Raises what it may raise (``lets``), and for anything else ValueError that names the task,
    ``what`` it was at and the line."""
    try:
        return call()
    except lets:
        raise
    except Exception as error:  # a user's code may raise anything
        told = f"{type(error).__name__}: {error} ({place_of(error)})"
        raise ValueError(f"task {name!r}: {what} raised {told}") from error


def place_of(error: BaseException) -> str:
    """File and line that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"
