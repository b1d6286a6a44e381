"""Every closed form against enumeration: six objectives, three ways to count, 11,000 random groups each, every n.

The enumeration here is the definition written over many groups at once, apart from the package: sets by itertools,
distinct signatures by comparing pairs. `enumerate_set_advantages`, in plain loops, checks it on a part.
"""

import itertools

import numpy as np
import pytest
import torch

from polytune.objective import (
    CREDIT,
    OBJECTIVES,
    Diversity,
    enumerate_set_advantages,
    find_diversity,
    find_objective,
    score_groups,
    set_advantages,
)

GROUPS = 1100  # per N = 1..10, each at every n: 11,000 groups and 60,500 (group, n) pairs per case
COEF = 0.3
CONVENTIONS = {
    "distinct_fraction": lambda u, n: u / n,
    "zero_if_identical": lambda u, n: np.where(u > 1, u / n, 0.0),
    "excess": lambda u, n: np.maximum(u - 1, 0) / max(n - 1, 1),
}
CASES = [(objective, d) for objective in ("polychromic", "additive") for d in CONVENTIONS] + [
    (objective, "distinct_fraction") for objective in ("mean", "pass_at_k", "max_at_k", "coverage", "qd_score")
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors are small here: waking a second thread costs more than it saves on a shared machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_groups(rng, num_groups, num_members):
    """Rewards and classes (P, N), -1 for None: 0/1, graded, negative, tied, all zero, all alike; 1 to N classes."""
    shape = (num_groups, num_members)
    kinds = [
        rng.integers(0, 2, shape).astype(float),
        rng.random(shape),
        rng.uniform(-1, 1, shape),
        rng.choice([-0.5, 0.0, 0.5], shape),
        np.zeros(shape),
        np.full(shape, 0.7),
        -rng.random(shape),
        10 * rng.standard_normal(shape),
    ]
    kind = rng.choice(len(kinds), num_groups, p=[0.25, 0.15, 0.15, 0.2, 0.05, 0.05, 0.05, 0.1])
    rewards = np.stack(kinds)[kind, np.arange(num_groups)]
    classes = rng.integers(0, rng.integers(1, num_members + 1, num_groups)[:, None], shape)
    none_share = rng.choice([0.0, 0.2, 0.6, 1.0], num_groups, p=[0.5, 0.25, 0.2, 0.05])
    return rewards, np.where(rng.random(shape) < none_share[:, None], -1, classes)


def taken(objective, rewards):
    """Rewards that an objective takes: a product none below 0."""
    return rewards if find_objective(objective).takes_negative else np.abs(rewards)


def distinct(classes, counted):
    """Distinct classes among the counted members, by pairs: a member is new when no earlier counted one is like it."""
    like = (classes[:, :, None] == classes[:, None, :]) & counted[:, None, :]
    earlier = np.tri(classes.shape[1], k=-1, dtype=bool)
    return (counted & ~(like & earlier).any(axis=2)).sum(axis=1)


def scores(rewards, classes, diversity):
    """f of one set of each group by every objective."""
    n, mean = rewards.shape[1], rewards.mean(axis=1)
    product = taken("polychromic", rewards).mean(axis=1)
    d = CONVENTIONS[diversity](distinct(classes, classes >= 0), n)
    return {
        "polychromic": product * d,
        "additive": mean + COEF * d,
        "mean": mean,
        "pass_at_k": (rewards > 0).any(axis=1).astype(float),
        "max_at_k": rewards.max(axis=1),
        "coverage": distinct(classes, (classes >= 0) & (rewards > 0)) / n,
        "qd_score": sum(np.where(classes == c, rewards.clip(0), 0).max(axis=1) for c in range(classes.max() + 1)) / n,
    }


def definition(rewards, classes):
    """{(objective, diversity, n, credit): advantages (P, N)} by enumeration."""
    num_groups, num_members = rewards.shape
    f, result = {(): dict.fromkeys(CASES, np.zeros(num_groups))}, {}
    for n in range(1, num_members + 1):
        sets = list(itertools.combinations(range(num_members), n))
        for members in sets:
            of = {d: scores(rewards[:, members], classes[:, members], d) for d in CONVENTIONS}
            f[members] = {(objective, d): of[d][objective] for objective, d in CASES}
        for case in CASES:
            baseline = sum(f[members][case] for members in sets) / len(sets)
            mean, best, loo, gain, loss = (np.zeros((num_groups, num_members)) for _ in range(5))
            for i in range(num_members):
                mine = [members for members in sets if i in members]
                values = np.stack([f[members][case] for members in mine])
                without = np.stack([f[tuple(j for j in members if j != i)][case] for members in mine])
                mean[:, i] = values.mean(axis=0) - baseline
                best[:, i] = values.max(axis=0) - baseline
                loo[:, i] = (values - without).mean(axis=0)
                gain[:, i] = np.maximum(values - baseline, 0).mean(axis=0)
                loss[:, i] = np.maximum(baseline - values, 0).mean(axis=0)
            found = {"mean": mean, "max": best, "leave_one_out": loo, "per_set": mean, "gains": gain, "losses": loss}
            result |= {(*case, n, credit): values for credit, values in found.items()}
    return result


def named_signatures(classes):
    names = [None, "b", ("c", 1), frozenset({4}), 5, 6.5, "g", "h", "i", "j", "k"]
    return [[names[k + 1] for k in row] for row in classes.tolist()]


@pytest.mark.parametrize("num_members", range(1, 11))
def test_closed_forms_equal_enumeration(num_members):
    rewards, classes = random_groups(np.random.default_rng(num_members), GROUPS, num_members)
    want, signatures = definition(rewards, classes), named_signatures(classes)
    for (objective, diversity), n in itertools.product(CASES, range(1, num_members + 1)):
        for credit in ("mean", "leave_one_out"):
            got = set_advantages(
                taken(objective, rewards), signatures, n, objective=objective, diversity=diversity, credit=credit,
                diversity_coef=COEF,
            )  # fmt: skip
            gap = np.abs(got.numpy() - want[objective, diversity, n, credit]).max()
            assert gap < 1e-10 * max(1, np.abs(rewards).max()), (objective, diversity, n, credit, gap)
            if credit == "mean":
                assert got.sum(dim=1).abs().max() < 1e-10


@pytest.mark.parametrize("num_members", range(1, 8))
def test_enumerated_credits_equal_the_definition(num_members):
    rewards, classes = random_groups(np.random.default_rng(100 + num_members), 12, num_members)
    want, signatures = definition(rewards, classes), named_signatures(classes)
    for (objective, diversity), n in itertools.product(CASES, range(1, num_members + 1)):
        chosen = {"objective": objective, "diversity": diversity, "diversity_coef": COEF}
        for credit in ("max", "per_set"):
            got = score_groups(taken(objective, rewards), signatures, n, credit=credit, **chosen)
            key = (objective, diversity, n)
            np.testing.assert_allclose(got.advantages_P_N, want[*key, credit], atol=1e-12, err_msg=str((key, credit)))
            assert got.scored_P_N.all()
            if credit == "per_set":
                np.testing.assert_allclose(got.advantages_P_N + got.deductions_P_N, want[*key, "gains"], atol=1e-12)
                np.testing.assert_allclose(got.deductions_P_N, want[*key, "losses"], atol=1e-12)
            else:
                assert got.deductions_P_N is None


@pytest.mark.parametrize("objective", dict(CASES))
def test_plain_loops_equal_the_definition(objective):
    for num_members in range(1, 7):
        rewards, classes = random_groups(np.random.default_rng(200 + num_members), 6, num_members)
        want, signatures = definition(rewards, classes), named_signatures(classes)
        for diversity, n in itertools.product(CONVENTIONS, range(1, num_members + 1)):
            if (objective, diversity) in CASES:
                chosen = {"objective": objective, "diversity": diversity, "diversity_coef": COEF}
                for credit, p in itertools.product(("mean", "max", "per_set", "leave_one_out"), range(6)):
                    given = taken(objective, rewards[p]).tolist()
                    got = enumerate_set_advantages(given, signatures[p], n, credit=credit, **chosen)
                    np.testing.assert_allclose(got, want[objective, diversity, n, credit][p], atol=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("credit", CREDIT)
def test_enumeration_without_a_closed_form_equals_the_loops(objective, credit):
    slow = Diversity(find_diversity("distinct_fraction").of_set)
    rewards, classes = random_groups(np.random.default_rng(7), 4, 6)
    rewards = taken(objective, rewards)
    for p, signatures in enumerate(named_signatures(classes)):
        for n in (1, 3, 6):
            want = enumerate_set_advantages(rewards[p].tolist(), signatures, n, objective=objective, credit=credit)
            for score in (objective, find_objective(objective).score):  # by name, and as a function without closed form
                got = set_advantages(rewards[p], signatures, n, objective=score, diversity=slow, credit=credit)
                torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("objective", ["mean", "pass_at_k", "max_at_k", "coverage", "qd_score"])
def test_objectives_without_d_use_the_closed_form_whatever_the_measure(objective):
    rewards, classes = random_groups(np.random.default_rng(8), 2, 60)  # C(60, 30) sets cannot be enumerated

    def never(signatures):
        raise AssertionError("d was read")

    for credit in ("mean", "leave_one_out"):
        got = score_groups(rewards, classes, 30, objective=objective, diversity=never, credit=credit)
        want = set_advantages(rewards, classes, 30, objective=objective, credit=credit)
        assert torch.equal(got.advantages_P_N, want) and got.diversity_P is None


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("credit", ["mean", "leave_one_out"])
def test_members_alike_get_the_same_number_and_order_does_not_matter(objective, credit):
    rewards, classes = random_groups(np.random.default_rng(9), 200, 9)
    rewards = taken(objective, rewards)
    rewards[:, 1], classes[:, 1] = rewards[:, 0], classes[:, 0]
    got = set_advantages(rewards, classes, 4, objective=objective, credit=credit)
    assert (got[:, 0] - got[:, 1]).abs().max() < 1e-13
    order = np.random.default_rng(10).permutation(9)
    shuffled = set_advantages(rewards[:, order], classes[:, order], 4, objective=objective, credit=credit)
    torch.testing.assert_close(shuffled, got[:, order], rtol=0, atol=1e-12)


def test_ties_of_max_at_k_are_exact():
    rewards = [0.3, 0.1, 0.3, 0.2, 0.3, 0.1]
    for n in range(1, 7):
        got = set_advantages(rewards, "abcdef", n, objective="max_at_k").tolist()
        assert got[0] == got[2] == got[4] and got[1] == got[5]


def test_kinds_of_equal_rewards_tie_exactly_in_qd_score():
    rewards, signatures = [0.1, 0.7, 0.3, 0.3, 0.7, 0.1, 0.3, 0.3], "aaabbbab"
    for n in range(1, 9):
        got = set_advantages(rewards, signatures, n, objective="qd_score").tolist()
        assert got[0] == got[5] and got[1] == got[4] and got[2] == got[3] == got[6] == got[7]
    won, ways = [1, 0, 1, 1, 0, 1], "aabbcc"
    for n in range(1, 7):  # rewards in {0, 1}: coverage
        want = set_advantages(won, ways, n, objective="coverage")
        torch.testing.assert_close(set_advantages(won, ways, n, objective="qd_score"), want, rtol=0, atol=1e-15)


def test_mean_with_sets_of_one_is_mean_centred_grpo_to_the_last_bit():
    rewards = torch.tensor([0.3, -2.0, 1.0, 1.0], dtype=torch.float64)
    assert torch.equal(set_advantages(rewards, [None] * 4, 1, objective="mean"), rewards - rewards.mean())
    for n in (2, 3):
        shrunk = (4 - n) / (n * 3) * (rewards - rewards.mean())
        torch.testing.assert_close(set_advantages(rewards, [None] * 4, n, objective="mean"), shrunk)


def test_rows_by_hand():
    # sets of 2 of rewards 1, 0, 0: pass@2 is 1, 1, 0; given the winner 1, given a loser 1/2; baseline 2/3
    by_hand = torch.tensor([1, 0.5, 0.5], dtype=torch.float64) - 2 / 3
    for objective in ("pass_at_k", "max_at_k"):
        torch.testing.assert_close(set_advantages([1, 0, 0], "aab", 2, objective=objective), by_hand)
    # coverage / n: {0,1} one winning class of two members, {0,2} two, {1,2} two; 3 wins nothing and None names nothing
    got = set_advantages([1, 1, 1], "aab", 2, objective="coverage")
    torch.testing.assert_close(got, torch.tensor([0.75, 0.75, 1.0], dtype=torch.float64) - 5 / 6)
    assert not set_advantages([1, 1, 0, -1], [None, None, "a", "b"], 2, objective="coverage").any()
    # qd_score / n: {0,1} 3 of two members, {0,2} 3 + 1, {1,2} 2 + 1; what wins nothing or names nothing adds nothing
    got = set_advantages([3, 2, 1], "aab", 2, objective="qd_score")
    torch.testing.assert_close(got, torch.tensor([3.5, 3.0, 3.5], dtype=torch.float64) / 2 - 5 / 3)
    assert not set_advantages([1, 1, 0, -1], [None, None, "a", "b"], 2, objective="qd_score").any()
    # uncertain_max, q .5: {0,1} two winning kinds .75, {0,2} and {1,2} one .5; then its ends, q 1 and q near 0
    got = set_advantages([1, 1, 0], "abc", 2, objective="uncertain_max", diversity_coef=0.5)
    torch.testing.assert_close(got, torch.tensor([0.625, 0.625, 0.5], dtype=torch.float64) - 7 / 12)
    told = ([3, 2, 0, 1, 2], "aabbc", 3)
    sure = set_advantages(*told, objective="uncertain_max", diversity_coef=1)
    torch.testing.assert_close(sure, set_advantages(*told, objective="max_at_k"))
    least = set_advantages(*told, objective="uncertain_max", diversity_coef=1e-6) / 1e-6 / 3
    torch.testing.assert_close(least, set_advantages(*told, objective="qd_score"), rtol=0, atol=1e-5)
    # floored: {0,1} two ways to win 1; {0,2} and {1,2} earn half, below the floor of 1 they score half of that
    got = set_advantages([1, 1, 0], "abc", 2, objective="floored", diversity_coef=1)
    torch.testing.assert_close(got, torch.tensor([0.625, 0.625, 0.25], dtype=torch.float64) - 0.5)
    for rewards, low, high in (([1, 1, 1, 1], 0.25, 0.25), ([1, 1, 0, 0], 0.125, 0.375), ([1, 0, 0, 0], 0.0625, 0.25)):
        signatures = "a" * sum(rewards) + "bcd"[: 4 - sum(rewards)]  # alike winners beside failures that differ
        for floor, want in ((0.75, low), (0, high)):
            found = score_groups([rewards], [signatures], 4, objective="floored", diversity_coef=floor).mean_P
            assert found.tolist() == pytest.approx([want]), (rewards, floor)
    torch.testing.assert_close(
        set_advantages(*told, objective="floored", diversity_coef=0), set_advantages(*told, objective="polychromic")
    )
    # leave one out of pass@2: the winner adds 1 to both of its sets, the losers nothing
    got = set_advantages([1, 0, 0], "aab", 2, objective="pass_at_k", credit="leave_one_out")
    assert got.tolist() == [1.0, 0.0, 0.0]
    # a success is a reward above 0, whatever its size
    assert set_advantages([0.1, 0, -1], "abc", 2, objective="pass_at_k").tolist() == pytest.approx(by_hand.tolist())


def test_leave_one_out_of_a_single_set_still_tells_members_apart():
    got = set_advantages([1, 0, 1], "aab", 3, objective="coverage", credit="leave_one_out")
    # f = 2/3; without 0: 1/2, without 1: 1, without 2: 1/2
    torch.testing.assert_close(got, torch.tensor([1 / 6, -1 / 3, 1 / 6], dtype=torch.float64))
    assert set_advantages([0.2, 0.9], "ab", 1, objective="mean", credit="leave_one_out").tolist() == [0.2, 0.9]
    alike = set_advantages([1, 1, 1, 1], "aaaa", 2, credit="leave_one_out")  # no signal, and yet not 0: 1/2 - 1
    assert alike.tolist() == pytest.approx([-0.5] * 4)


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if find_objective(name).given_member is not None])
def test_closed_forms_at_a_size_beyond_enumeration_equal_a_large_sample(objective):
    rewards, classes = random_groups(np.random.default_rng(11), 1, 512)
    rewards = taken(objective, rewards)
    exact = score_groups(rewards, classes, 64, objective=objective)
    sampled = score_groups(rewards, classes, 64, objective=objective, num_sets=4000)
    assert torch.isfinite(exact.advantages_P_N).all()
    spread = sampled.advantages_P_N - exact.advantages_P_N
    per_member = 4000 * 64 / 512  # sets of each member; the score's own spread is at most its range
    scale = max(np.ptp(rewards), 1) / per_member**0.5
    assert spread.abs().max() < 3 * scale and spread.pow(2).mean().sqrt() < scale
