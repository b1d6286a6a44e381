"""Intervals over runs and problems: hand-worked layouts, simulated populations whose means are known."""

import math

import numpy as np
import pytest
from scipy import stats

from polytune.measures.crossed import (
    MeanSquares,
    Needed,
    crossed_difference_interval,
    crossed_mean_interval,
    needed_to_resolve,
    quantile,
)
from polytune.measures.intervals import mean_interval, paired_difference_interval, t_quantile
from polytune.measures.passk import coverage_area, pass_at_k

RUNS, PROBLEMS, SAMPLES = 5, 50, 16


def test_mean_squares_by_hand():
    """Rows 1 2 3 and 3 4 8: mean 3.5, rows 2 and 5, columns 2, 3, 5.5, rest +-(.5, .5, -1)."""
    squares = MeanSquares.of(np.array([[1.0, 2, 3], [3, 4, 8]]))
    assert squares.run == pytest.approx(3 * 2 * 1.5**2 / 1)
    assert squares.problem == pytest.approx(2 * (1.5**2 + 0.5**2 + 2**2) / 2)
    assert squares.rest == pytest.approx(2 * (0.5**2 + 0.5**2 + 1) / 2)
    variance, dof = squares.variance_of_mean()
    total = 13.5 + 6.5 - 1.5
    assert variance == pytest.approx(total / 6)
    assert dof == pytest.approx(total**2 / (13.5**2 / 1 + 6.5**2 / 2 + 1.5**2 / 2))
    same = squares.expected(2, 3)
    assert (same.run, same.problem, same.rest) == pytest.approx((13.5, 6.5, 1.5))
    more = squares.expected(10, 6)  # var_run 4, var_problem 2.5, var_rest 1.5
    assert (more.run, more.problem) == pytest.approx((6 * 4 + 1.5, 10 * 2.5 + 1.5))


def test_one_factor_alone_gives_its_own_t_interval():
    runs = np.array([0.3, 0.5, 0.4, 0.8])
    mean, low, high = crossed_mean_interval(np.repeat(runs[:, None], 7, axis=1), bounds=None)
    half = t_quantile(0.975, 3) * runs.std(ddof=1) / 2
    assert (mean, low, high) == pytest.approx((0.5, 0.5 - half, 0.5 + half), rel=1e-6)
    problems = np.random.default_rng(0).normal(size=30)
    mean, low, high = crossed_mean_interval(np.repeat(problems[None], 4, axis=0), bounds=None)
    half = t_quantile(0.975, 29) * problems.std(ddof=1) / math.sqrt(30)
    assert (low, high) == pytest.approx((mean - half, mean + half), rel=1e-6)


def test_a_single_run_or_problem_is_treated_as_one_policy_is():
    values = np.random.default_rng(1).random(20)
    assert crossed_mean_interval(values[None]) == mean_interval(values)
    assert crossed_mean_interval(values[:, None]) == mean_interval(values)
    other = np.random.default_rng(2).random(20)
    expected = paired_difference_interval(values, other)
    assert crossed_difference_interval((other - values)[None]) == pytest.approx(expected, abs=0.01)
    assert needed_to_resolve((other - values)[None]) == Needed()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_saturated_values_are_not_taken_for_certain(value):
    mean, low, high = crossed_mean_interval(np.full((RUNS, PROBLEMS), value))
    assert mean == value and high - low == pytest.approx(0.0747, abs=1e-3) and 0 <= low <= high <= 1
    mean, low, high = crossed_difference_interval(np.zeros((RUNS, PROBLEMS)))
    assert mean == 0 and -0.08 < low < -0.06 and 0.06 < high < 0.08
    mean, low, high = crossed_mean_interval(np.full((RUNS, PROBLEMS), 3.0 + 2 * value), bounds=(3.0, 5.0))
    assert (low, high) == pytest.approx((5 - 2 * 0.0747, 5) if value else (3, 3 + 2 * 0.0747), abs=2e-3)


def test_ends_stay_within_the_range():
    values = np.random.default_rng(0).random((2, 4)).round()
    for level in (0.5, 0.95, 0.999):
        mean, low, high = crossed_mean_interval(values, level)
        assert 0 <= low <= mean <= high <= 1
        mean, low, high = crossed_difference_interval(values - values[:, ::-1], level)
        assert -1 <= low <= mean <= high <= 1


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([0.1, 0.2], {}, "shape"),
        ([[]], {}, "at least one"),
        ([[0.1, math.nan], [0.0, 0.0]], {}, "1 of 4 values are not finite"),
        ([[0.1, 1.2], [0.0, 0.0]], {}, "outside the bounds"),
        ([[0.1, 0.2], [0.0, 0.0]], {"level": 95}, "level"),
        ([[0.1]], {"bounds": None}, "one problem without bounds"),
    ],
)
def test_what_is_refused(values, options, message):
    with pytest.raises(ValueError, match=message):
        crossed_mean_interval(values, **options)
    if "outside" not in message:
        with pytest.raises(ValueError, match=message):
            crossed_difference_interval(values, **options)
    else:
        with pytest.raises(ValueError, match="wider than the bounds"):
            crossed_difference_interval(values, **options)


