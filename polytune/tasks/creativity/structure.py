"""What the creativity tasks share: a structure that lies in a training set, and answers that are graded strictly.

Source: "Roll the dice & look before you leap" (arXiv 2504.15266). Sizes are arguments, the paper's are the defaults.
"""

from __future__ import annotations

import inspect
import random
import string
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

END = "</a>"
SEPARATOR = "<sep>"
SEED_CHARACTERS = string.ascii_lowercase + string.digits
SEED_LENGTH = 10


@dataclass(frozen=True, slots=True)
class Answer:
    """A valid answer.

    canonical: equal for answers that show one and the same object; signature: the nodes it is made of; seen: whether
    the training set shows the object.
    """

    canonical: Hashable
    signature: Hashable
    seen: bool


class Structure(ABC):
    """Objects of one kind over named nodes, some of which a training set shows.

    Same arguments, same structure and same training set, on every machine: all draws come from `random.Random`.
    """

    name: ClassVar[str]
    #: what stands between a seed and the answer
    question: ClassVar[str]
    #: the same of lines that only pretraining shows
    other_questions: ClassVar[tuple[str, ...]] = ()
    #: sizes for a 2-core machine; those of the paper are the defaults
    tiny: ClassVar[Mapping[str, int]]
    #: prompts of an evaluation
    test_prompts: ClassVar[int] = 1024

    def __init__(self, structure_seed: int):
        self.structure_seed = structure_seed

    def sizes(self) -> dict[str, Any]:
        """Every size, as its constructor names it."""
        names = inspect.signature(type(self)).parameters
        return {name: getattr(self, name) for name in names if name != "structure_seed"}

    def check_sizes(self, **least: int) -> None:
        """ValueError unless each attribute named is a whole number of at least so many."""
        for name, smallest in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise ValueError(
                    f"{name} of {self.name!r} must be a whole number of at least {smallest}, got {value!r}"
                )

    @abstractmethod
    def node_names(self) -> list[str]:
        """Every node's token, in a fixed order."""

    @property
    @abstractmethod
    def wanted(self) -> str:
        """What an answer is, for language models."""

    @property
    @abstractmethod
    def answer_length(self) -> int:
        """Words of an answer, its end included."""

    @abstractmethod
    def training_lines(self) -> Iterator[tuple[str, str]]:
        """(question, completion) of each training line, in order and with repeats; the question without its seed."""

    @abstractmethod
    def parse(self, completion: str) -> tuple[Hashable, Hashable] | None:
        """(canonical form, signature) of a valid answer, None for any other text."""

    @property
    @abstractmethod
    def number_of_objects(self) -> int:
        """How many canonical forms there are, seen and unseen."""

    @cached_property
    def seen(self) -> frozenset[Hashable]:
        """Canonical forms in the training set."""
        return frozenset(canonical for canonical, _ in self._shown)

    @property
    def shown_signatures(self) -> frozenset[Hashable]:
        """Signatures of the answers in the training set."""
        return frozenset(signature for _, signature in self._shown)

    @cached_property
    def _shown(self) -> frozenset[tuple[Hashable, Hashable]]:
        """What `parse` says of each answer in the training set."""
        answers = (self.parse(text) for question, text in self.training_lines() if question == self.question)
        return frozenset(filter(None, answers))

    @property
    def ceiling(self) -> int:
        """How many unseen objects there are to be found."""
        return self.number_of_objects - len(self.seen)

    def grade(self, completion: str) -> Answer | None:
        """The answer that a completion is, None for an invalid one. No text ever raises."""
        found = self.parse(completion)
        return None if found is None else Answer(*found, found[0] in self.seen)

    def generator(self, *purpose: Hashable) -> random.Random:
        """Random numbers for one purpose, the same for the same structure."""
        return random.Random(f"{self.name} {self.structure_seed} {purpose}")


def seed_text(generator: random.Random) -> str:
    """Ten random characters: what the policy is given to be different by (seed conditioning)."""
    return "".join(generator.choices(SEED_CHARACTERS, k=SEED_LENGTH))
