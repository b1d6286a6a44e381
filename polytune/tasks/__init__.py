"""Worlds that show a policy text and take text back. `TASKS` lists them, `load_task` builds one.

Importing this package imports no world: only the task asked for is loaded.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from polytune.tasks.base import Episode, Step, Task

__all__ = ["TASKS", "Episode", "Step", "Task", "load_task"]

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
    "dataset": "polytune.tasks.dataset:DatasetTask",
}
"""Task name -> "package.module:ClassName", or the class itself. A new task is one row."""


def load_task(name: str, **options: Any) -> Task:
    """Build the task called `name`: a key of `TASKS`, or "package.module:ClassName" for one outside of it.

    `options` are the keyword arguments of the task's class (`horizon=100`, say). Raises ValueError for an unknown task
    (naming near misses), an unknown option (naming the known ones) or a bad value.
    """
    factory = _find(name)
    parameters = inspect.signature(factory).parameters
    unknown = sorted(set(options) - set(parameters))
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        raise ValueError(f"task {name!r} has no option {', '.join(map(repr, unknown))}; it has {sorted(parameters)}")
    task = factory(**options)
    if not isinstance(task, Task):
        raise ValueError(f"task {name!r} built a {type(task).__name__}, which is not a polytune.tasks.Task")
    return task


def _find(name: str) -> Callable[..., Task]:
    target = TASKS.get(name)
    if target is None and ":" in name:
        target = name
    if target is None:
        near = get_close_matches(name, TASKS, n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise ValueError(
            f"unknown task {name!r}: {hint}known tasks are {sorted(TASKS)}; "
            f'a task of your own is named by its path, "package.module:ClassName"'
        )
    if not isinstance(target, str):
        return target
    module_name, _, class_name = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"task {name!r}: cannot import {module_name!r}: {error}") from error
    found = getattr(module, class_name, None)
    if found is None:
        raise ValueError(f"task {name!r}: module {module_name!r} has no {class_name!r}")
    return found
