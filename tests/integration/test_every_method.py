"""Every row of METHODS in a run: two updates on a world of two turns, and on FourRooms, stopped after the first of them
and resumed, bit for bit. Those that can share a run do, which costs a second; a row that nobody put anywhere has a run
of its own. Options are those of its recipe. On FourRooms every third run is among the tests that always run, all of
them with ``make test-methods``."""

import copy
import json
import os
import shutil
from pathlib import Path

import pytest
import test_ground_truth as tabular
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from walkers import save_walker

from polytune.config import ObjectiveConfig, RolloutConfig
from polytune.meanings import METRICS
from polytune.methods import METHODS
from polytune.policy import Renderer, load_policy
from polytune.recipe import read_recipe
from polytune.tasks import load_task
from polytune.tasks.tabular.worlds import TwoStep

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 4
TOGETHER = [
    ["clip_cov", "steer", "thr", "d3s", "epo", "empg", "verl"],
    ["rec", "bnpo", "efficiency", "optimal_baseline"],
    ["spear", "dph_rl", "weighted_replay", "kl_cov"],
    ["demonstrations", "hpt", "swarm", "recall_extend", "lp_reg"],
    ["vas", "alp", "unsolved", "go_explore", "judged_roots", "knapsack", "early_stop", "alp_gmm", "mdpo"],
    [
        "step_grpo",
        "ucb",
        "rep_exp",
        "novelty",
        "archive",
        "beacons",
        "flat_success",
        "duration",
        "episode_mean",
        "nft",
    ],
    ["ead", "b_star", "copg", "dynamic_rewards"],
    ["salsa", "chi_squared", "f_dpg", "f_dpo", "implicit_sft"],
    ["nash_mirror_prox", "rpo"],
    ["context_rollouts", "critique_grpo", "oreal"],
]
TOGETHER += [[name] for name in METHODS if not any(name in names for names in TOGETHER)]
#: methods of vines; those that read the policy that the run began with
VINES = ("mrt",)
REFERENCE = ("chi_squared", "f_dpg", "remix", "f_dpo", "rpo", "implicit_sft", "salsa", "nash_mirror_prox")
#: and those of sets whose diversity is told by vectors
VECTORS = ("hidden_signatures",)
#: and those that stand beside a critic
CRITIC = ("set_bonus",)

#: options beside their recipes': sets of groups of four
MORE = {"set_bonus": ["set_bonus.set_size=2"]}

#: of FourRooms: three from which the goal is one or two steps ahead, and one with a turn on the way
NEAR = (611, 94, 739, 43)
#: runs on FourRooms
RUNS = [names for number, names in enumerate(TOGETHER) if number % 3 == 0 or os.environ.get("POLYTUNE_EVERY_METHOD")]


def recipe_of(name):
    """The first recipe that names this method alone."""
    recipes = sorted((ROOT / "recipes").rglob("*.yaml"))
    told = (read_recipe(path) for path in recipes if "\nmethods:" in path.read_text() and "compare" not in path.name)
    return next(recipe for recipe in told if recipe["methods"] == [name])


@pytest.fixture(scope="module")
def policy():
    """A policy that wins now and then."""
    return tabular.start_policy(TwoStep())


@pytest.fixture(scope="module")
def walker(tmp_path_factory):
    """One that walks straight on more often than not."""
    folder, task = save_walker(tmp_path_factory.mktemp("walker"), seed=0, forward=0.014), fourrooms()
    model, tokenizer = load_policy(str(folder))
    return model, tokenizer, Renderer(tokenizer, task)


def fourrooms():
    return load_task("fourrooms", horizon=3)


def make(folder, names, policy, task=None, **fields):
    model, *others = policy
    task = task or TwoStep()
    rollout = RolloutConfig(1, 1, SEEDS - 1) if {*names} & {*VINES} else RolloutConfig(SEEDS, 0, 0)
    objective = ObjectiveConfig(
        objective="polychromic" if {*names} & {*VECTORS, *CRITIC} else "mean", set_size=2 if {*names} & {*VECTORS} else
        4 if {*names} & {*CRITIC} else 1,
        diversity="leverage" if {*names} & {*VECTORS} else "distinct_fraction", set_scope="both" if {*names} & {*VINES}
        else "none" if {*names} & {*CRITIC} else "seeds", window=-1, set_normalise="none", methods=names,
        method_args=[told for name in names for told in recipe_of(name).get("method_args", []) + MORE.get(name, [])],
    )  # fmt: skip
    defaults = dict(num_updates=2, save_updates=1, save_total_limit=3, per_device_train_batch_size=4 * SEEDS)
    if {*names} & {*REFERENCE}:
        defaults |= dict(kl_reference="pretrained", kl_coef=0.01)
    if {*names} & {*CRITIC}:
        defaults |= dict(critic="head")
    return tabular.make_trainer(
        folder, task, (copy.deepcopy(model), *others), objective, rollout, **(defaults | fields)
    )


@pytest.mark.parametrize("names", TOGETHER, ids=lambda names: "-".join(names))
@pytest.mark.usefixtures("one_thread")
def test_they_run_stop_and_go_on_as_if_nothing_had_happened(names, policy, tmp_path):
    runs_and_resumes(tmp_path, names, policy)


@pytest.mark.parametrize("names", RUNS, ids=lambda names: "-".join(names))
@pytest.mark.usefixtures("one_thread")
def test_they_do_so_on_fourrooms(names, walker, tmp_path):
    runs_and_resumes(tmp_path, names, walker, task=fourrooms(), starts=NEAR)


