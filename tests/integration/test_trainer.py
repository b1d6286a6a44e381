"""The trainer against independent computations: rows, advantages, loss, parameters, the seams of TRL."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from doors import Doors
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from polytune.config import ObjectiveConfig, PolicyConfig, RolloutConfig
from polytune.methods.behaviour_kl import behaviour_kl
from polytune.methods.ucb import visits
from polytune.objective import enumerate_set_advantages, gae, set_advantages
from polytune.policy import build_tiny
from polytune.policy.rendering import PROMPT_WORD
from polytune.rollout import RolloutError, SeedView, Tree, find_branching, tree_rows
from polytune.trainer import PolychromicConfig, PolychromicTrainer
from polytune.trainer.schedule import StartSchedule
from polytune.trainer.scored import ScoresRows
from polytune.trainer.scoring import length_chunks
from polytune.trainer.value_features import value_features
from polytune.trainer.valued import LearnsValues

TREE = RolloutConfig(num_seeds=2, num_rollout_states=2, num_vines=3)
SETS = ObjectiveConfig(set_size=2, window=2, set_normalise="none", gae_normalise="none")


def make_trainer(
    tmp_path, *, rollout=TREE, objective=SETS, seeds=(0, 1, 2, 3), horizon=14, model_seed=0, build=None, **fields
):
    task = Doors(horizon=horizon)
    model, tokenizer = build_tiny("tiny", [PROMPT_WORD, *task.vocabulary()], seed=model_seed)
    model = model if build is None else build(tokenizer)
    defaults = dict(
        output_dir=str(tmp_path),
        num_generations=rollout.rows_per_prompt,
        per_device_train_batch_size=rollout.rows_per_prompt,
        steps_per_generation=2,
        num_updates=2,
        learning_rate=1e-3,
        disable_tqdm=True,
        use_cpu=True,
    )
    args = PolychromicConfig(**(defaults | fields))
    return PolychromicTrainer(model, args, task, list(seeds), rollout, objective, PolicyConfig(), tokenizer)


def rollouts_of(trainer):
    """One generation batch, its trees kept, its values not learnt from: (output of the seam, trees, rows)."""
    kept = {}
    if trainer.critic is not None:
        trainer.critic.learn = lambda *args, **kwargs: {}
    original = trainer._roll_out

    def keep(prompts):
        result = original(prompts)
        kept["trees"], kept["rows"] = trainer._trees, trainer._rows
        trainer._gap_due = False  # tests move the policy before they ask for its loss
        return result

    trainer._roll_out = keep
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    inputs = [trainer.train_dataset[i // trainer.num_generations] for i in range(2 * trainer.num_generations)]
    return trainer._generate_and_score_completions(inputs), kept["trees"], kept["rows"]


def test_advantages_are_sets_inside_the_window_and_gae_outside(tmp_path):
    trainer = make_trainer(tmp_path, model_seed=3)
    torch.nn.init.normal_(trainer.critic.head.layers[-1].weight, std=0.3)  # values that are not all 0
    output, trees, rows = rollouts_of(trainer)
    trajectories = [t for tree in trees for t in tree.trajectories()]
    assert 3 < sum(t.success for t in trajectories) < len(trajectories)  # the test has something to tell apart
    advantages = output["advantages"]
    assert advantages.shape == output["completion_ids"].shape

    values = reference_values(trainer, output, trees)
    for row, (trajectory, data) in enumerate(zip(trajectories, rows, strict=True)):
        own = [j for j, index in enumerate(data.turn_index) if index >= 0]
        assert len(own) == len(trajectory.turns)  # one token an action
        rewards = torch.tensor([[turn.reward for turn in trajectory.turns]])
        expected = gae(rewards, values[row, own][None], torch.ones(1, len(own)), 1.0, 0.95)[0]
        if trajectory.parent is not None:
            group = next(g for tree in trees for g in tree.vine_groups() if any(t is trajectory for t in g))
            scores = enumerate_set_advantages([t.discounted_return() for t in group], [t.signature for t in group], 2)
            member = next(i for i, t in enumerate(group) if t is trajectory)
            expected[: SETS.window + 1] = scores[member]  # the first action and the next W
        torch.testing.assert_close(advantages[row, own].double(), expected, atol=1e-5, rtol=1e-5)
        other = [j for j in range(advantages.shape[1]) if j not in own]
        assert advantages[row, other].abs().max() == 0 if other else True
        assert output["tool_mask"][row, own].min() == 1


@pytest.mark.parametrize("step, size", [(0, 3), (4, 2), (7, 1)])
def test_sets_shrink_in_the_advantages(tmp_path, step, size):
    objective = replace(SETS, set_size=3, set_size_end=1, credit="leave_one_out")
    trainer = make_trainer(tmp_path, model_seed=3, objective=objective, num_updates=2)
    trainer.state.global_step, trainer.args.max_steps = step, 8
    output, trees, rows = rollouts_of(trainer)
    place = {id(t): row for row, t in enumerate(t for tree in trees for t in tree.trajectories())}
    for group in (group for tree in trees for group in tree.vine_groups()):
        told = [[t.discounted_return() for t in group], [t.signature for t in group]]
        want = set_advantages(*told, size, credit="leave_one_out")
        for member, expected in zip(group, want.tolist(), strict=True):
            row = place[id(member)]
            first = next(j for j, turn in enumerate(rows[row].turn_index) if turn >= 0)
            assert output["advantages"][row, first].item() == pytest.approx(expected, abs=1e-6)


def kept_values(trainer):
    """A dict that will hold what the trainer's next ``_values`` returns."""
    kept, original = {}, trainer._values
    trainer._values = lambda decisions: kept.setdefault("values", original(decisions))
    return kept


