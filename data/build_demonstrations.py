"""Record expert episodes of a task as a `datasets` dataset of text, with a card that says how the expert did.

Launch: python data/build_demonstrations.py --task babyai-goto --episodes 3000
It goes to outputs/demonstrations/TASK. The same seeds and versions give the same rows, on any number of cores.
recipes/pretrain.py records its own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from polytune.checks import parse_options
from polytune.policy.demonstrations import keep_successes, save_demonstrations
from polytune.tasks import TASKS, load_task
from polytune.tasks.demonstrations import WorkerLostError, act_out_all
from polytune.tasks.splits import DEMONSTRATION_SEEDS_START, split_hashes
from polytune.terminal import progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, help=f"one of {', '.join(sorted(TASKS))}, or package.module:Class")
    parser.add_argument("--task_args", nargs="*", default=[], metavar="NAME=VALUE", help="options of the task")
    parser.add_argument("--episodes", type=int, default=1500, help="episodes to record (default 1500)")
    parser.add_argument("--first_seed", type=int, default=DEMONSTRATION_SEEDS_START,
                        help=f"start state of the first one (default {DEMONSTRATION_SEEDS_START:,})")  # fmt: skip
    parser.add_argument("--workers", type=int, help="processes (default: one for each core)")
    parser.add_argument("--output", type=Path, help="folder, must not exist (default outputs/demonstrations/TASK)")
    arguments = parser.parse_args()
    if arguments.episodes < 1 or (arguments.workers is not None and arguments.workers < 1):
        parser.error(f"--episodes and --workers must be at least 1, got {arguments.episodes} and {arguments.workers}")
    try:
        options = parse_options(arguments.task_args)
        task = load_task(arguments.task, **options)
        seeds = range(task.check_seed(arguments.first_seed), arguments.first_seed + arguments.episodes)
        if task.answer_end is not None:
            raise ValueError(f"task {task.name!r} has no expert: its policies are pretrained on lines of its own")
    except ValueError as error:
        parser.error(str(error))
    folder = arguments.output or Path("outputs/demonstrations") / task.name
    if folder.exists():
        parser.error(f"{folder} exists: give another --output, or remove it")

    folder.parent.mkdir(parents=True, exist_ok=True)
    episodes = act_out_all(arguments.task, options, seeds, arguments.workers)
    try:
        rows = list(progress(episodes, task.name, "episode", total=len(seeds)))
        dataset, counts = keep_successes(rows, task, split_hashes(task, "unseen"))
    except ValueError as error:
        parser.error(str(error))
    except WorkerLostError as error:
        raise SystemExit(f"error: {error} (--workers)") from error
    command = " ".join(["data/build_demonstrations.py", *sys.argv[1:]])
    save_demonstrations(folder, dataset, counts, task, options, command)
    share = counts["successes"] / counts["episodes"]
    print(f"{folder}: {len(dataset):,} of {len(rows):,} episodes. The expert succeeded in {share:.1%}, "
          f"{counts['successes_within_horizon'] / counts['episodes']:.1%} within {task.horizon} turns; "
          f"{counts['turns_mean']:.1f} turns on average, 95 % within {counts['turns_percentiles'][95]}.")  # fmt: skip


if __name__ == "__main__":
    main()
