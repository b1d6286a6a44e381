"""Single-turn text tasks from a dataset: a prompt column, a reward function, a signature function.

Both functions are named by dotted path, `package.module:name`, and called with (answer, row): the policy's text without
what ended it, and the row of the dataset as a dict. The reward is a finite number; an answer that earns `solved_at` or
more counts as solved. The signature is hashable, or None for an answer that follows no strategy. Without one, each text
is its own. Both are tried once on the empty answer to the first row, so that what is missing is known at start.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterator
from typing import Any

from polytune.lookup import find, said
from polytune.places import find_file
from polytune.tasks.answers import AnswerEpisode, AnswerTask
from polytune.tasks.base import Episode
from polytune.tasks.messages import Conversation, is_messages, split_answer, text_of

#: rows that an evaluation split is numbered from, so that its seeds are not those of training
TEST_ROWS_START = 1_000_000_000


class DatasetEpisode(AnswerEpisode):
    """One row's prompt, one answer."""

    task: DatasetTask

    def _act(self, action: str) -> bool:
        self.answer = action
        self.earned = self.task.earned(action, self.seed)
        return self.earned >= self.task.solved_at

    def _begin(self) -> None:
        super()._begin()
        self.earned = 0.0

    def _failure(self) -> str | None:
        return "unsolved" if self.turn else None

    def _reward(self) -> float:
        return self.earned

    def signature(self, since_turn: int = 0) -> Hashable | None:
        Episode.signature(self, since_turn)  # its check of since_turn
        if self.answer is None or since_turn == self.turn:
            return None
        return self.task.strategy(self.answer, self.seed)


