"""The bias of every credit rule, exactly: expected update on a softmax bandit against the true gradient of E[f].

A policy pi = softmax(theta) over K arms, each with a reward and a signature. The expected update is the sum over all
K^N groups of P(group) * sum_i A_i grad log pi(y_i); the true gradient is that of E[f] over n independent arms, from
the definition of f. Nothing is sampled.
"""

import itertools
import math
from collections import Counter

import pytest
import torch

from polytune.objective import OBJECTIVES, find_diversity, find_objective, scores, set_advantages

GRADED = ([1.0, 0.6, 0.3, 0.0], ["a", "b", "a", None], [0.5, 0.0, -0.5, 1.0])  # rewards, signatures, logits
BINARY = ([1.0, 1.0, 0.0, 0.0], ["a", "b", "c", "d"], [1.0, -1.0, 1.0, 1.0])
COEF = 0.5


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors are small here: waking a second thread costs more than it saves on a shared machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def policy(logits):
    return torch.softmax(torch.tensor(logits, dtype=torch.float64), 0)


def weighted_groups(bandit, num_members):
    """All groups of N arms up to order, with their probabilities: arms (P, N), weights (P,)."""
    pi = policy(bandit[2])
    arms = list(itertools.combinations_with_replacement(range(len(pi)), num_members))
    orders = [
        math.factorial(num_members) // math.prod(math.factorial(c) for c in Counter(group).values()) for group in arms
    ]
    arms_P_N = torch.tensor(arms)
    return arms_P_N, torch.tensor(orders, dtype=torch.float64) * pi[arms_P_N].prod(dim=1)


def group_inputs(bandit, arms_P_N):
    rewards, signatures, _ = bandit
    return [[rewards[k] for k in row] for row in arms_P_N.tolist()], [
        [signatures[k] for k in row] for row in arms_P_N.tolist()
    ]


def expected_update(bandit, arms_P_N, weights_P, advantages_P_N):
    """E[sum_i A_i grad log pi(y_i)] over theta, (K,); grad log pi(y) = onehot(y) - pi."""
    pi = policy(bandit[2])
    scores_P_N_K = torch.eye(len(pi), dtype=torch.float64)[arms_P_N] - pi
    return torch.einsum("p,pn,pnk->k", weights_P, advantages_P_N, scores_P_N_K)


def true_gradient(bandit, set_size, objective, diversity="distinct_fraction"):
    """grad over theta of E[f] over n independent arms, by enumeration of all K^n ordered sets and autograd."""
    rewards, signatures, logits = bandit
    theta = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    log_pi, measure, total = torch.log_softmax(theta, 0), find_diversity(diversity).of_set, 0.0
    for arms in itertools.product(range(len(logits)), repeat=set_size):
        f = find_objective(objective).reference([(rewards[k], signatures[k]) for k in arms], measure, COEF)
        total = total + f * log_pi[list(arms)].sum().exp()
    return torch.autograd.grad(total, theta)[0]


def cosine(a, b):
    return (a @ b / (a.norm() * b.norm())).item()


