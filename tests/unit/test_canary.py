"""Architectures under the transformers generator: right numbers, or one line before a token is sampled. Offline."""

import re

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from polytune.config import PolicyConfig
from polytune.policy import (
    GeneratorsInTurn,
    SampleKey,
    TransformersGenerator,
    build_renderer,
    build_tiny,
    load_policy,
    transformers_generator,
)
from polytune.tasks import load_task

SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
MORE = SIZES | dict(intermediate_size=64)
GROUPED = MORE | dict(num_key_value_heads=1)
GPT = dict(n_embd=32, n_layer=2, n_head=2)
FULL = dict(layer_types=["full_attention"] * 2)
#: name -> (class of its configuration, fields); what works
WORKS = {
    "gpt2": ("GPT2Config", GPT), "gpt_bigcode": ("GPTBigCodeConfig", GPT),
    "gptj": ("GPTJConfig", GPT | {"rotary_dim": 8}),
    "gpt_neox": ("GPTNeoXConfig", MORE), "opt": ("OPTConfig", SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "codegen": ("CodeGenConfig", GPT | {"n_head": 4, "rotary_dim": 4}),
    "falcon": ("FalconConfig", SIZES | {"alibi": False}),
    "gpt_neo_global": ("GPTNeoConfig", {"hidden_size": 32, "num_layers": 2, "num_heads": 2,
                                        "attention_types": [[["global"], 2]]}),
    "phi": ("PhiConfig", MORE), "llama": ("LlamaConfig", GROUPED), "qwen3": ("Qwen3Config", GROUPED | {"head_dim": 16}),
    "mistral": ("MistralConfig", GROUPED | {"sliding_window": None}),
    "gpt_oss": ("GptOssConfig", GROUPED | FULL | {"head_dim": 16, "num_local_experts": 4}),
    "mpt": ("MptConfig", {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 512}),
}  # fmt: skip
#: what does not
REFUSED = {
    "gpt_neo": ("GPTNeoConfig", {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "window_size": 64,
                                 "attention_types": [[["global", "local"], 1]]}),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 2}),
    "falcon_alibi": ("FalconConfig", SIZES | {"alibi": True}),
    "mamba": ("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 2}),
    "bart": ("BartConfig", {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 64}),
    "bert": ("BertConfig", MORE), "roberta": ("RobertaConfig", MORE | {"is_decoder": True}),
    "gemma2": ("Gemma2Config", GROUPED | {"head_dim": 16}),
    "jamba": ("JambaConfig", GROUPED | {"use_mamba_kernels": False}),
    "gpt_oss_windows": ("GptOssConfig", GROUPED | {"head_dim": 16, "num_local_experts": 4}),
    "rwkv": ("RwkvConfig", {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}),
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return build_tiny("tiny", ["left", "right", ">"])[1]


def save(folder, tokenizer, kind, fields):
    """A policy of random weights, as a checkpoint."""
    ids = dict(pad_token_id=0, bos_token_id=2, eos_token_id=3)
    config = getattr(transformers, kind)(vocab_size=len(tokenizer), **fields, **ids)
    for name in ("initializer_range", "init_std"):
        if hasattr(config, name):
            setattr(config, name, 0.3)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("name", WORKS)
def test_logprobs_with_the_cache_are_those_without_it(name, tokenizer, tmp_path):
    save(tmp_path, tokenizer, *WORKS[name])
    model, _ = load_policy(tmp_path)
    generator = TransformersGenerator(model, max_action_tokens=2)
    branches = [generator.open([5, 4] * n, SampleKey(0, n, 0, 0)) for n in (9, 3)]
    for turn in range(2):
        for branch, sample in zip(branches, generator.sample(branches, [turn] * 2), strict=True):
            with torch.no_grad():
                scored_T_V = model(input_ids=torch.tensor([branch.ids])).logits[0, -3:-1].log_softmax(-1)
            plain = [float(scored_T_V[i, token]) for i, token in enumerate(sample.ids)]
            assert sample.logprobs == pytest.approx(plain, abs=1e-4)
            generator.extend(branch, [4, 6])


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_sampled_is_refused_in_one_line(name, tokenizer, tmp_path):
    save(tmp_path, tokenizer, *REFUSED[name])
    model, _ = load_policy(tmp_path)
    with pytest.raises(ValueError) as caught:
        generator = TransformersGenerator(model)
        generator.sample([generator.open([4, 5], SampleKey(0, 0, 0, 0))], [0])
    told = str(caught.value)
    assert re.search(r"the transformers generator (cannot sample|needs full attention)", told)
    assert type(model).__name__ in told and "hoose" in told and told.count("\n") == 0


def test_a_model_that_the_cache_cannot_hold_is_refused_before_another_is_evaluated(tokenizer, tmp_path):
    task = load_task("fourrooms")
    policies = {}
    for name, row in (("good", WORKS["llama"]), ("bad", REFUSED["bart"])):
        own = build_tiny("tiny", [">", *task.vocabulary()])[1]
        save(tmp_path / name, own, *row)
        policies[name] = load_policy(tmp_path / name)
    renderers = {name: build_renderer(own, task, PolicyConfig()) for name, (_, own) in policies.items()}
    models = {name: model for name, (model, _) in policies.items()}
    with pytest.raises(ValueError, match="cannot sample BartForCausalLM"):
        GeneratorsInTurn(PolicyConfig(), models, {name: tmp_path / name for name in models}, renderers, temperature=1.0)


def test_the_canary_runs_once_and_counts_for_nothing(monkeypatch):
    calls = []
    monkeypatch.setattr(transformers_generator, "check_cache", lambda *_: calls.append(1))
    generator = TransformersGenerator(build_tiny("tiny", ["left"])[0])
    for turn in range(2):
        generator.sample([generator.open([4], SampleKey(0, 0, 0, 0))], [turn])
        generator.reset()
    assert calls == [1] and generator.counters.sampled == 2
