"""Which seeds belong to which split, checked against the levels they generate on this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from polytune.places import DATA, find_file
from polytune.tasks.base import MAX_SEED, Task

TRAIN_SEEDS_START = 0
UNSEEN_SEEDS_START = 100_000
DEMONSTRATION_SEEDS_START = 1_000_000
"""Demonstrations take their seeds from here upwards; the committed splits stay below."""

#: of a range
MOST_SEEDS = 10_000_000
_RANGE = re.compile(r"seeds:(\d+)-(\d+)", re.ASCII)


def load_split(
    task: Task, split: str | Path | None, data_dir: str | Path | None = None, unseen_of: Iterable[str] = ()
) -> list[int]:
    """The seeds of a split, in file order.

    `split`: "train" or "unseen" (`<data_dir>/<task name>/<split>.jsonl`, by default polytune's own),
    a path ending in .jsonl, "seeds:0-49" (both ends included) for a task without files, one of the task's own
    (`Task.splits`), or None: its `default_split`. Each row of a file is {"seed": int, "level_hash": str}. `unseen_of`:
    level hashes that the split may not contain (the demonstrations'); "train" and "unseen" may not share any either,
    whichever is loaded.

    Raises ValueError (naming file, line, seed, values) for an unknown split, a bad row, a duplicate, a hash that is not
    that of the level generated now, or an overlap; FileNotFoundError if there is no such file.
    """
    split = task.default_split if split is None else str(split)
    if split in task.splits:
        return list(task.splits[split])
    if split.startswith("seeds:"):
        seeds = _seed_range(split)
    elif split in ("train", "unseen") or split.endswith(".jsonl"):
        seeds = _verified_seeds(task, _split_file(task, split, data_dir))
    else:
        own = " or ".join(f'"{name}"' for name in task.splits or ("train", "unseen"))
        raise ValueError(f'unknown split {split!r}: use {own}, a path ending in .jsonl, or "seeds:0-49"')
    if split == "unseen":
        train = _verified_seeds(task, _split_file(task, "train", data_dir))
        check_unseen(task, seeds, (task.start_hash(seed) for seed in train), "the train split")
    elif split == "train":
        check_unseen(task, seeds, split_hashes(task, "unseen", data_dir), "the unseen split")
    check_unseen(task, seeds, unseen_of, f"the levels that split {split!r} must not share")
    return seeds


def split_hashes(task: Task, split: str, data_dir: str | Path | None = None) -> set[str]:
    """The level hashes of a committed split, as its file says them; none where there is no such file."""
    path = Path(DATA if data_dir is None else data_dir) / task.name / f"{split}.jsonl"
    return {_parse_row(line, where)[1] for _, line, where in _lines(path)} if path.is_file() else set()


def says_unseen(split: str | Path | None) -> bool:
    """Whether a split promises levels that the policy has not met: "unseen", or a file whose name says so."""
    return split is not None and "unseen" in Path(split).stem and not str(split).startswith("seeds:")


def check_unseen(task: Task, seeds: Iterable[int], forbidden_hashes: Iterable[str], what: str) -> None:
    """Raise ValueError if the level of one of `seeds` is among `forbidden_hashes`, which the message calls `what`."""
    forbidden = set(forbidden_hashes)
    if not forbidden:
        return
    shared = [seed for seed in seeds if task.start_hash(seed) in forbidden]
    if shared:
        raise ValueError(
            f"{len(shared)} {task.name!r} levels are not unseen, they are also in {what}: seeds {shared[:5]}"
            f"{' and more' if len(shared) > 5 else ''}; remove them from one side"
        )


def _seed_range(split: str) -> list[int]:
    match = _RANGE.fullmatch(split)
    if match is None or max(map(len, match.groups())) > 19 or int(match[1]) > int(match[2]):
        raise ValueError(f'bad seed range {split[:60]!r}: write "seeds:FIRST-LAST" with FIRST <= LAST, both included')
    first, last = map(int, match.groups())
    if last > MAX_SEED or last - first >= MOST_SEEDS:
        raise ValueError(
            f"seed range {split!r} has {last - first + 1:,} seeds up to {last:,}: {MOST_SEEDS:,} at most, none above "
            f"{MAX_SEED:,}"
        )
    return list(range(first, last + 1))


def _split_file(task: Task, split: str, data_dir: str | Path | None) -> Path:
    if split.endswith(".jsonl"):
        path, remedy = find_file(split), "give the path of an existing file"
    else:
        path = Path(DATA if data_dir is None else data_dir) / task.name / f"{split}.jsonl"
        remedy = f'build it with data/build_splits.py --task {task.name}, or use a range such as "seeds:0-49"'
    if not path.is_file():
        raise FileNotFoundError(f"no split file {path}: {remedy}")
    return path


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """The lines of a file that are not blank, with their numbers, and what messages call them."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line, f"{path}, line {number}"


def _verified_seeds(task: Task, path: Path) -> list[int]:
    line_of_seed: dict[int, int] = {}
    line_of_hash: dict[str, int] = {}
    for number, line, where in _lines(path):
        seed, level_hash = _parse_row(line, where)
        for value, lines, column in ((seed, line_of_seed, "seed"), (level_hash, line_of_hash, "level_hash")):
            if value in lines:
                raise ValueError(f"{where}: {column} {value!r} is a duplicate of line {lines[value]}")
            lines[value] = number
        generated = task.start_hash(seed)
        if generated != level_hash:
            raise ValueError(
                f"{where}: seed {seed} should give level {level_hash}, but generates {generated} here; most likely "
                f"another version of minigrid or numpy than the one the file was built with (pins: setup.cfg)"
            )
    if not line_of_seed:
        raise ValueError(f"{path} has no rows")
    return list(line_of_seed)


def _parse_row(line: str, where: str) -> tuple[int, str]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error}): {line[:80]!r}") from error
    if not isinstance(row, dict) or set(row) != {"seed", "level_hash"}:
        raise ValueError(f'{where}: a row is {{"seed": int, "level_hash": str}}, got {line[:80]!r}')
    seed, level_hash = row["seed"], row["level_hash"]
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"{where}: seed must be an int >= 0, got {seed!r}")
    if not isinstance(level_hash, str):
        raise ValueError(f"{where}: level_hash must be a string, got {level_hash!r}")
    return seed, level_hash
