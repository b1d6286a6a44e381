"""Strict graders: junk that fools loose checkers, brute force at small sizes, a fuzz against networkx."""

import itertools
import os
import random
import re

import networkx
import pytest

from polytune.tasks.creativity.orders import Circles, Lines
from polytune.tasks.creativity.sibling import Siblings
from polytune.tasks.creativity.structure import END, SEPARATOR
from polytune.tasks.creativity.triangle import Triangles

FUZZ = int(os.environ.get("POLYTUNE_FUZZ", "50000"))
SMALL = {
    "triangle": lambda: Triangles(nodes=60, lines=300),
    "sibling": lambda: Siblings(parents=3, children=5, lines=40),
    "circle": lambda: Circles(lines=200),
    "line": lambda: Lines(lines=200),
}


def text(*edges):
    return SEPARATOR.join(f"<a_{u}><a_{v}>" for u, v in edges) + END


def reference(structure, completion):
    """Slow and independent: split into tokens, build the graph, ask networkx."""
    tokens = re.findall(r"<[^<>]*>", completion)
    if (
        "".join(tokens) != completion
        or tokens[-1:] != [END]
        or not set(tokens[:-1]) <= {*structure.node_names(), SEPARATOR}
    ):
        return False
    if isinstance(structure, Siblings):
        if len(tokens) != 4 or SEPARATOR in tokens:
            return False
        kinds, numbers = zip(*(token.strip("<>").split("_") for token in tokens[:3]), strict=True)
        tree = networkx.Graph()
        for parent, kind, child in itertools.product(range(structure.parents), ("b1", "b2"), range(structure.children)):
            tree.add_edge(("a", parent), (kind, parent * structure.children + child))
        names = [(kind, int(number)) for kind, number in zip(kinds, numbers, strict=True)]
        return kinds == ("b1", "b2", "a") and tree.has_edge(names[0], names[2]) and tree.has_edge(names[1], names[2])
    parts = [[]]
    for token in tokens[:-1]:
        parts = [*parts, []] if token == SEPARATOR else [*parts[:-1], [*parts[-1], token]]
    if not all(len(part) == 2 for part in parts):
        return False
    edges = [tuple(int(name[3:-1]) for name in part) for part in parts]
    walked = networkx.MultiDiGraph(edges)
    if networkx.number_of_selfloops(walked) or len(set(edges)) < len(edges) or not networkx.is_weakly_connected(walked):
        return False
    if max(dict(walked.in_degree()).values()) > 1 or max(dict(walked.out_degree()).values()) > 1:
        return False
    if isinstance(structure, Triangles):
        graph = networkx.Graph(structure.edges)
        chained = all(edges[i][1] == edges[(i + 1) % 3][0] for i in range(3)) if len(edges) == 3 else False
        return chained and len(walked) == 3 and all(graph.has_edge(*edge) for edge in edges)
    return len(edges) == structure.edges and len(walked) == structure.edges + structure.open_ends


def mutated(completion, structure, rng):
    tokens = re.findall(r"<[^<>]*>", completion)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(tokens) + 1)
        kind = rng.randrange(9)
        if kind == 0:
            del tokens[at : at + 1]
        elif kind == 1:
            tokens.insert(at, rng.choice([*structure.node_names(), SEPARATOR, END]))
        elif kind in (2, 3) and at < len(tokens):
            tokens[at] = rng.choice([*structure.node_names(), SEPARATOR, END])
        elif kind in (4, 5) and len(tokens) > 1:
            i, j = rng.sample(range(len(tokens)), 2)
            tokens[i], tokens[j] = tokens[j], tokens[i]
        elif kind == 6:
            tokens = tokens[at:] + tokens[:at]
        elif kind == 7:
            names = structure.node_names()
            renamed = dict(zip(names, rng.sample(names, len(names)), strict=True))
            tokens = [renamed.get(token, token) for token in tokens]
        elif at < len(tokens):
            letters = list(tokens[at])
            letters[rng.randrange(len(letters))] = rng.choice("<>_/ab0129 \n\u0661\ufe64\0")
            tokens[at] = "".join(letters)
        if not tokens:
            break
    return "".join(tokens)


@pytest.mark.parametrize("name", SMALL)
def test_training_answers_are_valid_and_seen(name):
    structure = SMALL[name]()
    answers = [completion for question, completion in structure.training_lines() if question == structure.question]
    assert answers and all(structure.grade(completion).seen for completion in answers)
    assert all(reference(structure, completion) for completion in answers)
    assert list(structure.training_lines()) == list(SMALL[name]().training_lines())
    assert 0 <= structure.ceiling == structure.number_of_objects - len(structure.seen)


