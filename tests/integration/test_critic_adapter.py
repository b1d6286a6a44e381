"""The critic's own adapter: its values, whose gradients go where, what is saved, resumed and refused."""

import os
import shutil

import pytest
import torch
from doors import Doors
from outcomes import assert_same, read
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from test_lora import LORA, base, tune  # noqa: F401 (fixtures)
from test_processes import BATCH, RECIPE, by_hand
from test_resume import command, run
from test_trainer import SETS, TREE, kept_values, rollouts_of
from transformers import AutoModelForCausalLM

from polytune.config import PolicyConfig
from polytune.policy import build_tiny
from polytune.policy.rendering import PROMPT_WORD
from polytune.policy.vllm_generator import merged_weights
from polytune.trainer import PolychromicConfig, PolychromicTrainer
from polytune.trainer.value_features import value_features

OWN = [*LORA, "--critic", "own", "--critic_lora_r", "2", "--critic_learning_rate", "1e-2"]


@pytest.fixture
def make(tmp_path):
    """A trainer on the toy task, the policy's adapter and (``moved``) the critic's away from 0."""
    task = Doors(horizon=14)
    model, tokenizer = build_tiny("tiny", [PROMPT_WORD, *task.vocabulary()], seed=3)
    model.save_pretrained(tmp_path / "base")

    def make(*, moved=True, **fields):
        defaults = dict(
            output_dir=str(tmp_path / "run"), num_generations=14, per_device_train_batch_size=14,
            steps_per_generation=2, num_updates=1, learning_rate=1e-3, disable_tqdm=True, use_cpu=True, kl_coef=0.0,
            critic="own", critic_lora_r=3,
        )  # fmt: skip
        trainer = PolychromicTrainer(
            AutoModelForCausalLM.from_pretrained(tmp_path / "base"), PolychromicConfig(**(defaults | fields)), task,
            [0, 1, 2, 3], TREE, SETS, PolicyConfig(), tokenizer,
            peft_config=LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False),
        )  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            trainer.critic.head.layers[-1].weight.normal_(std=0.3, generator=generator)
            for update in trainer.critic_adapter.updates.values() if moved else ():
                update.B.normal_(std=0.5, generator=generator)
        return trainer

    return make


def values_of(trainer, output, trees, folder, *, adapted=True):
    """By a plain copy of the base with the critic's updates added to its weights, row by row; (B, C) at own tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    values, updates = torch.zeros(output["completion_ids"].shape), dict(trainer.critic_adapter.updates.items())
    features = value_features(trees, trainer.task.horizon, 1.0).float()
    with torch.no_grad():
        for name, module in model.named_modules():
            update = updates.get(name.replace(".", "_"))
            if update is not None and adapted:
                module.weight += 8 / 3 * update.B @ update.A
        for row in range(len(values)):
            prompt = output["prompt_ids"][row][output["prompt_mask"][row].bool()]
            completion = output["completion_ids"][row][output["completion_mask"][row].bool()]
            hidden = model.model(torch.cat([prompt, completion])[None]).last_hidden_state[0]
            own = output["tool_mask"][row, : len(completion)].nonzero()[:, 0]
            values[row, own] = trainer.critic.head(hidden[len(prompt) - 1 + own], features[row, : len(own)])
    return values


@pytest.mark.parametrize("moved", [False, True])
def test_values_are_those_of_the_base_with_the_critics_updates(make, tmp_path, moved):
    trainer = make(moved=moved)
    assert len(trainer.critic_adapter.updates) == 2 * trainer.model.config.num_hidden_layers
    seen = kept_values(trainer)
    output, trees, rows = rollouts_of(trainer)
    own = (output["completion_mask"] * output["tool_mask"]).bool()
    expected = values_of(trainer, output, trees, tmp_path)
    count = torch.tensor([len(t.turns) for tree in trees for t in tree.trajectories()])
    kept = seen["values"][torch.arange(seen["values"].size(1)) < count[:, None]]
    torch.testing.assert_close(kept.float(), expected[own], atol=1e-5, rtol=1e-4)
    plain = values_of(trainer, output, trees, tmp_path, adapted=False)
    assert moved != torch.allclose(expected[own], plain[own], atol=1e-3), "the first values are the plain head's"


def gradients(trainer, output):
    """The policy's of one loss, by name."""
    trainer.model.zero_grad()
    trainer._compute_loss(trainer.model, output).backward()
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def test_each_loss_moves_its_own_adapter_alone(make):
    trainer = make()
    trainable = {name: p.requires_grad for name, p in trainer.model.named_parameters()}
    assert all(wanted == ("lora_" in name) for name, wanted in trainable.items())
    learn = trainer.critic.learn
    output, trees, rows = rollouts_of(trainer)
    before = gradients(trainer, output)
    assert all(grad.abs().max() > 0 for grad in before.values())
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    critic = {name: p.detach().clone() for name, p in trainer.critic.named_parameters()}
    trainer._trees, trainer._rows = trees, rows
    decisions = trainer._decisions(output, (output["completion_mask"] * output["tool_mask"]).bool())
    learn(decisions, torch.ones(len(decisions)), salt="")
    assert all(torch.equal(p, weights[name]) for name, p in trainer.model.named_parameters())
    assert not any(torch.equal(p, critic[name]) for name, p in trainer.critic.named_parameters())
    assert any("trunk" in name for name in critic)
    after = gradients(trainer, output)
    assert all(torch.equal(after[name], before[name]) for name in before), "the critic's pass leaves the policy's alone"
    assert {name: p.requires_grad for name, p in trainer.model.named_parameters()} == trainable


