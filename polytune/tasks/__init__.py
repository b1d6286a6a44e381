"""Worlds that show a policy text and take text back. `TASKS` lists them, `load_task` builds one.

Importing this package imports no world: only the task asked for is loaded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from polytune.lookup import find, is_path
from polytune.tasks.base import Episode, Step, Task
from polytune.tasks.own import built, check_class, said

__all__ = ["TASKS", "Episode", "Step", "Task", "load_task", "text_options"]

TASKS: dict[str, str | Callable[..., Task]] = {
    "fourrooms": "polytune.tasks.grid.fourrooms:FourRooms",
    "babyai-goto": "polytune.tasks.grid.babyai:BabyAIGoTo",
    "babyai-pickup": "polytune.tasks.grid.babyai:BabyAIPickup",
    "babyai-synthseq": "polytune.tasks.grid.babyai:BabyAISynthSeq",
    "babyai-bosslevel": "polytune.tasks.grid.babyai:BabyAIBossLevel",
    "bandit": "polytune.tasks.tabular.worlds:bandit",
    "two-step": "polytune.tasks.tabular.worlds:two_step",
    "sibling": "polytune.tasks.creativity.tasks:Sibling",
    "triangle": "polytune.tasks.creativity.tasks:Triangle",
    "circle": "polytune.tasks.creativity.tasks:Circle",
    "line": "polytune.tasks.creativity.tasks:Line",
    "maze": "polytune.tasks.maze:Maze",
    "dataset": "polytune.tasks.dataset:DatasetTask",
}
"""Task name -> "package.module:ClassName", or the class itself. A new task is one row."""

FAMILIES: dict[str, str] = {
    "reasoning-gym": "polytune.tasks.reasoning:ReasoningGym",
    "gym": "polytune.tasks.gym_bridge:GymTask",
}
"""Prefix of "PREFIX:NAME" -> the class that takes NAME as its first argument: tasks of another package."""


def load_task(name: str, **options: Any) -> Task:
    """Build the task called `name`: a key of `TASKS`, "package.module:ClassName" for one outside of it, or a member of
    one of `FAMILIES`, "reasoning-gym:NAME", say.

    `options` are the keyword arguments of the task's class (`horizon=100`, say). Raises ValueError for an unknown task
    (naming near misses), an unknown option (naming the known ones) or a bad value.
    """
    factory, member = _find(name)
    own = is_path(name) and name not in TASKS and not member
    if own:
        check_class(name, factory, options)
    if inspect.isabstract(factory):
        raise ValueError(
            f"task {name!r} does not define {', '.join(sorted(factory.__abstractmethods__))}: see polytune.tasks.Task"
        )
    parameters = inspect.signature(factory).parameters
    unknown = sorted(set(options) - set(parameters))
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        raise ValueError(f"task {name!r} has no option {', '.join(map(repr, unknown))}; it has {sorted(parameters)}")
    if own:
        task = built(name, factory, options)
    else:
        task = said(name, "building it", lambda: factory(*member, **options))
    if not isinstance(task, Task):
        raise ValueError(f"task {name!r} built a {type(task).__name__}, which is not a polytune.tasks.Task")
    return task


def text_options(name: str) -> set[str]:
    """The options that a task's signature says are text, or text or None; none of a task that is not there."""
    try:
        factory, _ = _find(name)
        parameters = inspect.signature(factory).parameters.values()
    except (ValueError, TypeError):  # load_task says what is wrong
        return set()
    return {own.name for own in parameters if _is_text(own.annotation)}


def _is_text(annotation: Any) -> bool:
    told = annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
    told = f"{told.removeprefix('Optional[')[:-1]} | None" if told.startswith("Optional[") else told
    kinds = {kind.strip() for kind in told.split("|")}
    return "str" in kinds and kinds <= {"str", "None", "NoneType"}


def _find(name: str) -> tuple[Callable[..., Task], tuple[str, ...]]:
    """What builds a task, and the arguments that its name holds."""
    family, colon, member = name.partition(":")
    if colon and family in FAMILIES:
        return find("task", FAMILIES[family], TASKS), (member,)
    row = TASKS.get(name)
    return row if callable(row) else find("task", row or name, TASKS), ()
