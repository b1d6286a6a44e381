"""RepExp: leverages worked out by hand, the projection, which groups get a bonus and where."""

import math

import pytest
import torch

from polytune.methods import Update, build_methods
from polytune.methods.rep_exp import RepExp, leverages, project
from polytune.rollout import Trajectory, Tree, Turn


def trajectory(turns, success):
    return Trajectory(turns=[Turn((1,), (0.0,), 0.0)] * turns, stop_reason="success" if success else "horizon")


def update(hidden, groups, wins, turns=(2, 1, 3, 2, 2)):
    told = {}
    rows = [trajectory(count, win) for count, win in zip(turns, wins, strict=True)]
    mask = torch.arange(max(turns)) < torch.tensor(turns)[:, None]
    tree = Tree(start_state=0, prompt_ids=(7,), seeds=rows, vines=[[]] * len(rows))
    index = torch.zeros(len(rows), 4, dtype=torch.long)
    return Update(
        seed=3, trees=[tree], turns_mask_B_T=mask, turn_index_B_C=index, logprobs_B_C=index.float(),
        groups_G_N=groups, probed={"rep_exp/hidden": hidden}, record=told.__setitem__,
    ), told  # fmt: skip


def test_leverages_by_hand():
    """Two attempts at +-a: a^2 / (damping + 2 a^2). Two alike and one apart, d = x - y: (d/3)^2, twice, and (2d/3)^2 of
    6/9 d^2 in all."""
    found = leverages(torch.tensor([[1.0, 3.0], [1.0, -1.0]], dtype=torch.float64), 0.5)  # a = 2
    assert found.tolist() == pytest.approx([4 / 8.5] * 2)
    rows = torch.tensor([[5.0, 0.0], [5.0, 0.0], [2.0, 0.0]], dtype=torch.float64)  # d = 3: 1, 1 and -2
    assert leverages(rows, 1.0).tolist() == pytest.approx([1 / 7, 1 / 7, 4 / 7])
    assert leverages(rows + 100, 1e-9).tolist() == pytest.approx([1 / 6, 1 / 6, 2 / 3])
    assert leverages(torch.ones(4, 3), 0.1).abs().max() == 0 and leverages(torch.ones(1, 3), 0.1).tolist() == [0]


def test_leverages_are_those_of_the_inverse_covariance():
    hidden = torch.randn(6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centred = hidden - hidden.mean(dim=0)
    inverse = torch.linalg.inv(0.3 * torch.eye(9) + sum(torch.outer(h, h) for h in centred))
    expected = torch.stack([h @ inverse @ h for h in centred])
    torch.testing.assert_close(leverages(hidden, 0.3), expected)
    assert 0 < expected.min() and expected.max() < 1


def test_the_bonus_lies_on_last_turns_of_groups_that_win():
    """Rows 0, 1, 2 are a group with a win, 3 and 4 one without."""
    hidden = torch.tensor([[5.0], [5.0], [2.0], [1.0], [9.0]])
    seen, told = update(hidden, [[0, 1, 2], [3, 4]], (False, True, False, False, False))
    bonus = RepExp(coef=0.7, damping=1.0).reward(seen)
    expected = [[0, 0.1, 0], [0.1, 0, 0], [0, 0, 0.4], [0, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(bonus, torch.tensor(expected, dtype=torch.float64))
    assert told["rep_exp/bonus"] == pytest.approx(0.6 / 5)
    lost, _ = update(hidden, [[0, 1, 2], [3, 4]], (False,) * 5)
    assert RepExp().reward(lost).abs().max() == 0


def test_the_projection_keeps_lengths_and_is_another_one_in_every_update():
    hidden = torch.randn(20, 400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert project(hidden, 400, seed=0) is hidden
    found = torch.stack([project(hidden, 64, seed=seed) for seed in range(30)])
    assert found.shape == (30, 20, 64) and not torch.equal(found[0], found[1])
    assert torch.equal(found[0], project(hidden, 64, seed=0))
    ratios = (found**2).sum(dim=-1) / (hidden**2).sum(dim=-1)
    assert math.isclose(float(ratios.mean()), 1.0, abs_tol=0.03)
    values = project(torch.eye(400, dtype=torch.float64), 64, seed=5)  # the projection itself
    assert values.unique().tolist() == pytest.approx([-((20 / 64) ** 0.5), 0.0, (20 / 64) ** 0.5])
    assert math.isclose(float((values != 0).double().mean()), 400**-0.5, rel_tol=0.1)


@pytest.mark.parametrize(
    "options, words",
    [({"damping": 0}, ["damping", "1e-09", "0"]), ({"width": 2.5}, ["width", "2.5"]), ({"coef": -1}, ["coef", "-1"])],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ValueError) as error:
        build_methods(["rep_exp"], {"rep_exp": options})
    for word in words:
        assert word in str(error.value), error.value
