"""An update that computes no more than it needs: what rollouts tell, whole trees, packed rows, and where time goes."""

import json
from dataclasses import replace

import pytest
import torch
from test_trainer import SETS, TREE, make_trainer, rollouts_of

from polytune.config import RolloutConfig
from polytune.rollout import tree_rows
from polytune.trainer import clock


def eager(tokenizer):
    """A policy whose rows run one by one."""
    from polytune.policy import build_tiny
    from polytune.policy.rendering import PROMPT_WORD

    words = [word for word in tokenizer.get_vocab() if not word.startswith("<")]
    model, _ = build_tiny("tiny", dict.fromkeys([PROMPT_WORD, *words]), seed=3)
    model.resize_token_embeddings(len(tokenizer))
    model.set_attn_implementation("eager")
    return model


def test_rollouts_tell_what_a_scoring_pass_would(tmp_path):
    """Logprobs, hidden states before decisions, entropies: in vines and in whole episodes, one pass apart."""
    trainer = make_trainer(tmp_path, model_seed=3)
    assert trainer.observes
    output, trees, rows = rollouts_of(trainer)
    own = (output["completion_mask"] * output["tool_mask"]).bool()
    told = torch.zeros(own.shape)
    for number, row in enumerate(rows):
        told[number, : len(row.logprobs)] = torch.tensor(row.logprobs)
    assert torch.equal(output["old_per_token_logps"][own], told[own])

    trainer._trees, trainer._rows = trees, [row for tree in trees for row in tree_rows(tree)]
    observed, entropies = (
        trainer._observed_hidden(),
        [entropy for tree in trees for t in tree.trajectories() for turn in t.turns for entropy in turn.entropies],
    )
    trainer.observes, trainer._pass_logprobs, trainer._first_B_C = False, None, None
    trainer.model.eval()
    trainer._score_rows(output)
    torch.testing.assert_close(trainer._hidden(), observed, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(trainer._pass_logprobs[own], told[own], atol=1e-5, rtol=1e-4)
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
    with torch.no_grad():
        _, passed, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, own.size(1), compute_entropy=True
        )
    torch.testing.assert_close(passed[own], torch.tensor(entropies), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rule", ["uncertain", "entropy"])
def test_rollout_states_are_those_of_a_pass(tmp_path, rule):
    """Rules that need values or entropies of seed trajectories choose alike, told or scored."""
    found = {}
    for name, observes in (("told", True), ("scored", False)):
        rollout = replace(TREE, rollout_states=rule)
        trainer = make_trainer(tmp_path / name, rollout=rollout, model_seed=3)
        torch.nn.init.normal_(
            trainer.critic.head.layers[-1].weight, std=0.3, generator=torch.Generator().manual_seed(0)
        )
        trainer.observes = observes
        _, trees, _ = rollouts_of(trainer)
        found[name] = [[g[0].branch_turn for g in groups] for tree in trees for groups in tree.vines]
    assert found["told"] == found["scored"]


def test_no_pass_of_the_policy_over_fresh_rollouts(tmp_path):
    trainer = make_trainer(tmp_path, model_seed=3)
    passes = []
    score = trainer._score_packed
    trainer._score_packed = lambda *args, **kwargs: passes.append(torch.is_grad_enabled()) or score(*args, **kwargs)
    trainer.train()
    assert passes == [True] * trainer.state.global_step  # the update's own alone


def test_minibatches_hold_whole_trees(tmp_path):
    """Each row in one minibatch of each pass, a tree's rows side by side and in order; what rides along, with them."""
    trainer = make_trainer(tmp_path, model_seed=3)
    own = torch.ones(4 * 14, 1)
    batch = {"completion_ids": torch.arange(4 * 14)[:, None], "advantages": torch.arange(4.0 * 14), "none": None,
             "count": torch.tensor(3), "completion_mask": own, "tool_mask": own}  # fmt: skip
    torch.manual_seed(1)
    shuffled = trainer._shuffle(batch)
    trees = shuffled["completion_ids"].view(4, 14)
    assert torch.equal(trees, trees[:, :1] + torch.arange(14)) and trees[:, 0].tolist() != [0, 14, 28, 42]
    assert sorted(trees[:, 0].tolist()) == [0, 14, 28, 42]
    assert torch.equal(shuffled["advantages"], shuffled["completion_ids"][:, 0].float())
    assert shuffled["none"] is None and shuffled["count"] == 3

    trainer.rollout = RolloutConfig(14, 0, 0)  # whole episodes
    alone = trainer._shuffle(batch)["completion_ids"][:, 0].tolist()
    assert sorted(alone) == list(range(4 * 14)) and len({row // 14 for row in alone[:14]}) > 2


def test_packed_rows_give_the_update_of_rows_one_by_one(tmp_path):
    """Loss and gradients of a minibatch of trees with nested prefixes, with a critic that shares the trunk."""
    found = {}
    for name in ("packed", "one by one"):
        trainer = make_trainer(tmp_path / name, model_seed=3, critic="shared", rollout=TREE)
        output, _, _ = rollouts_of(trainer)
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.03)
        if name == "one by one":
            trainer._packers = {key: None for key in trainer._packers}
        loss = trainer._compute_loss(trainer.model, output)
        loss.backward()
        computed, distinct = trainer._tokens_run
        assert (computed == 0) == (name == "one by one") and computed <= 1.05 * distinct
        found[name] = loss.detach(), {n: p.grad for n, p in trainer.model.named_parameters()}
    torch.testing.assert_close(found["packed"][0], found["one by one"][0], atol=1e-6, rtol=1e-5)
    for name, gradient in found["one by one"][1].items():
        gap = (found["packed"][1][name] - gradient).abs().max()
        assert gap <= 1e-5 * gradient.abs().max() + 1e-8, name


def test_a_policy_that_cannot_be_packed_learns_all_the_same(tmp_path, capsys):
    trainer = make_trainer(tmp_path, build=eager, num_updates=1)
    told = capsys.readouterr()
    assert "run one by one, shared prefixes more than once: its attn_implementation is 'eager'" in told.out + told.err
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert "update/tokens_computed" not in trainer.state.log_history[0]


def test_metrics_say_where_the_time_goes(tmp_path):
    trainer = make_trainer(tmp_path, model_seed=3, num_updates=3)
    state = torch.get_rng_state()
    trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    for number, line in enumerate(lines):
        assert {*clock.STAGES.values()} <= line.keys()
        assert (
            all(line[name] >= 0 for name in clock.STAGES.values())
            and line["seconds/update"] > 0 < line["seconds/rollouts"]
        )
        assert (line["seconds/saving"] > 0) == (number > 0), "of the checkpoint before"
        assert 0.1 < lines[0]["speed/peak_memory"] <= line["speed/peak_memory"] < 16
        assert 0 < line["speed/limit_share"] < 1 and line["speed/tokens_per_second"] > 0
        assert 0 < line["update/tokens_distinct"] <= line["update/tokens_computed"]
    steps = [line["rollout/env_steps"] for line in lines]
    assert lines[1]["speed/env_steps_per_second"] < (steps[1] - steps[0]) / lines[1]["seconds/update"]
    torch.set_rng_state(state)
    assert clock.peak_flops(torch.device("cpu"), torch.float32) > 1e8
    assert torch.equal(torch.get_rng_state(), state), "a run draws its own random numbers"


@pytest.mark.parametrize("rate, last", [(5e8, 256), (1e11, 1024), (9e14, 4096)])
def test_the_peak_is_found_with_matrices_as_large_as_the_hardware_is_fast(monkeypatch, rate, last):
    sides = []

    def seconds(square):
        sides.append(len(square))
        return 2 * len(square) ** 3 / rate

    monkeypatch.setattr(clock, "_seconds_of_product", seconds)
    assert clock.peak_flops(torch.device("cpu"), torch.bfloat16) == pytest.approx(rate)
    assert max(sides) == last and len(sides) == 6 * len(set(sides))


def test_answers_to_one_prompt_share_it(tmp_path):
    rollout = RolloutConfig(num_seeds=14, num_rollout_states=0, num_vines=0)
    objective = replace(SETS, set_scope="seeds", window=-1)
    trainer = make_trainer(tmp_path, rollout=rollout, objective=objective, critic="none", horizon=2, seeds=(0,))
    output, _, rows = rollouts_of(trainer)
    trainer._compute_loss(trainer.model, output)
    computed, distinct = trainer._tokens_run
    assert computed <= 1.05 * distinct < sum(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
