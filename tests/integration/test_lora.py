"""LoRA as a user runs it: the base stays, the adapter moves, it is saved, resumed, evaluated and merged."""

import json
import os
import shutil

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from polytune.config import ObjectiveConfig, PolicyConfig, RolloutConfig
from polytune.policy import PRESETS, CheckpointError, build_tiny, load_policy
from polytune.policy.adapters import merge
from polytune.policy.rendering import PROMPT_WORD
from polytune.tasks import load_task
from polytune.trainer import PolychromicConfig, PolychromicTrainer

#: one step an update, so that the first one's KL is that of the policy to itself
ONE_STEP = ["--num_iterations", "1", "--steps_per_generation", "1", "--per_device_train_batch_size", "8",
            "--entropy_coef", "0.1"]  # fmt: skip
LORA = ["--use_peft", "true", "--lora_r", "4", "--learning_rate", "1e-2"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "policy"
    model, tokenizer = build_tiny("tiny", [PROMPT_WORD, *load_task("fourrooms").vocabulary()])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert "tiny" in PRESETS
    return folder


@pytest.fixture
def tune(call_recipe, base, tmp_path):
    settings = {
        "task": "fourrooms", "task_horizon": 12, "split": "seeds:0-7", "num_seeds": 1, "num_rollout_states": 1,
        "num_vines": 3, "num_generations": 4, "per_device_train_batch_size": 4, "steps_per_generation": 2,
        "set_size": 2, "num_updates": 3, "use_cpu": True, "kl_coef": 0.1, "kl_reference": "pretrained",
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))

    def run(folder, *flags):
        call_recipe("finetune", "--config", tmp_path / "run.yaml", "--model", base, "--output_dir", folder,
                    "--cpu_threads", 1, *flags)  # fmt: skip
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    return run


def weights(folder):
    return {name: value.clone() for name, value in load_policy(folder)[0].state_dict().items()}


def test_an_adapter_is_trained_beside_a_frozen_base(tune, base, tmp_path, call_recipe):
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    metrics = tune(tmp_path / "run", *LORA, *ONE_STEP)
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before
    assert (tmp_path / "run/adapter_model.safetensors").is_file() and not (tmp_path / "run/model.safetensors").exists()
    assert json.loads((tmp_path / "run/adapter_config.json").read_text())["r"] == 4
    logged = [line for line in metrics if "rollout/env_steps" in line]
    assert all(line["sampling/logprob_gap"] < 1e-5 for line in logged), "rollouts come from the adapted policy"
    assert logged[0]["kl"] < 1e-6 < logged[-1]["kl"], "the reference is the disabled adapter"
    assert "critic/loss" in logged[0]

    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "run").eval()
    merged, _ = load_policy(tmp_path / "run")
    ids = torch.randint(4, 20, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, plain(ids).logits, atol=1e-5, rtol=1e-4)
    first, last = weights(base), weights(tmp_path / "run")
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert moved and all("_proj" in name for name in moved), "embeddings, norms and the head are as they were"

    call_recipe("evaluate", "--task_horizon", "12", "--split", "seeds:0-3", "--policies", base, tmp_path / "run",
                "--n", "2", "--output_dir", tmp_path / "evaluation")  # fmt: skip
    assert (tmp_path / "evaluation/summary.json").is_file()


