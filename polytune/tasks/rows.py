"""Single-turn text tasks whose start states are rows: a prompt column, and functions that grade an answer for its row.

The reward function is called with (answer, row): the policy's text without what ended it, and the row as a dict. The
reward is a finite number; an answer that earns `solved_at` or more counts as solved. The signature is hashable, or None
for an answer that follows no strategy. Without one, each text is its own.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

from polytune.lookup import find, said
from polytune.tasks.answers import AnswerEpisode, AnswerTask
from polytune.tasks.base import Episode, as_strategy, is_missing
from polytune.tasks.messages import Conversation, is_messages, split_answer, text_of

#: rows that an evaluation split is numbered from, so that its seeds are not those of training
TEST_ROWS_START = 1_000_000_000


class RowEpisode(AnswerEpisode):
    """One row's prompt, one answer."""

    task: RowTask

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


class RowTask(AnswerTask):
    """Rows by split; a start state's seed is its row. A subclass says where rows come from, and calls `_grade_rows`.

    Attributes: `column` of the prompts, `answers` and `reference` (columns, or None), `solved_at`, `rows`, `splits`.
    """

    episode_class = RowEpisode
    column: str = "prompt"
    answers: str | None = None
    reference: str | None = None
    rows: Mapping[str, Sequence[dict[str, Any]]]

    def _grade_rows(
        self,
        rows: Mapping[str, Sequence[dict[str, Any]]],
        *,
        reward: str | Callable[[str, dict[str, Any]], float],
        signature: str | Callable[[str, dict[str, Any]], Hashable] | None,
        solved_at: float,
        max_tokens: int,
        answer_end: str,
        instructions: str,
    ) -> None:
        """Take the rows and what grades them, each function by its dotted path or as it is; the options are those of
        `DatasetTask`. Raises ValueError for a bad one."""
        if isinstance(solved_at, bool) or not isinstance(solved_at, int | float) or not math.isfinite(solved_at):
            raise ValueError(f"solved_at of task {self.name!r} must be a number, got {solved_at!r}")
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise ValueError(
                f"max_tokens of task {self.name!r} must be a whole number of at least 1, got {max_tokens!r}"
            )
        self.reward, self.reward_name = said("reward", reward, find("reward", reward, {})), reward
        self.strategy_of = None if signature is None else said("signature", signature, find("signature", signature, {}))
        self.signature_name, self.solved_at = signature, float(solved_at)
        self.answer_end, self.max_action_tokens, self.instructions = answer_end, max_tokens, instructions
        self.rows = rows
        self.splits = {
            split: range(first, first + len(rows[split]))
            for split, first in (("train", 0), ("test", TEST_ROWS_START))
            if split in rows
        }
        self.default_split = "test" if "test" in rows else "train"
        for split in self.splits.values():
            for seed in split:
                self._check_row(seed)

    def row(self, seed: int) -> dict[str, Any]:
        """The row that a start state's seed names. Raises ValueError for one that is not there."""
        split, index = ("test", seed - TEST_ROWS_START) if seed >= TEST_ROWS_START else ("train", seed)
        rows = self.rows.get(split)
        if rows is None or not 0 <= index < len(rows):
            raise ValueError(f"task {self.name!r} has no row for seed {seed}: its splits are {self.splits}")
        row = rows[index]
        if self.reference is not None:
            return row | {"answer": reach(row, self.reference)}
        answer = self._question(row, seed)[1]
        return row if answer is None else {"answer": answer} | row

    def content(self) -> str:
        """Of all rows, split by split."""
        digest = hashlib.sha256()
        for split, rows in self.rows.items():
            digest.update(f"{split} {len(rows)}\n".encode())
            for row in rows:
                digest.update(json.dumps(row, sort_keys=True, default=repr).encode() + b"\n")
        return digest.hexdigest()[:16]

    def _check_row(self, seed: int) -> None:
        """ValueError for a row that asks nothing, or whose reference is missing."""
        asked, row = self.prompt(seed), self.row(seed)
        if not asked.strip():
            raise ValueError(f"row of seed {seed}: column {self.column!r} is blank: fill it in, or leave the row out")
        if self.reference is not None and is_missing(row["answer"]):
            raise ValueError(
                f"row of seed {seed}: its reference, column {self.reference!r}, is {row['answer']!r}: fill it in, or "
                "leave the row out"
            )

    def prompt(self, seed: int) -> str:
        """What is shown: a text, or a `Conversation` where the row holds messages."""
        return self._question(self.row(seed), seed)[0]

    def _question(self, row: dict[str, Any], seed: int) -> tuple[str, str | None]:
        """What a row asks, and the answer that its messages end with, if they do."""
        found = reach(row, self.column, f"row of seed {seed}")
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
        value = self.reward(answer, copy.deepcopy(self.row(seed)))  # a function may change what it is given
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
            return as_strategy(answer.strip())
        found = self.strategy_of(answer, copy.deepcopy(self.row(seed)))
        if not isinstance(found, Hashable):
            raise ValueError(
                f"signature {self.signature_name!r} returned a {type(found).__name__}, which is not hashable: return "
                "text, a number, a tuple or a frozenset"
            )
        return as_strategy(found)

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
                f"task {self.name!r} has no answers to pretrain on: add answer=COLUMN to task_args, or give "
                "messages that end with an answer"
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
        return [self._said(answer, seed) for answer in answers]

    def _said(self, answer: Any, seed: int) -> str:
        """One answer as text. ValueError for one that is missing."""
        text = text_of(answer) if isinstance(answer, dict) else "" if is_missing(answer) else str(answer)
        if not text.strip():
            raise ValueError(
                f"row of seed {seed}: column {self.answers!r} holds {answer!r} where an answer to pretrain on should "
                "be: fill it in, or leave the row out of the file"
            )
        return text

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
