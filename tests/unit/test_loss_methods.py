"""Methods that replace or weigh the clipped surrogate: numbers by hand, and what each promises, on a bandit of one row
of logits."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import beta as beta_distribution
from softmax_bandit import Bandit, advantages_of, entropy, loss_of, mean_over_seeds, train

from polytune.methods import Minibatch, Update, build_methods
from polytune.methods.bnpo import BNPO, beta_of, density
from polytune.methods.copg import CoPG
from polytune.methods.d3s import D3S, most_varied
from polytune.methods.empg import EMPG
from polytune.methods.epo import EPO, band_weight
from polytune.methods.mdpo import MDPO
from polytune.methods.nft import NFT
from polytune.methods.oreal import OREAL
from polytune.methods.rec import REC
from polytune.rollout import Trajectory, Tree, Turn

START, WINS = (0.4, 0.3, 0.2, 0.1), (1.0, 1.0, 0.0, 0.0)


def minibatch(moved, advantages, **tensors):
    """One row a token: log pi_old is -1 throughout, log pi that plus ``moved``."""
    moved = torch.tensor(moved, dtype=torch.float64)[:, None]
    old = torch.full_like(moved, -1.0)
    return Minibatch(
        logprobs_b_C=(old + moved).requires_grad_(), old_b_C=old, set_deductions_b_C=None,
        advantages_b_C=torch.tensor(advantages, dtype=torch.float64)[:, None], mask_b_C=torch.ones_like(old),
        epsilon=(0.2, 0.2), tensors={name: torch.tensor(values).double()[:, None] for name, values in tensors.items()},
    )  # fmt: skip


def slopes(method, batch):
    """d loss / d log pi of each token."""
    (found,) = torch.autograd.grad(method.loss(batch), batch.logprobs_b_C)
    return found[:, 0].tolist()


def final(method, seed, **more):
    return train(method, START, WINS, updates=30, seed=seed, **more)


# ---------------------------------------------------------------- REC, OPMD, AsymRE, RED


@pytest.mark.parametrize(
    "region, kept", [("none", "11111111"), ("one_side", "11001111"), ("two_side", "10001100"), ("ring", "10001110")]
)
def test_regions_by_hand(region, kept):
    """(r, a): (1, 1) (.5, 1) (1.5, 1) (.5, -1) (1.1, -1) (.9, 1) (3.5, -1) (2.9, -1); r of .39 is beyond the ring."""
    r = torch.tensor([1.0, 0.5, 1.5, 0.5, 1.1, 0.9, 3.5, 2.9])
    a = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, 1.0, -1.0, -1.0])
    assert "".join(map(str, REC(region=region).inside(a, r).int().tolist())) == kept
    far = REC(region="ring").inside(torch.tensor([1.0, -1.0]), torch.tensor([0.39, 0.39]))
    assert far.tolist() == [True, False]


def test_rec_by_hand():
    moved, advantages = [math.log(2), math.log(0.5), 0.0], [0.5, -1.0, 2.0]
    assert slopes(REC(region="none"), minibatch(moved, advantages)) == pytest.approx([-0.5, 1.0, -2.0])
    assert slopes(REC(region="none", weigh="importance"), minibatch(moved, advantages)) == pytest.approx(
        [-1.0, 0.5, -2]
    )
    by_advantage = [-a * math.exp(a / 2) for a in advantages]
    weighed = REC(region="none", weigh="advantage", temp=2.0)
    assert slopes(weighed, minibatch(moved, advantages)) == pytest.approx(by_advantage)
    assert slopes(REC(), minibatch(moved, advantages)) == pytest.approx([0.0, 0.0, -2.0])
    opmd = [-a + 0.2 * m for a, m in zip(advantages, moved, strict=True)]
    assert slopes(REC(region="none", tau=0.1), minibatch(moved, advantages)) == pytest.approx(opmd)
    asymre = slopes(REC(region="none", shift=0.1), minibatch(moved, advantages))
    assert asymre == pytest.approx([-0.6, 0.9, -2.1])
    assert REC().weight(minibatch(moved, advantages)).abs().max() == 0


def test_red_drops_failures_until_they_are_no_more_than_successes():
    bandit = Bandit(torch.tensor([0.2, 0.8]).log().requires_grad_(), (1.0, 0.0), pulls=24)
    update, _ = bandit.update()
    changed, _ = advantages_of(REC(balance=True), bandit, update)
    wins = torch.tensor([t.success for t in update.trajectories])
    assert 0 < wins.sum() < 12 and torch.equal(changed[wins, 0], torch.full_like(changed[wins, 0], 0.5))
    lost = changed[~wins, 0]
    assert (lost == -0.5).sum() == wins.sum() and (lost == 0).sum() == len(lost) - wins.sum()


def test_tau_holds_the_policy_and_the_shift_keeps_more_of_what_was_sampled():
    left = {tau: mean_over_seeds(lambda s, tau=tau: final(REC(region="none", tau=tau), s, passes=8)[2:].sum().item())
            for tau in (0.0, 1.0)}  # fmt: skip
    assert left[1.0] > 1.5 * left[0.0], left
    kept = [train(REC(region="none", shift=a), START, WINS, updates=1, passes=60, pulls=400)[2:].min().item()
            for a in (0.3, 0.0)]  # fmt: skip
    assert kept[0] > 1.2 * kept[1], kept


# ---------------------------------------------------------------- MDPO


def test_mdpo_by_hand():
    """d/d log pi of r log r - r + 1 is r log r."""
    method = MDPO(step=0.5)
    moved, advantages = [math.log(2), 0.0], [1.0, -1.0]
    assert slopes(method, minibatch(moved, advantages)) == pytest.approx([2 * math.log(2) / 0.5 - 2, 1.0])
    update, told = Bandit(torch.zeros(2), (1.0, 0.0)).update(progress=0.6)
    method.advantage(update, torch.zeros(16, 1), {})
    assert told["mdpo/step"] == pytest.approx(0.2) == method.t
    update.progress = 0.99
    method.advantage(update, torch.zeros(16, 1), {})
    assert method.t == 0.05


def test_many_steps_on_an_update_end_where_mirror_descent_says():
    """pi ~ pi_old exp(t A) up to a constant; without a KL there would be no end."""
    for t in (0.3, 1.0):
        end = train(MDPO(step=t), START, WINS, updates=1, passes=400, rate=0.3, pulls=400)
        gap = math.log(end[0] / START[0]) - math.log(end[2] / START[2])
        assert gap == pytest.approx(t, rel=0.15), t


# ---------------------------------------------------------------- NFT


def test_nft_by_hand():
    """A success and two failures at q = .25: weight .75; d/d log pi of -log((1 - q r) / (1 - q)) is q r / (1 - q r)
    where that is above the floor, else q r / (1 - q)."""
    told = {"nft/rate": [0.25] * 4, "nft/sign": [1.0, -1.0, -1.0, 0.0]}
    batch = minibatch([0.3, math.log(0.8), math.log(2), 0.5], [9.0] * 4, **told)
    expected = [-0.75, 0.75 * 0.2 / 0.8, 0.75 * 0.5 / 0.75, 0.0]
    assert slopes(NFT(), batch) == pytest.approx(expected)
    value = -0.3 - math.log(0.8 / 0.75) - 0.0
    assert NFT().loss(batch).item() == pytest.approx(0.75 * value)
    half = [expected[0], *[0.5 * slope for slope in expected[1:]]]
    assert slopes(NFT(negatives=0.5), batch) == pytest.approx(half)
    grpo = [slope / 0.75 * math.sqrt(3) for slope in expected]
    assert slopes(NFT(weigh="grpo"), batch) == pytest.approx(grpo)


def test_nft_weighed_by_grpo_is_grpo_on_the_first_step():
    bandit = Bandit(torch.tensor(START).log().requires_grad_(), WINS, pulls=24)
    update, told = bandit.update()
    advantages, sent = advantages_of(NFT(weigh="grpo"), bandit, update)
    loss, _ = loss_of(NFT(weigh="grpo"), bandit, update, advantages, sent)
    q = sum(t.success for t in update.trajectories) / 24
    scale = 1 / math.sqrt(q * (1 - q))
    plain, _ = loss_of(build_methods(["ucb"], {})["ucb"], bandit, update, advantages * scale, {})
    for one, other in zip(*(torch.autograd.grad(x, bandit.logits_V)[0] for x in (loss, plain)), strict=True):
        assert one.item() == pytest.approx(other.item(), abs=1e-6)
    assert told["nft/mixed"] == 1.0


def test_nft_learns_and_without_negatives_more_slowly():
    wins = [mean_over_seeds(lambda s, n=n: train(NFT(negatives=n), START, WINS, updates=8, seed=s)[:2].sum().item())
            for n in (1.0, 0.0)]  # fmt: skip
    assert wins[0] > wins[1] > sum(START[:2]) + 0.02, wins


# ---------------------------------------------------------------- CoPG


def test_copg_by_hand():
    assert slopes(CoPG(beta=0.5), minibatch([0.4, -0.2], [1.0, -1.0])) == pytest.approx([0.2 - 1.0, -0.1 + 1.0])


def test_pairs_are_the_variance_of_the_group():
    """Sum over pairs of squared differences, by hand, has the gradient of the row-wise form once l is centred."""
    r, logs = torch.tensor([1.0, 0.0, 0.5]), torch.tensor([0.2, -0.1, -0.1], requires_grad=True)  # of mean 0
    x = r - 0.5 * logs
    pairs = sum((x[i] - x[j]) ** 2 for i, j in itertools.permutations(range(3), 2)) / (2 * 3 * 2 * 0.5)
    (wanted,) = torch.autograd.grad(pairs, logs)
    found = slopes(CoPG(beta=0.5), minibatch(logs.tolist(), (r - r.mean()).tolist()))
    assert found == pytest.approx(wanted.tolist(), abs=1e-6)


def test_copg_in_a_worked_group_to_the_pretrained_policy():
    """Three attempts, beta 1/2: R (1, 0, 1/2), log pi (-1, -2, -1.5), log pi_0 (-1.4, -1.8, -2): l = (.4, -.2, .5), R -
    l / 2 = (.8, .1, .25), of mean .3833, so the slopes are minus (.4167, -.2833, -.1333). Times 2 beta k / (k - 1) they
    are those of the sum over pairs / (k - 1): the leave-one-out contrast."""
    logs, reference = torch.tensor([[-1.0], [-2.0], [-1.5]]), torch.tensor([[-1.4], [-1.8], [-2.0]])
    r, method, sent = torch.tensor([1.0, 0.0, 0.5]), CoPG(beta=0.5, to="pretrained"), {}
    update = Update(seed=0, trees=[], turns_mask_B_T=torch.ones(3, 1), turn_index_B_C=torch.zeros(3, 1).long(),
                    logprobs_B_C=logs, reference_B_C=reference, groups_G_N=[[0, 1, 2]])  # fmt: skip
    advantages_B_C = method.advantage(update, (r - r.mean())[:, None], sent)
    batch = Minibatch(logprobs_b_C=logs.clone().requires_grad_(), old_b_C=logs, advantages_b_C=advantages_B_C,
                      set_deductions_b_C=None, mask_b_C=torch.ones(3, 1), epsilon=(0.2, 0.2), tensors=sent)  # fmt: skip
    found = slopes(method, batch)
    assert found == pytest.approx([-0.41667, 0.28333, 0.13333], abs=1e-4)
    own = logs.clone().requires_grad_()
    x = r - 0.5 * (own - reference)[:, 0]
    pairs = sum((x[i] - x[j]) ** 2 for i, j in itertools.combinations(range(3), 2)) / (3 - 1)
    (wanted,) = torch.autograd.grad(pairs, own)
    assert [2 * 0.5 * 1.5 * slope for slope in found] == pytest.approx(wanted[:, 0].tolist(), abs=1e-5)


def test_copg_stops_where_the_log_ratio_says():
    """Many passes over one update: pi ~ pi_old exp(A / beta) up to a constant, the further the smaller beta."""
    gaps = {}
    for beta in (0.5, 5.0):
        end = train(CoPG(beta=beta), START, WINS, updates=1, passes=400, rate=0.3, pulls=400)
        gaps[beta] = math.log(end[0] / START[0]) - math.log(end[2] / START[2])
    assert gaps[5.0] == pytest.approx(1 / 5.0, rel=0.15) and gaps[0.5] == pytest.approx(1 / 0.5, rel=0.35), gaps


# ---------------------------------------------------------------- OREAL


def test_oreal_by_hand():
    batch = minibatch([0.3, 0.0, 0.0], [2.0, -1.0, 3.0], **{"oreal/kind": [1.0, -1.0, 0.0]})
    assert OREAL(wrong=0.5).weight(batch)[:, 0].tolist() == [0.0, 0.5, 0.0]
    assert slopes(OREAL(right=1.5), batch) == pytest.approx([-3.0, 0.0, 0.0])
    bandit = Bandit(torch.tensor(START).log().requires_grad_(), WINS, pulls=24)
    update, _ = bandit.update()
    _, sent = advantages_of(OREAL(), bandit, update)
    wins = torch.tensor([t.success for t in update.trajectories])
    assert sent["oreal/kind"][wins].sum() == 1 and sent["oreal/kind"][~wins].sum() == -1
    _, sent = advantages_of(OREAL(pairs=False), bandit, update)
    assert torch.equal(sent["oreal/kind"][:, 0] > 0, wins)


def test_oreal_learns_from_one_of_each():
    assert mean_over_seeds(lambda s: train(OREAL(), START, WINS, seed=s)[:2].sum().item()) > 0.8


# ---------------------------------------------------------------- BNPO


def test_beta_by_hand():
    """Rates .2 and .6: m .4, v .04, m (1 - m) / v - 1 = 5, a = 2, b = 3."""
    alpha, beta = beta_of([0.2, 0.6])
    assert (alpha, beta) == (pytest.approx(1 + 2 / 3), pytest.approx(2.0))
    assert density(0.3, alpha, beta) == pytest.approx(beta_distribution.pdf(0.3, alpha, beta))
    assert beta_of([0.5, 0.5]) == (1.0, 1.0) and density(0.1, 1.0, 1.0) == pytest.approx(1.0)
    alpha, beta = beta_of([0.498, 0.5, 0.502])  # close rates: the Beta function of 31,252 underflows
    assert alpha + beta > 30_000 and density(0.5, alpha, beta) == pytest.approx(beta_distribution.pdf(0.5, alpha, beta))
    assert beta_of([0.1 + 0.2] * 3 + [0.3]) == (1.0, 1.0)  # equal but for rounding
    assert density(0.0, 1.5, 1.5) == density(1.0, 1.5, 1.5) == 0.0
    half = [density(p, 1.5, 1.5) * 1 / math.sqrt(p * (1 - p)) for p in (0.1, 0.5, 0.8)]
    assert half == pytest.approx([half[0]] * 3)  # GRPO's division, up to a constant


def group(*wins):
    return [Trajectory(turns=[Turn((1,), (0.0,), float(win))], stop_reason="success" if win else "no") for win in wins]


def test_bnpo_divides_each_group_by_the_density_at_its_rate():
    trees = [
        Tree(i, (1,), seeds, [[] for _ in seeds])
        for i, seeds in enumerate((group(1, 0, 0, 0, 0), group(1, 1, 1, 0, 0)))
    ]
    told, mask = {}, torch.ones(10, 1, dtype=torch.bool)
    update = Update(seed=0, trees=trees, turns_mask_B_T=mask, turn_index_B_C=mask.long() - 1, logprobs_B_C=mask.float(),
                    groups_G_N=[range(5), range(5, 10)], record=told.__setitem__)  # fmt: skip
    changed = BNPO().turn_advantage(update, torch.ones(10, 1, dtype=torch.float64))
    for rows, p in ((slice(0, 5), 0.2), (slice(5, 10), 0.6)):
        expected = 1 / beta_distribution.pdf(p, told["bnpo/alpha"], told["bnpo/beta"])
        assert changed[rows].flatten().tolist() == pytest.approx([expected] * 5)
    assert BNPO(most=0.5).turn_advantage(update, torch.ones(10, 1)).max() == 0.5
    with pytest.raises(
        ValueError, match="'bnpo' divides advantages itself: set set_normalise to 'none', not 'group_std'"
    ):
        BNPO().check(None, None, SimpleNamespace(set_normalise="group_std"))


# ---------------------------------------------------------------- D3S


def test_the_subset_of_largest_variance():
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        numbers = torch.randn(7, generator=generator).round(decimals=1).tolist()
        for count in range(1, 8):
            found = torch.tensor([numbers[i] for i in most_varied(numbers, count)])
            every = (torch.tensor(own) for own in itertools.combinations(numbers, count))
            assert len(found) == count
            assert found.var(correction=0).item() == pytest.approx(max(o.var(correction=0).item() for o in every))


def test_d3s_keeps_its_shares_and_more_of_them_later():
    bandit = Bandit(torch.tensor(START).log().requires_grad_(), WINS, pulls=24)
    update, told = bandit.update()
    plain, _ = advantages_of(D3S(keep=1.0, keep_tokens=1.0), bandit, update)
    assert told["d3s/kept"] == 1.0
    wins = torch.tensor([t.success for t in update.trajectories])
    changed, _ = advantages_of(D3S(keep=0.25, keep_tokens=1.0), bandit, update)
    assert (changed[wins] != 0).sum() == (changed[~wins] != 0).sum() == 3 and told["d3s/kept"] == 0.25
    assert torch.equal(changed[changed != 0], plain[changed != 0])
    update.progress = 0.5
    advantages_of(D3S(keep=0.25, keep_tokens=1.0), bandit, update)
    assert told["d3s/kept"] == pytest.approx(15 / 24)
    advantages_of(D3S(keep=0.25, keep_tokens=1.0, until=0.5), bandit, update)
    assert told["d3s/kept"] == 1.0
    update.progress = 0.0
    advantages_of(D3S(keep=1.0, keep_tokens=0.1), bandit, update)
    rarer = min(wins.sum().item(), 24 - wins.sum().item())
    assert told["d3s/kept"] == pytest.approx(rarer / 24)  # ties stay: the rarer outcome has the larger |A|


# ---------------------------------------------------------------- EPO and EMPG


def turns_update(entropies, progress=0.0):
    """Rows of turns of one token each with these entropies; the rows may differ in length."""
    most = max(map(len, entropies))
    seeds = [Trajectory(turns=[Turn((1,), (0.0,), 0.0)] * len(row), stop_reason="no") for row in entropies]
    index = torch.tensor([[*range(len(row)), *[-1] * (most - len(row))] for row in entropies])
    values = torch.tensor([[*row, *[0.0] * (most - len(row))] for row in entropies])
    told = {}
    update = Update(
        seed=0, trees=[Tree(0, (1,), seeds, [[] for _ in seeds])], turns_mask_B_T=index >= 0, turn_index_B_C=index,
        logprobs_B_C=torch.zeros(index.shape), scored_B_T=index >= 0, record=told.__setitem__, progress=progress,
        probed={"epo/entropy": values, "empg/entropy": values},
    )  # fmt: skip
    return update, told


def test_epo_by_hand():
    """History: turn 0 has (1 + 3) / 2, turn 1 has 1. Then 5 and .2 lie outside 0.5 to 2 times it, by 1 and by 0.3."""
    method = EPO(coef=0.1, low=0.5, high=2.0, alpha=0.4)
    first, _ = turns_update([[1.0, 1.0], [3.0]])
    method.advantage(first, torch.zeros(2, 2), sent := {})
    assert (sent["epo/mean"] == -1).all()  # no band yet
    method.learn(first)
    assert (method.sums / method.counts).tolist() == [2.0, 1.0]
    second, _ = turns_update([[5.0, 0.2], [2.0]], progress=0.25)
    method.advantage(second, torch.zeros(2, 2), sent := {})
    entropies = torch.tensor([[5.0, 0.2], [2.0, 7.0]], requires_grad=True)
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    batch = Minibatch(
        logprobs_b_C=mask, old_b_C=mask, advantages_b_C=mask, set_deductions_b_C=None, mask_b_C=mask, epsilon=(0.2,
        0.2), tensors=sent, entropies_b_C=entropies,
    )  # fmt: skip
    w = band_weight(0.25)
    assert w == pytest.approx(1 - 0.2 * (1 - math.exp(-1.0)))
    assert method.loss(batch).item() == pytest.approx(-0.1 * (7.2 - w * 0.4 * (1.0 + 0.3)), rel=1e-5)
    (slope,) = torch.autograd.grad(method.loss(batch), entropies)
    assert slope[0, 0].item() == pytest.approx(-0.1 * (1 - w * 0.4), rel=1e-5)  # pushed down by the band
    assert slope[0, 1].item() == pytest.approx(-0.1 * (1 + w * 0.4), rel=1e-5)
    assert slope[1].tolist() == pytest.approx([-0.1, 0.0])
    method.learn(second)
    assert method.counts.tolist() == [2, 2] and method.sums.tolist() == pytest.approx([5.5, 1.2])
    again = EPO()
    again.restore(method.state())
    assert torch.equal(again.sums, method.sums)
    assert [band_weight(0.5), band_weight(0.75)] == pytest.approx([1 - 0.2 * (1 - math.exp(-2)), 0.8 * math.exp(-1.5)])


def test_the_lower_band_keeps_entropy():
    """Without the bonus' part (alpha large beside it), on a bandit that would collapse."""
    start = (0.25, 0.25, 0.25, 0.25)
    left = [mean_over_seeds(lambda s, a=a: entropy(train(EPO(coef=0.02, low=0.95, high=2.0, alpha=a), start,
                                                         (1.0, 0.5, 0.0, 0.0), updates=25, seed=s)))
            for a in (20.0, 0.0)]  # fmt: skip
    assert left[0] > left[1] + 0.1, left


