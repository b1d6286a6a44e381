"""Rows of earlier updates in a run: their term of the loss by hand, who does not see them, what is refused."""

import json
from dataclasses import dataclass, replace

import pytest
import test_ground_truth as tabular
import torch
from test_trainer import SETS, TREE, make_trainer, rollouts_of

from polytune.config import ObjectiveConfig, RolloutConfig
from polytune.methods import Method
from polytune.pictures.tabular import action_table
from polytune.rollout import tree_rows
from polytune.tasks.tabular.exact import tabulate
from polytune.tasks.tabular.worlds import Bandit
from polytune.trainer.replayed import share_out

ROWS = TREE.rows_per_prompt


@dataclass
class Again(Method):
    """Replays the rows of the update before."""

    wants: int = ROWS
    advantage_of: float | None = 0.5  # None: another one for each token
    most: int = 1000
    too_many: bool = False

    def __post_init__(self):
        self.rows, self.offered = [], []

    def wanted_rows(self, rows):
        return self.wants

    def replay(self, room, progress):
        self.offered.append((room, progress))
        rows = self.rows[: len(self.rows) if self.too_many else min(room, self.most)]
        each = [[j - 3.0 for j in range(len(row.own))] for row in rows]
        return [(row, own if self.advantage_of is None else self.advantage_of)
                for row, own in zip(rows, each, strict=True)]  # fmt: skip

    def learn(self, update):
        self.rows = [row for tree in update.trees for row in tree_rows(tree)]


def again(**options):
    name = "test_replay:Again"
    return replace(SETS, methods=[name], method_args=[f"{name}.{key}={value}" for key, value in options.items()])


