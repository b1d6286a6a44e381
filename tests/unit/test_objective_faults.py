"""PAPER's table "What went wrong in other people's implementations", every line that concerns the objective.

The first line, best score minus mean given to everybody, is measured in test_credit_bias.py.
"""

import math

import numpy as np
import pytest
import torch

from polytune.objective import (
    DIVERSITY,
    OBJECTIVES,
    enumerate_set_advantages,
    find_diversity,
    find_objective,
    group_signal,
    score_groups,
    set_advantages,
)


@pytest.mark.parametrize("set_size", [2, 3, 4])
def test_one_signature_for_all_makes_polychromic_plain_rl(set_size):
    """Room signatures in a one-room level: d is constant, so the advantages are those of the mean, times d."""
    rewards = [[1.0, 0.0, 0.5, 0.0, 0.25], [0.3, 0.2, 0.9, 0.9, 0.0]]
    rooms = [[frozenset({"room 0"})] * 5] * 2
    plain = set_advantages(rewards, rooms, set_size, objective="mean")
    got = set_advantages(rewards, rooms, set_size)
    torch.testing.assert_close(got, plain / set_size, rtol=0, atol=1e-15)
    assert torch.nn.functional.cosine_similarity(got, plain).tolist() == pytest.approx([1.0, 1.0])
    for d in ("zero_if_identical", "excess"):  # here the constant is 0, and nothing is left to learn from
        assert not set_advantages(rewards, rooms, set_size, diversity=d).any()


def test_one_signature_each_makes_polychromic_plain_rl_too():
    rewards = [1.0, 0.0, 0.5, 0.0, 0.25]
    plain = set_advantages(rewards, "abcde", 3, objective="mean")
    for d in ("distinct_fraction", "zero_if_identical", "excess"):
        torch.testing.assert_close(set_advantages(rewards, "abcde", 3, diversity=d), plain, rtol=0, atol=1e-15)


def test_the_additive_bonus_pays_for_diverse_failure_and_the_product_does_not():
    failures, signatures = [0.0] * 6, "aaaabc"
    assert not set_advantages(failures, signatures, 3).any()
    paid = set_advantages(failures, signatures, 3, objective="additive")
    assert paid[4] > 0.05 and paid[5] > 0.05 and (paid[:4] < 0).all()
    # where little is won, the bonus drowns it: a rare failure is praised above the only winner; the product shrinks
    # with what is won and keeps its order
    for reward in (1.0, 0.1, 0.01):
        product = set_advantages([reward, 0.0, 0.0, 0.0, 0.0, 0.0], signatures, 3)
        torch.testing.assert_close(product, reward * set_advantages([1.0] + [0.0] * 5, signatures, 3))
        assert product.argmax() == 0
    assert set_advantages([0.1, 0.0, 0.0, 0.0, 0.0, 0.0], signatures, 3, objective="additive").argmax() == 4


def test_an_additive_bonus_of_weight_zero_is_plain_rl_and_other_objectives_ignore_the_weight():
    rewards, signatures = [1.0, 0.0, 0.5, 0.2], "aabc"
    plain = set_advantages(rewards, signatures, 2, objective="mean")
    got = set_advantages(rewards, signatures, 2, objective="additive", diversity_coef=0.0)
    torch.testing.assert_close(got, plain, rtol=0, atol=1e-15)
    for objective in [name for name in OBJECTIVES if not find_objective(name).reads_coef]:
        values = [set_advantages(rewards, signatures, 2, objective=objective, diversity_coef=c) for c in (0.0, 9.0)]
        assert torch.equal(*values)


def tied_share(success, num_members, objective, set_size, signature=lambda i: "a"):
    """P(no set differs from another) over the 2^N outcomes of a group, from the package."""
    count = 2**num_members
    rewards = [[float(outcome >> i & 1) for i in range(num_members)] for outcome in range(count)]
    signatures = [[signature(i) for i in range(num_members)]] * count
    tied = ~group_signal(score_groups(rewards, signatures, set_size, objective=objective))
    wins = torch.tensor(rewards, dtype=torch.float64).sum(dim=1)
    return ((success**wins * (1 - success) ** (num_members - wins)) * tied).sum().item()


def binomial(n, k, p):
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


#: success, share of tied groups of N = 8 under the mean and the product, the same at N = 6, under pass@4 at N = 8
TIES = [(0.7, 0.0577, 0.1184, 0.8060), (0.9, 0.4305, 0.5314, 0.9950), (0.1, 0.4305, 0.5314, 0.4309)]


