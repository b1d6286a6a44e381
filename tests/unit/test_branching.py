"""Rules of where to branch, by hand."""

import pytest

from polytune.config import RolloutConfig
from polytune.rollout import BRANCHING, SeedView, find_branching


def choose(rule, p, **view):
    length = len(next(iter(view.values()))) if "num_turns" not in view else view.pop("num_turns")
    return find_branching(rule).turns(SeedView(length, **view), p)


def test_every_rule_has_a_configuration_and_the_other_way_round():
    for rule in BRANCHING:
        assert RolloutConfig(rollout_states=rule).rollout_states == rule
    with pytest.raises(ValueError, match="rollout_states must be one of .*uncertain.*'middle'"):
        RolloutConfig(rollout_states="middle")


def test_equally_spaced_is_the_papers_formula():
    assert choose("equally_spaced", 2, num_turns=100) == [33, 66]
    assert choose("equally_spaced", 3, num_turns=2) == [0, 1, 0]  # two turns only: the start takes the third place


def test_fixed_turns_are_those_of_the_horizon_as_far_as_the_trajectory_goes():
    assert choose("fixed", 2, num_turns=100, most_turns=100) == [33, 66]
    assert choose("fixed", 2, num_turns=50, most_turns=100) == [33] and choose("fixed", 2, num_turns=33) == [11, 22]
    assert choose("fixed", 2, num_turns=20, most_turns=100) == []
    assert choose("fixed", 3, num_turns=2, most_turns=2) == [0, 1]  # two turns only
    assert {name for name in BRANCHING if not find_branching(name).foresees} == {"fixed", "start"}


def test_start_is_turn_0_as_often_as_asked():
    assert choose("start", 3, num_turns=50) == [0, 0, 0]


def test_entropy_takes_the_best_turn_of_each_stretch():
    entropies = [0.1, 0.9, 0.8, 0.2, 0.7, 0.7]
    assert choose("entropy", 1, entropies=entropies) == [1]
    assert choose("entropy", 2, entropies=entropies) == [1, 4]  # of equal ones the earliest
    assert choose("entropy", 3, entropies=entropies) == [1, 2, 4]


def test_uncertain_takes_the_value_nearest_to_a_half():
    values = [0.1, 0.45, 0.8, 0.95, 0.7, -0.2]
    assert choose("uncertain", 1, values=values) == [1]
    assert choose("uncertain", 2, values=values) == [1, 4]
    assert choose("uncertain", 1, values=[1.0, 0.0, 1.7, 0.02]) == [3]  # beyond [0, 1] is settled


@pytest.mark.parametrize("rule", ["entropy", "uncertain"])
def test_short_trajectories_and_equal_scores_fall_back_to_the_start(rule):
    field = "values" if rule == "uncertain" else "entropies"
    assert choose(rule, 3, **{field: [0.3]}) == [0, 0, 0]
    assert choose(rule, 2, **{field: [0.0] * 10}) == [0, 5]  # nothing learnt yet: the first turn of each stretch
    turns = choose(rule, 4, **{field: [0.1 * i for i in range(9)]})
    assert len(turns) == 4 and all(0 <= turn < 9 for turn in turns)
