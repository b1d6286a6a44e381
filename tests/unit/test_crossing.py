"""The crossing of coverage curves: against pass@k itself, by hand, on simulated policies whose crossing is known."""

import numpy as np
import pytest

from polytune.measures.crossing import MOST_KS, crossing, grid, in_words, pass_at_ks
from polytune.measures.passk import pass_at_k


def test_many_k_at_once_are_pass_at_k():
    for n in (1, 2, 7, 40):
        table = pass_at_ks(n, range(n + 1), range(1, n + 1))
        for c in range(n + 1):
            for k in range(1, n + 1):
                assert table[c, k - 1] == pytest.approx(pass_at_k(n, c, k), abs=1e-12)


def test_the_grid_has_every_k_or_spreads():
    assert grid(5) == [1, 2, 3, 4, 5] and grid(MOST_KS) == list(range(1, MOST_KS + 1))
    spread = grid(1000)
    assert spread[0] == 1 and spread[-1] == 1000 and len(spread) <= MOST_KS and spread == sorted(set(spread))


def test_a_crossing_by_hand():
    """Half of the problems always, half never, against one success of four everywhere: .5 at every k, and k / 4."""
    sure, spread = [4] * 20 + [0] * 20, [1] * 40
    found = crossing(4, sure, spread)
    assert found["verdict"] == "crosses" and found["estimate"] == 2.0  # D(2) is exactly 0
    assert found["low"] == 1 and found["high"] in (3, 4)
    assert in_words(found, "ppo", "poly", 4).startswith("poly overtakes ppo at k = 2 [1, ")
    shifted = crossing(4, [4] * 24 + [0] * 16, spread)  # .6: between k = 2 (.5) and k = 3 (.75)
    assert shifted["estimate"] == pytest.approx(2 + 0.1 / 0.25)
    assert shifted["early"]["estimate"] == pytest.approx(-0.35) and shifted["late"]["estimate"] == pytest.approx(0.4)
    assert in_words(shifted, "ppo", "poly", 4).startswith("poly overtakes ppo at k = 2.4 [")
    turned = crossing(4, spread, [4] * 24 + [0] * 16)
    assert (turned["low"], turned["high"]) == (shifted["low"], shifted["high"])
    assert in_words(turned, "poly", "ppo", 4) == in_words(shifted, "ppo", "poly", 4)


def test_no_crossing_and_nothing_resolved():
    strong, weak = [9, 8, 9, 7] * 8, [1, 2, 0, 1] * 8
    found = crossing(10, weak, strong)
    assert found["verdict"] == "second above" and found["estimate"] is None and found["more_start_states"] is None
    assert (
        in_words(found, "a", "b", 10) == "b is above a at k = 1 and at k = 10 (resolved): no crossing seen up to there"
    )
    same = crossing(10, strong, strong)
    assert same["verdict"] == "not resolved" and same["more_start_states"] is None
    assert "nor how many samples would resolve it" in in_words(same, "a", "b", 10)
    close = crossing(10, [5, 2, 8, 4, 6, 0], [6, 3, 7, 4, 5, 1])
    assert close["verdict"] == "not resolved" and close["more_start_states"] > 6
    told = in_words(close, "a", "b", 10, "prompts")
    assert f"about {close['more_start_states'] * 10:,} more samples of each needed" in told and "prompts x 10" in told
    saturated = crossing(10, [5, 2, 3] * 12, [6, 7, 9] * 12)  # all solved at k = 10
    assert saturated["verdict"] == "not resolved" and saturated["late"]["estimate"] == 0
    assert "b above from k = 1 to" in in_words(saturated, "a", "b", 10)
    one = crossing(1, [1, 0, 1], [0, 0, 1])
    assert one["verdict"] == "not resolved" and "raise n" in in_words(one, "a", "b", 1)


def test_curves_that_cross_twice():
    """b is above at k = 1 and at k = 64, a in between."""
    first, second = [0] * 31 + [13] * 153 + [51] * 16, [3] * 122 + [32] * 14 + [64] * 64
    found = crossing(64, first, second)
    assert found["verdict"] == "crosses more than once" and found["resolved"] == [[1, 1], [64, 1]]
    assert 1 <= found["low"] < 9 < found["high"] <= 64
    assert in_words(found, "a", "b", 64).startswith("the curves of a and b cross more than once between k = ")


def test_a_crossing_is_resolved_though_the_curves_meet_again():
    """At k = n everything is solved by both, or by neither: D(n) is 0."""
    first, second = [10] * 26 + [1] * 14, [4] * 40
    found = crossing(10, first, second)
    assert found["late"]["estimate"] == 0 and found["verdict"] == "crosses"
    assert found["low"] < found["estimate"] < found["high"] <= found["resolved"][1][0] < 10


def population(rng, problems, kind):
    """Success chances of one problem drawn at a time: (first, second)."""
    if (
        kind == "collapsed"
    ):  # solves two thirds of the problems nearly always and the others hardly, against an even one
        solved = rng.random(problems) < 0.6
        return np.where(solved, 0.9, 0.004), rng.beta(2, 6, problems)
    hard = rng.random(problems)
    return np.clip(1.2 * hard - 0.2, 0, 1), 0.08 + 0.5 * hard


def true_crossing(kind, most):
    first, second = population(np.random.default_rng(99), 400_000, kind)
    ks = np.arange(1, most + 1)
    gaps = np.array([((1 - first) ** k - (1 - second) ** k).mean() for k in ks])
    [i] = [i for i in range(1, most) if gaps[i - 1] * gaps[i] < 0]
    return ks[i - 1] + gaps[i - 1] / (gaps[i - 1] - gaps[i])


@pytest.mark.parametrize("kind", ["collapsed", "mild"])
def test_intervals_of_the_crossing_hold_it(kind):
    """95 % intervals over problems and samples; the resolved ones are those that are counted."""
    rng, n, simulations = np.random.default_rng(3), 32, 60
    truth, held, resolved = true_crossing(kind, n), 0, 0
    for simulation in range(simulations):
        first, second = (rng.binomial(n, p) for p in population(rng, 60, kind))
        found = crossing(n, first, second, seed=simulation)
        if found["verdict"] == "crosses":
            resolved += 1
            held += found["low"] <= truth <= found["high"]
            assert found["low"] <= (found["estimate"] or found["low"]) <= found["high"]
    assert resolved > 10, resolved
    assert held / resolved > 0.85, (held, resolved)  # two standard errors below .95 at 20 of them
