"""Damaged checkpoints: one CheckpointError each, with the path and the fix."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from polytune.app.cli import UsageError, parse
from polytune.evaluation.options import EvaluationConfig
from polytune.policy import CheckpointError, build_tiny, load_policy
from polytune.policy.loading import adapter_base, load_base
from polytune.policy.manifest import MANIFEST, note_policy, write_manifest


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    model, tokenizer = build_tiny("tiny", ["left", "right", ">"])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoint")


def refused(folder, *words):
    with pytest.raises(CheckpointError) as caught:
        load_policy(folder)
    message = str(caught.value)
    for word in (str(folder), *words):
        assert word in message


def test_a_good_checkpoint_loads_for_sampling(folder):
    model, tokenizer = load_policy(folder)
    expected = load_file(folder / "model.safetensors")
    state = model.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert not model.training and model.config._attn_implementation == "sdpa"
    assert tokenizer.padding_side == "left" and tokenizer.pad_token_id == 0
    assert model.dtype == torch.float32
    assert load_policy(folder, dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def flipped(path, draw):
    """Its content with one bit changed."""
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(content)


def test_a_bit_of_a_noted_policy_that_changed_is_found_wherever_it_lies(folder):
    (folder / "metrics.jsonl").write_text("{}")
    note_policy(folder)
    listing = json.loads((folder / MANIFEST).read_text())
    assert {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"} <= listing.keys()
    assert "metrics.jsonl" not in listing
    draw = random.Random(0)
    for path in [folder / name for name in listing] + [folder / "model.safetensors"] * 8:
        content = path.read_bytes()
        path.write_bytes(flipped(path, draw))
        with pytest.raises(CheckpointError) as caught:
            load_policy(folder)
        with pytest.raises(CheckpointError):
            load_base(folder, ["up"])
        assert str(folder) in str(caught.value) and str(caught.value).count("\n") == 0
        path.write_bytes(content)
    (folder / "metrics.jsonl").write_text("{}{}")
    load_policy(folder)


def test_a_changed_policy_says_how_it_can_be_loaded_all_the_same(folder):
    note_policy(folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: weight * 2 for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    refused(folder, "model.safetensors has other content than was written", f"remove {folder / MANIFEST}")
    (folder / MANIFEST).unlink()
    load_policy(folder)
    (folder / "optimizer.pt").write_bytes(b"1")
    write_manifest(folder)
    (folder / "optimizer.pt").write_bytes(b"2")  # what no policy is loaded from
    load_policy(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("a")
    refused(folder, "tokenizer.json is missing")


def test_missing_folder(tmp_path):
    refused(tmp_path / "nowhere", "does not exist", "recipes/pretrain.py")


def test_a_file_is_no_folder(folder):
    refused(folder / "config.json", "does not exist as a folder")


def test_relative_output_folder_never_asks_the_hub():
    refused("outputs/no-such-run/pretrained", "does not exist")


def test_no_config(folder):
    (folder / "config.json").unlink()
    refused(folder, "config.json is missing", "model.safetensors", "save_pretrained")


def test_empty_folder(tmp_path):
    refused(tmp_path, "config.json is missing (found: nothing). Pass a folder")


def test_a_folder_above_a_policy_names_it(saved, tmp_path):
    for name in ("finetuned", "finetuned/checkpoint-9", "finetuned/checkpoint-56", "pretrained"):
        shutil.copytree(saved, tmp_path / name, dirs_exist_ok=True)
    (tmp_path / "evaluation").mkdir()
    refused(tmp_path, f"Did you mean {tmp_path}/finetuned or {tmp_path}/pretrained? Pass")
    (tmp_path / "finetuned/config.json").unlink()
    refused(tmp_path / "finetuned", f"Did you mean {tmp_path}/finetuned/checkpoint-56? Pass")


@pytest.mark.parametrize("content", ["", "{", '{"model_type": "qwen3", ', "\x00\xff"])
def test_config_that_is_no_json(folder, content):
    (folder / "config.json").write_text(content)
    refused(folder, "config.json is not valid JSON", "damaged")


@pytest.mark.parametrize("content", ["[]", "3", '{"model_type": "no-such-architecture"}', "{}"])
def test_config_of_no_model(folder, content):
    (folder / "config.json").write_text(content)
    refused(folder, "damaged" if content in ("[]", "3") else "Pass a folder")


@pytest.mark.parametrize("keep", [0, 5, 400, 0.5, -1])
def test_truncated_weights(folder, keep):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    refused(folder, "model.safetensors", "truncated", "Use another checkpoint")


def test_no_weights(folder):
    (folder / "model.safetensors").rename(folder / "critic.safetensors")  # the critic's are not the policy's
    refused(folder, "no weights", "incomplete")


def test_weights_that_lack_a_tensor_are_not_filled_with_noise(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    refused(folder, "model.layers.1.mlp.up_proj.weight")


def test_weights_of_another_size(folder):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"intermediate_size": 64}))
    refused(folder)


def test_tied_output_weights_are_not_missing(folder):
    config = GPT2Config(vocab_size=7, n_positions=16, n_embd=8, n_layer=1, n_head=1, bos_token_id=2, eos_token_id=3)
    GPT2LMHeadModel(config).save_pretrained(folder)
    model, _ = load_policy(folder)
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize("lost", ["tokenizer*", "tokenizer.json"])
def test_no_tokenizer(folder, lost):
    """transformers would make up a tokenizer without a single word."""
    for file in folder.glob(lost):
        file.unlink()
    refused(folder, "no tokenizer", "save_pretrained")


def test_tokenizer_without_pad_token(folder):
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    del settings["pad_token"]
    file.write_text(json.dumps(settings))
    refused(folder, "no pad token", "add_special_tokens")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(folder, number):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = number
    save_file(tensors, file, metadata={"format": "pt"})
    refused(folder, "not finite", "model.layers.1.mlp.up_proj.weight", "earlier checkpoint")
    with pytest.raises(CheckpointError, match="not finite"):
        load_base(folder, ["left"])


def test_a_pad_token_that_was_added_without_an_embedding(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    tokenizer.save_pretrained(folder)
    refused(folder, "goes up to id 7", "'<new>'", "its pad token is 7", "7 embeddings", "resize_token_embeddings")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"pad_token_id": 7}))
    refused(folder, "Padding_idx", "resize_token_embeddings")


def test_a_tokenizer_with_more_words_than_embeddings(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["up", "down"])
    tokenizer.save_pretrained(folder)
    refused(folder, "goes up to id 8", "'down'", "resize_token_embeddings")
    model, _, new = load_base(folder, ["up", "jump"])  # pretraining makes room itself
    assert model.get_input_embeddings().num_embeddings == 10 and new == [9]


def test_more_embeddings_than_words_are_fine(folder):
    model, tokenizer = load_policy(folder)
    model.resize_token_embeddings(64)
    model.save_pretrained(folder)
    assert load_policy(folder)[0].get_input_embeddings().num_embeddings == 64


@pytest.fixture
def adapter(folder, tmp_path, monkeypatch):
    """A folder with an adapter on ``folder``; `write` gives its base another path."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = tmp_path / "runs" / "lora"
    model, tokenizer = load_policy(folder)
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")).save_pretrained(path)
    tokenizer.save_pretrained(path)

    def write(base):
        settings = json.loads((path / "adapter_config.json").read_text())
        (path / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": base}))
        return path

    return write


@pytest.mark.parametrize("base", ["../../checkpoint", "../checkpoint", "~/checkpoint"])
def test_the_base_of_an_adapter_may_lie_relative_to_either_folder(base, adapter, folder, tmp_path, monkeypatch):
    """From the adapter's folder (the first), from the working directory (the second), or at home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = adapter(base)
    assert Path(adapter_base(path)).resolve() == folder
    one, other = (load_policy(own)[0].state_dict() for own in (path, folder))
    assert all(torch.equal(one[name], other[name]) for name in other)  # a fresh adapter changes nothing


def test_a_base_that_is_in_neither_is_named_with_both_places(adapter, tmp_path):
    path = adapter("gone/far/base")  # no id of the Hub has three parts: nobody asks for it there, again and again
    with pytest.raises(
        CheckpointError, match=rf"is an adapter on 'gone/far/base' \(looked for in {tmp_path}/here, in {path}"
    ):
        load_policy(path)


def test_a_base_that_is_in_both_is_asked_for(adapter, folder, tmp_path):
    path = adapter("base")
    for there in (path / "base", tmp_path / "here" / "base"):
        shutil.copytree(folder, there)
    with pytest.raises(
        CheckpointError, match=f"adapter on 'base', which is {path}/base as well as {tmp_path}/here/base"
    ):
        load_policy(path)


@pytest.mark.parametrize("flag", ["--use_peft", "--lora_r", "--load_in_4bit"])
def test_a_program_that_trains_nothing_says_how_adapters_are_given(flag):
    with pytest.raises(
        UsageError, match=f"unknown argument '{flag}', which .* to train an adapter: here one is recogn"
    ):
        parse((EvaluationConfig,), ["--policies", "x", flag, "true"], description="test")
