"""RepExp in a run: the hidden states that it reads, who sees its bonus, and that it keeps rare strategies alive."""

from dataclasses import replace

import pytest
import test_ground_truth as tabular
import torch
from test_trainer import SETS, make_trainer, rollouts_of

from polytune.config import ObjectiveConfig, RolloutConfig
from polytune.methods import Method
from polytune.pictures.tabular import action_table
from polytune.tasks.tabular.exact import tabulate
from polytune.tasks.tabular.worlds import Bandit


class Reader(Method):
    """Reads hidden states; pays 1 for the first turn of every attempt."""

    def probe(self, seen):
        chances_d = seen.head(seen.at(before=1)).log_softmax(dim=-1)
        logprobs_d = chances_d.gather(1, seen.ids_b_C[seen.own_b_C][:, None])[:, 0]
        return {"reader/mean": seen.mean(), "reader/logprobs": seen.spread(logprobs_d)}

    def reward(self, update):
        self.update = update
        bonus_B_T = torch.zeros(update.turns_mask_B_T.shape, dtype=torch.float64)
        bonus_B_T[:, 0] = 1.0
        return bonus_B_T


READER = "test_hidden_states:Reader"


@pytest.mark.parametrize("critic", ["none", "head", "own"])
@pytest.mark.parametrize("num_iterations", [1, 2])  # TRL scores the rows of its own accord only with 2
def test_hidden_states_are_means_over_own_tokens(tmp_path, critic, num_iterations):
    trainer = make_trainer(
        tmp_path, objective=replace(SETS, methods=[READER]), model_seed=3, critic=critic, num_iterations=num_iterations,
        kl_reference="pretrained",
    )  # fmt: skip
    output, trees, _ = rollouts_of(trainer)
    update = trainer.methods[READER].update
    mean_B_H, logprobs_B_C = update.probed["reader/mean"], update.probed["reader/logprobs"]
    rows = sum(1 for tree in trees for _ in tree.trajectories())
    assert len(mean_B_H) == len(logprobs_B_C) == len(update.turns_mask_B_T) == rows
    own_B_C = update.own_B_C[:rows]  # logits before own tokens are those that they were sampled from
    torch.testing.assert_close(logprobs_B_C[own_B_C], update.logprobs_B_C[:rows][own_B_C], atol=1e-5, rtol=1e-5)
    assert logprobs_B_C[~own_B_C].abs().max() == 0
    with torch.no_grad():
        for row, found in enumerate(mean_B_H):
            prompt = output["prompt_ids"][row][output["prompt_mask"][row].bool()]
            completion = output["completion_ids"][row][output["completion_mask"][row].bool()]
            hidden = trainer.model.model(torch.cat([prompt, completion])[None]).last_hidden_state[0, len(prompt) :]
            own = update.own_B_C[row, : len(completion)]
            torch.testing.assert_close(found, hidden[own].mean(dim=0), atol=1e-5, rtol=1e-5)
    groups = [[member.discounted_return() for member in group] for tree in trees for group in tree.vine_groups()]
    flat = [member.discounted_return() for member in update.trajectories]
    assert [[flat[row] for row in rows] for rows in update.groups_G_N[: len(groups)]] == groups


def test_sets_and_critic_see_the_bonus_and_the_log_does_not(tmp_path):
    """1 more in every return: the same set advantages, the critic's targets 1 higher before the first action."""
    seen = {}
    for name, methods in (("plain", []), ("bonus", [READER])):
        trainer = make_trainer(
            tmp_path / name, objective=replace(SETS, objective="mean", methods=methods), model_seed=3
        )
        trainer.on_trees.append(lambda trainer, trees, turns, name=name: seen.update({name: turns}))
        rollouts_of(trainer)
        seen[name, "return"] = trainer._metrics["train"]["rollout/return"]
    plain, bonus = seen["plain"], seen["bonus"]
    assert seen["plain", "return"] == seen["bonus", "return"]
    torch.testing.assert_close(bonus.returns_B_T[:, 0], plain.returns_B_T[:, 0] + 1)
    assert torch.equal(bonus.returns_B_T[:, 1:], plain.returns_B_T[:, 1:])
    torch.testing.assert_close(
        bonus.advantages_B_T[bonus.set_mask_B_T], plain.advantages_B_T[plain.set_mask_B_T]
    )  # a mean reward of all members 1 higher
    assert bonus.score_scale == pytest.approx(plain.score_scale + 1)


@pytest.mark.parametrize("name", ["rep_exp", "flat_success", READER])
def test_vine_values_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name!r} adds to rewards, and vine_values"):
        make_trainer(tmp_path, objective=replace(SETS, methods=[name]), vine_values=True)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_rare_winning_arm_keeps_its_mass(tmp_path):
    """What it promises, on a bandit with three winning arms: mean reward alone ends on one of them."""
    rarest, wins = {}, {}
    mean = ObjectiveConfig(objective="mean", set_size=1, set_scope="seeds", window=-1, set_normalise="none")
    for name, methods in (("mean", {}), ("rep_exp", {"methods": ["rep_exp"], "method_args": ["rep_exp.coef=0.3"]})):
        task = Bandit()
        policy = tabular.start_policy(task)
        trainer = tabular.make_trainer(
            tmp_path / name, task, policy, replace(mean, **methods), RolloutConfig(16, 0, 0), num_updates=120,
            save_updates=120,
        )  # fmt: skip
        trainer.train()
        world = tabulate(task)
        table = action_table(*policy[::2], world)[0]
        winning = [table[index] for index in range(3)]
        rarest[name], wins[name] = min(winning), sum(winning)
    assert wins["mean"] > 0.95 and wins["rep_exp"] > 0.95, wins
    assert rarest["mean"] < 0.06 and rarest["rep_exp"] > 0.15, rarest
