"""Weights that train are float32 whatever the policy computes in."""

import json
import shutil

import pytest
import torch
from doors import Doors
from peft import LoraConfig
from safetensors.torch import load_file
from test_trainer import SETS, TREE, make_trainer

from polytune.config import PolicyConfig
from polytune.policy import build_tiny, load_policy
from polytune.policy.rendering import PROMPT_WORD
from polytune.trainer import PolychromicConfig, PolychromicTrainer

BFLOAT16 = PolicyConfig(dtype="bfloat16")


def make(tmp_path, policy, *, weights=torch.float32, lora=None, quantised=False, **fields):
    task = Doors(horizon=6)
    model, tokenizer = build_tiny("tiny", [PROMPT_WORD, *task.vocabulary()], seed=3)
    with torch.no_grad():  # weights of an ordinary size: those at 0 and 1 are no measure of rounding
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    model = model.to(weights)
    if quantised:  # what TRL asks a model about its bits; the weights are as they were
        model.is_loaded_in_4bit = True
    defaults = dict(
        output_dir=str(tmp_path), num_generations=14, per_device_train_batch_size=14, steps_per_generation=2,
        num_updates=1, learning_rate=1e-6, max_grad_norm=1.0, disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    args = PolychromicConfig(**(defaults | fields))
    return PolychromicTrainer(model, args, task, [0, 1, 2, 3], TREE, SETS, policy, tokenizer, peft_config=lora)


def moved(trainer):
    """Share of the trainable weights that a run changes."""
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    changed = sum(int((after[name] != p).sum()) for name, p in before.items())
    return changed / sum(p.numel() for p in before.values())


def test_bfloat16_moves_as_many_weights_as_float32(tmp_path):
    """At a learning rate of 1e-6, at which one bfloat16 weight in a hundred moves."""
    shares, gaps = [], []
    for name, policy, weights in (
        ("wide", PolicyConfig(), torch.float32),
        ("narrow", BFLOAT16, torch.float32),
        ("loaded", PolicyConfig(dtype="auto"), torch.bfloat16),
    ):
        trainer = make(tmp_path / name, policy, weights=weights)
        assert trainer.args.bf16 == (trainer.accelerator.mixed_precision == "bf16") == (name != "wide")
        assert all(weight.dtype == torch.float32 for weight in trainer.model.parameters())
        shares.append(moved(trainer))
        gaps.append(trainer.state.log_history[0]["sampling/logprob_gap"])
    print("moved", shares, "gaps", gaps)
    assert shares[0] > 0.9 and min(shares[1:]) > 0.95 * shares[0]
    assert gaps[0] < 1e-5 and max(gaps) < 0.02


def test_the_forward_pass_is_bfloat16_and_the_critic_float32(tmp_path):
    trainer = make(tmp_path, BFLOAT16)
    seen = {"policy": set(), "critic": set()}
    layer = trainer.model.model.layers[0].mlp.up_proj
    layer.register_forward_hook(lambda module, args, output: seen["policy"].add(output.dtype))
    trainer.critic.head.layers[0].register_forward_hook(lambda module, args, output: seen["critic"].add(output.dtype))
    trainer.train()
    assert seen == {"policy": {torch.bfloat16}, "critic": {torch.float32}}


@pytest.mark.parametrize("quantised", [False, True])
def test_an_adapter_and_modules_trained_whole_are_float32_on_a_bfloat16_base(tmp_path, quantised):
    """TRL casts what trains on a base in 4 bits to bfloat16 (a stand-in for bitsandbytes' here)."""
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"], init_lora_weights=False)
    trainer = make(tmp_path, BFLOAT16, weights=torch.bfloat16, lora=lora, quantised=quantised)
    trains = {p.dtype for p in trainer.model.parameters() if p.requires_grad}
    rests = {p.dtype for p in trainer.model.parameters() if not p.requires_grad}
    assert trains == {torch.float32} and rests == {torch.bfloat16}
    assert moved(trainer) > 0.9
    assert trainer.state.log_history[0]["sampling/logprob_gap"] < 0.03
    saved = load_file(max(tmp_path.glob("checkpoint-*")) / "adapter_model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.float32}


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


@pytest.mark.parametrize("adapted", [False, True])
def test_a_resumed_bfloat16_run_is_the_uninterrupted_one(tmp_path, adapted):
    def lora():
        return LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]) if adapted else None

    options = dict(weights=torch.bfloat16 if adapted else torch.float32, num_updates=2, learning_rate=1e-4)
    torch.manual_seed(0)
    whole = make(tmp_path / "whole", BFLOAT16, lora=lora(), **options)
    whole.train()
    torch.manual_seed(1)
    again = make(tmp_path / "again", BFLOAT16, lora=lora(), **options)
    shutil.copytree(tmp_path / "whole/checkpoint-4", tmp_path / "again/checkpoint-4")
    again.train(resume_from_checkpoint=str(tmp_path / "again/checkpoint-4"))
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(again)[name]), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_checkpoints_are_float32_and_the_end_is_saved_as_asked(tmp_path, dtype):
    trainer = make(tmp_path, BFLOAT16, save_dtype=dtype)
    trainer.train()
    trained = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.save_policy()
    kept = load_file(tmp_path / f"checkpoint-{trainer.args.max_steps}/model.safetensors")
    assert {weight.dtype for weight in kept.values()} == {torch.float32}
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(weight, trained[name].to(getattr(torch, dtype))) for name, weight in saved.items())
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == dtype
    assert load_policy(tmp_path, dtype="auto")[0].dtype == getattr(torch, dtype)
    recorded = json.loads((tmp_path / "recorded_episodes.json").read_text())
    assert (recorded["dtype"], recorded["autocast"]) == (dtype, "bfloat16")


def test_save_dtype_is_refused_for_adapters(tmp_path):
    with pytest.raises(ValueError, match="save_dtype is 'bfloat16', but use_peft is true"):
        make(tmp_path, PolicyConfig(), lora=LoraConfig(r=4, target_modules=["q_proj"]), save_dtype="bfloat16")
    with pytest.raises(ValueError, match="save_dtype must be one of float32, bfloat16, got 'float8'"):
        make_trainer(tmp_path, save_dtype="float8")
