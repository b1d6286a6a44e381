"""The four creativity tasks: a prompt with a random seed in it, a structure that grades the answer.

Options: `size` ("paper" or "tiny"), any size of the structure by its own name, `seed_conditioning`, `novelty` (what an
answer that the training set does not show is paid beside its 1), `structure_seed`.
"""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Hashable, Iterator
from typing import Any, ClassVar

from polytune.tasks.answers import AnswerTask
from polytune.tasks.creativity.orders import Circles, Lines
from polytune.tasks.creativity.sibling import Siblings
from polytune.tasks.creativity.structure import END, SEED_CHARACTERS, SEPARATOR, Answer, Structure, seed_text
from polytune.tasks.creativity.triangle import Triangles

TEST_PROMPTS_START = 1_000_000


class CreativityTask(AnswerTask):
    """Names an object of a structure, preferably one that the training set does not show."""

    answer_end = END
    default_split = "test"
    structure_class: ClassVar[type[Structure]]

    def __init__(
        self,
        size: str = "paper",
        seed_conditioning: bool = True,
        novelty: float = 0.0,
        structure_seed: int = 0,
        **sizes: Any,
    ):
        """Raises ValueError for an unknown size or option, naming the known ones, and for bad values."""
        super().__init__()
        known = [name for name in inspect.signature(self.structure_class).parameters if name != "structure_seed"]
        unknown = sorted(set(sizes) - set(known))
        if unknown:
            options = ["size", "seed_conditioning", "novelty", "structure_seed", *known]
            raise ValueError(f"task {self.name!r} has no option {', '.join(map(repr, unknown))}; it has {options}")
        if size not in ("paper", "tiny"):
            raise ValueError(f"size of task {self.name!r} must be 'paper' or 'tiny', got {size!r}")
        if not isinstance(seed_conditioning, bool):
            raise ValueError(
                f"seed_conditioning of task {self.name!r} must be true or false, got {seed_conditioning!r}"
            )
        number = isinstance(novelty, int | float) and not isinstance(novelty, bool)
        if not number or not math.isfinite(novelty) or novelty < 0:
            raise ValueError(f"novelty of task {self.name!r} must be a number of at least 0, got {novelty!r}")
        chosen = {**(self.structure_class.tiny if size == "tiny" else {}), **sizes}
        self.structure = self.structure_class(structure_seed=self.check_seed(structure_seed), **chosen)
        self.seed_conditioning, self.novelty = seed_conditioning, float(novelty)
        self.instructions = self.structure.wanted
        self.max_action_tokens = self.structure.answer_length
        self.splits = {
            "train": range(1024),
            "test": range(TEST_PROMPTS_START, TEST_PROMPTS_START + self.structure.test_prompts),
        }

    def prompt(self, seed: int) -> str:
        """Ten random characters, unless `seed_conditioning` is off, and the question."""
        if not self.seed_conditioning:
            return self.structure.question.lstrip()
        return seed_text(random.Random(f"prompt {seed}")) + self.structure.question

    def grade(self, answer: str) -> Answer | None:
        return self.structure.grade(answer)

    def worth(self, answer: str) -> float:
        found = self.grade(answer)
        return 1.0 + (self.novelty if found is not None and not found.seen else 0.0)

    def shown_signatures(self) -> frozenset[Hashable]:
        return self.structure.shown_signatures

    def training_lines(self) -> Iterator[tuple[str, str]]:
        """The structure's, each with a seed of its own; edge lines of `triangle` have none."""
        generator = self.structure.generator("seeds")
        for question, answer in self.structure.training_lines():
            seeded = self.seed_conditioning and question == self.structure.question
            yield seed_text(generator) + question if seeded else question.lstrip(), answer

    def vocabulary(self) -> list[str]:
        questions = [question.strip() for question in (self.structure.question, *self.structure.other_questions)]
        return [*questions, SEPARATOR, END, *self.structure.node_names(), *SEED_CHARACTERS]


class Sibling(CreativityTask):
    """Two siblings and their parent."""

    name = "sibling"
    structure_class = Siblings


class Triangle(CreativityTask):
    """Three edges that close."""

    name = "triangle"
    structure_class = Triangles


class Circle(CreativityTask):
    """Edges in a ring."""

    name = "circle"
    structure_class = Circles


class Line(CreativityTask):
    """Edges in a line."""

    name = "line"
    structure_class = Lines
