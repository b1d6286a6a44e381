"""Set advantages against their definition, hand-computed rows, and the single-trajectory estimators."""

import itertools
import random

import numpy as np
import pytest
import torch

from polytune.objective import (
    CREDIT,
    DIVERSITY,
    Diversity,
    draw_sets,
    enumerate_set_advantages,
    find_diversity,
    gae,
    group_signal,
    polychromic_window,
    returns_to_go,
    score_groups,
    set_advantages,
)
from polytune.objective.binomial import pool_tables
from polytune.objective.sets import all_sets

COUNTING = [name for name in DIVERSITY if find_diversity(name).count_form is not None]


def random_group(rng, num_members):
    kind = rng.randrange(4)
    draw = [
        lambda: float(rng.randrange(2)),
        rng.random,
        lambda: rng.uniform(0, 3),
        lambda: rng.choice([0.0, 0.5, 1.5]),
    ][kind]
    names = [None, "a", "b", ("c", 1), frozenset({4}), 5, 6][: rng.randrange(1, 8)]
    return [draw() for _ in range(num_members)], [rng.choice(names) for _ in range(num_members)]


@pytest.mark.parametrize(
    ("rewards", "signatures", "expected"),
    [
        ([1, 1, 1, 1, 0, 0, 0, 0], "AABBCCDD", [0.05] * 4 + [-0.05] * 4),
        ([1, 0, 0, 0, 0, 0, 0, 0], "ABBBBCDE", [0.1018] + [-0.0214] * 4 + [-0.0054] * 3),
    ],
)
def test_published_rows(rewards, signatures, expected):
    got = set_advantages(rewards, signatures, 4)
    assert got.dtype == torch.float64
    assert got.tolist() == pytest.approx(expected, abs=5e-5)
    assert enumerate_set_advantages(rewards, signatures, 4).tolist() == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("diversity", COUNTING)
def test_closed_form_equals_enumeration(diversity):
    rng = random.Random(1)
    for trial in range(1000):
        num_members = rng.randrange(1, 8)
        rewards, signatures = random_group(rng, num_members)
        size = rng.randrange(1, num_members + 1)
        got = set_advantages(rewards, signatures, size, diversity=diversity)
        want = enumerate_set_advantages(rewards, signatures, size, diversity=diversity)
        assert (got - want).abs().max() < 1e-12, (trial, rewards, signatures, size)
        assert abs(got.sum()) < 1e-12


@pytest.mark.parametrize("diversity", COUNTING)
def test_closed_form_equals_enumeration_for_every_set_size_up_to_twelve(diversity):
    rng = random.Random(2)
    for num_members in (8, 10, 11, 12):
        for size in range(1, num_members + 1):
            rewards, signatures = random_group(rng, num_members)
            got = set_advantages(rewards, signatures, size, diversity=diversity)
            want = enumerate_set_advantages(rewards, signatures, size, diversity=diversity)
            assert (got - want).abs().max() < 1e-12, (rewards, signatures, size)


@pytest.mark.parametrize("diversity", COUNTING)
@pytest.mark.parametrize("credit", CREDIT)
def test_vectorised_enumeration_equals_the_loops(diversity, credit):
    rng = random.Random(3)
    for _ in range(60):
        rewards, signatures = random_group(rng, 6)
        size = rng.randrange(1, 7)
        # a measure without closed form forces the enumeration for credit "mean" too
        slow = Diversity(find_diversity(diversity).of_set)
        got = set_advantages(rewards, signatures, size, diversity=slow, credit=credit)
        want = enumerate_set_advantages(rewards, signatures, size, diversity=diversity, credit=credit)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
        got = set_advantages(rewards, signatures, size, diversity=diversity, credit=credit)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_sets_of_one_are_mean_centred_rewards():
    rewards = torch.tensor([0.3, 2.0, 1.0, 1.0])
    torch.testing.assert_close(set_advantages(rewards, "abab", 1), rewards.double() - rewards.double().mean())
    for diversity in ("zero_if_identical", "excess"):  # d of one member is 0: no signal, by definition
        assert not set_advantages(rewards, "abab", 1, diversity=diversity).any()


