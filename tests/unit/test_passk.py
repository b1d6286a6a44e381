"""pass@k against subsets counted one by one, and intervals against simulated policies whose truth is known."""

import itertools
import math

import numpy as np
import pytest

from polytune.measures import (
    coverage_ks,
    mean_interval,
    paired_difference_interval,
    pass_at_k,
    pass_at_k_interval,
)
from polytune.measures.intervals import t_quantile
from polytune.measures.passk import cover_at


def test_pass_at_k_counts_the_subsets_that_hold_a_success():
    for n in range(1, 8):
        for correct in range(n + 1):
            outcomes = [i < correct for i in range(n)]
            for k in range(1, n + 1):
                hits = [any(subset) for subset in itertools.combinations(outcomes, k)]
                assert pass_at_k(n, correct, k) == pytest.approx(sum(hits) / len(hits), abs=1e-15)


def test_pass_at_k_is_unbiased_and_exact_for_large_numbers():
    n, p, k = 12, 0.15, 5
    mean = sum(math.comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at_k(n, c, k) for c in range(n + 1))
    assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-14)
    assert pass_at_k(10_000, 1, 1) == 1e-4
    assert pass_at_k(10_000, 10_000, 5_000) == 1.0
    assert pass_at_k(np.int64(100), np.int32(1), 50) == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 2, 5), "pass@5 needs at least 5 samples, got 4"),
        ((4, 5, 1), "5 correct of 4 samples"),
        ((4, 2, 0), "k must be at least 1, got 0"),
        ((4, -1, 1), "num_correct must be a whole number of at least 0, got -1"),
        ((-4, 1, 1), "num_samples"),
        ((4, 2, -1), "k must be a whole number"),
        ((4.0, 2, 1), "num_samples must be a whole number, got 4.0"),
        ((4, 1.5, 1), "got 1.5"),
        ((4, True, 1), "got True"),
    ],
)
def test_pass_at_k_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        pass_at_k(*arguments)


def test_cover_at_asks_for_a_share_of_the_samples():
    assert [cover_at(5, c, 0.2) for c in range(6)] == [0, 1, 1, 1, 1, 1]
    assert [cover_at(5, c, 0.8) for c in range(6)] == [0, 0, 0, 0, 1, 1]
    assert [cover_at(10, c, 0.3) for c in (2, 3)] == [0, 1] and 3 < 0.1 * 3 * 10  # as floats
    assert [cover_at(4, c, 1) for c in (3, 4)] == [0, 1]
    for arguments, words in (
        ((4, 5, 0.5), "5 correct of 4"),
        ((0, 0, 0.5), "0 correct of 0"),
        ((4, 1, 0), "tau must be"),
    ):
        with pytest.raises(ValueError, match=words):
            cover_at(*arguments)


def test_coverage_ks():
    assert coverage_ks(1) == [1]
    assert coverage_ks(8) == [1, 2, 4, 8]
    assert coverage_ks(100) == [1, 2, 4, 8, 16, 32, 64, 100]
    for bad in (0, -1, 2.0):
        with pytest.raises(ValueError, match="n must"):
            coverage_ks(bad)


def test_interval_is_deterministic_and_holds_the_mean_of_the_estimates():
    correct = np.random.default_rng(0).integers(0, 20, 30)
    estimate, low, high = pass_at_k_interval(20, correct, 2)
    assert estimate == pytest.approx(np.mean([pass_at_k(20, int(c), 2) for c in correct]))
    assert 0 <= low < estimate < high <= 1
    assert pass_at_k_interval(20, correct, 2) == (estimate, low, high)
    assert pass_at_k_interval(20, correct, 2, seed=1)[1:] != (low, high)
    assert pass_at_k_interval([20] * 30, correct.tolist(), 2) == (estimate, low, high)
    wide, narrow = pass_at_k_interval(20, correct, 2, level=0.99), pass_at_k_interval(20, correct, 2, level=0.8)
    assert wide[1] < low < narrow[1] and narrow[2] < high < wide[2]


def test_problems_may_have_their_own_number_of_samples():
    estimate, low, high = pass_at_k_interval([10, 20, 5], [5, 5, 0], 5)
    assert estimate == pytest.approx((pass_at_k(10, 5, 5) + pass_at_k(20, 5, 5)) / 3)
    assert low < estimate < high