def reference_values(trainer, output, trees):
    """The critic's values at every own token by a plain forward pass, row by row (one token an action)."""
    foresees = find_branching(trainer.rollout.rollout_states).foresees
    features = value_features(trees, trainer.task.horizon, 1.0, foresees=foresees).float()
    values = torch.zeros(output["completion_ids"].shape, dtype=torch.float64)
    with torch.no_grad():
        for row in range(len(values)):
            prompt = output["prompt_ids"][row][output["prompt_mask"][row].bool()]
            completion = output["completion_ids"][row][output["completion_mask"][row].bool()]
            model = trainer.model.get_base_model() if hasattr(trainer.model, "peft_config") else trainer.model
            hidden = model.model(torch.cat([prompt, completion])[None]).last_hidden_state[0]
            own = output["tool_mask"][row, : len(completion)].nonzero()[:, 0]
            told = features[row, : len(own)]
            values[row, own] = trainer.critic.head(hidden[len(prompt) - 1 + own], told).double()
    return values


def test_the_critics_target_is_the_ordinary_return(tmp_path):
    trainer, seen = make_trainer(tmp_path, model_seed=3), {}
    trainer._learn_values = lambda output, decisions, turns: seen.update(decisions=decisions, turns=turns)
    output, trees, rows = rollouts_of(trainer)
    trainer.critic.learn = lambda decisions, targets, salt: seen.update(targets=targets) or {}
    trainer._trees, trainer._rows = trees, rows
    LearnsValues._learn_values(trainer, output, seen["decisions"], seen["turns"])
    expected = [t.discounted_return() for tree in trees for t in tree.trajectories() for _ in t.turns]
    torch.testing.assert_close(seen["targets"], torch.tensor(expected))
    own = (output["completion_mask"] * output["tool_mask"]).bool()
    assert torch.equal(seen["decisions"].first_B_C, own), "one token an action: every own token is a decision"


@pytest.mark.parametrize("kl_coef", [0.0, 0.3])
def test_loss_equals_ppo_written_by_hand(tmp_path, kl_coef):
    trainer = make_trainer(tmp_path, critic="shared", kl_coef=kl_coef, value_coef=0.5, num_iterations=2)
    output, trees, _ = rollouts_of(trainer)
    with torch.no_grad():  # move the policy, so that ratios differ from 1 and some are clipped
        for parameter in trainer.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
        torch.nn.init.normal_(trainer.critic.head.layers[-1].weight, std=0.1)
    output["advantages"] = torch.randn_like(output["advantages"]) * (output["tool_mask"] * output["completion_mask"])
    loss = trainer._compute_loss(trainer.model, output)

    total, kl, count, value_error, decisions = 0.0, 0.0, 0, 0.0, 0
    values = reference_values(trainer, output, trees)
    clipped = 0
    for row in range(len(output["prompt_ids"])):
        prompt = output["prompt_ids"][row][output["prompt_mask"][row].bool()]
        completion = output["completion_ids"][row][output["completion_mask"][row].bool()]
        logits = trainer.model(torch.cat([prompt, completion])[None]).logits[0]
        logprobs = torch.log_softmax(logits, -1)
        for j, token in enumerate(completion.tolist()):
            if output["tool_mask"][row, j] == 0:
                continue
            log_ratio = logprobs[len(prompt) - 1 + j, token] - output["old_per_token_logps"][row, j]
            ratio, advantage = log_ratio.exp(), output["advantages"][row, j]
            surrogate = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            clipped += int(surrogate != ratio * advantage)
            total += -surrogate.item()
            kl += (ratio - 1 - log_ratio).item()
            count += 1
            value_error += (values[row, j] - output["value_targets"][row, j]).item() ** 2
            decisions += 1
    assert clipped > 0
    # 'dapo' divides by the tokens of the whole update, spread over its minibatches (here: 2)
    policy = total / (count / 2)
    expected = policy + kl_coef * kl / (count / 2) + 0.5 * 0.5 * value_error / (decisions / 2)
    assert math.isclose(loss.item(), expected, rel_tol=1e-4, abs_tol=1e-6)


@pytest.mark.parametrize("critic", ["head", "shared", "own"])
def test_every_trainable_parameter_changes_and_no_frozen_one(tmp_path, critic):
    trainer = make_trainer(tmp_path, model_seed=3, save_updates=2, critic=critic, critic_learning_rate=2e-3)
    trainer.model.model.embed_tokens.weight.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    critic_before = {name: p.detach().clone() for name, p in trainer.critic.named_parameters()}
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        changed = not torch.equal(parameter, before[name])
        assert changed == parameter.requires_grad, name
    for name, parameter in trainer.critic.named_parameters():
        assert not torch.equal(parameter, critic_before[name]), name
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {1e-3}
    assert {group["lr"] for group in trainer.critic.optimiser.param_groups} == {2e-3}
    logged = trainer.state.log_history[0]
    for name in (
        "rollout/return", "rollout/success", "rollout/env_steps", "advantages/set_scale_raw",
        "advantages/gae_scale_raw", "advantages/set_scale_applied", "advantages/gae_scale_applied",
        "groups/without_signal", "groups/diversity", "groups/distinct_signatures", "entropy", "kl",
        "clip_ratio/region_mean", "critic/explained_variance", "actions/invalid_rate", "tokens/recomputed",
    ):  # fmt: skip
        assert name in logged, f"{name} is not logged"
    assert logged["tokens/recomputed"] == 0


