"""The reference policy is the one that the run began with, whatever its name points to now."""

import shutil

import pytest
import torch
from doors import Doors
from peft import LoraConfig, get_peft_model
from test_trainer import SETS, TREE, make_trainer
from trl.trainer import grpo_trainer

from polytune.policy import build_tiny, load_policy
from polytune.policy.rendering import PROMPT_WORD
from polytune.trainer import check_run
from polytune.trainer.config import PolychromicConfig

PRETRAINED = dict(kl_reference="pretrained", kl_coef=0.1, num_updates=1)


def save(folder, seed, adapted=False):
    model, tokenizer = build_tiny("tiny", [PROMPT_WORD, *Doors().vocabulary()], seed=seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if adapted:
        lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        base = load_policy(folder)[0]
        get_peft_model(base, lora).save_pretrained(folder.with_name("adapter"))
        tokenizer.save_pretrained(folder.with_name("adapter"))
        return folder.with_name("adapter")
    return folder


def same(model, weights):
    return all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("how", ["in memory", "overwritten", "adapter"])
def test_the_reference_is_the_start_policy(tmp_path, how):
    start = {}

    def build(tokenizer):
        if how == "in memory":  # its name points nowhere
            model, _ = build_tiny("tiny", [PROMPT_WORD, *Doors().vocabulary()], seed=5)
        else:
            folder = save(tmp_path / "policy", 5, adapted=how == "adapter")
            model, _ = load_policy(folder)
            save(tmp_path / "policy", 6)  # other weights under the same name
        start.update({name: value.clone() for name, value in model.state_dict().items()})
        return model

    load = grpo_trainer.create_model_from_path
    trainer = make_trainer(tmp_path / "run", build=build, **PRETRAINED)
    assert grpo_trainer.create_model_from_path is load
    assert same(trainer.ref_model, start) and not any(p.requires_grad for p in trainer.ref_model.parameters())
    trainer.train()
    assert same(trainer.ref_model, start) and not same(trainer.model, start)
    steps = [log["kl"] for log in trainer.state.log_history if "kl" in log]
    assert 0 < steps[0] < 0.1


def test_a_resumed_run_has_the_first_reference_again(tmp_path):
    def build(tokenizer):
        return build_tiny("tiny", [PROMPT_WORD, *Doors().vocabulary()], seed=5)[0]

    options = PRETRAINED | {"num_updates": 2, "build": build}
    whole = make_trainer(tmp_path / "whole", **options)
    whole.train()
    again = make_trainer(tmp_path / "again", **options)
    shutil.copytree(tmp_path / "whole/checkpoint-4", tmp_path / "again/checkpoint-4")
    again.train(resume_from_checkpoint=str(tmp_path / "again/checkpoint-4"))
    assert same(again.ref_model, whole.ref_model.state_dict()) and same(again.model, whole.model.state_dict())


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_both_directions_hold_a_policy_back(tmp_path, direction):
    """With a large weight the policy stays nearer to where it began."""
    ends = {}
    for coefficient in (0.001, 30.0):
        fields = PRETRAINED | {"kl_coef": coefficient, "kl_direction": direction, "num_updates": 3}
        trainer = make_trainer(tmp_path / str(coefficient), model_seed=3, **fields)
        trainer.train()
        ends[coefficient] = trainer.state.log_history[-2]["kl"]
    assert 0 < ends[30.0] < 0.5 * ends[0.001]


def test_nothing_is_copied_where_no_reference_is_needed(tmp_path):
    assert make_trainer(tmp_path / "a").ref_model is None
    assert make_trainer(tmp_path / "b", kl_reference="pretrained", kl_coef=0.0).ref_model is None

    def adapted(tokenizer):
        return get_peft_model(build_tiny("tiny", ["left"] * 1 + [PROMPT_WORD, *Doors().vocabulary()])[0],
                              LoraConfig(r=2, target_modules=["q_proj"]))  # fmt: skip

    assert make_trainer(tmp_path / "c", build=adapted, **PRETRAINED).ref_model is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kl_direction": "sideways"}, "kl_direction must be one of reverse, forward, got 'sideways'"),
        ({"kl_direction": "forward", "kl_coef": 0.0}, "kl_direction is 'forward', but kl_coef is 0"),
        ({"kl_direction": "reverse"}, "kl_direction is 'reverse', but with kl_reference 'behaviour'"),
        ({"use_bias_correction_kl": False}, "set kl_direction to 'forward'"),
        (PRETRAINED | {"sync_ref_model": True}, "sync_ref_model would move the reference"),
        (PRETRAINED | {"importance_sampling_level": "sequence"}, "leave it at 'token'"),
    ],
)
def test_contradictions(tmp_path, fields, words):
    sizes = dict(num_generations=14, per_device_train_batch_size=14, use_cpu=True, output_dir=str(tmp_path))
    with pytest.raises(ValueError, match=words):
        check_run(PolychromicConfig(**(sizes | fields)), TREE, SETS)