def test_quantile_of_any_dof():
    for dof, exact in ((1.0, 12.7062), (4.0, 2.7764), (49.0, 2.0096), (1e9, 1.9600)):
        assert quantile(0.975, dof) == pytest.approx(exact, abs=2e-3)
    assert 2.5706 < quantile(0.975, 4.5) < 2.7764 and quantile(0.975, 0.3) == quantile(0.975, 1.0)
    assert quantile(0.975, 4.5) == pytest.approx(2.6589, abs=4e-3)  # its density, integrated


# ---------------------------------------------------------------- coverage of the nominal 95 %

GAUSSIAN = {  # standard deviations of run, problem and rest
    "all alike": (1.0, 1.0, 1.0),
    "problems only": (0.0, 1.0, 0.0),
    "runs only": (1.0, 0.0, 0.0),
    "noise only": (0.0, 0.0, 1.0),
    "mostly problems": (0.1, 1.0, 0.3),
    "runs in noise": (0.3, 0.0, 1.0),
}


@pytest.mark.parametrize("name", GAUSSIAN)
def test_coverage_on_unbounded_values(name):
    run, problem, rest = GAUSSIAN[name]
    random, hits, trials = np.random.default_rng(7), 0, 1000
    for _ in range(trials):
        values = (
            run * random.normal(size=(RUNS, 1))
            + problem * random.normal(size=(1, PROBLEMS))
            + rest * random.normal(size=(RUNS, PROBLEMS))
        )
        _, low, high = crossed_mean_interval(values, bounds=None)
        hits += low <= 0 <= high
    assert 0.92 <= hits / trials <= 0.992, f"{name}: {hits / trials:.3f}"


