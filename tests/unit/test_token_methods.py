"""Lp-Reg, STEER and THR: numbers by hand, and what each promises, on a bandit of one row of logits."""

import math

import pytest
import torch
from softmax_bandit import Bandit, advantages_of, entropy, loss_of, mean_over_seeds, train

from polytune.methods import build_methods
from polytune.methods.lp_reg import DROPPED, LpReg, log_proxy
from polytune.methods.steer import STEER, entropy_change
from polytune.methods.thr import THR, influence

# ---------------------------------------------------------------- Lp-Reg


def test_the_proxy_is_the_policy_without_its_least_likely_tokens():
    logprobs = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(4, 1)
    chosen = logprobs[0]
    assert log_proxy(logprobs, chosen, 0.0).tolist() == pytest.approx(chosen.tolist())
    kept = log_proxy(logprobs, chosen, 0.2)  # at least .1 stays: .5, .3, .15 of .95
    assert kept.tolist() == pytest.approx([math.log(p / 0.95) for p in (0.5, 0.3, 0.15)] + [DROPPED])
    assert log_proxy(logprobs, chosen, 1.0).tolist() == pytest.approx([0.0] + [DROPPED] * 3)


def test_lp_reg_by_hand():
    """Arms of .6, .3 (lose) and .1 - noise at kappa .2. All losing tokens are candidates at share 1: of them .3 is
    held, log q = log(.3 / .9); noise is not."""
    bandit = Bandit(torch.tensor([0.6, 0.3, 0.1]).log().requires_grad_(), (1.0, 0.0, 0.0), pulls=24)
    method = LpReg(kappa=0.2, share=1.0, coef=0.5)
    update, told = bandit.update()
    advantages, sent = advantages_of(method, bandit, update)
    arms = torch.tensor([seed.signature for seed in update.trajectories])[:, None]
    assert {0, 1, 2} == set(arms[:, 0].tolist())
    assert torch.equal(sent["lp_reg/held"], (arms == 1).float())
    assert told["lp_reg/share"] == pytest.approx(float((arms == 1).sum()) / 24)
    _, batch = loss_of(method, bandit, update, advantages, sent)
    assert torch.equal(batch.weight, 1 - sent["lp_reg/held"])
    gap = math.log(1 / 0.9)
    each = 0.5 * (math.exp(gap) - gap - 1) - advantages[arms == 1][0].item()
    assert method.loss(batch).item() == pytest.approx(each * int((arms == 1).sum()), rel=1e-4)
    _, few = advantages_of(LpReg(share=0.001), bandit, update)
    assert few["lp_reg/held"].sum() == 0


def test_lp_reg_keeps_what_is_seldom_and_no_noise():
    """Arm 2 loses now, and is seldom: with the penalty more of it is left. At the published coef of 1 hardly (.028 to
    .027): what is held loses its clip as well."""
    start, rewards = (0.7, 0.2, 0.08, 0.02), (1.0, 0.0, 0.0, 0.0)
    method = LpReg(kappa=0.05, share=1.0, coef=5.0)
    kept = mean_over_seeds(lambda seed: train(method, start, rewards, updates=10, seed=seed)[2].item())
    plain = mean_over_seeds(lambda seed: train(None, start, rewards, updates=10, seed=seed)[2].item())
    assert kept > 1.2 * plain, (kept, plain)


# ---------------------------------------------------------------- STEER


def test_the_estimate_is_the_change_of_entropy():
    """Of a softmax row after a step d log pi(y) = A on its logits, to first order, times pi: by differences."""
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    h = entropy(p)
    for y in range(3):
        step = 1e-6 * (torch.eye(3, dtype=torch.float64)[y])  # logit of y alone
        change = (entropy((p.log() + step).softmax(0)) - h) / 1e-6
        by_hand = -p[y] * (p[y].log() + h)
        assert change == pytest.approx(by_hand.item(), abs=1e-5)
        omega = entropy_change(torch.tensor(2.0), p[y].log(), torch.tensor(h))
        assert omega.item() == pytest.approx(abs(2.0 * by_hand.item() * (1 - p[y].item()) / p[y].item()), rel=1e-5)


