"""Single-turn tasks: a prompt is shown, a text comes back, a strict grader says what it is worth.

An answer is free text that ends with `answer_end`; `actions` is empty. The reward is 1 for a valid answer, else 0, and
whatever a task adds to it. The signature is the grader's, `None` for an invalid answer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterator
from typing import Any, ClassVar, Protocol

from polytune.tasks.base import Episode, Task


class Graded(Protocol):
    """What a grader says of a valid answer: at least which strategy it is."""

    signature: Hashable


class AnswerEpisode(Episode):
    """One prompt, one answer."""

    task: AnswerTask

    def _begin(self) -> None:
        self.answer: str | None = None

    def observation(self) -> str:
        return self.task.prompt(self.seed)

    def _act(self, action: str) -> bool:
        self.answer = action
        return True

    def _failure(self) -> str | None:
        return "invalid" if self.turn else None

    def _reward(self) -> float:
        return 0.0 if self.answer is None else self.task.worth(self.answer)

    def _layout(self) -> bytes:
        return self.observation().encode()

    def signature(self, since_turn: int = 0) -> Hashable | None:
        """The grader's, once a valid answer is given and as long as it lies after turn `since_turn`; else `None`."""
        super().signature(since_turn)  # its check of since_turn
        return None if self.answer is None or since_turn == self.turn else self.task.grade(self.answer).signature


class AnswerTask(Task):
    """A prompt for each seed, and a grader. A subclass writes `prompt`, `grade`, `vocabulary` and `training_lines`."""

    actions = ()
    starts = "prompts"
    answer_end: ClassVar[str]
    episode_class = AnswerEpisode

    def __init__(self) -> None:
        super().__init__(horizon=1)

    @abstractmethod
    def prompt(self, seed: int) -> str:
        """What is shown for a seed."""

    @abstractmethod
    def grade(self, answer: str) -> Graded | None:
        """What a text is worth; None for an invalid one. No text ever raises."""

    @abstractmethod
    def training_lines(self) -> Iterator[tuple[str, str]]:
        """(prompt, answer) of each line that a policy is pretrained on, in a fixed order."""

    def worth(self, answer: str) -> float:
        """The reward of a valid answer."""
        return 1.0

    def parse_action(self, text: Any) -> str | None:
        """The text itself if it is a valid answer, to the letter, else `None`; anything but a string is a TypeError."""
        if not isinstance(text, str):
            raise TypeError(f"an answer is text straight from the policy, got {type(text).__name__}: {text!r}")
        return None if self.grade(text) is None else text