class DatasetTask(AnswerTask):
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
    episode_class = DatasetEpisode

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
        if isinstance(solved_at, bool) or not isinstance(solved_at, int | float) or not math.isfinite(solved_at):
            raise ValueError(f"solved_at of task 'dataset' must be a number, got {solved_at!r}")
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise ValueError(f"max_tokens of task 'dataset' must be a whole number of at least 1, got {max_tokens!r}")
        self.reward, self.reward_name = said("reward", reward, find("reward", reward, {})), reward
        self.strategy_of = None if signature is None else said("signature", signature, find("signature", signature, {}))
        self.signature_name = signature
        self.column, self.answers, self.reference, self.solved_at = prompt, answer, reference, float(solved_at)
        self.answer_end, self.max_action_tokens, self.instructions = answer_end, max_tokens, instructions
        self.rows = {"train": load_rows(path, subset, train)}
        if test_path is not None or (test is not None and not find_file(path).is_file()):
            self.rows["test"] = load_rows(test_path or path, subset, test or "train", missing_is_none=test_path is None)
        self.rows = {split: rows for split, rows in self.rows.items() if rows is not None}
        for split, rows in self.rows.items():
            place = test_path or path if split == "test" else path
            if not len(rows):
                raise ValueError(f"{place} has no rows")
            for column in filter(None, (prompt, reference, answer if split == "train" else None)):
                reach(rows[0], column, place)
        self.splits = {
            split: range(first, first + len(self.rows[split]))
            for split, first in (("train", 0), ("test", TEST_ROWS_START))
            if split in self.rows
        }
        self.default_split = "test" if "test" in self.rows else "train"
        for split in self.splits.values():
            self.earned("", split[0])
            self.strategy("", split[0])

    def row(self, seed: int) -> dict[str, Any]:
        """The row that a start state's seed names. Raises ValueError for one that is not there."""
        split, index = ("test", seed - TEST_ROWS_START) if seed >= TEST_ROWS_START else ("train", seed)
        rows = self.rows.get(split)
        if rows is None or not 0 <= index < len(rows):
            raise ValueError(f"task 'dataset' has no row for seed {seed}: its splits are {self.splits}")
        row = rows[index]
        if self.reference is not None:
            return row | {"answer": reach(row, self.reference)}
        answer = self._question(row, seed)[1]
        return row if answer is None else {"answer": answer} | row

    def prompt(self, seed: int) -> str:
        """What is shown: a text, or a `Conversation` where the row holds messages."""
        return self._question(self.row(seed), seed)[0]

    def _question(self, row: dict[str, Any], seed: int) -> tuple[str, str | None]:
        """What a row asks, and the answer that its messages end with, if they do."""
        found = reach(row, self.column)
        if is_messages(found):
            try:
                asked, answer = split_answer(found)
            except ValueError as error:
                raise ValueError(f"row of seed {seed}, column {self.column!r}: {error}") from error
            return Conversation.of(asked), answer
        if not isinstance(found, str) or not found:
            raise ValueError(f"row of seed {seed}: column {self.column!r} holds no text but {found!r}")
        return found, None

    def earned(self, answer: str, seed: int) -> float:
        """The reward function's number. Raises ValueError when it is none."""
        value = self.reward(answer, self.row(seed))
        try:
            number = math.nan if isinstance(value, str) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(
                f"reward {self.reward_name!r} returned {value!r} for {answer[:80]!r}: return a finite number"
            )
        return number

    def strategy(self, answer: str, seed: int) -> Hashable | None:
        """The signature function's answer; the stripped text without one."""
        if self.strategy_of is None:
            return answer.strip()
        found = self.strategy_of(answer, self.row(seed))
        if not isinstance(found, Hashable):
            raise ValueError(
                f"signature {self.signature_name!r} returned a {type(found).__name__}, which is not hashable: return "
                "text, a number, a tuple or a frozenset"
            )
        return found

    def grade(self, answer: str) -> None:
        raise NotImplementedError("an answer is graded for its row: earned() and strategy()")

    def parse_action(self, text: Any) -> str:
        """Every text is an answer, `answer_end` left out; anything but a string is a TypeError."""
        if not isinstance(text, str):
            raise TypeError(f"an answer is text straight from the policy, got {type(text).__name__}: {text!r}")
        return text.removesuffix(self.answer_end)

    def training_lines(self) -> Iterator[tuple[str, str]]:
        """(prompt, answer) of each answer that a training row shows."""
        if self.answers is None and not any(self.shown(seed) for seed in self.splits["train"]):
            raise ValueError(
                "task 'dataset' has no answers to pretrain on: add answer=COLUMN to task_args, or give messages that "
                "end with an answer"
            )
        for seed in self.splits["train"]:
            prompt = self.prompt(seed)
            for answer in self.shown(seed):
                yield prompt, f"{answer}{self.answer_end}"

    def shown(self, seed: int) -> list[str]:
        """The answers that a training row shows: of its column, texts or messages, or the end of its messages."""
        if self.answers is None:
            answer = self._question(self.row(seed), seed)[1]
            return [] if answer is None else [answer]
        found = reach(self.row(seed), self.answers)
        answers = found if isinstance(found, list) else [found]
        return [text_of(answer) if isinstance(answer, dict) else str(answer) for answer in answers]

    def vocabulary(self) -> list[str]:
        """The characters of the texts: a tokenizer that knows them can write any of them."""
        texts = [self.prompt(seed) for split in self.splits.values() for seed in split]
        texts += [answer for seed in self.splits["train"] for answer in self.shown(seed)]
        ends = [self.answer_end] if self.answer_end else []
        return [*ends, *sorted({c for text in texts for c in text if not c.isspace()})]


def reach(row: dict[str, Any], column: str, place: str = "the dataset") -> Any:
    """What a row holds in a column, `outer.inner` in a nested one. ValueError that names the columns there are."""
    found: Any = row
    for part in [column] if column in row else column.split("."):
        if not isinstance(found, dict) or part not in found:
            names = [[f"{name}.{inner}" for inner in value] if isinstance(value, dict) else [name]
                     for name, value in row.items()]  # fmt: skip
            raise ValueError(f"{place} has no column {column!r}; its columns are {', '.join(sum(names, []))}")
        found = found[part]
    return found


def load_rows(path: str, subset: str | None, split: str, *, missing_is_none: bool = False):
    """One split of a dataset on disk or on the Hub.

    Raises:
        ValueError: it cannot be loaded, or has no such split (None instead with ``missing_is_none``).
    """
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

    place = find_file(path)
    kinds = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
    try:
        if place.is_dir() and any((place / name).exists() for name in ("dataset_dict.json", "state.json")):
            found = load_from_disk(path)
        elif place.is_file():
            if place.suffix not in kinds:
                raise ValueError(f"a dataset file ends in {', '.join(kinds)}, got {place.name!r}")
            return load_dataset(kinds[place.suffix], data_files={"train": str(place)}, split="train")
        else:
            found = load_dataset(path, subset)
    except (FileNotFoundError, ConnectionError, OSError, ValueError, json.JSONDecodeError) as error:
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
