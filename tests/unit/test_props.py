"""PROPS: its loss by hand, and that rows of two batches look more like the policy's own than independent ones do."""

import math

import pytest
import torch
from softmax_bandit import Bandit, arms_of

from polytune.methods import Apart
from polytune.methods.props import PROPS
from polytune.rollout import Row

LOGITS = torch.tensor([1.0, 0.5, 0.0, -0.5])


def pull(arm, logprob=0.0):
    return Row([9], [arm], [1], [logprob], [0])


def test_the_loss_by_hand():
    """A token of the environment counts for nothing; one that has moved below 1 - clip no longer pulls."""
    rows = [Row([9], [4, 7, 5], [1, 0, 1], [-1.0, 0.0, -2.0], [0, -1, 1]), pull(3, -0.5)]
    new = torch.tensor([[-1.2, -9.0, -2.6], [-0.4, 0.0, 0.0]], requires_grad=True)
    loss, kl = PROPS(clip=0.3).pull(new, rows)
    r = [math.exp(-0.2), math.exp(-0.6), math.exp(0.1)]  # .82, .55, 1.11
    assert loss.item() == pytest.approx((r[0] + 0.7 + r[2]) / 3)
    assert kl == pytest.approx((r[0] - 1 + 0.2 + r[1] - 1 + 0.6 + r[2] - 1 - 0.1) / 3)
    loss.backward()
    torch.testing.assert_close(new.grad, torch.tensor([[r[0] / 3, 0.0, 0.0], [r[2] / 3, 0.0, 0.0]]))


def behaves(method, bandit):
    """The probabilities of the policy that samples."""
    weights = torch.nn.Parameter(bandit.logits_V.detach().clone())
    logprobs = lambda rows: weights.log_softmax(0)[torch.tensor([row.completion_ids for row in rows])]  # noqa: E731
    method.behave(Apart([weights], logprobs))
    return weights.detach().softmax(0)


def remembering(bandit, **options):
    """A method that has seen an update of the bandit, and how often it pulled each arm."""
    method, (update, _) = PROPS(**options), bandit.update()
    method.advantage(update, torch.zeros(bandit.pulls, 1), {})
    method.learn(update)
    return method, torch.bincount(arms_of(update).flatten(), minlength=len(bandit.logits_V))


def test_what_was_sampled_too_often_becomes_unlikelier_and_what_seldom_likelier():
    """Mean total variation of the counts of two batches of 16 from the policy's probabilities, over 60 first ones."""
    wanted, distances = LOGITS.softmax(0), []
    for seed in range(60):
        bandit = Bandit(LOGITS.clone(), (1.0, 0.0, 0.0, 0.0), seed=seed)
        method, first = remembering(bandit, rate=0.05, most_kl=0.02)
        found = behaves(method, bandit)
        draws = torch.multinomial(
            torch.stack([wanted, found]), 16 * 20, replacement=True, generator=torch.Generator().manual_seed(seed)
        ).reshape(2, 20, 16)
        counts = torch.nn.functional.one_hot(draws, 4).sum(dim=2) + first
        distances.append((counts / 32 - wanted).abs().sum(dim=-1).mean(dim=1) / 2)
    plain, ours = torch.stack(distances).mean(dim=0).tolist()
    assert ours < 0.85 * plain, (plain, ours)


def test_it_stops_at_its_kl_and_rows_are_scored_anew():
    bandit = Bandit(LOGITS.clone(), (1.0, 0.0, 0.0, 0.0))
    method, _ = remembering(bandit, rate=0.05, most_kl=0.0)
    assert torch.equal(behaves(PROPS(), bandit), LOGITS.softmax(0))  # nothing is kept yet
    bandit.logits_V = torch.zeros(4)  # the policy has learnt meanwhile
    told = {}
    weights = torch.nn.Parameter(torch.zeros(4))
    method.behave(Apart([weights], lambda rows: weights.log_softmax(0)[torch.tensor([r.completion_ids for r in rows])],
                        told.__setitem__))  # fmt: skip
    kept = method.replay(99, 0.0)
    assert len(kept) == 16 and all(row.logprobs == pytest.approx([-math.log(4)]) for row, _ in kept)
    assert 0 < told["props/kl"] < 0.01  # the first step went beyond 0
    again = PROPS()
    again.restore(method.state())
    assert again.replay(3, 0.0) == kept[:3] and again.wanted_rows(17) == 8
