"""Creativity metrics: hand-worked counts, rarefaction against enumeration, interval coverage, files from elsewhere."""

import itertools
import json
import math
import random

import numpy as np
import pytest

from polytune.evaluation.creativity import read_completions
from polytune.measures.creativity import (
    Counts,
    count,
    coverage,
    distinct_spread,
    estimated_population,
    measure,
    rarefied,
)
from polytune.tasks import load_task


@pytest.fixture(scope="module")
def structure():
    return load_task("triangle", size="tiny").structure


def triangle(u, v, w):
    return f"<a_{u}><a_{v}><sep><a_{v}><a_{w}><sep><a_{w}><a_{u}></a>"


def objects(structure):
    linked = structure.neighbours
    found = [
        (u, v, w) for u, near in enumerate(linked) for v in sorted(near) for w in sorted(near & linked[v]) if u < v < w
    ]
    return [o for o in found if o in structure.seen], [o for o in found if o not in structure.seen]


def test_a_hand_worked_table(structure):
    seen, unseen = objects(structure)
    (a, b, c), (u, v, w) = seen[0], unseen[0]
    texts = [triangle(a, b, c), triangle(b, c, a), triangle(*seen[1]), triangle(u, v, w), triangle(w, v, u),
             triangle(u, v, w), "junk", triangle(a, b, c)[:-4], "", triangle(a, a, b)]  # fmt: skip
    found = measure(structure, texts)
    values = {name: found[name]["estimate"] for name in ("validity", "seen", "diversity", "creativity", "memorisation")}
    assert values == {"validity": 0.6, "seen": 0.3, "diversity": 0.3, "creativity": 0.1, "memorisation": 0.5}
    assert found["raw_diversity"]["estimate"] == 0.5 and found["raw_creativity"]["estimate"] == 0.2
    assert found["ceiling"] == min(1.0, len(unseen) / 10)
    assert found["counts"] == {
        "generations": 10, "valid": 6, "distinct_valid": 3, "distinct_unseen": 1, "distinct_valid_strings": 5,
        "distinct_unseen_strings": 2, "objects": len(seen) + len(unseen), "objects_in_training": len(seen),
        "unseen_objects": len(unseen),
    }  # fmt: skip
    for name in ("validity", "seen", "diversity", "creativity", "raw_diversity", "raw_creativity", "memorisation"):
        assert 0 <= found[name]["low"] <= found[name]["estimate"] <= found[name]["high"] <= 1


def test_nothing_valid_and_nothing_at_all(structure):
    found = measure(structure, ["junk"] * 50)
    assert found["validity"]["estimate"] == 0 < found["validity"]["high"]
    assert found["diversity"] == {"estimate": 0.0, "low": 0.0, "high": pytest.approx(math.log(40) / 50)}
    assert found["memorisation"] == {"estimate": None, "low": None, "high": None}
    with pytest.raises(ValueError, match="no completion"):
        measure(structure, [])


def test_rarefaction_is_the_mean_over_all_subsets():
    named = [3, 1, 2, 1]
    sample = [i for i, times in enumerate(named) for _ in range(times)] + [None, None]  # two invalid ones
    for m in range(1, len(sample) + 1):
        subsets = list(itertools.combinations(range(len(sample)), m))
        mean = sum(len({sample[i] for i in chosen} - {None}) for chosen in subsets) / len(subsets)
        assert rarefied(named, len(sample), m) == pytest.approx(mean, abs=1e-9)


def test_coverage_counts_all_samples(structure):
    rng = random.Random(0)
    seen, unseen = objects(structure)
    texts = [triangle(*rng.choice(seen + unseen)) if rng.random() < 0.7 else "junk" for _ in range(5000)]
    found = coverage(structure, texts, first=1000)
    assert found["samples"] == [1000, 2000, 4000, 5000]
    named = count(structure, texts)
    assert found["unseen"][-1]["estimate"] == len(named.unseen) == pytest.approx(len(unseen), abs=1)
    assert found["valid"][-1]["estimate"] == len(named.unseen) + len(named.seen)
    assert found["unseen_share"][-1] == len(named.unseen) / len(unseen)
    estimates = [cell["estimate"] for cell in found["valid"]]
    assert estimates == sorted(estimates)
    assert all(cell["low"] <= cell["estimate"] <= cell["high"] for cell in found["unseen"])


def test_the_estimated_population_keeps_the_valid_share():
    for named in ([1.0] * 40, [5.0, 3.0, 1.0, 1.0, 1.0, 2.0], [200.0], [1.0]):
        weights, times = estimated_population(np.array(named), 300)
        assert (weights * times).sum() == pytest.approx(sum(named) / 300) and (weights >= 0).all()
        assert times.sum() >= len(named)
    assert len(estimated_population(np.zeros(0), 10)[0]) == 0