@pytest.mark.parametrize("critic", ["head", "shared", "own"])
def test_the_value_loss_moves_the_policys_trunk_only_where_it_is_shared(tmp_path, critic):
    trainer = make_trainer(tmp_path, kl_coef=0.0, critic=critic)
    torch.nn.init.normal_(trainer.critic.head.layers[-1].weight, std=0.3)
    before = [p.detach().clone() for p in trainer.critic.parameters()]
    output, _, _ = rollouts_of(trainer)
    output["advantages"] = torch.zeros_like(output["advantages"])
    trainer._compute_loss(trainer.model, output).backward()
    moved = {n for n, p in trainer.model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    trunk = {n for n, _ in trainer.model.named_parameters() if n.startswith("model.")}
    assert moved == (trunk if critic == "shared" else set())
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.critic.parameters(), strict=True))
    assert all(p.grad is None for p in trainer.critic.parameters()), "the critic learns in passes of its own"


@pytest.mark.parametrize("critic", ["head", "shared", "own"])
def test_the_critics_step_is_that_of_all_decisions(tmp_path, critic):
    """One pass in one minibatch, in pieces of rows: the gradient of the mean loss, and Adam's step on it."""
    trainer = make_trainer(tmp_path, critic=critic, model_seed=3, critic_passes=1, critic_minibatches=1)
    torch.nn.init.normal_(trainer.critic.head.layers[-1].weight, std=0.3)
    learn, seen = trainer.critic.learn, {}
    output, trees, _ = rollouts_of(trainer)
    values = reference_values(trainer, output, trees)
    trainer.critic.learn = learn
    trainer._trees, trainer._rows = trees, [row for tree in trees for row in tree_rows(tree)]
    own = (output["completion_mask"] * output["tool_mask"]).bool()
    trainer._pass_logprobs = None
    trainer._score_rows(output)
    decisions = trainer._decisions(output, own)
    targets = torch.linspace(-1, 1, len(decisions))
    step = trainer.critic.optimiser.step
    trainer.critic.optimiser.step = lambda: (
        seen.update(g=[p.grad.clone() for p in trainer.critic.parameters()]) or step()
    )
    told = trainer.critic.learn(decisions, targets, salt="0")
    assert math.isclose(told["loss"], float(0.5 * ((values[own] - targets) ** 2).mean()), rel_tol=1e-4)
    norm = math.sqrt(sum(float((g**2).sum()) for g in seen["g"]))
    assert math.isclose(norm, min(told["grad_norm"], trainer.args.max_grad_norm), rel_tol=1e-3)
    assert told["grad_norm"] > 0


@pytest.mark.parametrize(
    ("rollout", "objective", "fields"),
    [
        (RolloutConfig(4, 0, 0), ObjectiveConfig(set_scope="none"), {}),  # PPO
        (RolloutConfig(4, 0, 0), ObjectiveConfig(set_scope="seeds", set_size=2, window=-1), {"critic": "none"}),
        (RolloutConfig(2, 1, 3), ObjectiveConfig(set_scope="both", set_size=2), {}),
        (RolloutConfig(1, 2, 3), ObjectiveConfig(set_size=2, credit="max", num_sets="4"), {"num_iterations": 1}),
    ],
    ids=["ppo", "poly_epo", "both", "sampled_sets"],
)
def test_other_algorithms_are_configurations(tmp_path, rollout, objective, fields):
    trainer = make_trainer(tmp_path, rollout=rollout, objective=objective, num_updates=1, **fields)
    trainer.train()
    assert trainer.state.global_step == trainer.args.steps_per_update
    assert math.isfinite(trainer.state.log_history[0]["loss"])