@pytest.mark.parametrize(("success", "of_8", "of_6", "pass_at_4"), TIES)
def test_share_of_groups_whose_sets_all_tie(success, of_8, of_6, pass_at_4):
    """PAPER reports no signal in 10 % of groups at success .7, 50 to 80 % at .9, 50 % at .1; exact values here."""
    for objective in ("mean", "polychromic"):
        for size, expected in ((8, of_8), (6, of_6)):
            share = tied_share(success, size, objective, 4)
            assert share == pytest.approx(success**size + (1 - success) ** size, abs=1e-12)
            assert share == pytest.approx(expected, abs=1e-4)
    enough = sum(binomial(8, wins, success) for wins in range(5, 9))  # fewer than 4 failures: every set wins
    share = tied_share(success, 8, "pass_at_k", 4)
    assert share == pytest.approx(enough + binomial(8, 0, success), abs=1e-12)
    assert share == pytest.approx(pass_at_4, abs=1e-4)


def test_signatures_that_differ_leave_fewer_groups_tied():
    same = tied_share(0.9, 8, "polychromic", 4)
    two = tied_share(0.9, 8, "polychromic", 4, signature=lambda i: i % 3)
    assert two == pytest.approx(0.1**8, abs=1e-12) and same > 0.43  # all winners still differ by what they add to d
    assert tied_share(0.1, 8, "polychromic", 4, signature=lambda i: i % 3) == pytest.approx(0.9**8)  # nothing won


def test_two_members_without_a_signature_are_not_two_strategies():
    """Junk that a checker would have to accept: as None it adds nothing, whatever it earns."""
    junk = set_advantages([1.0, 1.0, 1.0, 1.0], ["a", "b", None, None], 2, objective="coverage")
    assert (junk[2:] < 0).all() and (junk[:2] > 0).all()
    for name in DIVERSITY:
        assert find_diversity(name).of_set([None, None, None]) == 0


# ---------------------------------------------------------------- rewards that a product cannot take


@pytest.mark.parametrize("diversity", ["distinct_fraction", "zero_if_identical", "vendi"])
@pytest.mark.parametrize("num_sets", ["all", 5])
def test_a_product_refuses_negative_rewards_instead_of_punishing_differences(diversity, num_sets):
    for rewards in ([-1.0] * 8, [0.0] * 7 + [-0.25]):
        with pytest.raises(ValueError, match=r"reward -.* is below 0.*reward_shift"):
            set_advantages(rewards, list("AAAABCDE"), set_size=4, diversity=diversity, num_sets=num_sets)
    set_advantages([0.0] * 7 + [-1e-17], list("AAAABCDE"), set_size=4, diversity=diversity, num_sets=num_sets)


@pytest.mark.parametrize("objective", ["mean", "additive", "max_at_k", "pass_at_k", "coverage"])
def test_objectives_that_are_no_product_take_them(objective):
    shifted = [set_advantages([r + by for r in (-1.0, 1.0, 1.0, -1.0)], list("ABCD"), 2, objective=objective)
               for by in (0.0, 1.0)]  # fmt: skip
    assert torch.allclose(*shifted)


@pytest.mark.parametrize("nothing", [None, float("nan"), np.float64("nan"), "", " \n"])
def test_what_names_nothing_is_no_strategy(nothing):
    rewards, given = [1.0, 0.0, 1.0, 0.0], [nothing, nothing, "A", "B"]
    found = set_advantages(rewards, given, 2)
    assert torch.equal(found, set_advantages(rewards, [None, None, "A", "B"], 2))
    assert not torch.equal(found, set_advantages(rewards, ["x", "y", "A", "B"], 2))


@pytest.mark.parametrize("blank", ["", "  ", float("nan")])
@pytest.mark.parametrize("diversity", ["distinct_fraction", "zero_if_identical", "vendi", "action_distance"])
def test_what_names_nothing_is_none_to_every_measure(blank, diversity):
    """Measures over pairs, and the references, took blank text for a strategy of its own."""
    rewards, options = [1, 1, 0, 1], {"diversity": diversity}
    for of in (set_advantages, enumerate_set_advantages):
        found, due = (of(rewards, [none, "ab", "cd", "ab"], 2, **options) for none in (blank, None))
        assert torch.equal(found, due), of.__name__
