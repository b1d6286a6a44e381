"""Clip-Cov and KL-Cov against numbers worked out by hand, in one process and in two."""

import math
import threading

import pytest
import torch

from polytune.methods import Minibatch, Update, build_methods
from polytune.methods.clip_cov import ClipCov, covariance
from polytune.methods.kl_cov import KLCov

#: five own tokens of two rows; the sixth is the environment's. Means over own tokens: A 0, log pi -1
ADVANTAGES = torch.tensor([[2.0, -1.0, 0.0], [1.0, -2.0, 0.0]])
LOGPROBS = torch.tensor([[-0.5, -2.0, -1.0], [-0.5, -1.0, -9.0]])
TURNS = torch.tensor([[0, 1, 2], [0, 1, -1]])
COVARIANCES = torch.tensor([[1.0, 1.0, 0.0], [0.5, 0.0, math.nan]], dtype=torch.float64)


def update(rows=slice(None), seed=0, **over):
    told = {}
    found = Update(
        seed=seed, trees=[], turns_mask_B_T=TURNS[rows] >= 0, turn_index_B_C=TURNS[rows],
        logprobs_B_C=LOGPROBS[rows], record=told.__setitem__, **over,
    )  # fmt: skip
    return found, told


def minibatch(tensors, moved):
    """Logprobs of the policy: the sampler's plus ``moved``."""
    return Minibatch(
        logprobs_b_C=(LOGPROBS + moved).requires_grad_(), old_b_C=LOGPROBS, advantages_b_C=ADVANTAGES,
        set_deductions_b_C=None, mask_b_C=(TURNS >= 0).float(), epsilon=(0.2, 0.2), tensors=tensors,
    )  # fmt: skip


def test_covariance_by_hand():
    found = covariance(update()[0], ADVANTAGES)
    assert torch.equal(found[TURNS >= 0], COVARIANCES[TURNS >= 0])
    shifted = covariance(update()[0], ADVANTAGES + 4)  # centred: a shift of all advantages says nothing
    torch.testing.assert_close(shifted[TURNS >= 0], COVARIANCES[TURNS >= 0])


@pytest.mark.parametrize(
    "options, cut",
    [
        ({"low": 0.4, "high": 0.9}, {(1, 0)}),
        ({"low": 0.6, "high": 5.0, "ratio": 0.4}, {(0, 0), (0, 1)}),
        ({"low": 0.4, "high": 5.0, "ratio": 1.0}, {(0, 0), (0, 1), (1, 0)}),
        ({"low": 1.0, "high": 5.0}, set()),  # the bounds are open
        ({"low": 2.0, "high": 5.0}, set()),
    ],
)
def test_clip_cov_leaves_out_tokens_between_low_and_high(options, cut):
    seen, told = update()
    sent, method = {}, ClipCov(**options)
    assert method.advantage(seen, ADVANTAGES, sent) is ADVANTAGES
    weight = method.weight(minibatch(sent, 0.0))
    assert {tuple(place) for place in (weight == 0).nonzero().tolist()} == cut
    assert (weight[weight != 0] == 1).all() and told["clip_cov/share"] == len(cut) / 5


def test_clip_cov_draws_its_share_at_random():
    drawn = set()
    for seed in range(30):
        sent = {}
        ClipCov(low=0.4, ratio=0.2).advantage(update(seed=seed)[0], ADVANTAGES, sent)
        [place] = (sent["clip_cov/weight"] == 0).nonzero().tolist()  # a fifth of five tokens
        drawn.add(tuple(place))
    assert drawn == {(0, 0), (0, 1), (1, 0)}


