"""Every row of METHODS in a run of its own: two updates on a world of two turns, stopped after the first of them and
resumed, bit for bit. Options are those of its recipe."""

import copy
import shutil
from pathlib import Path

import pytest
import test_ground_truth as tabular
import torch

from polytune.config import ObjectiveConfig, RolloutConfig
from polytune.methods import METHODS
from polytune.recipe import read_recipe
from polytune.tasks.tabular.worlds import TwoStep

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 4


def recipe_of(name):
    """The first recipe that names this method alone."""
    recipes = sorted((ROOT / "recipes").rglob("*.yaml"))
    told = (
        read_recipe(path) for path in recipes if path.parent.name != "accelerate" and "methods:" in path.read_text()
    )
    return next(recipe for recipe in told if recipe.get("methods") == [name])


@pytest.fixture(scope="module")
def policy():
    """A policy that wins now and then."""
    return tabular.start_policy(TwoStep())


def make(folder, name, policy, **fields):
    model, *others = policy
    objective = ObjectiveConfig(
        objective="mean", set_size=1, set_scope="seeds", window=-1, set_normalise="none", methods=[name],
        method_args=recipe_of(name).get("method_args"),
    )  # fmt: skip
    defaults = dict(num_updates=2, save_updates=1, save_total_limit=3, per_device_train_batch_size=2 * SEEDS)
    if name in REFERENCE:
        defaults |= dict(kl_reference="pretrained", kl_coef=0.01)
    return tabular.make_trainer(
        folder, TwoStep(), (copy.deepcopy(model), *others), objective, RolloutConfig(SEEDS, 0, 0), **(defaults | fields)
    )


#: methods that read the policy that the run began with
REFERENCE = ("chi_squared", "f_dpg")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.usefixtures("one_thread")
def test_it_runs_stops_and_goes_on_as_if_nothing_had_happened(name, policy, tmp_path):
    first = make(tmp_path / "run", name, policy)
    names = set(first.methods[name].state())
    first.train()
    assert set(first.methods[name].state()) == names
    shutil.rmtree(tmp_path / "run/checkpoint-2")
    kept, before = first.model.state_dict(), policy[0].state_dict()
    assert any(not torch.equal(tensor, before[key]) for key, tensor in kept.items())
    again = make(tmp_path / "run", name, policy)
    again.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-1"))
    for key, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, kept[key]), key
    for key, tensor in again.methods[name].state().items():
        assert torch.equal(tensor, first.methods[name].state()[key]), key
    assert again.env_steps == first.env_steps


def test_a_demonstration_is_the_experts_episode_as_a_row(policy, tmp_path):
    trainer = make(tmp_path, "demonstrations", policy)
    row, world = trainer._demonstrated(0), TwoStep()
    episode, words = world.start(0), []
    ids = list(trainer.renderer.prompt_ids(episode.observation()))
    assert row.prompt_ids == ids
    expected = []
    while not episode.done:
        words.append(world.expert(episode))
        action = trainer.renderer.action_ids(words[-1])
        expected += [(i, 1, len(words) - 1) for i in action]
        if not episode.step(words[-1]).done:
            expected += [(i, 0, -1) for i in trainer.renderer.feedback_ids(episode.observation(), action)]
    assert (
        list(zip(row.completion_ids, row.own, row.turn_index, strict=True)) == expected
        and episode.stop_reason == "success"
    )
