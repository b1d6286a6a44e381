"""A run that cannot learn, or whose weights are no numbers, ends with its reason before more is spent or saved."""

import math

import pytest
import torch
from doors import Doors
from test_trainer import SETS, TREE, make_trainer
from transformers import TrainerCallback

from polytune.policy import build_tiny
from polytune.policy.rendering import PROMPT_WORD
from polytune.policy.weights import WeightsError
from polytune.trainer.gradients import NoGradientError


def build_with(change):
    """A policy of Doors, changed."""

    def build(tokenizer):
        model, _ = build_tiny("tiny", [PROMPT_WORD, *Doors().vocabulary()], seed=3)
        change(model)
        return model

    return build


def test_a_policy_without_a_trainable_weight_is_refused_before_a_step(tmp_path):
    with pytest.raises(WeightsError, match=r"no trainable weight.*requires_grad_\(True\), or train an adapter"):
        make_trainer(tmp_path, build=build_with(lambda model: model.requires_grad_(False)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("critic", ["none", "shared"])
def test_a_loss_that_depends_on_no_trainable_weight_ends_the_run(tmp_path, critic):
    def change(model):
        model.requires_grad_(False)
        model.register_parameter("unused", torch.nn.Parameter(torch.ones(3)))

    trainer = make_trainer(tmp_path, build=build_with(change), critic=critic)
    with pytest.raises(NoGradientError, match="depends on no weight that trains"):
        trainer.train()
    assert trainer.state.global_step == 0


def no_gradient(model):
    """Every weight trains, and none of them has a gradient other than 0."""
    model.lm_head.requires_grad_(False)
    model.model.norm.register_forward_hook(lambda module, args, output: output.detach() + 0 * output)


def test_an_update_with_signal_and_no_gradient_ends_the_run(tmp_path):
    trainer = make_trainer(tmp_path, build=build_with(no_gradient), num_updates=3, entropy_coef=0.0)
    with pytest.raises(NoGradientError, match=r"update 1: \d+ tokens had an advantage.* exactly 0 in every step"):
        trainer.train()
    assert trainer.env_steps > 0 and not list(tmp_path.glob("checkpoint-*"))  # one update was spent, no more


def test_an_update_without_signal_goes_on(tmp_path):
    """No critic and no success: all advantages are 0, and so is the gradient, of its own accord."""
    trainer = make_trainer(tmp_path, critic="none", kl_coef=0.0, horizon=1, model_seed=3)
    trainer.train()
    assert trainer.state.global_step == trainer.args.max_steps
    assert all(log["grad_norm"] == 0 for log in trainer.state.log_history if "grad_norm" in log)


def test_one_clipped_minibatch_is_no_reason_to_end(tmp_path):
    """Decided over the whole update: one of its steps had a gradient."""
    trainer = make_trainer(tmp_path, model_seed=3, num_updates=1)
    trainer._actions_with_signal = 1.0
    for step, norm in enumerate([0.0, 0.0, 0.3, 0.0]):
        trainer.state.global_step = step
        trainer._get_grad_norm(trainer.model, grad_norm=norm)
    trainer._largest_norm = 0.0
    with pytest.raises(NoGradientError):
        trainer._get_grad_norm(trainer.model, grad_norm=0.0)


def test_a_gradient_that_is_not_finite_is_not_taken(tmp_path):
    trainer = make_trainer(tmp_path, model_seed=3)
    loss = trainer._compute_loss
    trainer._compute_loss = lambda model, inputs: loss(model, inputs) * math.nan
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    with pytest.raises(FloatingPointError, match="gradient has norm nan in step 1.*Lower learning_rate"):
        trainer.train()
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.named_parameters())


class Poison(TrainerCallback):
    """Breaks a weight at a step, as a run that diverges does."""

    def __init__(self, weight, step):
        self.weight, self.step = weight, step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.weight.data.view(-1)[0] = math.inf


@pytest.mark.parametrize("whose", ["policy", "critic"])
def test_weights_that_are_not_finite_are_never_saved(tmp_path, whose):
    trainer = make_trainer(tmp_path, model_seed=3, num_updates=3)
    weight = trainer.model.lm_head.weight if whose == "policy" else trainer.critic.head.layers[0].weight
    second = 2 * trainer.args.steps_per_update
    trainer.add_callback(Poison(weight, second))
    with pytest.raises(FloatingPointError, match="weights are not finite .*nothing was saved.*is intact"):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{second // 2}"]
    with pytest.raises(FloatingPointError, match="not finite"):
        trainer.save_model(str(tmp_path))
    assert not (tmp_path / "model.safetensors").exists() and not (tmp_path / ".saving").exists()


def test_a_tokenizer_beyond_the_embeddings_is_refused_before_a_step(tmp_path):
    def change(model):
        model.resize_token_embeddings(7)

    with pytest.raises(WeightsError, match="goes up to id 9.*7 embeddings: model.resize_token_embeddings"):
        make_trainer(tmp_path, build=build_with(change), rollout=TREE, objective=SETS)
