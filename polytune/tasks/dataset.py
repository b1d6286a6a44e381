"""Single-turn text tasks from a dataset: a prompt column, a reward function, a signature function.

Both functions are named by dotted path, `package.module:name`, and called with (answer, row): the policy's text without
what ended it, and the row of the dataset as a dict. The reward is a finite number; an answer that earns `solved_at` or
more counts as solved. The signature is hashable, or None for an answer that follows no strategy. Without one, each text
is its own. Both are tried once on the empty answer to the first row, so that what is missing is known at start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from polytune.places import find_file
from polytune.tasks.files import check_there, read_rows
from polytune.tasks.rows import RowTask, reach
from polytune.terminal import say_warning


class DatasetTask(RowTask):
    """Prompts of a dataset on the Hub or on disk; a start state's seed is its row.

    Args:
        path: Hub id, or a .json, .jsonl, .csv or .parquet file, or a folder written by `save_to_disk`.
        reward: dotted path of the reward function.
        signature: dotted path of the signature function; None: the answer's own text, stripped.
        subset: configuration of a Hub dataset.
        train, test: names of its splits; a single file holds the train split, `test_path` the other.
        prompt: column of the prompts: text, or messages, all of which are shown as the policy's chat template takes
            them (`polytune.tasks.messages`); an answer that they end with is not. Dots reach into nested columns, here
            and below.
        answer: column of the answers to pretrain on, a text or a list of texts a row; None: the answers that the
            messages end with, if they do.
        reference: column that the functions find as row["answer"]; None: rows are as they are, with the answer that
            the messages end with as row["answer"] where no column has that name.
        solved_at: reward from which on an answer counts as solved (pass@k).
        answer_end: text that ends an answer, one token; empty: the end-of-sequence token alone does.
        max_tokens: tokens of an answer at most.
        instructions: what comes before each prompt with `show_instructions`.

    Raises:
        ValueError: a dataset, split, column or function that is not there, naming those that are; or a function that
            raises.
    """

    name = "dataset"

    def __init__(
        self,
        path: str = "",
        reward: str = "",
        signature: str | None = None,
        subset: str | None = None,
        train: str = "train",
        test: str | None = "test",
        test_path: str | None = None,
        prompt: str = "prompt",
        answer: str | None = None,
        reference: str | None = None,
        solved_at: float = 1.0,
        answer_end: str = "",
        max_tokens: int = 256,
        instructions: str = "",
    ):
        super().__init__()
        for option, value in (("path", path), ("reward", reward)):
            if not isinstance(value, str) or not value:
                raise ValueError(f"task 'dataset' needs {option}: add {option}=... to task_args")
        self.column, self.answers, self.reference = prompt, answer, reference
        found = {"train": load_rows(path, subset, train)}
        if test_path is not None or (test is not None and not find_file(path).is_file()):
            usual = test_path is None and test in (None, "test")  # there need not be any
            found["test"] = load_rows(test_path or path, subset, test or "train", missing_is_none=usual)
        found = {split: rows for split, rows in found.items() if rows is not None}
        for split, rows in found.items():
            place = test_path or path if split == "test" else path
            if not len(rows):
                raise ValueError(f"{place} has no rows")
            columns = {"prompt": prompt, "reference": reference, "answer": answer if split == "train" else None}
            for option, column in columns.items():
                if column is not None:
                    _check_column(rows[0], column, place, option)
        self._check_overlap(found)
        self._grade_rows(
            found, reward=reward, signature=signature, solved_at=solved_at, max_tokens=max_tokens,
            answer_end=answer_end, instructions=instructions,
        )  # fmt: skip
        for split in self.splits.values():
            self.earned("", split[0])
            self.strategy("", split[0])

    def _check_overlap(self, rows: Mapping[str, Sequence[dict[str, Any]]]) -> None:
        """Say so where test rows ask what training rows ask."""
        if "test" not in rows:
            return
        known = {json.dumps(reach(row, self.column), sort_keys=True, default=str) for row in rows["train"]}
        asked = [json.dumps(reach(row, self.column), sort_keys=True, default=str) for row in rows["test"]]
        again = sum(question in known for question in asked)
        if again:
            say_warning(
                f"{again} of {len(asked)} test rows ask what training rows ask: what they show is not of unseen rows. "
                "Give test_path, or the test split, rows of their own."
            )


def _check_column(row: Mapping[str, Any], column: str, place: str, option: str) -> None:
    """ValueError for a column that is not there, with the option that names another."""
    try:
        reach(row, column, place)
    except ValueError as error:
        raise ValueError(f"{error}: name the one that is meant, {option}=COLUMN in task_args") from error


def load_rows(path: str, subset: str | None, split: str, *, missing_is_none: bool = False):
    """One split of a dataset on disk or on the Hub.

    Raises:
        ValueError: it cannot be loaded, or has no such split (None instead with ``missing_is_none``).
    """
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

    place = find_file(path)
    if place.is_file():
        return read_rows(place)
    check_there(path, place)
    try:
        if place.is_dir() and any((place / name).exists() for name in ("dataset_dict.json", "state.json")):
            found = load_from_disk(str(place))
        else:
            found = load_dataset(str(place) if place.is_dir() else path, subset)
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"dataset {path!r} cannot be loaded ({type(error).__name__}: {error}): give a file, a folder written by "
            "save_to_disk, or a Hub id."
        ) from error
    if isinstance(found, Dataset):
        found = DatasetDict({"train": found})
    if split in found:
        return found[split]
    if missing_is_none:
        return None
    raise ValueError(f"dataset {path!r} has no split {split!r}; it has {', '.join(found)}")
