"""What went wrong in other implementations of set RL, one test a fault: here each is refused, logged or absent.

Faults of the objective alone (best score minus mean for everybody, a constant d, an additive bonus, tied sets) are in
tests/unit/test_objective.py; comparisons at unequal budgets in tests/unit/test_comparison.py.
"""

from dataclasses import replace

import pytest
import torch
from test_trainer import SETS, TREE, make_trainer, rollouts_of

from polytune.rollout import RolloutError


def test_vines_are_trained_on_and_not_only_scored(tmp_path):
    """The rows of vines alone move the policy, and a shared prefix is trained once, on its seed trajectory."""
    trainer = make_trainer(tmp_path, model_seed=3, critic="none")
    output, trees, rows = rollouts_of(trainer)
    trajectories = [t for tree in trees for t in tree.trajectories()]
    vines = torch.tensor([t.parent is not None for t in trajectories])
    assert output["advantages"][~vines].abs().max() == 0  # no critic: seeds are never scored
    assert output["advantages"][vines].abs().max() > 0
    for row, trajectory in enumerate(trajectories):
        own = output["tool_mask"][row] * output["completion_mask"][row]
        assert int(own.sum()) == len(trajectory.turns)
    trainer._compute_loss(trainer.model, output).backward()
    assert max(p.grad.abs().max().item() for p in trainer.model.parameters()) > 0


def test_more_episodes_do_not_mean_more_environment_steps(tmp_path):
    """Trees of 14 trajectories and of 4 spend the same budget, in as many gradient steps."""
    ends = []
    for name, rollout, rows in (("vines", TREE, 42), ("whole", replace(TREE, num_rollout_states=0, num_seeds=4), 42)):
        trainer = make_trainer(
            tmp_path / name,
            rollout=rollout,
            objective=replace(SETS, set_scope="vines" if name == "vines" else "seeds"),
            per_device_train_batch_size=rows // rollout.rows_per_prompt * rollout.rows_per_prompt,
            max_env_steps=700,
            learning_rate=1e-5,
        )
        trainer.train()
        ends.append((trainer.env_steps, trainer.state.global_step))
    (vines, steps), (whole, other) = ends
    assert steps == other and abs(vines / whole - 1) < 0.12  # within a tree, which is large beside this budget


def test_another_temperature_than_the_ratio_assumes_is_refused(tmp_path):
    trainer = make_trainer(tmp_path)
    with torch.no_grad():  # neither uniform nor certain: temperature does not change those
        trainer.model.lm_head.weight.mul_(10)
    trainer.generator.temperature = 0.5
    with pytest.raises(RolloutError, match="another distribution than the ratios assume. Check its temperature"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_the_right_temperature_leaves_no_gap(tmp_path):
    trainer = make_trainer(tmp_path, temperature=0.7, num_updates=1)
    with torch.no_grad():
        trainer.model.lm_head.weight.mul_(10)
    trainer.train()
    assert trainer.state.log_history[0]["sampling/logprob_gap"] < 1e-5


def test_the_set_advantage_stays_out_of_the_critics_target(tmp_path):
    """The targets are the same whatever the sets say."""
    targets = []
    for weight in (0.0, 100.0):
        sets = replace(SETS, set_weight=weight)
        trainer = make_trainer(tmp_path / str(weight), objective=sets, model_seed=3, critic="shared")
        targets.append(rollouts_of(trainer)[0]["value_targets"])
    assert torch.equal(*targets) and targets[0].abs().max() > 0


def test_groups_whose_sets_tie_are_logged_with_their_cause(tmp_path):
    """A world of one room: d is constant, and a group without success has nothing to say."""
    trainer = make_trainer(tmp_path, num_updates=1, horizon=2)  # the goal takes two turns: hardly any success
    trainer.train()
    logs = trainer.state.log_history[0]
    assert logs["groups/without_signal"] > 0
    assert logs["groups/without_signal_equal_rewards"] > 0