def test_empg_by_hand():
    """Entropies 0, 1 and 2 scale to 0, 1/2 and 1."""
    update, told = turns_update([[0.0, 1.0], [2.0]])
    changed = EMPG(k=2.0, k_next=1.0, zeta=0.1).turn_advantage(update, torch.tensor([[1.0, 1.0], [-1.0, 0.0]]).double())
    g = [1.0, math.exp(-1.0), math.exp(-2.0)]
    mean = sum(g) / 3
    raw = [g[0] / mean + 0.1 * math.exp(-0.5), g[1] / mean, -g[2] / mean]
    centre = sum(raw) / 3
    assert changed.flatten().tolist() == pytest.approx([raw[0] - centre, raw[1] - centre, raw[2] - centre, 0.0])
    assert told["empg/range"] == 2.0
    flat, _ = turns_update([[1.0], [1.0]])
    even = torch.tensor([[1.0], [-1.0]]).double()
    assert torch.equal(EMPG().turn_advantage(flat, even), even)


def test_empg_is_finite_where_episodes_end_early_and_turns_are_nearly_alike():
    """A range of 1e-4 at entropies of .5: the missing turn's 0 lies 5,000 ranges below."""
    index = torch.tensor([[0, 1], [0, -1]])
    probed = {"empg/entropy": torch.tensor([[0.5, 0.5001], [0.5, 0.0]])}
    update = Update(seed=0, trees=[], turns_mask_B_T=index >= 0, turn_index_B_C=index, logprobs_B_C=torch.zeros(2, 2),
                    scored_B_T=index >= 0, probed=probed)  # fmt: skip
    found = EMPG(zeta=0.1).turn_advantage(update, torch.zeros(2, 2, dtype=torch.float64))
    clear, mean = 0.1 * math.exp(-1), 0.1 * math.exp(-1) / 3
    torch.testing.assert_close(found, torch.tensor([[clear - mean, -mean], [-mean, 0.0]]).double(), atol=1e-5, rtol=0)