@pytest.mark.parametrize("name", SMALL)
def test_no_mutation_is_valid_unless_networkx_agrees(name):
    structure, rng = SMALL[name](), random.Random(0)
    answers = [completion for question, completion in structure.training_lines() if question == structure.question]
    valid = 0
    for _ in range(FUZZ):
        completion = mutated(rng.choice(answers), structure, rng)
        found = structure.grade(completion)
        assert (found is not None) == reference(structure, completion), completion
        valid += found is not None
    assert 0 < valid < 0.6 * FUZZ


@pytest.mark.parametrize("name", SMALL)
def test_junk(name):
    structure = SMALL[name]()
    good = next(text for question, text in structure.training_lines() if question == structure.question)
    junk = ["", END, good[: -len(END)], good + END, good + " ", " " + good, good + good, good + "x", good.upper()]
    junk += [good.replace("_", "_0", 1), good.replace("<a_", "<a_" + "9" * 5000, 1), good.replace("<a", "<c", 1)]
    junk += [good.replace(">", "> ", 1), "\0" + good, good + "\n", good.replace("a_", "a_\u0661", 1), good[1:]]
    assert structure.grade(good) is not None
    for completion in junk:
        assert structure.grade(completion) is None, completion[:80]


def test_what_the_original_checkers_accept():
    circle, line, triangle = SMALL["circle"](), SMALL["line"](), SMALL["triangle"]()
    three = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3), (6, 7), (7, 8), (8, 6)]
    for edges in ([(0, 0)], three[:3], [(i, (i + 1) % 10) for i in range(10)], [(0, 0)] * 9, three[:3] * 3, three):
        assert circle.grade(text(*edges)) is None
    assert circle.grade(text(*((i, (i + 1) % 9) for i in range(9)))) is not None
    for edges in ([(0, 1)], [(i, i + 1) for i in range(8)], [(i, (i + 1) % 9) for i in range(9)],
                  [(i, i + 1) for i in range(8)] + [(0, 9)], [*((i, i + 1) for i in range(8)), (8, 3)]):  # fmt: skip
        assert line.grade(text(*edges)) is None
    assert line.grade(text(*((i, i + 1) for i in range(9)))) is not None
    u, v, w = next(iter(triangle.seen))
    assert triangle.grade(text((u, v), (v, w), (w, u))).canonical == tuple(sorted((u, v, w)))
    assert triangle.grade(text((v, w), (w, u), (u, v))).canonical == tuple(sorted((u, v, w)))
    for edges in ([(u, v), (v, w), (u, w)], [(u, v), (v, w), (w, w)], [(u, v), (v, u), (u, u)], [(u, v), (v, w)]):
        assert triangle.grade(text(*edges)) is None
    assert triangle.grade(f"edge: {text((u, v), (v, u))}") is None


def test_canonical_forms():
    circle = SMALL["circle"]()
    walk = [4, 7, 1, 0, 9, 3, 2, 8, 5]
    edges = [(walk[i], walk[(i + 1) % 9]) for i in range(9)]
    renamed = [((u + 3) % 10, (v + 3) % 10) for u, v in edges]
    assert circle.grade(text(*edges)).canonical == circle.grade(text(*renamed)).canonical
    for kind, size, number in ((Circles, 4, 6), (Lines, 3, 6), (Lines, 4, 24)):
        small = kind(names=size + 1, edges=size, lines=1)
        pairs = itertools.product(range(size + 1), repeat=2)
        found = [small.grade(text(*edges)) for edges in itertools.permutations(pairs, size)] if size < 4 else None
        if found is not None:
            assert len({answer.canonical for answer in found if answer}) == number == small.number_of_objects
        assert small.number_of_objects == number


@pytest.mark.slow
def test_paper_sizes():
    for seed in range(3):
        paper = Triangles(structure_seed=seed)
        graph = networkx.Graph(paper.edges)
        assert paper.number_of_objects == sum(networkx.triangles(graph).values()) // 3
        assert 2_250 < paper.number_of_objects < 2_400
        assert 0.81 <= len(paper.seen) / paper.number_of_objects <= 0.845
        lines = [question for question, _ in paper.training_lines()]
        assert len(lines) == 15_000 and lines.count(paper.question) == 5_000
    assert Siblings().number_of_objects == 1_250_000 and len(Siblings().seen) == 50_000
    assert Circles().number_of_objects == 40_320 and Lines().number_of_objects == 362_880
