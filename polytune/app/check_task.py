"""Try whether a world keeps what polytune relies on, and say what is wrong in words.

    polytune check-task my_world:Corridor
    polytune check-task gym:MiniGrid-DoorKey-5x5-v0 --seeds 5
    polytune check-task dataset --task_args path=mine.jsonl reward=my_rewards:right

Same seed and actions give the same outputs, a restored episode goes on as the original, only actions are actions, and
so on: the conformance test of polytune's own tasks. Status: 0 nothing is wrong, 1 something is, 2 it cannot be built.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from polytune.app.play import run
from polytune.config import TaskConfig
from polytune.errors import UsageError
from polytune.helptext import tool_parser
from polytune.tasks.conformance import CHECKS, faults, notes, shown_answers
from polytune.tasks.rows import RowTask
from polytune.tasks.starts import task_of


class FaultyTaskError(RuntimeError):
    """What is wrong with the task."""


def main(argv: Sequence[str]) -> None:
    """The program. Raises ValueError for a task that cannot be built, FaultyTaskError for what is wrong."""
    options = build_parser().parse_args(list(argv))
    if options.seeds < 2:
        raise UsageError(f"--seeds must be at least 2, got {options.seeds}")
    task = task_of(TaskConfig(options.task, options.task_horizon, options.task_args))
    wrong = faults(task, options.seeds)
    for note in notes(task, options.seeds):
        print(f"note: {note}")
    if not wrong and isinstance(task, RowTask) and (told := shown_answers(task, options.seeds)):
        print(f"note: {told}")
    for fault in wrong:
        print(f"wrong: {fault}")
    if wrong:
        raise FaultyTaskError(f"{options.task} does not conform: {len(wrong)} of {len(CHECKS)} checks found something.")
    print(f"{options.task}: {len(CHECKS)} checks over {options.seeds} seeds, nothing is wrong")


def build_parser() -> argparse.ArgumentParser:
    """What the program takes."""
    parser = tool_parser("check-task", "TASK [OPTIONS]", __doc__)
    add = parser.add_argument
    add("task", help="task name, pkg.mod:Class, gym:ENV_ID or reasoning-gym:NAME")
    add("--task_args", nargs="+", default=[], metavar="NAME=VALUE", help="options of the task")
    add("--task_horizon", type=int, metavar="TURNS", help="turns after which an episode ends; unset: the task's own")
    add("--seeds", type=int, default=20, metavar="N", help="start states that are tried (20)")
    return parser


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