def test_whole_group_as_the_only_set_has_no_signal():
    assert set_advantages([1.0, 0.0, 0.5], "abc", 3).abs().max() < 1e-15


@pytest.mark.parametrize("diversity", COUNTING)
def test_permuting_members_permutes_advantages(diversity):
    rewards, signatures = random_group(random.Random(4), 9)
    order = [3, 1, 8, 0, 2, 7, 5, 6, 4]
    shuffled = set_advantages([rewards[i] for i in order], [signatures[i] for i in order], 4, diversity=diversity)
    torch.testing.assert_close(shuffled, set_advantages(rewards, signatures, 4, diversity=diversity)[order])


@pytest.mark.parametrize("credit", CREDIT)
@pytest.mark.parametrize("diversity", COUNTING)
def test_a_batch_equals_its_groups(diversity, credit):
    rng = random.Random(5)
    rewards, signatures = zip(*(random_group(rng, 6) for _ in range(20)), strict=True)
    batch = set_advantages(np.array(rewards), signatures, 3, diversity=diversity, credit=credit)
    assert batch.shape == (20, 6)
    for p in range(20):
        single = set_advantages(rewards[p], signatures[p], 3, diversity=diversity, credit=credit)
        torch.testing.assert_close(batch[p], single, rtol=0, atol=1e-14)


def test_none_members_add_no_strategy_but_their_reward_counts():
    # sets of 2: {x, None} -> mean 1/2 * d 1/2; {x, y} -> 1/2 * 1; {y, None} -> 0
    want = torch.tensor([0.375, 0.25, 0.125]) - 0.25
    torch.testing.assert_close(set_advantages([1, 0, 0], ["x", "y", None], 2), want.double())
    # the rewarded member is the degenerate one: {x, None} -> 1/2 * 1/2, {y, None} likewise, {x, y} -> 0
    want = torch.tensor([0.125, 0.125, 0.25]) - 1 / 6
    torch.testing.assert_close(set_advantages([0, 0, 1], ["x", "y", None], 2), want.double(), atol=1e-7, rtol=0)
    assert not set_advantages([1, 1, 0, 0], [None] * 4, 2).any()
    beside_none = ["x", None, "x", None]  # one class beside None members is still one strategy
    assert not set_advantages([1, 0, 1, 0], beside_none, 2, diversity="zero_if_identical").any()
    assert not set_advantages([1, 0, 1, 0], beside_none, 2, diversity="excess").any()


def test_inputs_may_be_lists_arrays_and_tensors_and_stay_untouched():
    rewards = torch.tensor([[1.0, 0.0, 0.5]], requires_grad=True)
    got = set_advantages(rewards, np.array([[1, 1, 2]]), 2)
    assert got.shape == (1, 3) and not got.requires_grad
    torch.testing.assert_close(got[0], set_advantages([1, 0, 0.5], [1, 1, 2], 2))
    assert rewards.tolist() == [[1.0, 0.0, 0.5]]
    assert set_advantages(torch.tensor([1, 0, 1], dtype=torch.bfloat16), "abc", 2).dtype == torch.float64
    assert set_advantages(np.zeros((0, 4)), [], 2).shape == (0, 4)


def test_large_groups_do_not_overflow():
    rng = np.random.default_rng(0)
    rewards = rng.random((2, 512))
    got = set_advantages(rewards, rng.integers(0, 300, (2, 512)), 64, diversity="excess")
    assert torch.isfinite(got).all() and got.sum(dim=1).abs().max() < 1e-10
    tables = pool_tables(512, 64)
    assert tables.alone[512] == tables.whole[512] == 1
    assert tables.pair[512].item() == pytest.approx(63 / 511, rel=1e-15)


def test_closed_form_equals_enumeration_in_a_group_of_sixty():
    rewards, signatures = random_group(random.Random(8), 60)
    for diversity in COUNTING:
        want = set_advantages(rewards, signatures, 3, diversity=Diversity(find_diversity(diversity).of_set))
        got = set_advantages(rewards, signatures, 3, diversity=diversity)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_max_credit_is_the_best_set_that_contains_the_member():
    got = set_advantages([1, 0, 0], "abb", 2, credit="max")  # f: {0,1} = {0,2} = 1/2, {1,2} = 0; baseline 1/3
    torch.testing.assert_close(got, torch.full((3,), 1 / 6, dtype=torch.float64))
    got = set_advantages([1, 0.5, 0, 0], "abcc", 3, credit="max")
    assert got.sum() > 0 and got.argmax() in (0, 1)


