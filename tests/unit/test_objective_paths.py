"""A user's own objective or measure, errors that name the cause, and what score_groups reports."""

import itertools

import pytest
import torch

from polytune.objective import (
    DIVERSITY,
    Diversity,
    Objective,
    draw_sets,
    find_credit,
    find_diversity,
    find_objective,
    score_groups,
    set_advantages,
)
from polytune.objective.credit.max import MAX
from polytune.objective.diversity.vendi import VENDI
from polytune.objective.set_objectives.mean import MEAN

MODULE = '''
import torch
from polytune.objective import Diversity, Objective

def worst(sets):
    """f(G) = lowest reward of G."""
    return sets.rewards_S_n.amin(dim=1)

def product(sets):
    return sets.rewards_S_n.mean(dim=1) * sets.diversity_S

def longest(sets):
    return torch.tensor([max(len(s or "") for s in sets.signatures(k)) for k in range(len(sets))])

def share_of_a(signatures):
    return sum(s == "a" for s in signatures) / len(signatures)

class Space:
    worst = Objective(worst, reads_diversity=False)

WORST = Objective(worst)
SHARE = Diversity(share_of_a)
NUMBER = 3

def a_list(sets): return [0.0] * len(sets)
def too_short(sets): return sets.rewards_S_n.mean(dim=1)[1:]
def matrix(sets): return sets.rewards_S_n
def nan(sets): return sets.rewards_S_n.mean(dim=1) / 0
def complex_numbers(sets): return sets.rewards_S_n.mean(dim=1) * 1j
def bad_closed_form(groups, set_size, form, diversity_coef): return torch.zeros(3)
BAD_FORM = Objective(worst, bad_closed_form, reads_diversity=False)

def raises(sets): return {}["reward"]
RAISES = Objective(raises)
def divides(signatures): return 1 / 0

def words(signatures): return "many"
def infinite(signatures): return float("inf")
def not_a_number(signatures): return float("nan")
def above_one(signatures): return 2.0
def pair(signatures): return torch.zeros(2)
'''
REWARDS, SIGNATURES = [1.0, 0.0, 0.5, 0.2, 1.0], ["a", "a", "bcd", None, "a"]


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "my_sets.py").write_text(MODULE)
    (tmp_path / "broken_sets.py").write_text("raise RuntimeError('no licence')")
    monkeypatch.syspath_prepend(tmp_path)


def by_hand(f, n):
    sets = list(itertools.combinations(range(5), n))
    baseline = sum(map(f, sets)) / len(sets)
    return [sum(f(g) for g in sets if i in g) / sum(i in g for g in sets) - baseline for i in range(5)]


def mean_over_sets(signatures, n, diversity):
    values = [find_diversity(diversity).of_set(members) for members in itertools.combinations(signatures, n)]
    return sum(values) / len(values)


@pytest.mark.parametrize("name", ["my_sets:worst", "my_sets:WORST", "my_sets:Space.worst"])
def test_an_objective_of_ones_own(name):
    got = set_advantages(REWARDS, SIGNATURES, 3, objective=name)
    assert got.tolist() == pytest.approx(by_hand(lambda g: min(REWARDS[i] for i in g), 3))
    assert isinstance(find_objective(name), Objective)


def test_an_objective_may_read_d_and_signatures():
    got = set_advantages(REWARDS, SIGNATURES, 3, objective="my_sets:product", diversity="excess")
    torch.testing.assert_close(got, set_advantages(REWARDS, SIGNATURES, 3, diversity="excess"))
    got = set_advantages(REWARDS, SIGNATURES, 2, objective="my_sets:longest")  # integers will do
    assert got.tolist() == pytest.approx(by_hand(lambda g: max(len(SIGNATURES[i] or "") for i in g), 2))


@pytest.mark.parametrize("name", ["my_sets:share_of_a", "my_sets:SHARE"])
def test_a_diversity_of_ones_own(name):
    def f(g):
        return sum(REWARDS[i] for i in g) / 2 * sum(SIGNATURES[i] == "a" for i in g) / 2

    assert set_advantages(REWARDS, SIGNATURES, 2, diversity=name).tolist() == pytest.approx(by_hand(f, 2))
    assert isinstance(find_diversity(name), Diversity)
    assert mean_over_sets(SIGNATURES, 2, name) == pytest.approx(0.6)


def test_names_and_objects_are_found():
    assert find_objective("mean") is MEAN and find_objective(MEAN) is MEAN
    assert find_diversity("vendi") is VENDI and find_credit("max") is MAX
    as_function = set_advantages(REWARDS, SIGNATURES, 2, objective=lambda sets: sets.rewards_S_n.amax(dim=1))
    torch.testing.assert_close(as_function, set_advantages(REWARDS, SIGNATURES, 2, objective="max_at_k"))


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("polychrome", r"did you mean 'polychromic'\? known: .*additive, .*by its path, \"package.module:name\""),
        ("my_set:worst", "cannot import 'my_set': ModuleNotFoundError: .*PYTHONPATH"),
        ("broken_sets:f", "cannot import 'broken_sets': RuntimeError: no licence"),
        (":worst", "cannot import ''"),
        ("my_sets:wurst", r"'my_sets' has no 'wurst'; did you mean 'worst'"),
        ("my_sets:", "'my_sets' has no ''"),
        ("my_sets:NUMBER", "objective 'my_sets:NUMBER' is 3: give an Objective or a function"),
        ("my_sets:Space", "is <class .*give an Objective or a function"),
        ("my_sets:a_list", "scores must be a torch tensor of real numbers, got list"),
        ("my_sets:complex_numbers", "real numbers, got torch.complex128"),
        ("my_sets:too_short", r"scores must have shape \(10,\), got \(9,\)"),
        ("my_sets:matrix", r"scores must have shape \(10,\), got \(10, 2\)"),
        ("my_sets:nan", r"scores at \(\d,\) are (inf|nan), not finite"),
        ("my_sets:BAD_FORM", r"closed form must have shape \(1, 5\), got \(3,\)"),
        ("my_sets:raises", "objective 'my_sets:raises' raised KeyError: 'reward'"),
        ("my_sets:RAISES", "objective 'my_sets:RAISES' raised KeyError"),
        (None, "objective None is None"),
    ],
)
def test_objective_errors(objective, message):
    with pytest.raises(ValueError, match=message):
        set_advantages(REWARDS, SIGNATURES, 2, objective=objective)