def moved(trainer):
    """The policy after some learning: ratios differ from 1, and some are clipped."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)


@pytest.mark.parametrize("fields", [{}, {"num_iterations": 1, "steps_per_generation": 2, "kl_coef": 0.0},
                                    {"critic": "shared"}, {"kl_reference": "pretrained"}, {"delta": 1.1}])  # fmt: skip
def test_the_term_of_the_loss_by_hand(tmp_path, fields):
    trainer = make_trainer(tmp_path, objective=again(), model_seed=3, num_updates=4, **fields)
    [method] = [own for own in trainer.methods.values() if isinstance(own, Again)]
    method.advantage_of = None
    first, trees, _ = rollouts_of(trainer)
    stored = [row for tree in trees for row in tree_rows(tree)]
    assert len(trees) == 1 and method.offered == [(ROWS, 0.0)] and first["replay_mask"].sum() == 0
    moved(trainer)  # between the updates, and once more before the loss
    trainer.state.global_step = trainer.args.steps_per_update
    output, trees, rows = rollouts_of(trainer)
    assert len(rows) == ROWS and method.offered[-1] == (ROWS, 0.25)
    moved(trainer)
    loss = trainer._compute_loss(trainer.model, output)
    without = trainer._compute_loss(trainer.model, {k: v for k, v in output.items() if "replay" not in k})
    total, count, clipped = 0.0, 0, 0
    low, high, most = 0.8, 1.2, fields.get("delta", float("inf"))
    for index, row in enumerate(stored, start=ROWS):
        width = len(row.completion_ids)
        assert output["completion_ids"][index, :width].tolist() == row.completion_ids
        assert output["prompt_ids"][index][output["prompt_mask"][index].bool()].tolist() == row.prompt_ids
        assert (
            output["replay_mask"][index].tolist()[:width] == row.own and output["tool_mask"][index, :width].sum() == 0
        )
        ids = torch.tensor(row.prompt_ids + row.completion_ids)
        logprobs = torch.log_softmax(trainer.model(ids[None]).logits[0], -1)
        for j, (own, old) in enumerate(zip(row.own, row.logprobs, strict=True)):
            if own:
                at = len(row.prompt_ids) + j
                ratio = (logprobs[at - 1, ids[at]] - old).exp().item()
                advantage = j - 3.0
                term = min(min(ratio, most) * advantage, min(max(ratio, low), high) * advantage)
                clipped += term != ratio * advantage
                total, count = total + term, count + 1
    assert clipped and count == output["num_replayed"] == output["replay_mask"].sum()
    assert output["num_items_in_batch"] == (output["completion_mask"] * output["tool_mask"]).sum()  # fresh tokens
    torch.testing.assert_close(loss - without, torch.tensor(-total / (count / 2)), atol=1e-5, rtol=1e-4)
    (loss - without).backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in trainer.model.parameters())


def lines_of(folder):
    clocks = ("step_time", "runtime", "per_second", "seconds/", "speed/")
    rows = ("num_tokens", "replay/", "grad_norm", "update/tokens")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not any(c in k for c in clocks + rows)} for line in lines], lines


@pytest.mark.parametrize("critic", ["head", "shared", "own"])
def test_nothing_but_their_term_sees_them(tmp_path, one_thread, critic):
    """At advantage 0 a run goes on as with blank rows in their place, its metrics, trees and critic included."""
    found = {}
    for name, most in (("blank", 0), ("replayed", 1000)):
        objective = replace(again(advantage_of=0.0, most=most), credit="per_set")
        objective = replace(objective, methods=[*objective.methods, "ucb", "clip_cov"])
        trainer = make_trainer(tmp_path / name, objective=objective, model_seed=3, num_updates=3, critic=critic)
        trainer.train()
        metrics, told = lines_of(tmp_path / name)
        found[name] = trainer.model.state_dict(), metrics, (tmp_path / name / "trees.jsonl").read_text()
        rows = [line["replay/rows"] for line in told if "replay/rows" in line]
        assert rows == [0, *[ROWS if most else 0] * 2]
        assert ["replay/ratio" in line for line in told if "replay/rows" in line] == [False, *[bool(most)] * 2]
    for name, tensor in found["blank"][0].items():
        torch.testing.assert_close(tensor, found["replayed"][0][name], atol=1e-5, rtol=1e-4)
    for one, other in zip(found["blank"][1], found["replayed"][1], strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)
    assert found["blank"][2] == found["replayed"][2]


def test_a_budget_leaves_room_that_nobody_asked_for(tmp_path):
    trainer = make_trainer(tmp_path, objective=again(wants=0), model_seed=3, num_updates=2, max_env_steps=200,
                           per_device_train_batch_size=2 * ROWS)  # fmt: skip
    trainer.train()
    told = [line for line in lines_of(tmp_path)[1] if "replay/rows" in line]
    [method] = [own for own in trainer.methods.values() if isinstance(own, Again)]
    for (room, _), line in zip(method.offered, told, strict=True):
        assert room == 4 * ROWS - line["rollout/trees"] * ROWS > 0
    assert told[1]["replay/rows"] == min(method.offered[1][0], told[0]["rollout/trees"] * ROWS)


def test_two_methods_share_the_room(tmp_path):
    trainer = make_trainer(tmp_path, objective=again(wants=4), model_seed=3)
    trainer.methods["other"] = other = Again(wants=6)
    trainer.methods["third"] = Method()
    rollouts_of(trainer)
    output, _, _ = rollouts_of(trainer)
    [first] = [own for name, own in trainer.methods.items() if name.startswith("test_replay")]
    assert [room for room, _ in first.offered] == [8, 8] and [room for room, _ in other.offered] == [14, 6]
    assert (output["replay_mask"].sum(dim=1) > 0).sum() == 14


def test_who_gets_which_row():
    assert share_out(5, [2, 4]) == [0, 1, 0, 1, 1] and share_out(3, [0, 4]) == [1, 1, 1] and share_out(0, [3]) == []


@pytest.mark.parametrize(
    "options, fields, words",
    [({"wants": ROWS + 1}, {}, f"28 rows that a process has.*want .*Again {ROWS + 1} for replay.*{ROWS} that a"),
     ({"wants": -1}, {}, "wanted_rows must return 0 or more"),
     ({"wants": 1}, {"loss_type": "grpo"}, "Again 1 rows for replay.*'grpo', and it averages over them: use 'dapo'")],
)  # fmt: skip
def test_room_that_is_not_there_is_refused(tmp_path, options, fields, words):
    assert ROWS == 14
    with pytest.raises(ValueError, match=words):
        make_trainer(tmp_path, objective=again(**options), **fields)


def test_more_rows_than_room_are_refused(tmp_path):
    trainer = make_trainer(tmp_path, objective=again(wants=1), model_seed=3)
    [method] = [own for own in trainer.methods.values() if isinstance(own, Again)]
    rollouts_of(trainer)
    method.rows, method.too_many = method.rows * 2, True
    with pytest.raises(ValueError, match="Again' replays 28 rows, but there is room for 14"):
        rollouts_of(trainer)


def test_a_run_with_spear_resumes_as_it_was(tmp_path, one_thread):
    """Buffer, history and its draws are in the checkpoint."""
    objective = replace(SETS, methods=["spear"], method_args=["spear.share=0.3", "spear.warmup=0.5"])
    first = make_trainer(tmp_path, objective=objective, model_seed=3, num_updates=4, save_total_limit=4)
    first.train()
    _, told = lines_of(tmp_path)
    rows = [line["replay/rows"] for line in told if "replay/rows" in line]
    assert rows[0] == 0 and sum(rows) > 2, rows
    again = make_trainer(tmp_path / "again", objective=objective, model_seed=3, num_updates=4, save_total_limit=4)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    assert first.methods["spear"].buffer == again.methods["spear"].buffer
    assert lines_of(tmp_path / "again")[0] == lines_of(tmp_path)[0][2:]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_rare_winning_arm_keeps_its_mass(tmp_path):
    """What one success of a kind promises, on a bandit with three winning arms, at equal environment steps: mean reward
    alone ends on one of them."""
    rarest, wins = {}, {}
    mean = ObjectiveConfig(objective="mean", set_size=1, set_scope="seeds", window=-1, set_normalise="none")
    for name, methods in (("mean", {}), ("spear", {"methods": ["spear"], "method_args": ["spear.share=0.5"]})):
        task = Bandit()
        policy = tabular.start_policy(task)
        trainer = tabular.make_trainer(
            tmp_path / name, task, policy, replace(mean, **methods), RolloutConfig(16, 0, 0), num_updates=120,
            save_updates=120, per_device_train_batch_size=32 if methods else 16,
        )  # fmt: skip
        trainer.train()
        assert trainer.env_steps == 16 * 120
        table = action_table(*policy[::2], tabulate(task))[0]
        rarest[name], wins[name] = min(table[:3]), sum(table[:3])
    assert wins["mean"] > 0.95 and wins["spear"] > 0.95, wins
    assert rarest["mean"] < 0.06 and rarest["spear"] > 0.15, rarest