@pytest.mark.parametrize("num_problems", [2, 8, 50])
def test_all_problems_solved_or_none_leaves_a_width(num_problems):
    estimate, low, high = pass_at_k_interval(100, [100] * num_problems, 8)
    assert (estimate, high) == (1.0, 1.0)
    assert low < 1 - 2 / (num_problems + 2)  # no tighter than the rule of three allows
    mirrored = pass_at_k_interval(100, [0] * num_problems, 8)
    assert mirrored == pytest.approx((0.0, 0.0, 1 - low))
    same_everywhere = mean_interval([0.5] * num_problems)
    assert same_everywhere[1] < 0.5 < same_everywhere[2]


def test_a_single_problem_takes_the_binomial_interval_of_its_samples():
    assert pass_at_k_interval(100, [0], 1) == pytest.approx((0.0, 0.0, 1 - 0.025**0.01), abs=1e-9)
    assert pass_at_k_interval(100, 100, 64)[0] == 1.0
    estimate, low, high = pass_at_k_interval(10, [3], 1)
    assert (estimate, low, high) == pytest.approx((0.3, 0.0667, 0.6525), abs=1e-4)  # Clopper and Pearson's table
    assert pass_at_k_interval(10, [3], 4)[1:] == pytest.approx((1 - (1 - low) ** 4, 1 - (1 - high) ** 4))
    estimate, low, high = pass_at_k_interval(3, [2], 2)  # the estimate is 1 already, the interval must hold it
    assert low < estimate == high == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([5, 5], [1, 2, 3], 1), "give"),
        ((5, [[1, 2]], 1), "give"),
        ((5, [], 1), "at least one problem"),
        ((5, [1, 6], 1), "6 correct of 5"),
        ((5, [1, 2.5], 1), "got"),
        ((5, [1, 2], 6), "needs at least 6"),
        ((5, [1, 2], 1, 1.0), "level"),
        ((5, [1], 1, 0.0), "level"),
    ],
)
def test_interval_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        pass_at_k_interval(*arguments)


def test_mean_interval_errors_and_bounds():
    with pytest.raises(ValueError, match=r"values\[1\] = 1.5 lies outside"):
        mean_interval([0.5, 1.5])
    with pytest.raises(ValueError, match=r"values\[1\] is nan"):
        mean_interval([0.5, float("nan")])
    with pytest.raises(ValueError, match="at least 100"):
        mean_interval([0.5, 0.6], resamples=10)
    with pytest.raises(ValueError, match="must rise"):
        mean_interval([0.5, 0.6], bounds=(1.0, 0.0))
    with pytest.raises(ValueError, match="one problem"):
        mean_interval([3.0], bounds=None)
    assert mean_interval([0.4]) == (0.4, 0.0, 1.0)
    low, high = mean_interval([1.0, 2.0, 3.0], bounds=None)[1:]
    assert (low, high) == pytest.approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-4)
    values = np.random.default_rng(0).random(40)
    stretched = mean_interval(values * 6 - 2, bounds=(-2.0, 4.0))
    assert stretched == pytest.approx([v * 6 - 2 for v in mean_interval(values)])


def test_t_quantile():
    table = {1: 12.7062, 2: 4.30265, 3: 3.18245, 9: 2.26216, 10: 2.22814, 49: 2.00958, 4999: 1.96044}
    for dof, value in table.items():
        assert t_quantile(0.975, dof) == pytest.approx(value, abs=1e-4)


def test_paired_differences_cancel_what_the_two_share():
    rng = np.random.default_rng(0)
    difficulty = rng.random(50) * 0.8
    better = difficulty + 0.1 + rng.normal(0, 0.02, 50)
    difference, low, high = paired_difference_interval(difficulty, better)
    assert difference == pytest.approx((better - difficulty).mean())
    assert 0.08 < low < difference < high < 0.12
    assert paired_difference_interval(better, difficulty) == pytest.approx((-difference, -high, -low), abs=2e-3)
    unbounded = paired_difference_interval(difficulty * 9, better * 9, bounds=None)
    assert unbounded == pytest.approx((9 * difference, 9 * low, 9 * high))