@pytest.mark.parametrize("num_iterations", [1, 2])  # TRL scores the policy of its own accord only with 2
@pytest.mark.parametrize("lora", [False, True])
def test_the_reference_does_not_touch_the_critics_values(tmp_path, num_iterations, lora):
    """KL to the pretrained policy: TRL scores the reference through the same method, 28 rows in two chunks."""
    task = Doors(horizon=14)
    model, tokenizer = build_tiny("tiny", [PROMPT_WORD, *task.vocabulary()], seed=3)
    model.save_pretrained(tmp_path / "policy")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    if lora:
        model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    args = PolychromicConfig(
        output_dir=str(tmp_path / "run"), num_generations=14, per_device_train_batch_size=28, steps_per_generation=1,
        num_iterations=num_iterations, num_updates=1, kl_reference="pretrained", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = PolychromicTrainer(model, args, task, [0, 1], TREE, SETS, PolicyConfig(), tokenizer)
    torch.nn.init.normal_(trainer.critic.head.layers[-1].weight, std=0.3)
    seen = kept_values(trainer)
    output, trees, _ = rollouts_of(trainer)
    own = (output["completion_mask"] * output["tool_mask"]).bool()
    reference = reference_values(trainer, output, trees)
    turns = torch.tensor([len(t.turns) for tree in trees for t in tree.trajectories()])
    mask = torch.arange(seen["values"].size(1)) < turns[:, None]
    torch.testing.assert_close(seen["values"][mask], reference[own], atol=1e-5, rtol=1e-5)
    trainer.train()
    assert math.isfinite(trainer.state.log_history[0]["kl"])


def test_members_of_no_drawn_set_keep_the_critics_advantage(tmp_path):
    """Never scored is not scored with 0 (N 3, n 1, M 2: at least one vine of three is in no set)."""
    objective = ObjectiveConfig(set_size=1, window=2, num_sets="2", set_normalise="none", gae_normalise="none")
    trainer = make_trainer(tmp_path, objective=objective, model_seed=3)
    seen = {}
    original = trainer._scale
    trainer._scale = lambda turns: (original(turns), seen.setdefault("turns", turns))
    _, trees, _ = rollouts_of(trainer)
    turns = seen["turns"]
    in_sets = [bool(row.any()) for row in turns.set_mask_B_T]
    vines = [t.parent is not None for tree in trees for t in tree.trajectories()]
    assert 0 < sum(in_sets) < sum(vines)
    assert not any(scored and not vine for scored, vine in zip(in_sets, vines, strict=True))
    assert torch.equal(turns.set_mask_B_T | turns.gae_mask_B_T, turns.turns_mask_B_T)


def test_without_critic_only_windows_are_scored(tmp_path):
    trainer = make_trainer(tmp_path, critic="none")
    output, trees, rows = rollouts_of(trainer)
    for row, trajectory in enumerate(t for tree in trees for t in tree.trajectories()):
        own = [j for j, index in enumerate(rows[row].turn_index) if index >= 0]
        unscored = own if trajectory.parent is None else own[SETS.window + 1 :]
        assert output["advantages"][row, unscored].abs().sum() == 0


def test_each_population_is_scaled_on_its_own(tmp_path):
    scaled = ObjectiveConfig(set_size=2, window=2, set_normalise="std", gae_normalise="mean_std", set_weight=0.5)
    trainer = make_trainer(tmp_path, objective=scaled, model_seed=3)
    torch.nn.init.normal_(trainer.critic.head.layers[-1].weight, std=0.3)
    seen = {}
    original = trainer._scale
    trainer._scale = lambda turns: (original(turns), seen.setdefault("turns", turns))
    rollouts_of(trainer)
    turns = seen["turns"]
    sets, others = turns.advantages_B_T[turns.set_mask_B_T], turns.advantages_B_T[turns.gae_mask_B_T]
    assert not (turns.set_mask_B_T & turns.gae_mask_B_T).any()
    assert torch.equal(turns.set_mask_B_T | turns.gae_mask_B_T, turns.turns_mask_B_T)
    assert abs(others.mean()) < 1e-9 and abs(others.std(correction=0) - 1) < 1e-6
    if sets.abs().max() > 0:
        assert abs((sets**2).mean() - sets.mean() ** 2 - 0.25) < 1e-6


def test_contract_of_the_trl_seam(tmp_path):
    """What PolychromicTrainer relies on in TRL's experimental ``rollout_func``; fails when a new TRL changes it."""
    trainer = make_trainer(tmp_path, num_updates=1, num_iterations=2, steps_per_generation=2, critic="shared")
    calls, batches = [], []
    original, loss = trainer._roll_out, trainer._compute_loss

    def record(prompts):
        calls.append(list(prompts))
        return original(prompts)

    def record_batch(model, inputs):
        batches.append({k: v.clone() for k, v in inputs.items() if isinstance(v, torch.Tensor)})
        return loss(model, inputs)

    trainer._roll_out, trainer._compute_loss = record, record_batch
    trainer.train()
    assert len(calls) == 1  # one call for an update of 2 epochs x 2 minibatches
    size = trainer.num_generations
    assert len(calls[0]) == 2 * size and len(set(calls[0][:size])) == 1  # each prompt repeated num_generations times
    assert len(batches) == 4
    for first, second in ((0, 2), (1, 3)):  # the second epoch sees the same minibatches in the same order
        for key in (
            "completion_ids",
            "advantages",
            "value_targets",
            "value_mask",
            "value_features",
            "old_per_token_logps",
        ):
            assert torch.equal(batches[first][key], batches[second][key]), key
    for batch in batches:  # our tensors are shuffled and split along with TRL's
        mask = batch["completion_mask"] * batch["tool_mask"]
        assert torch.equal(batch["value_mask"], mask.bool())
        assert (batch["advantages"] * (1 - mask)).abs().max() == 0
        assert batch["sampling_per_token_logps"].shape == mask.shape
        difference = (batch["sampling_per_token_logps"] - batch["old_per_token_logps"]) * mask
        assert difference.abs().max() < 1e-4  # the generator's logprobs are the trainer's


def test_chunks_of_like_length_change_no_number(tmp_path):
    trainer = make_trainer(tmp_path)
    output, _, _ = rollouts_of(trainer)
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
    width = output["completion_ids"].size(1)
    with torch.no_grad():
        chunked, entropies, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, width, compute_entropy=True
        )
        whole, whole_entropies, _ = super(ScoresRows, trainer)._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, width, compute_entropy=True
        )
    own = (output["completion_mask"] * output["tool_mask"]).bool()
    torch.testing.assert_close(chunked[own], whole[own], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropies[own], whole_entropies[own], atol=1e-5, rtol=1e-5)
    rows = torch.cat([chunk.rows_b for chunk in length_chunks(mask, width, 4)])
    assert sorted(rows.tolist()) == list(range(len(mask)))