@pytest.mark.parametrize("kl_reference", ["behaviour", "pretrained"])
def test_both_adapters_learn_at_their_own_rate_and_the_policys_is_saved_alone(make, tmp_path, kl_reference):
    trainer = make(num_updates=2, num_iterations=1, critic_learning_rate=1e-2, kl_coef=0.1, kl_reference=kl_reference)
    assert trainer.critic_adapter not in list(trainer.model.modules())
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    critic_before = {name: p.detach().clone() for name, p in trainer.critic.named_parameters()}
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, before[name]) != ("lora_" in name), name
    assert not any(torch.equal(p, critic_before[name]) for name, p in trainer.critic.named_parameters())
    groups = {id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert set(groups) == {id(p) for p in trainer.model.parameters() if p.requires_grad} and set(groups.values()) == {
        1e-3
    }
    assert {group["lr"] for group in trainer.critic.optimiser.param_groups} == {1e-2}
    logged = [line for line in trainer.state.log_history if "kl" in line]
    assert len(logged) == 2 and logged[0]["kl"] >= 0

    trainer.save_model(tmp_path / "saved")
    found = {path.name for path in (tmp_path / "saved").iterdir() if path.is_dir()}
    assert not found and not any("critic" in name for name in load_file(tmp_path / "saved/adapter_model.safetensors"))
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "saved")
    assert list(plain.peft_config) == ["default"]
    names = AutoModelForCausalLM.from_pretrained(tmp_path / "base").state_dict().keys()
    assert {name for name, _ in merged_weights(trainer.model)} == names, "what vLLM gets"
    ids = torch.randint(plain.config.vocab_size, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(plain.eval()(ids).logits, trainer.model.eval()(ids).logits)


def test_a_resumed_run_is_the_uninterrupted_one(call_recipe, make, tmp_path, one_thread):
    """The recipe on the toy task, which a random policy often solves; the critic's adapter says where vines branch."""
    make().processing_class.save_pretrained(tmp_path / "base")

    def train(folder):
        call_recipe("finetune", *command(tmp_path / "base", folder), *OWN, "--rollout_states", "uncertain",
                    "--use_cpu", "true", "--num_updates", "3")  # fmt: skip

    before = load_file(tmp_path / "base/model.safetensors")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(whole)
    shutil.copytree(whole, cut)
    for path in cut.iterdir():  # as if killed after the second update
        if path.name not in ("checkpoint-8", "run.json", "metrics.jsonl"):
            shutil.rmtree(path) if path.is_dir() else os.remove(path)
    train(cut)
    one, other = [
        {
            "policy": load_file(folder / "adapter_model.safetensors"),
            "critic": load_file(folder / "checkpoint-12/critic.safetensors"),
            "optimizer": torch.load(folder / "checkpoint-12/optimizer.pt", weights_only=True),
            "critic_optimizer": torch.load(folder / "checkpoint-12/critic_optimizer.pt", weights_only=True),
            "metrics": read(folder)["metrics.jsonl"],
        }
        for folder in (whole, cut)
    ]
    assert_same(one, other)
    assert all(line["sampling/logprob_gap"] < 1e-5 for line in one["metrics"] if "rollout/env_steps" in line)
    earlier = load_file(whole / "checkpoint-8/critic.safetensors")
    updates = [name for name in earlier if name.startswith("trunk.")]
    assert updates and not any(torch.equal(one["critic"][name], earlier[name]) for name in updates)
    assert len(one["critic_optimizer"]["param_groups"][-1]["params"]) == len(earlier)
    assert not [path for path in (whole / "checkpoint-12").iterdir() if path.is_dir()]
    assert_same(load_file(tmp_path / "base/model.safetensors"), before)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(make, tmp_path):
    make().processing_class.save_pretrained(tmp_path / "base")
    flags = [*OWN, "--use_cpu", "true"]
    one = run(RECIPE, *command(tmp_path / "base", tmp_path / "one"), *BATCH, "18", *flags)
    assert one.returncode == 0, one.stderr[-3000:]
    for status, text in by_hand(RECIPE, *command(tmp_path / "base", tmp_path / "two"), *BATCH, "9", *flags):
        assert status == 0, text[-3000:]
    for file in ("adapter_model.safetensors", "checkpoint-4/critic.safetensors"):
        one, two = load_file(tmp_path / "one" / file), load_file(tmp_path / "two" / file)
        assert one.keys() == two.keys()
        for name, value in one.items():
            torch.testing.assert_close(value, two[name], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("flags, words", [
    (["--critic", "own", "--critic_lora_r", "2"], "critic_lora_r is 2, but use_peft is false"),
    ([*LORA, "--critic_lora_r", "-1"], "critic_lora_r must be an integer of at least 0, got -1"),
    ([*OWN, "--critic", "none"], "critic_lora_r is 2, but critic is 'none': set critic to 'own'"),
    ([*LORA, "--critic", "own"], "critic is 'own' and use_peft true, so its trunk is an adapter"),
    (["--critic", "false"], "critic is 'false': it is one of shared, own, head, none (once false: none, true: head)"),
    (["--value_coef", "1"], "value_coef is 1.0, but has no effect with critic 'head': leave it out"),
    ([*OWN, "--gradient_checkpointing", "true"], "critic_lora_r is 2, but gradient_checkpointing would recompute"),
])  # fmt: skip
def test_mistakes(tune, tmp_path, capsys, flags, words):  # noqa: F811
    with pytest.raises(SystemExit):
        tune(tmp_path / "run", *flags)
    told = capsys.readouterr().err
    assert words in told and told.count("error:") == 1