def test_sampled_sets_converge_to_all_and_follow_the_seed():
    rewards, signatures = [1, 0, 0, 1, 0, 0.5], ["a", "a", "b", None, "c", "c"]
    exact = set_advantages(rewards, signatures, 3)
    near = set_advantages(rewards, signatures, 3, num_sets=100_000, seed=1)
    assert (near - exact).abs().max() < 5e-3
    few = [set_advantages(rewards, signatures, 3, num_sets=4, seed=seed) for seed in (7, 7, 8)]
    assert torch.equal(few[0], few[1]) and not torch.equal(few[0], few[2])


def test_sampled_sets_follow_the_definition_and_leave_unscored_members_at_zero():
    rewards, signatures = [1.0, 0.0, 0.5, 1.0, 0.0], "abcab"
    members_S_n = draw_sets(5, 2, 2, torch.Generator().manual_seed(3)).tolist()
    score = {tuple(s): sum(rewards[i] for i in s) / 2 * len({signatures[i] for i in s}) / 2 for s in members_S_n}
    baseline = sum(score[tuple(s)] for s in members_S_n) / 2
    got = set_advantages(rewards, signatures, 2, num_sets=2, seed=3)
    for i in range(5):
        mine = [score[tuple(s)] - baseline for s in members_S_n if i in s]
        assert got[i].item() == pytest.approx(sum(mine) / len(mine) if mine else 0.0, abs=1e-15)
    one = set_advantages(rewards, signatures, 2, num_sets=1, credit="max")
    assert not one.any()  # a single set is its own baseline


def test_drawn_sets_are_uniform_and_without_repeated_members():
    sets = draw_sets(5, 3, 20_000, torch.Generator().manual_seed(0)).sort(dim=1).values
    assert (sets[:, 1:] > sets[:, :-1]).all()
    counts = torch.unique(sets, dim=0, return_counts=True)[1]
    assert len(counts) == 10 and (counts / 20_000 - 0.1).abs().max() < 0.01
    assert all_sets(5, 3).tolist() == [list(s) for s in itertools.combinations(range(5), 3)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set_size": 4}, "set_size 4 exceeds the group's 3 members"),
        ({"set_size": 0}, "at least 1, got 0"),
        ({"set_size": 2.0}, "got 2.0"),
        ({"signatures": "ab"}, "3 rewards but 2 signatures"),
        ({"rewards": [[1, 0, 1]]}, "1 groups of rewards but 3 groups of signatures"),
        ({"rewards": [[1, 0], [1]]}, "rows of one length"),
        ({"rewards": 1.0}, r"got \(\)"),
        ({"rewards": [1, float("nan"), 0]}, r"reward nan at index \(1,\)"),
        ({"rewards": [[1, 0, float("inf")]], "signatures": ["abc"]}, r"reward inf at index \(0, 2\)"),
        ({"signatures": ["a", ["b"], "c"]}, r"\[0\]\[1\] = \['b'\] is not hashable"),
        ({"signatures": [torch.tensor(1), "b", "c"]}, "hashes by identity"),
        ({"signatures": {"a", "b", "c"}}, "ordered sequence"),
        ({"objective": "best"}, "unknown objective 'best'; known: .*additive, .*max_at_k, .*by its path"),
        ({"diversity": "exces"}, "unknown diversity 'exces'; did you mean 'excess'.*action_distance, .*distinct_"),
        (
            {"credit": "median"},
            "unknown credit 'median'; did you mean 'mean'. known: .*leave_one_out, .*mean, .*per_",
        ),
        ({"num_sets": 0}, "at least 1, got 0"),
        ({"num_sets": True}, "got True"),
        ({"num_sets": 2.5}, "got 2.5"),
        ({"num_sets": "some"}, "got 'some'"),
    ],
)
def test_errors_name_the_value(changes, message):
    arguments = {"rewards": [1.0, 0.0, 1.0], "signatures": "abc", "set_size": 2} | changes
    with pytest.raises(ValueError, match=message):
        set_advantages(**arguments)


