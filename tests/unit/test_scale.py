"""What advantages are divided by: never by what rounding left, and by a group's own std only where it is centred."""

import itertools
import math
import random

import pytest
import torch

from polytune.config import ObjectiveConfig, RolloutConfig
from polytune.objective import (
    CREDIT,
    OBJECTIVES,
    find_credit,
    find_scaling,
    group_signal,
    score_groups,
    standardise_groups,
)
from polytune.trainer import PolychromicConfig, check_run
from polytune.trainer.advantages import GroupStatistics, TurnAdvantages
from polytune.trainer.scaling import scale_populations


def random_scores(rng, credit, *, objective=None, num_sets="all", members=None, scale=1.0):
    """Groups of random outcomes, tied ones among them."""
    members = members or rng.randint(3, 7)
    kinds = [[rng.choice([0.0, 0.5, 1.0]) for _ in range(members)], [rng.choice([0.0, 1.0])] * members]
    rewards = [[scale * r for r in rng.choice(kinds)] for _ in range(4)]
    signatures = [[rng.choice("ab") if rng.random() < 0.7 else "a" for _ in range(members)] for _ in range(4)]
    objective = objective or rng.choice(sorted(OBJECTIVES))
    size = rng.randint(2, members - 1)
    return score_groups(
        rewards, signatures, size, objective=objective, credit=credit, num_sets=num_sets, seed=rng.randrange(99)
    )


@pytest.mark.parametrize("credit", CREDIT)
def test_a_credit_row_says_rightly_whether_it_is_centred(credit):
    """Over all sets, whatever was scored, the members of a group sum to 0; of a row that says no, some do not."""
    rng, sums = random.Random(0), []
    for _ in range(150):
        sums += random_scores(rng, credit).advantages_P_N.sum(dim=1).abs().tolist()
    assert (max(sums) < 1e-9) == find_credit(credit).centred


@pytest.mark.parametrize("credit", [name for name in CREDIT if find_credit(name).centred])
@pytest.mark.parametrize("num_sets", ["all", 3])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_group_std_gives_zero_or_unit_groups(credit, num_sets, scale):
    """By the definition, member by member; nothing is larger than (N - 1) / sqrt(N) whatever is tied."""
    rng, seen = random.Random(1), set()
    for _ in range(40):
        raw = random_scores(rng, credit, num_sets=num_sets, scale=scale, objective=rng.choice(["mean", "polychromic"]))
        found, signal = standardise_groups(raw), group_signal(raw).tolist()
        for p, (a_N, scored_N) in enumerate(zip(raw.advantages_P_N, raw.scored_P_N, strict=True)):
            own, got = a_N[scored_N].tolist(), found.advantages_P_N[p]
            mean = math.fsum(own) / len(own)
            std = (math.fsum((x - mean) ** 2 for x in own) / max(len(own) - 1, 1)) ** 0.5
            seen.add(signal[p])
            assert signal[p] == (std > 1e-6 * raw.scale_P[p])
            assert (got[~scored_N] == 0).all() and got.abs().max() <= (len(own) - 1) / len(own) ** 0.5 + 1e-9
            expected = [(x - mean) / std if signal[p] else 0.0 for x in own]
            assert got[scored_N].tolist() == pytest.approx(expected, abs=1e-9)
        if found.deductions_P_N is not None:  # what sets give and what they take, neither below 0
            assert min((found.advantages_P_N + found.deductions_P_N).min(), found.deductions_P_N.min()) >= -1e-9
    assert seen == {True, False}


def test_a_row_worked_out_by_hand():
    """Rewards 1 0 0 0 in sets of one: 3/4, -1/4 over std 1/2; the tied group gives 0, though .1 + .2 is not .3."""
    rewards = [[1.0, 0.0, 0.0, 0.0], [0.1 + 0.2, 0.3, 0.3, 0.1 + 0.2]]
    found = standardise_groups(score_groups(rewards, ["abcd"] * 2, 1, objective="mean"))
    assert found.advantages_P_N[0].tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5])
    assert found.advantages_P_N[1].tolist() == [0.0] * 4


def test_a_constant_that_all_members_share_is_no_signal():
    """Leave-one-out under the product gives a group that wins in one way -1/12 each: for every member, so for none."""
    rewards, signatures = [[1.0] * 4, [1.0, 0.0, 1.0, 1.0]], ["aaaa", "aaba"]
    raw = score_groups(rewards, signatures, 4, credit="leave_one_out")
    assert raw.advantages_P_N[0].tolist() == pytest.approx([1 / 4 - 1 / 3] * 4)
    assert group_signal(raw).tolist() == [False, True]


def runs(credit, set_normalise):
    rollout = RolloutConfig(num_seeds=8, num_rollout_states=0, num_vines=0)
    objective = ObjectiveConfig(set_scope="seeds", window=-1, credit=credit, set_normalise=set_normalise)
    args = PolychromicConfig(num_generations=8, per_device_train_batch_size=8, use_cpu=True)
    return args, rollout, objective


@pytest.mark.parametrize(("credit", "set_normalise"), [*itertools.product(CREDIT, ["std", "none", "group_std"])])
def test_only_centred_credit_is_divided_by_a_groups_std(credit, set_normalise):
    if set_normalise != "group_std" or find_credit(credit).centred:
        check_run(*runs(credit, set_normalise))
        return
    with pytest.raises(ValueError, match=f"credit '{credit}' .* set set_normalise to 'std' or 'none', or credit to"):
        check_run(*runs(credit, set_normalise))


