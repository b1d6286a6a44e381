"""The task of a run and the start states that it takes, as its fields name them: what every program begins with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from polytune.checks import parse_options
from polytune.config import TaskConfig
from polytune.tasks import TASKS, load_task, text_options
from polytune.tasks.base import Task
from polytune.tasks.own import check_levels
from polytune.tasks.splits import load_split, says_unseen

#: where a run trains that is told no split
TRAINING_SPLIT = "train"


def options_of(config: TaskConfig) -> dict[str, Any]:
    """Options for `load_task`; what the task takes as text stays text, ``prompt=1`` say."""
    options = parse_options(config.task_args, texts=text_options(config.task))
    return options if config.task_horizon is None else {"horizon": config.task_horizon, **options}


def task_of(config: TaskConfig) -> Task:
    """The task with its options. Raises ValueError as `load_task`."""
    return load_task(config.task, **options_of(config))


def starts_of(
    task: Task,
    config: TaskConfig,
    *,
    default_split: str | None = None,
    levels_shown: Callable[[], Iterable[str]] = tuple,
) -> tuple[str, list[int]]:
    """The split's name and the seeds of its start states, the first `num_start_states` where that is set.

    `default_split`: where the configuration names none; None: the task's own. `levels_shown`: hashes of the levels that
    the policies' demonstrations showed, asked for where the split promises unseen ones. Raises as `load_split`.
    """
    split = config.split or default_split or task.default_split
    unseen_of = levels_shown() if says_unseen(split) else ()
    seeds = load_split(task, split, config.data_dir, unseen_of)[: config.num_start_states]
    if config.task not in TASKS:
        check_levels(config.task, task, seeds)
    return split, seeds
