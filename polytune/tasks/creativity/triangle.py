"""Triangles of a random graph: name one, preferably one that the training set does not show."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Hashable, Iterator
from functools import cached_property
from typing import ClassVar

from polytune.tasks.creativity.structure import END, SEPARATOR, Structure

_NODE = r"<a_(0|[1-9][0-9]*)>"
_ANSWER = re.compile(SEPARATOR.join([_NODE + _NODE] * 3) + END, re.ASCII)


class Triangles(Structure):
    """A graph of `nodes` nodes in which every node lies on some triangles.

    Args:
        nodes: how many.
        degree: D; each node is linked to at least so many.
        slack: alpha; links go to nodes of degree at most alpha D.
        triangles_per_node: T; triads are closed around each node until it was in so many.
        lines: of the training set, a third of them triangles, the others edges.
    """

    name = "triangle"
    question = " tri: "
    other_questions = ("edge: ",)
    wanted = (
        "A graph links nodes named <a_0>, <a_1> and so on. Name a triangle of it, three nodes that are linked to one "
        "another, by its edges in a circle: <a_u><a_v><sep><a_v><a_w><sep><a_w><a_u></a>."
    )
    tiny: ClassVar = {"nodes": 200, "lines": 3000}
    answer_length = 9

    def __init__(
        self,
        nodes: int = 999,
        degree: int = 3,
        slack: float = 1.2,
        triangles_per_node: int = 6,
        lines: int = 15_000,
        structure_seed: int = 0,
    ):
        super().__init__(structure_seed)
        self.nodes, self.degree, self.slack = nodes, degree, slack
        self.triangles_per_node, self.lines = triangles_per_node, lines
        self.check_sizes(nodes=4, degree=2, triangles_per_node=1, lines=3)
        if isinstance(slack, bool) or not isinstance(slack, int | float) or not 1 <= slack < math.inf:
            raise ValueError(f"slack of 'triangle' must be a number of at least 1, got {slack!r}")
        self.neighbours = build_graph(nodes, degree, slack, triangles_per_node, self.generator("graph"))

    def node_names(self) -> list[str]:
        return [f"<a_{v}>" for v in range(len(self.neighbours))]

    @cached_property
    def edges(self) -> list[tuple[int, int]]:
        return [(u, v) for u, linked in enumerate(self.neighbours) for v in sorted(linked) if u < v]

    @cached_property
    def number_of_objects(self) -> int:
        """Triangles of the graph: for each edge u < v the common neighbours above v."""
        return sum(sum(w > v for w in self.neighbours[u] & self.neighbours[v]) for u, v in self.edges)

    def training_lines(self) -> Iterator[tuple[str, str]]:
        generator = self.generator("training")
        triangles = self.lines // 3
        kinds = [True] * triangles + [False] * (self.lines - triangles)
        generator.shuffle(kinds)
        ordered = [sorted(linked) for linked in self.neighbours]
        for is_triangle in kinds:
            if is_triangle:
                while True:
                    u = generator.randrange(len(ordered))
                    v, w = generator.sample(ordered[u], 2)
                    if w in self.neighbours[v]:
                        break
                yield self.question, write((u, v), (v, w), (w, u))
            else:
                u, v = generator.choice(self.edges)
                u, v = (u, v) if generator.random() < 0.5 else (v, u)
                yield self.other_questions[0], write((u, v), (v, u))

    def parse(self, completion: str) -> tuple[Hashable, Hashable] | None:
        match = _ANSWER.fullmatch(completion)
        if match is None or match[2] != match[3] or match[4] != match[5] or match[6] != match[1]:
            return None
        if any(len(digits) > 9 for digits in match.groups()):
            return None
        u, v, w = (int(match[group]) for group in (1, 2, 4))
        if len({u, v, w}) < 3 or max(u, v, w) >= len(self.neighbours):
            return None
        if any(b not in self.neighbours[a] for a, b in ((u, v), (v, w), (w, u))):
            return None
        return tuple(sorted((u, v, w))), frozenset((u, v, w))


def write(*edges: tuple[int, int]) -> str:
    """Edges as an answer."""
    return SEPARATOR.join(f"<a_{u}><a_{v}>" for u, v in edges) + END


def build_graph(
    nodes: int, degree: int, slack: float, triangles_per_node: int, generator: random.Random
) -> list[set[int]]:
    """Neighbours of each node."""
    neighbours: list[set[int]] = [set() for _ in range(nodes)]

    def link(u: int, v: int) -> None:
        neighbours[u].add(v)
        neighbours[v].add(u)

    for v in range(nodes):
        wanted = max(0, degree - len(neighbours[v]))
        free = [u for u in range(nodes) if u != v and u not in neighbours[v] and len(neighbours[u]) <= slack * degree]
        for u in generator.sample(free, min(wanted, len(free))):
            link(v, u)
    counts = [0] * nodes
    for u in range(nodes):
        while counts[u] < triangles_per_node:
            v, w = generator.sample(sorted(neighbours[u]), 2)
            link(v, w)
            for node in (u, v, w):
                counts[node] += 1
    return neighbours
