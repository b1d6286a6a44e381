"""Methods that read or set the policy that the KL term refers to: numbers by hand, and what each promises."""

import math
from types import SimpleNamespace

import pytest
import torch
from made_updates import episodes_update
from softmax_bandit import Bandit, advantages_of, loss_of, mean_over_seeds, train
from test_loss_methods import minibatch, slopes

from polytune.methods import build_methods
from polytune.methods.f_dpo import FDPO
from polytune.methods.implicit_sft import TERMS, ImplicitSFT
from polytune.methods.nash_mirror_prox import NashMirrorProx
from polytune.methods.remix import ReMix
from polytune.methods.rpo import RPO
from polytune.methods.salsa import SALSA
from polytune.policy import build_tiny

START, WINS = (0.4, 0.3, 0.2, 0.1), (1.0, 1.0, 0.0, 0.0)


def sigma(x):
    return 1 / (1 + math.exp(-x))


# ---------------------------------------------------------------- f-DPO and RPO


def test_slopes_of_divergences_by_hand():
    u = torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64)
    expected = {
        "reverse": u.log(), "forward": 1 - 1 / u, "js": (2 * u / (1 + u)).log(), "alpha": (u**-0.5 - 1) / -0.5,
    }  # fmt: skip
    for name, slope in expected.items():
        torch.testing.assert_close(FDPO(divergence=name, alpha=0.5).slope(u.log()), slope)
    assert FDPO(divergence="reverse", most=1.0).slope(u.log()).tolist() == [-1.0, 0.0, 1.0]


def test_pulls_are_the_weights_of_pairs():
    """One success at log u = .5, failures at 0 and 1: weights sigma(-beta (.5 - 0)) and sigma(-beta (.5 - 1))."""
    method = FDPO(divergence="reverse", beta=2.0)
    found = method.pulls(torch.tensor([0.5, 0.0, 1.0]), torch.tensor([True, False, False])).tolist()
    weights = [sigma(-2 * 0.5), sigma(2 * 0.5)]
    assert found == pytest.approx([2.0 * sum(weights) * 3 / 2, *[-2.0 * w * 3 / 2 for w in weights]])