def test_rows_are_scored_without_the_padding_before_them(tmp_path):
    """By a model with learned positions, which would show: rows of any padding are scored as they were sampled."""

    def gpt2(tokenizer):
        torch.manual_seed(0)
        size = dict(n_positions=256, n_embd=48, n_layer=2, n_head=2, attn_pdrop=0, resid_pdrop=0, embd_pdrop=0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, **size))

    trainer = make_trainer(tmp_path, build=gpt2)
    output, _, _ = rollouts_of(trainer)
    own = (output["completion_mask"] * output["tool_mask"]).bool()
    for padding in (0, 9):
        before = torch.zeros(len(own), padding, dtype=torch.long)
        ids = torch.cat([before, output["prompt_ids"], output["completion_ids"]], 1)
        mask = torch.cat([before, output["prompt_mask"], output["completion_mask"]], 1)
        with torch.no_grad():
            scored, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, own.size(1))
        torch.testing.assert_close(scored[own], output["sampling_per_token_logps"][own], atol=1e-5, rtol=1e-5)


def test_behaviour_kl_is_the_kl_and_so_is_its_gradient():
    """Against the exact KL of two categorical distributions, by summing over all outcomes weighted by pi_beta."""
    torch.manual_seed(0)
    old = torch.log_softmax(torch.randn(6).double(), -1)
    new = torch.log_softmax(torch.randn(6).double(), -1).requires_grad_()
    theta = torch.randn(6).double().requires_grad_()
    for logits in (new, theta):
        logprobs = torch.log_softmax(logits, -1)
        exact = (old.exp() * (old - logprobs)).sum()
        one = torch.ones(1, 1)
        estimate = sum(
            old[a].exp() * behaviour_kl(logprobs[a].view(1, 1), old[a].view(1, 1), one).sum() for a in range(6)
        )
        assert torch.allclose(exact, estimate)
        exact_gradient = torch.autograd.grad(exact, logits, retain_graph=True)[0]
        assert torch.allclose(exact_gradient, torch.autograd.grad(estimate, logits)[0])


def test_the_budget_of_environment_steps_is_spent_evenly_and_exactly(tmp_path):
    """Trees that do not fit leave blank rows: the steps of the optimiser stay what they were."""
    updates, budget = 4, 1400
    trainer = make_trainer(
        tmp_path, num_updates=updates, max_env_steps=budget, per_device_train_batch_size=42, learning_rate=1e-5
    )
    spent, grown = [], []
    log = trainer._log_rollouts

    def watch(*arguments):
        log(*arguments)
        spent.append(trainer.env_steps)
        grown.append(len(trainer._trees))

    trainer._log_rollouts = watch
    before = [p.clone() for p in trainer.model.parameters()]
    trainer.train()
    tree = budget / sum(grown)
    assert trainer.state.global_step == updates * trainer.args.steps_per_update
    assert max(grown) < 6 and min(grown) >= 1  # there is room for 6 trees
    for update, steps in enumerate(spent):
        assert abs(steps - budget * (update + 1) / updates) < 1.5 * tree
    assert abs(spent[-1] - budget) < tree
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert any(not torch.equal(p, q) for p, q in zip(before, trainer.model.parameters(), strict=True))


def test_a_budget_that_the_batch_cannot_spend_is_said(tmp_path, capsys):
    trainer = make_trainer(tmp_path, max_env_steps=750)
    trainer.train()
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: the budget")]
    assert len(said) == 1 and "room for 2 trees" in said[0] and "375" in said[0]