@pytest.mark.parametrize(
    ("values", "mode", "least", "expected"),
    [
        ([1.0, 3.0], "std", 0.0, [0.5, 1.5]),  # the mean, 2, is larger than the std, 1
        ([-1.0, 3.0], "std", 0.0, [-0.5, 1.5]),
        ([1.0, 3.0], "mean_std", 0.0, [-1.0, 1.0]),
        ([1.0, 3.0], "none", 0.0, [1.0, 3.0]),
        ([1e-9, -1e-9], "std", 1e-6, [1e-9, -1e-9]),  # rounding of scores of about 1 stays what it is
        ([1e-9, -1e-9], "std", 1e-15, [1.0, -1.0]),  # the size that rewards of 1e-9 have
        ([5.0, 5.0 + 1e-9], "std", 5e-6, [1.0, 1.0]),
        ([5.0, 5.0 + 1e-9], "mean_std", 5e-6, [0.0, 0.0]),
    ],
)
def test_scalings_by_hand(values, mode, least, expected):
    tensor = torch.tensor(values, dtype=torch.float64)
    moments = tensor.mean().item(), tensor.std(correction=0).item()
    found = find_scaling("set_normalise", mode).apply(tensor, *moments, least)
    assert found.tolist() == pytest.approx(expected, abs=1e-8, rel=1e-6)


def turns_of(sets, critics, raw=None, score_scale=1.0):
    """One row: turns that sets score, then those of the critic."""
    values = torch.tensor([[*sets, *critics]], dtype=torch.float64)
    mask = torch.tensor([[True] * len(sets) + [False] * len(critics)])
    before = values.clone() if raw is None else torch.tensor([[*raw, *critics]], dtype=torch.float64)
    return TurnAdvantages(values, mask, ~mask, values * 0, mask | ~mask, None, GroupStatistics(), before, score_scale)


def scaled(turns, **fields):
    return scale_populations(turns, ObjectiveConfig(**fields), lambda numbers: numbers, lambda number: number)


def test_raw_and_applied_sizes_by_hand():
    turns = turns_of([0.02, -0.02], [0.1, 0.5])
    logged = scaled(turns, set_normalise="std", gae_normalise="mean_std", set_weight=2.0)
    assert logged == pytest.approx({
        "advantages/set_mean_raw": 0.0, "advantages/set_scale_raw": 0.02,
        "advantages/set_mean_applied": 0.0, "advantages/set_scale_applied": 2.0,
        "advantages/gae_mean_raw": 0.3, "advantages/gae_scale_raw": 0.2,
        "advantages/gae_mean_applied": 0.0, "advantages/gae_scale_applied": 1.0,
    })  # fmt: skip
    assert turns.advantages_B_T[0].tolist() == pytest.approx([2.0, -2.0, -1.0, 1.0])


def test_raw_sizes_do_not_depend_on_what_divides():
    """group_std has divided before: raw is what it was then, applied what the loss gets."""
    logged = scaled(turns_of([1.0, -1.0], [], raw=[0.02, -0.02]), set_normalise="group_std", set_weight=0.5)
    assert logged["advantages/set_scale_raw"] == pytest.approx(0.02)
    assert logged["advantages/set_scale_applied"] == pytest.approx(0.5)
    assert not any("gae" in name for name in logged)  # nobody scored it


@pytest.mark.parametrize("mode", ["std", "mean_std"])
def test_a_std_of_rounding_never_blows_up(mode):
    turns = turns_of([3e-9, -1e-9], [0.25 + 1e-9, 0.25 - 1e-9])
    scaled(turns, set_normalise=mode, gae_normalise=mode)
    assert turns.advantages_B_T.abs().max() <= 1.0 + 1e-6
    assert turns.advantages_B_T[0, :2].abs().max() < 1e-8


# ---------------------------------------------------------------- group_mean


@pytest.mark.parametrize("num_sets", ["all", 40])
def test_group_mean_is_maxrl(num_sets):
    """(r - mean) / mean with sets of one, by hand; a group that won nothing is left as it is."""
    rewards = [[1.0, 0.0, 0.0, 0.0], [0.5, 1.0, 0.5, 1.0], [0.0] * 4]
    raw = score_groups(rewards, [list("abcd")] * 3, 1, objective="mean", num_sets=num_sets, seed=3)
    found = find_scaling("set_normalise", "group_mean").within_groups(raw).advantages_P_N
    for p, row in enumerate(rewards):
        mean = raw.mean_P[p].item() if num_sets != "all" else sum(row) / 4
        assert raw.mean_P[p].item() == pytest.approx(mean)
        expected = [(r - mean) / mean if mean else 0.0 for r in row]
        scored = raw.scored_P_N[p]
        assert found[p][scored].tolist() == pytest.approx(torch.tensor(expected)[scored].tolist(), abs=1e-6)


def test_group_mean_is_the_gradient_of_the_log_of_the_success_rate():
    """In expectation over groups of N, d/d logit of the winning arm: of log p it is 1 - p, and all but (1 - p)^N,
    groups without a win, is there. By enumeration."""
    p, n, total = 0.3, 6, 0.0
    for wins in range(n + 1):
        chance = math.comb(n, wins) * 0.3**wins * 0.7 ** (n - wins)
        rewards = [1.0] * wins + [0.0] * (n - wins)
        raw = score_groups([rewards], [list("abcdef")], 1, objective="mean")
        a = find_scaling("set_normalise", "group_mean").within_groups(raw).advantages_P_N[0]
        total += chance * sum(x * (1 - p if r else -p) for x, r in zip(a.tolist(), rewards, strict=True)) / n
    assert total == pytest.approx((1 - p) - (1 - p) ** n)


def test_group_mean_needs_credit_that_sums_to_0():
    args, objective = None, ObjectiveConfig(credit="leave_one_out", set_normalise="group_mean", set_size=2)
    with pytest.raises(ValueError, match="which set_normalise 'group_mean' would take away"):
        find_scaling("set_normalise", "group_mean").check(args, None, objective)