def test_the_deviation_is_that_of_drawn_samples():
    """The closed form against 4,000 multinomial samples of the estimated population itself."""
    rng = np.random.default_rng(0)
    weights = rng.dirichlet([0.5] * 200) * 0.6
    named = rng.multinomial(400, [*weights, 0.4])[:-1]
    counts = Counts(400, *({i: int(n) for i, n in enumerate(part) if n} for part in (named[:150], named[150:])))
    found = [estimated_population(np.array(list(kind.values()), float), 400) for kind in (counts.seen, counts.unseen)]
    kinds = [np.repeat(weights, times.astype(int)) for weights, times in found]
    population = np.concatenate(kinds)
    draws = rng.multinomial(400, [*population, 1 - population.sum()], size=4000)[:, :-1] > 0
    spread = distinct_spread(counts, 400)
    assert spread["valid"] == pytest.approx(draws.sum(axis=1).std(), rel=0.05)
    assert spread["unseen"] == pytest.approx(draws[:, len(kinds[0]) :].sum(axis=1).std(), rel=0.05)


@pytest.mark.parametrize("valid, concentration, objects", [(0.5, 0.2, 480), (0.95, 1.0, 480), (0.95, 5.0, 12_500)])
def test_intervals_contain_the_expected_count(valid, concentration, objects):
    """95 % intervals of 1,024 generations hold the truth in 88 to 98 % of simulations (24 populations)."""
    rng = np.random.default_rng(1)
    shown = int(0.8 * objects)
    weights = rng.dirichlet([concentration] * objects) * valid
    truth = {"valid": (1 - (1 - weights) ** 1024).sum(), "unseen": (1 - (1 - weights[shown:]) ** 1024).sum()}
    hits = dict.fromkeys(truth, 0)
    for _ in range(300):
        named = rng.multinomial(1024, [*weights, 1 - valid])[:-1]
        parts = [{i: int(n) for i, n in enumerate(part) if n} for part in (named[:shown], named[shown:])]
        spread = distinct_spread(Counts(1024, *parts), 1024)
        found = {"valid": len(parts[0]) + len(parts[1]), "unseen": len(parts[1])}
        for name in hits:
            hits[name] += abs(found[name] - truth[name]) <= 1.96 * spread[name]
    assert all(0.86 <= hit / 300 <= 1.0 for hit in hits.values()), hits


def test_ends_of_intervals_are_possible(structure):
    """No more distinct objects than draws or than there are; nothing found is not nothing there."""
    every = [triangle(*nodes) for kind in objects(structure) for nodes in kind]
    for texts in (every, every * 3, every[:5] + ["junk"], ["junk"], every[:1] * 40):
        found, covered = measure(structure, texts), coverage(structure, texts, first=1)
        total, here = len(texts), structure.number_of_objects
        for name, most in (("diversity", min(total, here)), ("creativity", min(total, structure.ceiling))):
            cell = found[name]
            assert 0 <= cell["low"] <= cell["estimate"] <= cell["high"] <= most / total + 1e-12
        for name, most in (("valid", here), ("unseen", structure.ceiling)):
            for m, cell in zip(covered["samples"], covered[name], strict=True):
                assert 0 <= cell["low"] <= cell["estimate"] <= cell["high"] <= min(m, most) + 1e-9
    assert measure(structure, ["junk"])["creativity"]["high"] == 1.0
    collapsed = measure(structure, every[:1] * 1000)["diversity"]  # up to 3.7 more could hide from 1,000 draws
    assert collapsed["high"] == pytest.approx((1 + math.log(40)) / 1000)


def test_many_objects_named_once_take_no_room():
    """f1 (f1 - 1) / 2 unfound objects, 5,000,000,000 here, are one weight and a number."""
    weights, times = estimated_population(np.ones(100_000), 100_000)
    assert len(weights) == 100_001 and times[-1] > 4e9
    spread = distinct_spread(Counts(100_000, {}, dict.fromkeys(range(100_000), 1)), 100_000)
    assert 0 < spread["unseen"] < 1000


def test_completions_from_elsewhere(tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = [
        {"completion": "a", "prompt": "p"},
        {"completion": "b", "prompt": "p"},
        {"completion": "c"},
        {"completion": "c"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
    assert read_completions(path) == (["a", "c", "c"], ["a", "b", "c", "c"])
    bare = [{"completion": "a\u2028b", "prompt": "tri:"}, {"completion": "c", "prompt": " tri: "}]
    path.write_text("\ufeff" + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in bare))
    assert read_completions(path, " tri: ") == (["a\u2028b", "c"], ["a\u2028b", "c"])
    for text, message in (
        ("[" * 100_000, "line 1: not JSON"),
        ("{", "texts.jsonl, line 1: not JSON"),
        ("[1]", "a line is"),
        ('{"text": "x"}', 'line 1: a line is .*got .*"text"'),
        ('{"completion": 3}', "a line is"),
        ('{"completion": "x", "prompt": 3}', "prompt must be text, got 3"),
        ("\n", "has no completions"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_completions(path)
    with pytest.raises(FileNotFoundError, match="give a JSONL file"):
        read_completions(tmp_path / "none.jsonl")
