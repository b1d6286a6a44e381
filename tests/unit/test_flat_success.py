"""A success returns the same whenever it comes: by hand, with sets and through vines."""

import pytest
import torch

from polytune.config import ObjectiveConfig
from polytune.methods import Update, build_methods
from polytune.methods.flat_success import FlatSuccess
from polytune.rollout import Trajectory, Tree, Turn
from polytune.trainer.advantages import turn_rewards


def trajectory(rewards, success, **where):
    turns = [Turn((1,), (0.0,), reward) for reward in rewards]
    return Trajectory(turns=turns, stop_reason="success" if success else "horizon", **where)


def update(tree):
    told = {}
    _, mask = turn_rewards([tree])
    index = torch.zeros(len(mask), 4, dtype=torch.long)
    return Update(seed=0, trees=[tree], turns_mask_B_T=mask, turn_index_B_C=index, logprobs_B_C=index.float(),
                  record=told.__setitem__), told  # fmt: skip


def test_the_last_turn_of_a_success_makes_up_for_time():
    """Seeds: an early success, a late one with partial credit, a failure with partial credit; a vine that wins."""
    seeds = [trajectory([0.9], True), trajectory([0.1, 0.0, 0.4], True), trajectory([0.2, 0.0], False)]
    vine = trajectory([0.0, 0.55], True, parent=seeds[2], branch_turn=1)
    tree = Tree(start_state=0, prompt_ids=(7,), seeds=seeds, vines=[[], [], [[vine]]])
    seen, told = update(tree)
    bonus = FlatSuccess().reward(seen)
    torch.testing.assert_close(bonus, torch.tensor(
        [[0.1, 0, 0], [0, 0, 0.5], [0, 0, 0], [0, 0.45, 0]], dtype=torch.float64))  # fmt: skip
    assert told["flat_success/bonus"] == pytest.approx(1.05 / 4)
    rewards, _ = turn_rewards([tree])
    assert (rewards + bonus).sum(dim=1).tolist() == pytest.approx([1, 1, 0.2, 1])
    assert FlatSuccess(value=0.5).reward(seen)[0].tolist() == pytest.approx([-0.4, 0, 0])


def test_a_task_that_pays_the_value_is_left_as_it_is():
    tree = Tree(start_state=0, prompt_ids=(7,), seeds=[trajectory([0.0, 1.0], True)], vines=[[]])
    assert FlatSuccess().reward(update(tree)[0]).abs().max() == 0


def test_wrong_values_are_named():
    with pytest.raises(ValueError, match="value must be a number of at least 0, got -1"):
        build_methods(["flat_success"], {"flat_success": {"value": -1}})
    assert ObjectiveConfig(methods=["flat_success"]).methods == ["flat_success"]