def test_blank_rows_change_nothing(tmp_path):
    """Two trees and no room for more give the gradient of two trees alone."""
    gradients = []
    for name, size, budget in (("two", 14, None), ("six", 42, 1)):
        trainer = make_trainer(tmp_path / name, per_device_train_batch_size=size, max_env_steps=budget, model_seed=3,
                               critic="shared")  # fmt: skip
        if budget:
            trainer._env_steps_due = lambda: 0.0
            grow = trainer._grow_next
            trainer._grow_next = lambda count, grow=grow: grow(2)
        inputs = [trainer.train_dataset[i // 14] for i in range(2 * size)]
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        output = trainer._generate_and_score_completions(inputs)
        assert output["completion_ids"].size(0) == 2 * size and int(output["num_decisions"]) > 100
        assert output["advantages"][28:].abs().sum() == 0 and output["value_mask"][28:].sum() == 0
        trainer._compute_loss(trainer.model, output).backward()
        gradients.append([*(p.grad for p in trainer.model.parameters() if p.grad is not None),
                          *(p.detach() for p in trainer.critic.parameters())])  # fmt: skip
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-4)


OWN_RULE = """
from polytune.rollout import Branching

def boldest(seed, num_states):
    return sorted(range(seed.num_turns), key=lambda turn: seed.entropies[turn] - seed.values[turn])[:num_states]

BOLDEST = Branching(boldest, needs_entropies=True, needs_values=True)
"""


@pytest.mark.parametrize("rule", ["uncertain", "entropy", "start", "my_rules:BOLDEST"])
def test_rollout_states_lie_where_the_rule_says(tmp_path, rule, monkeypatch):
    (tmp_path / "my_rules.py").write_text(OWN_RULE)
    monkeypatch.syspath_prepend(tmp_path)
    rollout = RolloutConfig(num_seeds=2, num_rollout_states=2, num_vines=3, rollout_states=rule)
    trainer = make_trainer(tmp_path, rollout=rollout, model_seed=3)
    torch.nn.init.normal_(trainer.critic.head.layers[-1].weight, std=0.3)
    torch.nn.init.constant_(trainer.critic.head.layers[-1].bias, 0.4)
    output, trees, rows = rollouts_of(trainer)
    told = [Tree(tree.start_state, tree.prompt_ids, tree.seeds, [[] for _ in tree.seeds]) for tree in trees]
    values, row = torch.zeros(output["completion_ids"].shape, dtype=torch.float64), 0
    seeds = [r for r, t in enumerate(t for tree in trees for t in tree.trajectories()) if t.parent is None]
    of_seeds = {name: output[name][seeds] for name in
                ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "tool_mask")}  # fmt: skip
    values[seeds] = reference_values(trainer, of_seeds, told)  # no vine had been grown
    seen = set()
    for tree in trees:
        for seed, groups in zip(tree.seeds, tree.vines, strict=True):
            own = [j for j, index in enumerate(rows[row].turn_index) if index >= 0]
            prompt = output["prompt_ids"][row][output["prompt_mask"][row].bool()]
            completion = output["completion_ids"][row][output["completion_mask"][row].bool()]
            with torch.no_grad():
                logits = trainer.model(torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
            entropies = torch.distributions.Categorical(logits=logits).entropy()[own].tolist()
            view = SeedView(len(own), values[row, own].tolist(), entropies)
            expected = find_branching(rule).choose(view, 2)
            assert [group[0].branch_turn for group in groups] == expected
            assert all(vine.parent is seed for group in groups for vine in group)
            seen.update(expected)
            row += 1 + 6
    assert rule == "start" or len(seen) > 2


@pytest.mark.parametrize("rule", ["fixed", "start"])
def test_vines_are_values_where_their_place_foresees_nothing(tmp_path, rule):
    rollout = RolloutConfig(num_seeds=1, num_rollout_states=6, num_vines=3, rollout_states=rule)
    trainer = make_trainer(tmp_path, rollout=rollout, model_seed=3, vine_values=True, num_updates=3)
    torch.nn.init.normal_(trainer.critic.head.layers[-1].weight, std=0.3)
    values, told = kept_values(trainer), {}
    trainer._scale = lambda turns: told.setdefault("turns", turns)
    output, trees, rows = rollouts_of(trainer)
    assert any(tree.vines[0] for tree in trees)
    row = 0
    for tree in trees:
        returns = [turn.reward for turn in tree.seeds[0].turns]
        known = values["values"][row, : len(returns)].clone()
        for group in tree.vines[0]:
            same = [v for g in tree.vines[0] for v in g if v.branch_turn == group[0].branch_turn]
            known[group[0].branch_turn] = sum(v.discounted_return() for v in same) / len(same)
        expected = gae(torch.tensor([returns]), known[None], torch.ones(1, len(returns)), 1.0, 0.95)[0]
        torch.testing.assert_close(told["turns"].advantages_B_T[row, : len(returns)], expected)
        row += 1 + sum(len(group) for group in tree.vines[0])
    with pytest.raises(ValueError, match="vine_values is true, but where rollout_states 'equally_spaced' puts vines"):
        make_trainer(tmp_path / "no", vine_values=True)


def test_per_set_equals_one_row_per_set(tmp_path):
    """The loss of credit ``per_set`` against the mean of the clipped losses of explicit sets, on a moved policy."""
    objective = ObjectiveConfig(
        set_size=2, window=-1, set_scope="seeds", credit="per_set", set_normalise="none", objective="polychromic"
    )
    rollout = RolloutConfig(num_seeds=5, num_rollout_states=0, num_vines=0)
    trainer = make_trainer(tmp_path, rollout=rollout, objective=objective, critic="none", kl_coef=0.0, model_seed=3)
    output, trees, rows = rollouts_of(trainer)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.03)
    loss = trainer._compute_loss(trainer.model, output)
    logprobs = trainer._pass_logprobs
    ratio = (logprobs - output["old_per_token_logps"]).exp()
    total, differs = 0.0, False
    for index, tree in enumerate(trees):
        returns = [t.discounted_return() for t in tree.seeds]
        scores = {
            (i, j): (returns[i] + returns[j]) / 2 * len({tree.seeds[i].signature, tree.seeds[j].signature}) / 2
            for i in range(5) for j in range(i + 1, 5)
        }  # fmt: skip
        baseline = sum(scores.values()) / len(scores)
        for member in range(5):
            row = index * 5 + member
            own = [j for j, turn in enumerate(rows[row].turn_index) if turn >= 0]
            advantages = [score - baseline for pair, score in scores.items() if member in pair]
            r = ratio[row, own]
            clipped = [torch.min(r * a, r.clamp(0.8, 1.2) * a) for a in advantages]
            mean = sum(advantages) / len(advantages)
            total = total - (sum(clipped) / len(clipped)).sum()
            differs |= bool(
                ((sum(clipped) / len(clipped)) - torch.min(r * mean, r.clamp(0.8, 1.2) * mean)).abs().max() > 1e-4
            )
    share = (output["tool_mask"] * output["completion_mask"]).sum() / 2
    assert differs  # the mean advantage alone would give another loss
    torch.testing.assert_close(loss, (total / share).to(loss.dtype), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_sets", ["all", 2])
def test_per_set_leaves_the_critics_tokens_to_ppo(tmp_path, num_sets):
    """With a critic and a window, tokens outside it (and members of no drawn set) take PPO's clipped term."""
    objective = replace(SETS, window=0, credit="per_set", num_sets=num_sets)
    trainer = make_trainer(tmp_path, objective=objective, kl_coef=0.0, model_seed=3)
    torch.nn.init.normal_(trainer.critic.head.layers[-1].weight, std=0.5)
    output, trees, rows = rollouts_of(trainer)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.03)
    loss = trainer._compute_loss(trainer.model, output)
    ratio = (trainer._pass_logprobs - output["old_per_token_logps"]).exp()
    advantages, losses = output["advantages"], output["set_deductions"]
    mask = (output["tool_mask"] * output["completion_mask"]).bool()
    ppo = torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    rows_of_sets = (advantages + losses) * ratio.clamp(max=1.2) - losses * ratio.clamp(min=0.8)
    turns = torch.full_like(advantages, -1)
    for row, data in enumerate(rows):
        turns[row, : len(data.turn_index)] = torch.tensor(data.turn_index, dtype=turns.dtype)
    vines = torch.tensor([t.parent is not None for tree in trees for t in tree.trajectories()])[:, None]
    in_sets = (turns == 0) & vines & ((losses > 0) | (advantages >= 0) if num_sets == 2 else True)
    outside = mask & ~in_sets & (advantages < 0)
    assert ((ratio < 0.8) & outside).any() and ((ratio > 1.2) & outside).any()  # where the two would differ
    expected = -torch.where(in_sets, rows_of_sets, ppo)[mask].sum() / (mask.sum() / 2)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-4)


