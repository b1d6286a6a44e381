"""Circles and lines: the edges of a directed cycle, or of a directed path, over a few names, in any order."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Hashable, Iterator
from typing import ClassVar

from polytune.tasks.creativity.structure import END, SEPARATOR, Structure

_NODE = r"<a_(?:0|[1-9][0-9]{0,8})>"
_EDGES = re.compile(rf"{_NODE}{_NODE}(?:{SEPARATOR}{_NODE}{_NODE})*{END}", re.ASCII)
_NUMBER = re.compile(r"<a_([0-9]+)>", re.ASCII)

Edge = tuple[int, int]


class Orders(Structure):
    """`names` names, `edges` edges; the training set shows `lines` random walks with their edges shuffled.

    Canonical form: names renumbered by first appearance, the order of the edges kept.
    """

    question = "<q>"
    #: names that the edges touch beyond their own number
    open_ends: ClassVar[int]
    figure: ClassVar[str]

    def __init__(self, names: int = 10, edges: int = 9, lines: int = 10_000, structure_seed: int = 0):
        super().__init__(structure_seed)
        self.names, self.edges, self.lines = names, edges, lines
        self.check_sizes(edges=2, names=edges + self.open_ends, lines=1)

    def node_names(self) -> list[str]:
        return [f"<a_{name}>" for name in range(self.names)]

    @property
    def wanted(self) -> str:
        walk = f"over {self.edges} of the" if self.open_ends == 0 else "over"
        return (
            f"Write {self.edges} edges <a_x><a_y>, joined by {SEPARATOR} and ended by {END}, in any order, that make "
            f"one directed {self.figure} {walk} names <a_0> to <a_{self.names - 1}>."
        )

    @property
    def answer_length(self) -> int:
        return 3 * self.edges

    def training_lines(self) -> Iterator[tuple[str, str]]:
        generator = self.generator("training")
        for _ in range(self.lines):
            walk = generator.sample(range(self.names), self.edges + self.open_ends)
            edges = self.edges_of(walk)
            generator.shuffle(edges)
            yield self.question, SEPARATOR.join(f"<a_{u}><a_{v}>" for u, v in edges) + END

    def parse(self, completion: str) -> tuple[Hashable, Hashable] | None:
        if _EDGES.fullmatch(completion) is None:
            return None
        numbers = [int(digits) for digits in _NUMBER.findall(completion)]
        if len(numbers) != 2 * self.edges or max(numbers) >= self.names:
            return None
        edges = list(zip(numbers[::2], numbers[1::2], strict=True))
        following = dict(edges)
        sources, targets = set(numbers[::2]), set(numbers[1::2])
        if len(sources) < self.edges or len(targets) < self.edges:
            return None
        starts = sources - targets
        if len(starts) != self.open_ends:
            return None
        walk = [starts.pop() if starts else numbers[0]]
        while len(walk) < self.edges + self.open_ends and walk[-1] in following:
            walk.append(following[walk[-1]])
        if len(set(walk)) != self.edges + self.open_ends:
            return None
        first_seen: dict[int, int] = {}
        canonical = tuple(first_seen.setdefault(number, len(first_seen)) for number in numbers)
        return canonical, canonical  # the set of names would tell no line from another: it has all ten

    def edges_of(self, walk: list[int]) -> list[Edge]:
        """The edges of a walk over distinct names, which closes where it has no open ends."""
        return list(itertools.pairwise(walk if self.open_ends else [*walk, walk[0]]))

    @property
    def number_of_objects(self) -> int:
        return math.factorial(self.edges + self.open_ends - 1)


class Circles(Orders):
    """9 of 10 names on a directed cycle; there are 9!/9 canonical forms."""

    name = "circle"
    figure = "cycle"
    tiny: ClassVar = {"names": 9, "edges": 8, "lines": 6000}
    open_ends = 0


class Lines(Orders):
    """A directed path of 9 edges over 10 names; there are 9! canonical forms."""

    name = "line"
    figure = "path"
    tiny: ClassVar = {"names": 8, "edges": 7, "lines": 6000}
    open_ends = 1
