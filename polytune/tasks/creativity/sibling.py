"""Siblings: name two children and the parent that both have, the parent last."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from typing import ClassVar

from polytune.tasks.creativity.structure import END, Structure

_NUMBER = r"(0|[1-9][0-9]{0,8})"
_ANSWER = re.compile(rf"<b1_{_NUMBER}><b2_{_NUMBER}><a_{_NUMBER}>{END}", re.ASCII)


class Siblings(Structure):
    """Parent k has the children k * children ... (k + 1) * children - 1 of each of two vocabularies.

    Args:
        parents: how many.
        children: of each parent in each vocabulary, so there are parents * children**2 triples.
        lines: distinct triples that the training set shows.
    """

    name = "sibling"
    question = "<q>"
    wanted = (
        "Parents <a_0>, <a_1> and so on have children of two kinds, <b1_...> and <b2_...>. Name a child of each kind "
        "and the parent that both have: <b1_i><b2_j><a_k></a>."
    )
    tiny: ClassVar = {"parents": 5, "children": 50, "lines": 2500}
    test_prompts = 3000
    answer_length = 4

    def __init__(self, parents: int = 5, children: int = 500, lines: int = 50_000, structure_seed: int = 0):
        super().__init__(structure_seed)
        self.parents, self.children, self.lines = parents, children, lines
        self.check_sizes(parents=1, children=1, lines=1)
        if lines > self.number_of_objects:
            raise ValueError(f"lines of 'sibling' is {lines}, but there are {self.number_of_objects} triples to show")

    def node_names(self) -> list[str]:
        number = self.parents * self.children
        names = [f"<a_{parent}>" for parent in range(self.parents)]
        return names + [f"<{kind}_{child}>" for kind in ("b1", "b2") for child in range(number)]

    @property
    def number_of_objects(self) -> int:
        return self.parents * self.children**2

    def training_lines(self) -> Iterator[tuple[str, str]]:
        for index in self.generator("training").sample(range(self.number_of_objects), self.lines):
            parent, pair = divmod(index, self.children**2)
            first, second = (parent * self.children + child for child in divmod(pair, self.children))
            yield self.question, f"<b1_{first}><b2_{second}><a_{parent}>{END}"

    def parse(self, completion: str) -> tuple[Hashable, Hashable] | None:
        match = _ANSWER.fullmatch(completion)
        if match is None:
            return None
        first, second, parent = map(int, match.groups())
        if parent >= self.parents or first // self.children != parent or second // self.children != parent:
            return None
        triple = (parent, first, second)
        return triple, frozenset((("a", parent), ("b1", first), ("b2", second)))