def test_steer_weighs_the_largest_least():
    bandit = Bandit(torch.tensor([0.6, 0.3, 0.1]).log().requires_grad_(), (1.0, 0.0, 0.0), pulls=24)
    method = STEER(least=0.5)
    update, told = bandit.update()
    advantages, sent = advantages_of(method, bandit, update)
    arms = torch.tensor([seed.signature for seed in update.trajectories])[:, None]
    h = entropy(torch.tensor([0.6, 0.3, 0.1]))
    omega = {}
    for arm, p in enumerate((0.6, 0.3, 0.1)):
        a = advantages[arms == arm][0].item()
        omega[arm] = abs(a * (1 - p) * (math.log(p) + h))
    k = math.log(2) / max(omega.values())
    for arm in range(3):
        weight = sent["steer/weight"][arms == arm]
        assert weight.tolist() == pytest.approx([math.exp(-k * omega[arm])] * len(weight), rel=1e-4)
    assert sent["steer/weight"].min().item() == pytest.approx(0.5) and 0.5 < told["steer/weight"] < 1
    _, none = advantages_of(STEER(least=0.5, floor=1e6), bandit, update)
    assert none["steer/weight"].min() > 0.999


def test_entropy_falls_more_slowly_with_steer():
    start, rewards = (0.4, 0.3, 0.2, 0.1), (1.0, 1.0, 0.0, 0.0)
    left = [mean_over_seeds(lambda seed, m=m: entropy(train(m, start, rewards, updates=30, seed=seed)))
            for m in (STEER(least=0.1), None)]  # fmt: skip
    assert left[0] > left[1] + 0.02, left


# ---------------------------------------------------------------- THR


def test_influence_by_hand():
    """Two tokens of one hidden state (1, 2), |h|^2 = 5, of a vocabulary of three: 0 is right, 1 wrong; 2 does not
    occur."""
    p = torch.tensor([[0.5, 0.3]]).repeat(2, 1)
    hidden = torch.tensor([[1.0, 2.0]]).repeat(2, 1)
    found = influence(p, torch.tensor([0, 1]), hidden, torch.tensor([True, False]))
    right, wrong = torch.tensor([0.5, -0.3]), torch.tensor([-0.5, 0.7])
    assert found.tolist() == pytest.approx([5 * float(right @ right), 5 * float(wrong @ right)], rel=1e-5)


@pytest.mark.parametrize("p", [-0.5, 0.5])
def test_thr_weighs_by_sign(p):
    """Arm 0 wins. Steps up on it and steps down on arm 1 both raise it: THR > 0. With tau 0, all but ties stay."""
    bandit = Bandit(torch.tensor([0.6, 0.3, 0.1]).log().requires_grad_(), (1.0, 0.0, 0.0), pulls=24)
    update, told = bandit.update()
    plain, _ = advantages_of(build_methods(["ucb"], {"ucb": {"coef": 0}})["ucb"], bandit, update)
    changed, _ = advantages_of(THR(p=p, beta=0.0), bandit, update)
    torch.testing.assert_close(changed, plain * (1 + p))
    cut, _ = advantages_of(THR(p=p, beta=1e3), bandit, update)
    assert cut.abs().max() == 0 and told["thr/kept"] == 0


def test_thr_leaves_groups_without_both():
    bandit = Bandit(torch.tensor([0.6, 0.4]).log().requires_grad_(), (1.0, 1.0))
    update, told = bandit.update()
    changed, _ = advantages_of(THR(p=-1.0), bandit, update)
    assert changed.abs().max() == 0 and math.isnan(told["thr/kept"])


def test_thr_below_0_keeps_more_entropy_than_above():
    start, rewards = (0.4, 0.3, 0.2, 0.1), (1.0, 1.0, 0.0, 0.0)
    low, high = (mean_over_seeds(lambda s, p=p: entropy(train(THR(p=p, beta=0.0), start, rewards, updates=20, seed=s)))
                 for p in (-0.8, 0.8))  # fmt: skip
    assert low > high + 0.05, (low, high)


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("lp_reg", {"kappa": 2}, "kappa must be a number from 0 to 1, got 2"),
        ("steer", {"least": 0}, "least must be above 0"),
        ("thr", {"p": 1.5}, "p must be a number from -1 to 1"),
    ],
)
def test_wrong_options_are_named(name, options, words):
    with pytest.raises(ValueError, match=words):
        build_methods([name], {name: options})