def test_paired_differences_with_little_to_tell():
    same = paired_difference_interval([1.0] * 50, [1.0] * 50)
    assert same[0] == 0 and -0.08 < same[1] < -0.05 and 0.05 < same[2] < 0.08
    estimate, low, high = paired_difference_interval([1.0] * 47 + [0.0] * 3, [1.0] * 50)
    assert low < 0 < estimate < high  # three problems gained do not settle it
    estimate, low, high = paired_difference_interval([0.0] * 50, [1.0] * 50)
    assert estimate == high == 1.0 and 0.85 < low < 1
    assert paired_difference_interval([0.2], [0.6]) == pytest.approx((0.4, -1.0, 1.0))
    with pytest.raises(ValueError, match="got 1 and 2"):
        paired_difference_interval([0.1], [0.1, 0.2])


def truth(zeros, alpha, beta, k):
    """Mean of 1 - (1 - p)^k where p is 0 with probability `zeros` and Beta(alpha, beta) otherwise."""
    logs = math.lgamma(beta + k) - math.lgamma(alpha + beta + k) + math.lgamma(alpha + beta) - math.lgamma(beta)
    return (1 - zeros) * (1 - math.exp(logs))


@pytest.mark.parametrize("k", [1, 8, 64])
@pytest.mark.parametrize("policy", [(0.0, 0.5, 2.0), (0.3, 2.0, 5.0), (0.0, 1.0, 1.0)])
def test_intervals_hold_the_truth_at_the_stated_rate(policy, k):
    zeros, alpha, beta = policy
    rng, held, simulations = np.random.default_rng(0), 0, 1000
    for simulation in range(simulations):
        chances = rng.beta(alpha, beta, 50) * (rng.random(50) >= zeros)
        _, low, high = pass_at_k_interval(100, rng.binomial(100, chances), k, seed=simulation, resamples=400)
        held += low <= truth(zeros, alpha, beta, k) <= high
    assert 0.93 <= held / simulations <= 0.97


def test_paired_intervals_hold_the_truth_at_the_stated_rate():
    rng, held, simulations = np.random.default_rng(1), 0, 400
    for simulation in range(simulations):
        chances = rng.beta(1, 3, 50)
        gained = chances + 0.3 * (1 - chances) * (rng.random(50) < 0.5)
        before, after = rng.binomial(20, chances) / 20, rng.binomial(20, gained) / 20
        _, low, high = paired_difference_interval(before, after, seed=simulation, resamples=400)
        held += low <= 0.3 * 0.75 * 0.5 <= high
    assert 0.91 <= held / simulations <= 0.985


@pytest.mark.parametrize("at_once", [1, 130, 1000])
def test_a_bootstrap_in_parts_draws_the_same_numbers(monkeypatch, at_once):
    """What many problems are drawn in, so that no table of resamples x problems is ever held."""
    values = np.random.default_rng(1).random(61)
    whole = mean_interval(values, seed=3, resamples=333), mean_interval(values, bounds=None, seed=4)
    monkeypatch.setattr("polytune.measures.intervals.AT_ONCE", at_once)
    assert whole == (mean_interval(values, seed=3, resamples=333), mean_interval(values, bounds=None, seed=4))


@pytest.mark.parametrize("level", [0.999, 0.9999, 0.999999])
def test_levels_that_no_resample_lies_beyond_are_held(level):
    """2,000 resamples reach some 3.3 standard errors: beyond, an end lies where Student's does, within the range."""
    values = np.random.default_rng(0).random(50)
    half = t_quantile((1 + level) / 2, 49) * values.std(ddof=1) / math.sqrt(50)
    mean, low, high = mean_interval(values, level)
    assert low <= mean - half + 1e-12 and high >= mean + half - 1e-12
    assert mean_interval(values, level, bounds=None)[1:] == pytest.approx((low, high))
    gap, lowest, highest = paired_difference_interval(values[::-1], values, level)
    assert abs(gap) < 1e-12 and lowest < -half and highest > half
    rare = mean_interval([*[0.0] * 80, *[1.0] * 20], level)
    assert 0.0 <= rare[1] < 0.2 < rare[2] <= 1.0