BOUNDED = {  # mean logit of success; standard deviations of run, problem, rest on the logit; k; saturated?
    "half solved": (0.7, (0.2, 1.0, 0.3), 1, False),
    "half solved, k 4": (0.7, (0.2, 1.0, 0.3), 4, False),
    "unlike runs": (0.7, (0.5, 0.5, 0.3), 1, False),
    "unlike problems": (0.7, (0.05, 1.5, 0.2), 4, False),
    "mostly solved": (2.5, (0.2, 1.0, 0.3), 1, False),
    "saturated": (2.5, (0.2, 1.0, 0.3), 8, True),
    "saturated but for few": (4.5, (0.2, 1.5, 0.3), 4, True),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_coverage_on_pass_at_k_and_its_differences(name):
    logit, (run, problem, rest), k, saturated = BOUNDED[name]
    random, trials = np.random.default_rng(11), 500
    table = np.array([pass_at_k(SAMPLES, correct, k) for correct in range(SAMPLES + 1)])
    logits = logit + math.sqrt(run**2 + problem**2 + rest**2) * random.normal(size=400_000)
    truth = float((1 - (1 - 1 / (1 + np.exp(-logits))) ** k).mean())
    hits = hits_of_differences = 0
    for _ in range(trials):
        shared = logit + problem * random.normal(size=(1, PROBLEMS))
        a, b = (
            table[
                random.binomial(
                    SAMPLES,
                    1 / (1 + np.exp(-shared - run * random.normal(size=(RUNS, 1))
                                    - rest * random.normal(size=(RUNS, PROBLEMS)))),
                )
            ]
            for _ in range(2)
        )  # fmt: skip
        _, low, high = crossed_mean_interval(a)
        hits += low <= truth <= high
        _, low, high = crossed_difference_interval(b - a)
        hits_of_differences += low <= 0 <= high
    highest = 1.0 if saturated else 0.992  # rare failures cannot be told from none: too wide, never too narrow
    assert 0.92 <= hits / trials <= highest, f"{name}: {hits / trials:.3f}"
    assert 0.92 <= hits_of_differences / trials <= 1.0, f"{name}, difference: {hits_of_differences / trials:.3f}"


# ---------------------------------------------------------------- what would resolve a difference


def layout(mean, run, problem, rest, runs=RUNS, problems=PROBLEMS):
    """Values whose mean and mean squares are exactly those of these variance components."""
    random = np.random.default_rng(3)
    run_R, problem_P = random.normal(size=runs), random.normal(size=problems)
    rest_R_P = random.normal(size=(runs, problems))
    run_R, problem_P = run_R - run_R.mean(), problem_P - problem_P.mean()
    rest_R_P = rest_R_P - rest_R_P.mean(0) - rest_R_P.mean(1, keepdims=True) + rest_R_P.mean()
    run_R *= math.sqrt((run**2 + rest**2 / problems) * (runs - 1) / (run_R @ run_R))
    problem_P *= math.sqrt((problem**2 + rest**2 / runs) * (problems - 1) / (problem_P @ problem_P))
    rest_R_P *= rest * math.sqrt((runs - 1) * (problems - 1) / (rest_R_P**2).sum())
    return mean + run_R[:, None] + problem_P + rest_R_P


def test_number_of_runs_that_would_resolve_it_by_hand():
    """Runs only: the least S with t_{S-1} * sd / sqrt(S) < difference."""
    values = layout(0.02, 0.03, 0.0, 0.0)
    _, low, high = crossed_difference_interval(values)
    assert low < 0 < high
    by_hand = next(s for s in range(2, 999) if t_quantile(0.975, s - 1) * 0.03 / math.sqrt(s) < 0.02)
    assert needed_to_resolve(values) == Needed(runs=by_hand) == Needed(runs=12)


def test_that_many_runs_do_resolve_it():
    parts = (0.02, 0.03, 0.02, 0.05)
    needed = needed_to_resolve(layout(*parts)).runs
    for runs, resolved in ((needed - 1, False), (needed, True)):
        _, low, _ = crossed_difference_interval(layout(*parts, runs=runs))
        assert (low > 0) == resolved, (runs, low)


def test_problems_where_no_number_of_runs_would():
    parts = (0.01, 0.005, 0.1, 0.05)
    needed = needed_to_resolve(layout(*parts))
    assert needed.runs is None and needed.problem_runs == RUNS and needed.problems > PROBLEMS
    for problems, resolved in ((needed.problems - 1, False), (needed.problems, True)):
        _, low, _ = crossed_difference_interval(layout(*parts, problems=problems))
        assert (low > 0) == resolved, (problems, low)


def test_more_of_both_where_neither_alone_would():
    needed = needed_to_resolve(layout(0.02, 0.03, 0.2, 0.0))
    assert needed.runs is None and needed.problem_runs > RUNS and needed.problems > PROBLEMS


def test_where_few_problems_tell_two_apart_more_of_them_are_needed():
    values = np.zeros((RUNS, PROBLEMS))
    values[:, :4] = 0.3
    _, low, high = crossed_difference_interval(values)
    assert low < 0 < high
    needed = needed_to_resolve(values)
    assert needed.runs is None and needed.problems % PROBLEMS == 0
    _, low, _ = crossed_difference_interval(np.tile(values, needed.problems // PROBLEMS))
    assert low > 0


def test_no_difference_names_nothing():
    assert needed_to_resolve(np.zeros((RUNS, PROBLEMS))) == Needed()
    assert needed_to_resolve(layout(0.0, 0.1, 0.1, 0.1) - layout(0.0, 0.1, 0.1, 0.1)) == Needed()


def test_area_under_the_coverage_curve_by_hand():
    assert coverage_area([1, 2, 4], [0.2, 0.6, 1.0]) == pytest.approx((0.4 + 0.8) / 2)
    assert coverage_area([1, 2, 3], [0.0, 1.0, 1.0]) == pytest.approx((0.5 + math.log2(1.5)) / math.log2(3))
    assert coverage_area([1], [0.3]) == 0.3
    assert coverage_area([1, 2], [[0, 1], [1, 1]]).tolist() == [0.5, 1.0]
    for ks, values in (([1, 1], [0, 1]), ([2, 1], [0, 1]), ([1, 2], [0, 1, 1])):
        with pytest.raises(ValueError, match="ks must rise"):
            coverage_area(ks, values)


@pytest.mark.parametrize("runs", [2, 7, 8, 10, 40])
@pytest.mark.parametrize("interval", [crossed_mean_interval, crossed_difference_interval])
def test_numbers_of_runs_alone_take_students_interval_whatever_their_number(runs, interval):
    values = np.random.default_rng(3).standard_t(3, size=(runs, 1))
    mean, low, high = interval(values, 0.9, bounds=None)
    half = stats.t.ppf(0.95, runs - 1) * stats.sem(values[:, 0])
    assert [mean, low, high] == pytest.approx([values.mean(), values.mean() - half, values.mean() + half])
    with pytest.raises(ValueError, match="one problem without bounds"):
        interval(values[:1], bounds=None)
