"""Best of n by unlikeness: the greedy rule against its definition, and what it promises."""

import numpy as np
import pytest

from polytune.evaluation.chosen import chosen_table, has_vectors, summarise_chosen
from polytune.evaluation.columns import Records
from polytune.measures.coreset import coreset
from polytune.measures.passk import pass_at_k


def by_definition(vectors, k, damping):
    """Each next one has the largest h^T (damping I + sum of those before)^-1 h, the inverse anew each time."""
    h = vectors - vectors.mean(axis=0)
    h = h / np.sqrt((h**2).sum(axis=1).mean())
    chosen = []
    for _ in range(k):
        held = damping * np.eye(h.shape[1]) + sum(np.outer(h[i], h[i]) for i in chosen)
        scores = [-1 if i in chosen else h[i] @ np.linalg.inv(held) @ h[i] for i in range(len(h))]
        chosen.append(int(np.argmax(scores)))
    return chosen


@pytest.mark.parametrize("damping", [0.01, 1.0])
def test_the_choice_is_that_of_the_definition(damping):
    vectors = np.random.default_rng(0).normal(size=(12, 5)) * [3, 1, 1, 0.2, 0.0]
    assert coreset(vectors, 7, damping) == by_definition(vectors, 7, damping)
    assert coreset(vectors, 3, damping) == coreset(vectors, 7, damping)[:3]
    assert sorted(coreset(vectors, 99, damping)) == list(range(12))
    assert coreset(np.ones((3, 2)), 2) == [0, 1]


def test_one_of_each_rare_kind_comes_before_the_usual_one():
    """Ten attempts at one place, two at another, one at a third."""
    vectors = np.array([[0.0, 0.0]] * 10 + [[5.0, 0.1]] * 2 + [[0.1, 5.0]])
    assert sorted(coreset(vectors, 2)) == [10, 12]


def records(states=12):
    """At each start state 15 attempts alike that fail, and one unlike them that wins."""
    rng, made = np.random.default_rng(1), []
    for state in range(states):
        for attempt in range(16):
            wins = attempt == state % 16
            vector = (rng.normal(size=4) * 0.1 + ([4, 0, 0, 0] if wins else 0)).tolist()
            made.append({"start_seed": state, "attempt": attempt, "greedy": False, "success": wins, "vector": vector})
        made.append({"start_seed": state, "attempt": -1, "greedy": True, "success": False})
    rest = {"policy": "p", "return": 0.0, "turns": 1, "signature": None, "invalid_actions": 0}
    return [rest | own for own in made]


def test_a_rare_way_to_win_is_chosen_more_often_than_at_random():
    told = summarise_chosen(Records.of(records()), ["p"], ks=[], level=0.95, seed=0)["p"]
    assert list(told) == [1, 2, 4, 8]
    for k, own in told.items():
        assert own["chosen"]["estimate"] == 1.0 and own["random"]["estimate"] == pytest.approx(pass_at_k(16, 1, k))
        assert own["difference"]["estimate"] == pytest.approx(1 - pass_at_k(16, 1, k)) and own["difference"]["low"] > 0
    assert "p, k = 2: 1.000 chosen, 0.125 random, difference +0.875" in chosen_table({"p": told})
    without = [dict(record) for record in records(2)]
    assert has_vectors(Records.of(without))
    del without[3]["vector"]
    assert not has_vectors(Records.of(without))