def test_a_resumed_run_is_the_uninterrupted_one(tune, tmp_path):
    tune(tmp_path / "whole", *LORA)
    tune(tmp_path / "cut", *LORA)
    for path in (tmp_path / "cut").iterdir():  # as if killed after the second update
        if path.name not in ("checkpoint-8", "run.json", "metrics.jsonl"):
            shutil.rmtree(path) if path.is_dir() else os.remove(path)
    tune(tmp_path / "cut", *LORA)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_adapters_that_cannot_be_put_on_a_base(tune, base, tmp_path):
    tune(tmp_path / "run", *LORA, "--num_updates", "1")
    config = tmp_path / "run/adapter_config.json"
    content = json.loads(config.read_text())
    for change, words in (
        ({"base_model_name_or_path": str(tmp_path / "gone")}, "is an adapter on .*gone', which cannot be loaded"),
        ({"base_model_name_or_path": None}, "names no base model"),
    ):
        config.write_text(json.dumps(content | change))
        with pytest.raises(CheckpointError, match=words):
            load_policy(tmp_path / "run")
    config.write_text("{")
    with pytest.raises(CheckpointError, match="the adapter is damaged"):
        load_policy(tmp_path / "run")
    config.write_text(json.dumps(content))
    (tmp_path / "run/adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="adapter_model.safetensors has 3 bytes instead of"):
        load_policy(tmp_path / "run")
    (tmp_path / "run/manifest.json").unlink()
    with pytest.raises(CheckpointError, match="cannot be put on"):
        load_policy(tmp_path / "run")


def test_learned_positions_are_counted_behind_the_padding(tmp_path):
    """GPT-2 with an adapter: prompts of unlike length are padded on the left, and scored as they were sampled."""
    task = load_task("fourrooms", horizon=6)
    _, tokenizer = build_tiny("tiny", [PROMPT_WORD, *task.vocabulary()])
    sizes = dict(n_embd=32, n_layer=2, n_head=2, n_positions=512, vocab_size=len(tokenizer), initializer_range=0.3)
    off = dict(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(GPT2Config(**sizes, **off))
    args = PolychromicConfig(
        output_dir=str(tmp_path), num_generations=4, per_device_train_batch_size=16, steps_per_generation=1,
        num_updates=1, disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = PolychromicTrainer(
        model, args, task, list(range(4)), RolloutConfig(1, 1, 3), ObjectiveConfig(set_size=2), PolicyConfig(),
        tokenizer, peft_config=LoraConfig(r=4, target_modules=["c_attn"], init_lora_weights=False, fan_in_fan_out=True),
    )  # fmt: skip
    texts = [task.start(seed).observation() for seed in range(4)]
    assert len({len(text.split()) for text in texts}) > 1, "something is padded"
    trainer.train()
    assert trainer.state.log_history[0]["sampling/logprob_gap"] < 1e-5


@pytest.mark.parametrize("flags, words", [
    (["--lora_modules_to_save", "lm_head"], "use_peft is false"),
    (["--use_peft", "true", "--lora_r", "0"], "lora_r must be an integer of at least 1, got 0"),
    (["--use_peft", "true", "--lora_dropout", "0.1"], "lora_dropout is 0.1: it must stay 0"),
    (["--use_peft", "true", "--load_in_4bit", "true"], "load_in_4bit needs bitsandbytes"),
    (["--use_peft", "true", "--lora_target_modules", "nothing"], "lora_target_modules has 'nothing', but the policy"),
    (["--use_peft", "true", "--lora_target_modules", "q_proj", "lm_head"], "has 'lm_head', the output head, whose"),
])  # fmt: skip
def test_mistakes(tune, tmp_path, capsys, flags, words):
    with pytest.raises(SystemExit):
        tune(tmp_path / "run", *flags)
    told = capsys.readouterr().err
    assert words in told and told.count("error:") == 1


def test_a_run_does_not_overwrite_what_it_begins_with(tune, base, call_recipe, tmp_path, capsys):
    """Neither its weights, nor the base of an adapter by that adapter's files."""
    shutil.copytree(base, tmp_path / "mine")
    before = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    for flags in ([], ["--use_peft", "true"]):
        with pytest.raises(SystemExit):
            tune(tmp_path / "mine", "--model", tmp_path / "mine", *flags)
        assert "is the folder of the policy that the run begins with" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in (tmp_path / "mine").iterdir() if p.name != ".lock"} == before


def test_a_lora_run_is_fine_tuned_again_whole_and_with_another_adapter(tune, call_recipe, tmp_path, capsys):
    """Merging froze the policy, and an adapter on an adapter would have been saved without the one below."""
    tune(tmp_path / "lora", *LORA, "--num_updates", "1")
    start = weights(tmp_path / "lora")
    assert all(p.requires_grad for p in load_policy(tmp_path / "lora")[0].parameters())
    more = ["--model", tmp_path / "lora", "--num_updates", "2", *ONE_STEP, "--learning_rate", "1e-2"]
    capsys.readouterr()
    for name, flags in (("whole", []), ("again", ["--use_peft", "true", "--lora_r", "4"])):
        logged = tune(tmp_path / name, *more, *flags)
        assert all(line["grad_norm"] > 0 for line in logged if "grad_norm" in line)
        assert all(line["sampling/logprob_gap"] < 1e-5 for line in logged if "rollout/env_steps" in line)
        assert logged[0]["kl"] < 1e-6 < logged[-1]["kl"], "the reference is the LoRA run, merged"
        after = weights(tmp_path / name)
        assert after.keys() == start.keys() and any(not torch.equal(after[key], start[key]) for key in start)
    assert not (tmp_path / "whole/base").exists()

    said = capsys.readouterr().out
    base = (tmp_path / "again/base").resolve()
    assert said.count(f"merged into {base}, which the new adapter stands on") == 1
    merged = load_policy(base)[0].state_dict()
    assert all(torch.equal(merged[name], start[name]) for name in start)
    assert json.loads((tmp_path / "again/adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "again").eval()
    ids = torch.randint(4, 20, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = load_policy(tmp_path / "again")[0](ids).logits
        torch.testing.assert_close(plain(ids).logits, ours, atol=1e-5, rtol=1e-4)
    call_recipe("export", "--policy", tmp_path / "again", "--output_dir", tmp_path / "export")
    assert "fine-tuned by reinforcement learning from `lora`" in (tmp_path / "export/README.md").read_text()

    last = max((tmp_path / "again").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.rmtree(last)
    shutil.rmtree(tmp_path / "lora")  # the run has a base of its own
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora/adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "gone"}))
    tune(tmp_path / "again", *more, "--use_peft", "true", "--lora_r", "4")
    again = weights(tmp_path / "again")
    assert all(torch.equal(again[name], after[name]) for name in after)


def test_a_folder_of_somebody_elses_is_not_replaced_by_a_merged_base(tune, tmp_path, capsys):
    tune(tmp_path / "lora", *LORA, "--num_updates", "1")
    (tmp_path / "again/base").mkdir(parents=True)
    (tmp_path / "again/base/mine").write_text("mine")
    with pytest.raises(SystemExit):
        tune(tmp_path / "again", "--model", tmp_path / "lora", "--use_peft", "true")
    assert "again/base is in the way" in capsys.readouterr().err
    assert (tmp_path / "again/base/mine").read_text() == "mine"


def test_pretraining_begins_with_a_lora_run(tune, call_recipe, tmp_path):
    tune(tmp_path / "lora", *LORA, "--num_updates", "1")
    start = weights(tmp_path / "lora")
    for name, flags in (("whole", []), ("adapter", ["--use_peft", "true"])):
        call_recipe("pretrain", "--base_model", tmp_path / "lora", "--output_dir", tmp_path / name, "--epochs", 3,
                    "--num_demonstrations", 10, "--eval_episodes", 2, "--eval_every", 50, *flags)  # fmt: skip
        after = weights(tmp_path / name)
        assert after.keys() == start.keys() and any(not torch.equal(after[key], start[key]) for key in start)


def test_a_merged_policy_trains():
    model, _ = build_tiny("tiny", ["left"])
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    assert all(p.requires_grad for p in merge(model).parameters())