def runs_and_resumes(tmp_path, names, policy, **world):
    first = make(tmp_path / "run", names, policy, **world)
    for method in first.methods.values():
        watch_advantages(method)
    remembered = {name: {*first.methods[name].state()} for name in names}
    first.train()
    assert {name: {*first.methods[name].state()} for name in names} == remembered
    logged = {
        figure for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines() for figure in json.loads(line)
    }
    assert logged <= {*METRICS}.union(*(method.logs for method in first.methods.values())), "see test_logged_figures.py"
    shutil.rmtree(tmp_path / "run/checkpoint-2")
    kept, before = first.model.state_dict(), policy[0].state_dict()
    assert any(not torch.equal(tensor, before[key]) for key, tensor in kept.items())
    again = make(tmp_path / "run", names, policy, **world)
    again.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-1"))
    for key, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, kept[key]), key
    for name in names:
        for key, tensor in again.methods[name].state().items():
            assert torch.equal(tensor, first.methods[name].state()[key]), (name, key)
        if first.methods[name].needs_snapshots:  # made anew from ways
            held = {key: value for key, value in vars(first.methods[name]).items() if key in ("roots", "kept")}
            assert held and held == {key: vars(again.methods[name])[key] for key in held}
    assert again.env_steps == first.env_steps


def watch_advantages(method):
    """What ``only_adds`` and ``rewrites`` say of it is so, for credit ``per_set`` goes by them; and no hook changes
    what it is given."""

    def watched(hook, rises):
        def call(update, given, *others):
            found = hook(update, before := given.clone(), *others)
            assert torch.equal(before, given) and (not rises or bool((found >= given).all())), type(method).__name__
            return found

        return call

    method.turn_advantage = watched(method.turn_advantage, method.only_adds)
    method.advantage = watched(method.advantage, not method.rewrites)


@pytest.mark.usefixtures("one_thread")
def test_a_reference_that_a_method_sets_is_in_the_checkpoint(policy, tmp_path):
    """Nash Mirror Prox, the reference anew in each update: it is the policy before the last update, and comes back."""
    more = {"num_updates": 3, "kl_coef": 0.5}
    first = make(tmp_path / "run", ["nash_mirror_prox"], policy, **more)
    first.methods["nash_mirror_prox"].every = 1
    first.train()
    held, before = first.ref_model.state_dict(), load_file(tmp_path / "run/checkpoint-2/model.safetensors")
    assert all(torch.equal(held[name], tensor) for name, tensor in before.items())
    shutil.rmtree(tmp_path / "run/checkpoint-3")
    again = make(tmp_path / "run", ["nash_mirror_prox"], policy, **more)
    again.methods["nash_mirror_prox"].every = 2  # so that the one of the checkpoint is used
    again.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-2"))
    found = again.ref_model.state_dict()
    renewed = load_file(tmp_path / "run/checkpoint-2/reference.safetensors")
    assert (tmp_path / "run/checkpoint-2/reference.safetensors").is_file()
    assert not (tmp_path / "run/checkpoint-1/reference.safetensors").is_file()
    assert all(torch.equal(found[name], before[name]) for name in before) and renewed.keys() == found.keys()
    with pytest.raises(ValueError, match="method 'salsa' gives the KL term a reference of its own.* leave the adapter"):
        model, *others = policy
        adapted = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules="all-linear"))
        make(tmp_path / "peft", ["salsa"], (adapted, *others))


@pytest.mark.usefixtures("one_thread")
def test_the_kl_pulls_towards_the_average_of_policies(policy, tmp_path):
    """SALSA with a policy that begins elsewhere: the reference is the average, and the KL to it falls."""
    other, tokenizer, _ = tabular.start_policy(TwoStep(), seed=1)
    other.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    more = {"num_updates": 6, "kl_coef": 3.0, "save_updates": 6, "learning_rate": 3e-3}
    trainer = make(tmp_path / "run", ["salsa"], policy, per_device_train_batch_size=64, **more)
    trainer.methods["salsa"].others = str(tmp_path / "other")
    trainer.train()
    for name, tensor in trainer.ref_model.state_dict().items():
        wanted = 0.5 * policy[0].state_dict()[name] + 0.5 * other.state_dict()[name]
        torch.testing.assert_close(tensor, wanted)
    kls = [line["kl"] for line in trainer.state.log_history if "kl" in line]
    assert sum(kls[-2:]) < 0.7 * sum(kls[:2]), kls


def test_a_demonstration_is_the_experts_episode_as_a_row(policy, tmp_path):
    trainer = make(tmp_path, ["demonstrations"], policy)
    row, world = trainer._demonstrated(0), TwoStep()
    episode, words = world.start(0), []
    assert row.prompt_ids == list(trainer.renderer.prompt_ids(episode.observation()))
    expected = []
    while not episode.done:
        words.append(world.expert(episode))
        action = trainer.renderer.action_ids(words[-1])
        expected += [(i, 1, len(words) - 1) for i in action]
        if not episode.step(words[-1]).done:
            expected += [(i, 0, -1) for i in trainer.renderer.feedback_ids(episode.observation(), action)]
    assert list(zip(row.completion_ids, row.own, row.turn_index, strict=True)) == expected
    assert episode.stop_reason == "success"