@pytest.mark.parametrize("method", [FDPO(divergence="js"), FDPO(divergence="alpha"), RPO(beta=0.7, nll=0.3)])
def test_the_first_step_is_that_of_the_sum_over_pairs(method):
    """The loss of all pairs, written down from the definition, on a bandit that has moved away from where it began."""
    bandit = Bandit(torch.tensor(START).log().requires_grad_(), WINS, pulls=12)
    bandit.remember()
    with torch.no_grad():
        bandit.logits_V += torch.tensor([0.3, -0.2, 0.5, 0.1])
    update, told = bandit.update()
    advantages, sent = advantages_of(method, bandit, update)
    loss, _ = loss_of(method, bandit, update, advantages, sent)
    (found,) = torch.autograd.grad(loss, bandit.logits_V)
    arms = [t.turns[0].action_ids[0] for t in update.trajectories]
    logs_V = bandit.logits_V.log_softmax(0)
    score = [method.beta * method.slope((logs_V - bandit.start_V)[arm]) for arm in arms]
    won = [i for i, arm in enumerate(arms) if WINS[arm]]
    pairs = [(i, j) for i in won for j in range(12) if j not in won]
    assert told[f"{method.name}/pairs"] == len(pairs) > 8
    wanted = sum(-torch.nn.functional.logsigmoid(score[i] - score[j]) for i, j in pairs) / len(pairs)
    wanted = wanted - method.nll * sum(logs_V[arms[i]] for i in won) / len(won)
    (slope,) = torch.autograd.grad(wanted, bandit.logits_V)
    torch.testing.assert_close(found, slope, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("divergence", ["reverse", "js", "forward"])
def test_f_dpo_learns_and_keeps_both_ways_to_win(divergence):
    ends = [train(FDPO(divergence=divergence, beta=1.0), START, WINS, seed=s) for s in range(2)]
    assert all(end[:2].sum() > 0.8 for end in ends), ends
    assert sum(end[:2].min().item() for end in ends) / 2 > 0.15


def test_rpo_makes_successes_likelier_than_dpo_alone():
    def likelihood(nll, seed):
        end = train(RPO(beta=0.1, nll=nll), (0.02, 0.02, 0.5, 0.46), WINS, seed=seed, updates=12)
        return end[:2].sum().item()

    imitating, plain = (mean_over_seeds(lambda s, nll=nll: likelihood(nll, s), seeds=2) for nll in (1.0, 0.0))
    assert imitating > 1.2 * plain


def test_a_group_without_pairs_teaches_nothing():
    update, _ = episodes_update([(1, 1.0, "")], [(1, 1.0, "")], success=[True, True])
    update.reference_B_C, sent = update.logprobs_B_C, {}
    FDPO().advantage(update, torch.zeros(2, 1), sent)
    assert sent["f_dpo/pull"].abs().max() == 0 == sent["f_dpo/likely"].abs().max()


# ---------------------------------------------------------------- implicit-reward SFT


@pytest.mark.parametrize("divergence", TERMS)
def test_terms_follow_from_f_and_their_minimum_is_the_demonstrations(divergence):
    """f'(u) by autograd; the second term is f'(u) - f(u) / u; the exact loss has no slope at pi = p_demo alone."""
    f = {"pearson": lambda u: (u - 1) ** 2, "hellinger": lambda u: (u.sqrt() - 1) ** 2,
         "reverse": lambda u: u * u.log(),
         "js": lambda u: u * u.log() - (u + 1) * ((u + 1) / 2).log()}[divergence]  # fmt: skip
    u = torch.tensor([0.3, 0.9, 2.5], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(f(u).sum(), u)
    told, held = ImplicitSFT(divergence=divergence, most=9.0).terms(u.detach().log())
    if divergence == "reverse":
        torch.testing.assert_close(told + 1, slope)
        assert held.abs().max() == 0  # of log u + 1, whose mean under pi is 1 less a constant
    else:
        torch.testing.assert_close(told, slope)
        torch.testing.assert_close(held, slope - f(u.detach()) / u.detach())
    shown, began = (torch.tensor(p, dtype=torch.float64) for p in ([0.5, 0.3, 0.2], [0.2, 0.2, 0.6]))
    for at, still in ((shown, True), (began, False)):
        logits = at.log().requires_grad_()
        pi = logits.softmax(0)
        told, held = ImplicitSFT(divergence=divergence, most=9.0).terms((pi / began).log())
        (gradient,) = torch.autograd.grad(-(shown * told).sum() + (pi * held).sum(), logits)
        assert (gradient.abs().max() < 1e-9) == still, divergence


def test_the_loss_of_implicit_sft_by_hand():
    """u = e^.5 and r = e^.3 of a fresh token, pearson: 0.2 r (u - 1/u)."""
    method = ImplicitSFT(coef=0.2)
    batch = minibatch([0.3], [9.0], **{"implicit_sft/reference": [-1.2]})
    u = math.exp(0.3 - 1.0 + 1.2)
    assert method.loss(batch).item() == pytest.approx(0.2 * math.exp(0.3) * (u - 1 / u))
    assert method.replayed(minibatch([0.3], [1.0]))[0, 0].item() == pytest.approx(-0.2 * 2 * (math.exp(0.3) - 1))


@pytest.mark.parametrize("divergence", TERMS)
def test_it_imitates(divergence):
    start, rewards = (0.6, 0.3, 0.1), (0.0, 0.0, 0.0)
    end = train(ImplicitSFT(divergence=divergence, coef=0.5), start, rewards, expert=2, updates=30)
    assert end[2] > 0.3 > start[2]


# ---------------------------------------------------------------- ReMix's KL


def test_the_convex_kl_by_hand():
    """r = e^.4, u = e^(-1.3 + .6): 0.5 (0.25 r (u - 1 - log u) + 0.75 (r log r - r + 1))."""
    method = ReMix(kl=0.5, base=0.25)
    batch = minibatch([0.4], [9.0], **{"remix/base": [-1.3]})
    r, log_u = math.exp(0.4), -1.3 + 0.6
    by_hand = 0.25 * r * (math.exp(log_u) - 1 - log_u) + 0.75 * (r * 0.4 - r + 1)
    assert method.loss(batch).item() == pytest.approx(0.5 * by_hand)
    assert ReMix().loss(batch) == 0.0 and not ReMix().sets_reference and method.sets_reference
    assert slopes(ReMix(kl=1.0, base=0.0), batch) == pytest.approx([r * 0.4])


def test_the_base_is_born_again_once():
    method = ReMix(kl=0.1, until=0.5)
    assert method.reference(lambda: {"w": 1}, 0.49) is None and method.reference(lambda: {"w": 1}, 0.5) == {"w": 1}
    again = ReMix(kl=0.1, until=0.5)
    again.restore(method.state())
    assert method.reference(lambda: {"w": 2}, 0.75) is None is again.reference(lambda: {"w": 2}, 0.75)


def test_the_convex_kl_holds_the_policy():
    def lost(kl, seed):
        return train(ReMix(kl=kl, base=1.0), START, WINS, seed=seed, updates=30)[2:].sum().item()

    kept = [mean_over_seeds(lambda s, kl=kl: lost(kl, s), seeds=2) for kl in (1.0, 0.0)]
    assert kept[0] > kept[1] + 0.05, kept


# ---------------------------------------------------------------- SALSA


def test_an_average_of_policies_by_hand(tmp_path):
    """Two others: a quarter of each, half of the own; a policy of another size is refused with the tensor's name."""
    policies = [build_tiny("tiny", ["a", "b", *("c" * (i == 3))], seed=i) for i in range(4)]
    for i, (model, tokenizer) in enumerate(policies):
        model.save_pretrained(tmp_path / str(i))
        tokenizer.save_pretrained(tmp_path / str(i))
    own = policies[0][0].state_dict()
    method = SALSA(others=f"{tmp_path / '1'}:{tmp_path / '2'}")
    found = method.reference(lambda: own, 0.0)
    for name, tensor in own.items():
        others = [policies[i][0].state_dict()[name] for i in (1, 2)]
        torch.testing.assert_close(found[name], 0.5 * tensor + 0.25 * others[0] + 0.25 * others[1])
    assert method.reference(lambda: own, 0.1) is None and SALSA().reference(lambda: own, 0.0) is None
    with pytest.raises(ValueError, match="others names .*whose .*weight has shape .* only policies of one shape"):
        SALSA(others=str(tmp_path / "3")).reference(lambda: own, 0.0)
    with pytest.raises(ValueError, match="is no folder: name saved policies"):
        build_methods(["salsa"], {"salsa": {"others": str(tmp_path / "nowhere")}})


# ---------------------------------------------------------------- Nash Mirror Prox


def beats(one, other):
    """Rock, paper, scissors."""
    return {0: 0.5, 1: 1.0, 2: 0.0}[(int(one) - int(other)) % 3]


def test_win_rates_by_hand():
    """Rock twice, paper, scissors: rock ties, loses, wins; by returns 1, 0, 0, 0 half of RLOO's advantages."""
    method = NashMirrorProx(judge=f"{__name__}:beats")
    found = method.gains(["0", "0", "1", "2"], [0.0] * 4).tolist()
    assert found == pytest.approx([0.5 / 3 + 0 / 3 + 1 / 3 - 0.5] * 2 + [2 / 3 - 0.5, 1 / 3 - 0.5])
    rloo = [1 - 0.0, *[0 - 1 / 3] * 3]
    assert NashMirrorProx().gains(["x"] * 4, [1.0, 0.0, 0.0, 0.0]).tolist() == pytest.approx([a / 2 for a in rloo])
    assert NashMirrorProx().gains(["x"], [1.0]).tolist() == [0.0]


def test_when_the_reference_becomes_the_policy_of_now():
    method, given = NashMirrorProx(), []
    for number in range(6):
        given.append(method.reference(lambda number=number: number, number / 6))
        method.learn(None)
    assert given == [None, None, 2, None, 4, None]
    again = NashMirrorProx()
    again.restore(method.state())
    assert again.reference(lambda: "now", 0.9) == "now"
    with pytest.raises(ValueError, match="takes the place of the run's advantages"):
        trainer = SimpleNamespace(kl_reference="pretrained", kl_coef=0.1, critic="head")
        method.check(trainer, None, SimpleNamespace(set_scope="seeds"))


def test_an_extragradient_step_ends_the_going_round_in_circles():
    """Rock, paper, scissors from an uneven start: with every 2 the policy comes to the middle, with 1 it does not."""

    def end(every, seed):
        method, logits = NashMirrorProx(judge=f"{__name__}:beats", every=every), torch.tensor([0.5, 0.3, 0.2]).log()
        generator, centre = torch.Generator().manual_seed(seed), logits
        for _ in range(120):
            given = method.reference(lambda now=logits: now, 0.5)
            centre = centre if given is None else given
            arms = torch.multinomial(logits.softmax(0), 60, replacement=True, generator=generator)
            gains = method.gains([str(arm) for arm in arms.tolist()], [0.0] * 60).float()
            counts = torch.zeros(3).index_add(0, arms, torch.ones(60)).clamp(min=1)
            logits = centre + torch.zeros(3).index_add(0, arms, gains) / counts  # the argmax at kl_coef 1
            method.learn(None)
        return (logits.softmax(0) - 1 / 3).abs().max().item()

    prox, descent = ([end(every, seed) for seed in range(3)] for every in (2, 1))
    assert max(prox) < 0.2 < min(descent), (prox, descent)