@pytest.mark.parametrize(
    ("diversity", "message"),
    [
        ("vendy", "did you mean 'vendi'"),
        ("nowhere.at_all:d", "cannot import 'nowhere.at_all'"),
        ("my_sets:NUMBER", "diversity 'my_sets:NUMBER' is 3: give a Diversity or a function"),
        ("my_sets:divides", "diversity 'my_sets:divides' raised ZeroDivisionError: division by zero"),
        ("my_sets:words", r"returned 'many' \(str\): it must be one number"),
        ("my_sets:pair", "it must be one number"),
        ("my_sets:infinite", r"diversity of \['a', 'a'\] is inf: it must be a number in \[0, 1\]"),
        ("my_sets:not_a_number", "is nan: it must be a number"),
        ("my_sets:above_one", r"is 2.0: it must be a number in \[0, 1\]"),
    ],
)
def test_diversity_errors(diversity, message):
    with pytest.raises(ValueError, match=message):
        set_advantages(REWARDS, SIGNATURES, 2, diversity=diversity)


@pytest.mark.parametrize("coef", [float("nan"), float("inf"), "big", None])
def test_diversity_coef_is_a_finite_number(coef):
    with pytest.raises(ValueError, match="diversity_coef must be a finite number, got"):
        set_advantages(REWARDS, SIGNATURES, 2, objective="additive", diversity_coef=coef)


def test_drawn_sets_say_who_was_scored():
    rewards, signatures = [REWARDS, REWARDS[::-1]], [SIGNATURES, SIGNATURES]
    generator = torch.Generator().manual_seed(3)
    drawn = [draw_sets(5, 2, 2, generator) for _ in rewards]
    for credit in ("mean", "max", "per_set", "leave_one_out"):
        found = score_groups(rewards, signatures, 2, credit=credit, num_sets=2, seed=3)
        for p, members in enumerate(drawn):
            assert found.scored_P_N[p].tolist() == [i in members for i in range(5)]
        assert not found.advantages_P_N[~found.scored_P_N].any()
        simple = set_advantages(rewards, signatures, 2, credit=credit, num_sets=2, seed=3)
        assert torch.equal(found.advantages_P_N, simple)
        if credit == "per_set":
            assert not found.deductions_P_N[~found.scored_P_N].any() and (found.deductions_P_N >= 0).all()
    everybody = score_groups(rewards, signatures, 2)
    assert everybody.scored_P_N.all() and everybody.scored_P_N.shape == (2, 5)


@pytest.mark.parametrize("credit", ["mean", "max", "leave_one_out"])
@pytest.mark.parametrize("diversity", [*DIVERSITY, "my_sets:share_of_a"])
def test_mean_diversity_is_of_all_sets_or_of_those_scored(diversity, credit):
    signatures = [["l", "lr", None, "rl", "l"], ["l"] * 5]
    if diversity == "leverage":
        vectors = {"l": (1.0, 0.0), "lr": (0.0, 0.5), "rl": (-2.0, 1.0), None: None}
        signatures = [[vectors[name] for name in row] for row in signatures]
    found = score_groups([REWARDS] * 2, signatures, 3, diversity=diversity, credit=credit)
    want = [mean_over_sets(row, 3, diversity) for row in signatures]
    assert found.diversity_P.tolist() == pytest.approx(want, abs=1e-12)
    measure, generator = find_diversity(diversity), torch.Generator().manual_seed(5)
    found = score_groups([REWARDS] * 2, signatures, 3, diversity=diversity, credit=credit, num_sets=4, seed=5)
    if measure.count_form is None:
        sets = [draw_sets(5, 3, 4, generator).tolist() for _ in signatures]
        values = [[measure.of_set([r[i] for i in g]) for g in s] for r, s in zip(signatures, sets, strict=True)]
        want = [sum(row) / 4 for row in values]
    assert found.diversity_P.tolist() == pytest.approx(want, abs=1e-12)


def test_a_diversity_that_nobody_reads_is_not_worked_out():
    for arguments in ({}, {"credit": "max"}, {"num_sets": 3}):
        found = score_groups([REWARDS], [SIGNATURES], 2, objective="coverage", diversity="vendi", **arguments)
        assert found.diversity_P is None
        found = score_groups([REWARDS], [SIGNATURES], 2, objective="coverage", **arguments)
        assert found.diversity_P.tolist() == pytest.approx([mean_over_sets(SIGNATURES, 2, "distinct_fraction")])


def test_no_groups_and_one_group():
    empty = score_groups(torch.zeros(0, 4), [], 2, credit="per_set")
    assert empty.advantages_P_N.shape == empty.scored_P_N.shape == empty.deductions_P_N.shape == (0, 4)
    assert score_groups(REWARDS, SIGNATURES, 2).advantages_P_N.shape == (1, 5)