def test_empg_makes_confident_turns_count():
    update, _ = turns_update([[0.1], [2.0], [0.1], [2.0]])
    changed = EMPG(k=1.0, zeta=0.0).turn_advantage(update, torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]).double())
    assert changed[0] > 1 > changed[1] > 0 > changed[3] > -1 > changed[2]


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("rec", {"region": "disc"}, "region must be one of none, one_side, two_side, ring"),
        ("rec", {"weigh": "much"}, "weigh must be one of none, importance, advantage"),
        ("nft", {"weigh": "all"}, "weigh must be one of failures, grpo"),
        ("epo", {"low": 3.0}, "low is 3.0 and high 2.0: no entropy lies between"),
        ("oreal", {"pairs": 2}, "pairs must be true or false, got 2"),
    ],
)
def test_wrong_options_are_named(name, options, words):
    with pytest.raises(ValueError, match=words):
        build_methods([name], {name: options})


@pytest.mark.parametrize("name", ["rec", "mdpo", "nft", "copg", "oreal"])
def test_another_mean_is_refused(name):
    method = build_methods([name], {})[name]
    with pytest.raises(ValueError, match=f"method {name!r} replaces terms of a mean over all tokens.*not 'grpo'"):
        method.check(SimpleNamespace(loss_type="grpo"), None, None)