def test_too_many_sets_to_enumerate():
    with pytest.raises(ValueError, match="use num_sets=M"):
        set_advantages([0.0] * 30, ["a"] * 30, 15, credit="max")
    assert set_advantages([0.0] * 30, ["a"] * 30, 15, credit="max", num_sets=8).shape == (30,)


@pytest.mark.parametrize("diversity", COUNTING)
def test_mean_diversity_equals_the_average_over_sets(diversity):
    rng = random.Random(6)
    for _ in range(100):
        num_members = rng.randrange(1, 9)
        signatures = random_group(rng, num_members)[1]
        size = rng.randrange(1, num_members + 1)
        values = [find_diversity(diversity).of_set(s) for s in itertools.combinations(signatures, size)]
        want = sum(values) / len(values)
        found = score_groups([0.0] * num_members, signatures, size, diversity=diversity).diversity_P
        assert found.tolist() == pytest.approx([want], abs=1e-12)


def test_group_signal():
    scores = score_groups([[1, 1, 1], [1, 0, 0]], ["aaa", "abc"], 2)
    assert group_signal(scores).tolist() == [False, True]


def test_gae_against_a_row_computed_by_hand():
    # gamma = lam = 1/2; deltas: 0 + .5 * 2 - 1 = 0, 0 + .5 * 1 - 2 = -1.5, 1 - 1 = 0 (terminal)
    got = gae([[0.0, 0.0, 1.0, 9.0]], [[1.0, 2.0, 1.0, float("nan")]], [[1, 1, 1, 0]], gamma=0.5, lam=0.5)
    assert got.tolist() == [[-0.375, -1.5, 0.0, 0.0]]
    assert got.dtype == torch.float64
    assert returns_to_go([[1.0, 0.0, 2.0, 9.0]], [[1, 1, 1, 0]], gamma=0.5).tolist() == [[1.5, 1.0, 2.0, 0.0]]


def test_gae_against_its_definition():
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 6, 7, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([7, 1, 0, 3, 6, 5])
    mask = torch.arange(7) < lengths[:, None]
    gamma, lam = 0.9, 0.8
    got = gae(rewards, values, mask, gamma, lam)
    for b, length in enumerate(lengths.tolist()):
        value = [*values[b, :length].tolist(), 0.0]
        deltas = [rewards[b, t].item() + gamma * value[t + 1] - value[t] for t in range(length)]
        for t in range(7):
            want = sum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, length))
            assert got[b, t].item() == pytest.approx(want, abs=1e-12)
    monte_carlo = returns_to_go(rewards, mask) - torch.where(mask, values, 0.0)
    torch.testing.assert_close(gae(rewards, values, mask, 1.0, 1.0), monte_carlo)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_B_T": [[1, 0, 1]]}, "row 0 has a turn at 2 after padding at 1"),
        ({"values_B_T": [[0.0, 1.0]]}, r"values have shape \(1, 2\)"),
        ({"values_B_T": [[0.0, float("nan"), 0.0]]}, r"values at \(0, 1\) is nan"),
        ({"mask_B_T": [1, 1, 1]}, r"\(B, T\)"),
        ({"gamma": 1.5}, r"gamma must lie in \[0, 1\], got 1.5"),
        ({"lam": -0.1}, "lam must"),
    ],
)
def test_gae_errors(changes, message):
    row = [[0.0, 0.0, 1.0]]
    with pytest.raises(ValueError, match=message):
        gae(**({"rewards_B_T": row, "values_B_T": row, "mask_B_T": [[1, 1, 1]]} | changes))


def test_window_marks_the_first_action_and_the_next_ones():
    assert polychromic_window(4, 0).tolist() == [True, False, False, False]
    assert polychromic_window(4, 2).tolist() == [True, True, True, False]
    assert polychromic_window(2, 5).tolist() == [True, True]
    assert polychromic_window(3, None).tolist() == [True] * 3
    assert polychromic_window(0, None).shape == polychromic_window(0, 5).shape == (0,)
    for arguments in ((4, -1), (-1, 2), (4, 1.5)):
        with pytest.raises(ValueError, match="got"):
            polychromic_window(*arguments)