@pytest.mark.parametrize("bandit", [GRADED, BINARY], ids=["graded", "binary"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_expected_updates_are_multiples_of_the_true_gradient(bandit, objective):
    arms = torch.tensor(list(itertools.product(range(4), repeat=4)))  # every group of N = 4, order included
    weights = policy(bandit[2])[arms].prod(dim=1)
    rewards, signatures = group_inputs(bandit, arms)
    for n in range(1, 5):
        truth = true_gradient(bandit, n, objective)
        for credit, factor in {"mean": (4 - n) / n, "per_set": (4 - n) / n, "leave_one_out": 4 / n}.items():
            advantages = set_advantages(rewards, signatures, n, objective=objective, credit=credit)
            got = expected_update(bandit, arms, weights, advantages)
            torch.testing.assert_close(got, factor * truth, rtol=0, atol=1e-12, msg=f"{credit} n={n}")


@pytest.mark.parametrize("diversity", ["zero_if_identical", "excess", "vendi", "action_distance"])
def test_it_holds_for_every_diversity_measure(diversity):
    bandit = (GRADED[0], [("l", "r"), ("l", "l"), ("r",), None], GRADED[2])
    arms, weights = weighted_groups(bandit, 4)
    rewards, signatures = group_inputs(bandit, arms)
    for objective, n in itertools.product(("polychromic", "additive"), (2, 3)):
        truth = true_gradient(bandit, n, objective, diversity)
        for credit, factor in {"mean": (4 - n) / n, "leave_one_out": 4 / n}.items():
            advantages = set_advantages(rewards, signatures, n, objective=objective, diversity=diversity, credit=credit)
            got = expected_update(bandit, arms, weights, advantages)
            torch.testing.assert_close(got, factor * truth, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_sets", [1, 2, 3])
@pytest.mark.parametrize("credit", ["mean", "leave_one_out"])
def test_random_sets_shrink_the_update_and_keep_its_direction(monkeypatch, credit, num_sets):
    bandit, n, num_members = tuple(part[:3] for part in GRADED), 2, 3
    arms, weights = weighted_groups(bandit, num_members)
    rewards, signatures = group_inputs(bandit, arms)
    sets = list(itertools.combinations(range(num_members), n))
    got = torch.zeros(3, dtype=torch.float64)
    for draw in itertools.product(sets, repeat=num_sets):  # all draws are equally likely
        monkeypatch.setattr(scores, "draw_sets", lambda *arguments, draw=draw: torch.tensor(draw))
        advantages = set_advantages(rewards, signatures, n, credit=credit, num_sets=num_sets)
        got += expected_update(bandit, arms, weights, advantages) / len(sets) ** num_sets
    share = n / num_members
    drawn = 1 - (1 - share) ** num_sets
    factor = (drawn - share) / share if credit == "mean" else drawn / share
    torch.testing.assert_close(got, factor * true_gradient(bandit, n, "polychromic"), rtol=0, atol=1e-12)


#: cosine of the expected update of credit "max" with the true gradient: (graded, binary) at N = 8, n = 4
MAX_COSINES = {
    "polychromic": (0.9997, -0.6524),
    "mean": (1.0, 1.0),
    "pass_at_k": (-1.0, -1.0),
    "max_at_k": (-0.9941, -1.0),
    "additive": (0.9985, 0.9837),
    "coverage": (-0.5511, -0.5350),
}


@pytest.mark.parametrize("objective", MAX_COSINES)
def test_max_credit_is_biased(objective):
    for bandit, expected in zip((GRADED, BINARY), MAX_COSINES[objective], strict=True):
        arms, weights = weighted_groups(bandit, 8)
        advantages = set_advantages(*group_inputs(bandit, arms), 4, objective=objective, credit="max")
        got = expected_update(bandit, arms, weights, advantages)
        assert cosine(got, true_gradient(bandit, 4, objective)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_shapley_credit_follows_all_set_sizes(objective):
    """The mean over m = 1 .. n of N / m times the gradient of E[f] of m attempts."""
    arms, weights = weighted_groups(GRADED, 4)
    advantages = set_advantages(*group_inputs(GRADED, arms), 3, objective=objective, credit="shapley")
    truth = sum(4 / m * true_gradient(GRADED, m, objective) for m in (1, 2, 3)) / 3
    torch.testing.assert_close(expected_update(GRADED, arms, weights, advantages), truth, rtol=0, atol=1e-12)


#: cosine of the expected update of credit "greedy" with the true gradient: (graded, binary) at N = 6, n = 3
GREEDY_COSINES = {
    "polychromic": (0.9144, 0.9848),
    "mean": (0.9839, 0.9952),
    "pass_at_k": (0.9295, 0.9969),
    "max_at_k": (0.9968, 0.9969),
    "additive": (0.9704, 0.9947),
    "coverage": (0.8437, 0.9724),
}


@pytest.mark.parametrize("objective", GREEDY_COSINES)
def test_greedy_credit_is_biased_and_points_the_right_way(objective):
    for bandit, expected in zip((GRADED, BINARY), GREEDY_COSINES[objective], strict=True):
        arms, weights = weighted_groups(bandit, 6)
        advantages = set_advantages(*group_inputs(bandit, arms), 3, objective=objective, credit="greedy")
        got = expected_update(bandit, arms, weights, advantages)
        assert cosine(got, true_gradient(bandit, 3, objective)) == pytest.approx(expected, abs=1e-4)


#: noise of one group's update, its standard deviation over the size of its mean, on the binary bandit at N = 8, n = 4
NOISE = {
    "polychromic": {"mean": 0.7539, "leave_one_out": 0.9548},
    "mean": {"mean": 0.4824, "leave_one_out": 0.4824},
    "pass_at_k": {"mean": 0.9116, "leave_one_out": 0.7015},
    "max_at_k": {"mean": 0.9116, "leave_one_out": 0.7015},
    "additive": {"mean": 0.6033, "leave_one_out": 0.6987},
    "coverage": {"mean": 0.9934, "leave_one_out": 1.3107},
}


@pytest.mark.parametrize("objective", NOISE)
def test_noise_of_the_unbiased_rules(objective):
    arms, weights = weighted_groups(BINARY, 8)
    pi = policy(BINARY[2])
    for credit, expected in NOISE[objective].items():
        advantages = set_advantages(*group_inputs(BINARY, arms), 4, objective=objective, credit=credit)
        updates_P_K = torch.einsum("pn,pnk->pk", advantages, torch.eye(4, dtype=torch.float64)[arms] - pi)
        mean_K = weights @ updates_P_K
        variance = weights @ (updates_P_K - mean_K).pow(2).sum(dim=1)
        assert (variance.sqrt() / mean_K.norm()).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("objective", MAX_COSINES)
@pytest.mark.parametrize("bandit", [GRADED, BINARY], ids=["graded", "binary"])
def test_best_minus_mean_for_everybody_is_never_negative_and_says_nothing_about_the_action(bandit, objective):
    """PAPER's first fault: one number per group, given to whatever the seed did."""
    num_members, n = 4, 2
    arms, weights = weighted_groups(bandit, num_members)
    f, measure = {}, find_diversity("distinct_fraction").of_set
    for row in arms.unique(dim=0).tolist():
        pairs = [(bandit[0][k], bandit[1][k]) for k in row]
        values = [
            find_objective(objective).reference([pairs[i] for i in members], measure, COEF)
            for members in itertools.combinations(range(num_members), n)
        ]
        f[tuple(row)] = max(values) - sum(values) / len(values)
    best_minus_mean = torch.tensor([f[tuple(row)] for row in arms.tolist()], dtype=torch.float64)
    assert (best_minus_mean >= -1e-15).all() and best_minus_mean.max() > 0.05  # praise, whatever happened
    # the seed's action is drawn apart from the vines that score it, so the expected update is exactly nothing
    pi = policy(bandit[2])
    onto_seed = torch.einsum("p,p,a,ak->k", weights, best_minus_mean, pi, torch.eye(4, dtype=torch.float64) - pi)
    assert onto_seed.abs().max() < 1e-15
    # the other rules tell the members of some group apart; this one tells none apart, and for an objective that is a
    # maximum the rule `max` is this very fault: each member shares a set with the best one
    for credit in ("mean", "max", "per_set", "leave_one_out"):
        advantages = set_advantages(*group_inputs(bandit, arms), n, objective=objective, credit=credit)
        if credit == "max" and find_objective(objective).best_of_set:
            everybody = best_minus_mean[:, None].expand_as(advantages)
            torch.testing.assert_close(advantages, everybody, rtol=0, atol=1e-15)
        else:
            assert (advantages.amax(dim=1) - advantages.amin(dim=1)).max() > 0.01
    # given to the members themselves it climbs E[best - mean], the spread of a group, not E[f]
    onto_members = expected_update(bandit, arms, weights, best_minus_mean[:, None].expand(-1, num_members))
    theta = torch.tensor(bandit[2], dtype=torch.float64, requires_grad=True)
    log_pi = torch.log_softmax(theta, 0)
    orders = weights / pi[arms].prod(dim=1)
    spread = (orders * best_minus_mean * log_pi[arms].sum(dim=1).exp()).sum()
    torch.testing.assert_close(onto_members, torch.autograd.grad(spread, theta)[0], rtol=0, atol=1e-12)


def test_one_row_per_set_in_ppo_is_two_numbers_per_member():
    rewards, signatures, n = [1.0, 0.0, 0.4, 1.0, 0.0], ["a", "b", None, "a", "c"], 3
    found = scores.score_groups(rewards, signatures, n, credit="per_set")
    measure = find_diversity("distinct_fraction").of_set
    f = {
        members: find_objective("polychromic").reference([(rewards[i], signatures[i]) for i in members], measure, COEF)
        for members in itertools.combinations(range(5), n)
    }
    baseline = sum(f.values()) / len(f)
    for i, ratio in itertools.product(range(5), (0.5, 0.79, 0.9, 1.0, 1.1, 1.29, 2.0)):
        clipped = min(max(ratio, 0.8), 1.28)
        rows = [min(ratio * (f[g] - baseline), clipped * (f[g] - baseline)) for g in f if i in g]
        loss = found.deductions_P_N[0, i].item()
        gain = found.advantages_P_N[0, i].item() + loss
        assert gain * min(ratio, 1.28) - loss * max(ratio, 0.8) == pytest.approx(sum(rows) / len(rows), abs=1e-14)
    torch.testing.assert_close(found.advantages_P_N[0], set_advantages(rewards, signatures, n), rtol=0, atol=1e-15)