def test_a_generator_that_repeats_itself_is_refused(tmp_path):
    """One seed for every attempt: all siblings alike although the policy is far from certain."""
    trainer = make_trainer(tmp_path)
    sample = trainer.generator.sample

    def one_seed(branches, turns):
        for branch in branches:
            branch.key = branch.key._replace(branch=0, start_state=0)
        return sample(branches, turns)

    trainer.generator.sample = one_seed
    with pytest.raises(RolloutError, match="attempts repeat an earlier one word for word.*one seed for every attempt"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_honest_rollouts_log_duplicates_as_expected(tmp_path):
    trainer = make_trainer(tmp_path, num_updates=1)
    trainer.train()
    logs = trainer.state.log_history[0]
    assert (
        0 <= logs["duplicates/observed"] <= 1 and abs(logs["duplicates/observed"] - logs["duplicates/expected"]) < 0.2
    )
    causes = [logs[f"groups/without_signal_{cause}"] for cause in ("equal_rewards", "equal_signatures", "ties")]
    assert sum(causes) == pytest.approx(logs["groups/without_signal"])


def test_collapse_is_said_once_until_it_is_over(tmp_path, capsys):
    trainer = make_trainer(tmp_path, objective=replace(SETS, collapse_share=0.5))
    for share in (0.6, 0.4, 0.3, 0.7, 0.2):
        trainer._warn_of_collapse(share, invalid_rate=0.1)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: collapse")]
    assert len(lines) == 2 and "0.40 are left" in lines[0] and "0.20 are left" in lines[1]
    assert "entropy_coef" in lines[0] and "kl_reference to 'pretrained'" in lines[0]
    for share in (0.6, 0.2):  # siblings that say nothing are another matter
        trainer._warn_of_collapse(share, invalid_rate=0.9)
    assert f"warning: 90% of the turns are no action of {trainer.task.name}" in capsys.readouterr().out


def test_a_kl_without_gradient_is_refused(tmp_path):
    """At the first optimiser step of an update the ratio is 1, and so r - 1 - log r is flat."""
    fields = {"kl_reference": "behaviour", "num_iterations": 1, "steps_per_generation": 1}
    with pytest.raises(ValueError, match="kl_coef is 0.3 .* one optimiser step, .* set kl_coef to 0, kl_reference to"):
        make_trainer(tmp_path, kl_coef=0.3, **fields)
    gradients = []
    for kl_coef in (0.0, 0.3):  # what is refused, tried out
        trainer = make_trainer(tmp_path, kl_coef=0.0, model_seed=3, **fields)
        trainer.args.kl_coef = kl_coef
        output, _, _ = rollouts_of(trainer)
        trainer._compute_loss(trainer.model, output).backward()
        gradients.append([p.grad for p in trainer.model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    for mended in ({"kl_reference": "pretrained"}, {"num_iterations": 2}, {"steps_per_generation": 2}):
        PolychromicConfig(kl_coef=0.3, per_device_train_batch_size=17, use_cpu=True, **(fields | mended))


@pytest.mark.parametrize("signature", ["actions", "ngram", "test_trainer:first_letters"])
def test_signatures_may_come_from_the_actions_or_a_judge(tmp_path, signature):
    trainer = make_trainer(tmp_path, objective=replace(SETS, signature=signature), horizon=6)
    _, trees, _ = rollouts_of(trainer)
    for group in (group for tree in trees for group in tree.vine_groups()):
        texts = [[trainer.renderer.action_text(turn.action_ids) for turn in t.turns] for t in group]
        if signature == "actions":
            assert [t.signature for t in group] == [tuple(text) for text in texts]
        elif signature == "ngram":
            alike = [(i, j) for i in range(3) for j in range(3) if texts[i] == texts[j]]
            assert all(group[i].signature == group[j].signature for i, j in alike)
        else:
            assert [t.signature for t in group] == [" ".join(text)[:1].strip() or None for text in texts]


def first_letters(texts):
    """A judge of a user's own."""
    return [text[:1] for text in texts]


def test_group_std_is_grpo(tmp_path):
    """Objective mean, sets of one, group_std: (return - mean) / std of each group on every token."""
    objective = ObjectiveConfig(
        objective="mean", set_size=1, set_scope="seeds", window=-1, set_normalise="group_std", diversity="excess"
    )
    rollout = RolloutConfig(num_seeds=6, num_rollout_states=0, num_vines=0)
    trainer = make_trainer(tmp_path, rollout=rollout, objective=objective, critic="none", model_seed=3)
    output, trees, rows = rollouts_of(trainer)
    signal = 0
    for index, tree in enumerate(trees):
        returns = torch.tensor([t.discounted_return() for t in tree.seeds], dtype=torch.float64)
        spread = returns.std()
        expected = (returns - returns.mean()) / spread if spread > 0 else returns * 0
        signal += bool(expected.abs().max() > 0.1)
        for member in range(6):
            row = index * 6 + member
            own = [j for j, turn in enumerate(rows[row].turn_index) if turn >= 0]
            assert torch.allclose(output["advantages"][row, own].double(), expected[member], atol=1e-5)
    assert signal


def test_rloo_is_leave_one_out_over_the_whole_group(tmp_path):
    """Objective mean, one set of all N, credit leave_one_out, times N: return minus the mean of the others."""
    objective = ObjectiveConfig(
        objective="mean", set_size=6, credit="leave_one_out", set_scope="seeds", window=-1, set_normalise="none",
        set_weight=6.0,
    )  # fmt: skip
    rollout = RolloutConfig(num_seeds=6, num_rollout_states=0, num_vines=0)
    trainer = make_trainer(tmp_path, rollout=rollout, objective=objective, critic="none", model_seed=3)
    output, trees, rows = rollouts_of(trainer)
    for index, tree in enumerate(trees):
        returns = [t.discounted_return() for t in tree.seeds]
        for member in range(6):
            row = index * 6 + member
            own = [j for j, turn in enumerate(rows[row].turn_index) if turn >= 0]
            others = (sum(returns) - returns[member]) / 5
            expected = torch.tensor(returns[member] - others)
            assert torch.allclose(output["advantages"][row, own], expected.float(), atol=1e-5)


def test_ucb_adds_to_scored_actions_and_counts_once_an_update(tmp_path):
    plain, bonus = (
        make_trainer(tmp_path / name, objective=replace(SETS, **methods), model_seed=3)
        for name, methods in (("plain", {}), ("bonus", {"methods": ["ucb"], "method_args": ["ucb.coef=0.25"]}))
    )
    first, trees, _ = rollouts_of(plain)
    second, _, _ = rollouts_of(bonus)
    own = (second["completion_mask"] * second["tool_mask"]).bool()
    torch.testing.assert_close(second["advantages"][own], first["advantages"][own] + 0.25)  # nothing was tried before
    assert torch.equal(second["advantages"][~own], first["advantages"][~own])
    keys = [key for tree in trees for t in tree.trajectories() for key in visits(tree, t)]
    ucb = bonus.methods["ucb"]
    assert "ucb" not in plain.methods and ucb.counts.keys() == set(keys)
    most = max(set(keys), key=keys.count)
    assert ucb.bonus([[most]], 1).item() == pytest.approx(keys.count(most) ** -0.5)


def test_a_split_tree_is_refused(tmp_path):
    trainer = make_trainer(tmp_path)
    with pytest.raises(ValueError, match="got 13 rows, which splits a tree of 14"):
        trainer._roll_out([""] * 13)


@pytest.mark.parametrize("budget", [None, 700])
def test_every_start_state_gets_its_turn(tmp_path, budget):
    """Room for six trees of 7 start states, a budget for fewer: the trees are those that the order says."""
    seeds, size = (4, 7, 11, 12, 13, 20, 21), 42
    trainer = make_trainer(
        tmp_path, seeds=seeds, num_updates=4, per_device_train_batch_size=size, max_env_steps=budget, critic="none",
        rollout=RolloutConfig(num_seeds=14, num_rollout_states=0, num_vines=0),
        objective=replace(SETS, set_scope="seeds"),
    )  # fmt: skip
    met = []
    trainer.on_trees.append(lambda trainer, trees, turns: met.append([tree.start_state for tree in trees]))
    trainer.train()
    grown = [state for update in met for state in update]
    assert grown == [start.start_state for start in StartSchedule(seeds, trainer.args.seed).take(len(grown))]
    assert len(grown) == trainer.schedule.cursor and (budget is None) == (len(grown) == 24)
    logged = [line for line in trainer.state.log_history if "rollout/start_states" in line]
    assert [line["rollout/passes"] * 7 for line in logged] == pytest.approx(np.cumsum([len(u) for u in met]))
    assert [line["rollout/start_states"] for line in logged] == [
        min(int(n), 7) for n in np.cumsum([len(u) for u in met])
    ]


def test_observers_see_the_trees_of_each_update(tmp_path):
    trainer, seen = make_trainer(tmp_path, num_updates=2), []

    def observe(trainer, trees, turns):
        rows = sum(1 for tree in trees for _ in tree.trajectories())
        seen.append((trainer.state.global_step, [tree.start_state for tree in trees]))
        assert turns.advantages_B_T.size(0) == rows

    trainer.on_trees.append(observe)
    trainer.train()
    assert [step for step, _ in seen] == [0, trainer.args.steps_per_update]
    assert all(len(starts) == trainer.args.prompts_per_update for _, starts in seen)
    assert trainer._trees is None
