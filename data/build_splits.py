"""Write the committed splits of a task: `train.jsonl` and `unseen.jsonl`, one {"seed", "level_hash"} per line.

Launch: python data/build_splits.py --task fourrooms
The same minigrid and numpy versions give the same bytes. Train levels are the first distinct ones of the seeds 0, 1,
..., unseen ones those of 100000, 100001, ... that differ from each other and from every train level. A task whose
levels are another's at the same seeds takes its own from `LATER` seeds on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from polytune.places import DATA
from polytune.tasks import TASKS, Task, load_task
from polytune.tasks.splits import DEMONSTRATION_SEEDS_START, TRAIN_SEEDS_START, UNSEEN_SEEDS_START

LATER = {"babyai-bosslevel": 50_000}
"""Task -> how much later its seeds begin. BossLevel draws as SynthSeq does: with the same seeds 93 levels in 100 were
the same."""


def distinct_levels(task: Task, first_seed: int, end_seed: int, rows: int, taken: set[str]) -> list[dict]:
    """The first `rows` seeds from `first_seed` on whose levels are not in `taken`, which grows by theirs."""
    found = []
    for seed in range(first_seed, end_seed):
        level_hash = task.start_hash(seed)
        if level_hash not in taken:
            taken.add(level_hash)
            found.append({"seed": seed, "level_hash": level_hash})
        if len(found) == rows:
            return found
    raise SystemExit(f"task {task.name!r}: only {len(found)} distinct new levels in seeds {first_seed}..{end_seed - 1}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=sorted(TASKS))
    parser.add_argument("--rows", type=int, default=50, help="levels per split")
    parser.add_argument("--data-dir", type=Path, default=DATA, help="files go to DATA_DIR/TASK/")
    arguments = parser.parse_args()
    if arguments.rows < 1:
        parser.error(f"--rows must be at least 1, got {arguments.rows}")

    task, taken = load_task(arguments.task), set()
    folder = arguments.data_dir / task.name
    folder.mkdir(parents=True, exist_ok=True)
    later = LATER.get(task.name, 0)
    ranges = {
        "train": (TRAIN_SEEDS_START + later, UNSEEN_SEEDS_START),
        "unseen": (UNSEEN_SEEDS_START + later, DEMONSTRATION_SEEDS_START),
    }
    for split, (first_seed, end_seed) in ranges.items():
        rows = distinct_levels(task, first_seed, end_seed, arguments.rows, taken)
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8", newline="\n")
        print(f"{path}: {len(rows)} levels, seeds {rows[0]['seed']} to {rows[-1]['seed']}")


if __name__ == "__main__":
    main()