@pytest.mark.parametrize(
    "share, held",
    [(0.1, []), (0.2, [(0, 0), (0, 1)]), (0.4, [(0, 0), (0, 1)]), (0.6, [(0, 0), (0, 1), (1, 0)]), (1.0, None)],
)
def test_kl_cov_by_hand(share, held):
    """Held tokens: -A r + coef |log r|, by hand; c must be above 0, and two tie for the first place."""
    held = [(0, 0), (0, 1), (1, 0)] if held is None else held
    seen, told = update()
    sent, method = {}, KLCov(share=share, coef=0.5)
    method.advantage(seen, ADVANTAGES, sent)
    moved = torch.tensor([[math.log(2), math.log(0.5), 1.0], [math.log(3), -1.0, 0.0]])
    batch = minibatch(sent, moved)
    assert torch.equal(method.weight(batch), 1 - sent["kl_cov/held"])
    by_hand = {
        (0, 0): -2 * 2 + 0.5 * math.log(2),
        (0, 1): 1 * 0.5 + 0.5 * math.log(2),
        (1, 0): -1 * 3 + 0.5 * math.log(3),
    }
    assert method.loss(batch).item() == pytest.approx(sum(by_hand[place] for place in held), abs=1e-5)
    assert told["kl_cov/share"] == len(held) / 5
    method.loss(batch).backward() if held else None
    slopes = {(0, 0): -2 * 2 + 0.5, (0, 1): 1 * 0.5 - 0.5, (1, 0): -1 * 3 + 0.5}  # d loss / d log pi
    for place in held:
        assert float(batch.logprobs_b_C.grad[place]) == pytest.approx(slopes[place], abs=1e-5)


def test_without_advantages_nothing_is_held_or_left_out():
    for method, name, neutral in ((KLCov(share=0.5), "kl_cov/held", 0), (ClipCov(low=0.0), "clip_cov/weight", 1)):
        sent = {}
        method.advantage(update()[0], torch.zeros(2, 3), sent)
        assert (sent[name] == neutral).all()


def together(work):
    """``work(rows, sum, gather)`` of two processes, row 0 and row 1: their results."""
    barrier, shared, results = threading.Barrier(2, timeout=10), [None, None], [None, None]

    def run(rank):
        def exchange(own):
            shared[rank] = own
            barrier.wait()
            both = list(shared)
            barrier.wait()
            return both

        results[rank] = work(
            slice(rank, rank + 1),
            lambda numbers: [sum(pair) for pair in zip(*exchange(numbers), strict=True)],
            lambda items: [item for part in exchange(items) for item in part],
        )

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize(
    "method, name", [(KLCov(share=0.6), "kl_cov/held"), (ClipCov(low=0.4, ratio=0.4), "clip_cov/weight")]
)
def test_two_processes_act_on_the_update_as_a_whole(method, name):
    def work(rows, add, gather):
        sent = {}
        seen, told = update(rows, seed=rows.start, sum=add, gather=gather)
        method.advantage(seen, ADVANTAGES[rows], sent)
        return sent[name], told

    (first, told), (second, other) = together(work)
    found = torch.cat([first, second])
    assert told == other
    if name == "kl_cov/held":
        assert found.tolist() == [[1, 1, 0], [1, 0, 0]]
    else:
        assert int((found == 0).sum()) == 2 and set(told.values()) == {0.4}


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("clip_cow", {}, ["'clip_cow'", "'clip_cov'", "package.module:name"]),
        ("clip_cov", {"ration": 1}, ["option of clip_cov", "'ration'", "'ratio'", "known: high, low, ratio"]),
        ("clip_cov", {"ratio": 2}, ["clip_cov", "ratio must be a number from 0 to 1, got 2", "method_args"]),
        ("clip_cov", {"low": 7}, ["low is 7 and high 5.0", "raise high"]),
        ("kl_cov", {"share": -0.1}, ["share", "-0.1"]),
        ("kl_cov", {"coef": "much"}, ["coef", "'much'"]),
    ],
)
def test_wrong_options_are_named(name, options, words):
    with pytest.raises(ValueError) as error:
        build_methods([name], {name: options})
    for word in words:
        assert word in str(error.value), error.value
