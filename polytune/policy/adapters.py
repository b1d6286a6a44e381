"""LoRA and QLoRA through peft and bitsandbytes: what a run asks for, as they name it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors import SafetensorError
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from polytune.checks import require
from polytune.config import AdapterConfig, PolicyConfig
from polytune.policy.loading import CheckpointError, adapter_base, load_policy
from polytune.policy.manifest import write_manifest
from polytune.policy.weights import restore_trainable


def quantization(adapter: AdapterConfig, policy_config: PolicyConfig) -> BitsAndBytesConfig | None:
    """NF4 with double quantisation (QLoRA, arXiv 2305.14314); None without ``load_in_4bit``."""
    if not adapter.load_in_4bit:
        return None
    compute = torch.float32 if policy_config.dtype == "float32" else torch.bfloat16
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )


def lora_config(adapter: AdapterConfig, model: PreTrainedModel, *, head: bool = True) -> LoraConfig | None:
    """peft's configuration for the trainer; None without ``use_peft``.

    Args:
        head: whether its adapter may lie on the output head: TRL's trainers of RL read the head's own weights.

    Raises:
        ValueError: a module that the model has not, naming those that it has; the head without ``head``.
    """
    if not adapter.use_peft:
        return None
    modules = dict(model.named_modules())
    kinds = (nn.Linear, Conv1D)
    linear = sorted({name.rpartition(".")[2] for name, module in modules.items() if isinstance(module, kinds)})
    for field in ("lora_target_modules", "lora_modules_to_save"):
        for name in getattr(adapter, field) or []:
            known = name == "all-linear" or any(m == name or m.endswith(f".{name}") for m in modules)
            require(known, f"{field} has {name!r}, but the policy has no such module; its linear layers are {linear}.")
    own = next((name for name, module in modules.items() if module is model.get_output_embeddings()), None)
    wrong = [] if head else [name for name in adapter.lora_target_modules or [] if f".{own}".endswith(f".{name}")]
    require(
        not wrong,
        f"lora_target_modules has {', '.join(map(repr, wrong))}, the output head, whose adapter RL would not train: "
        "leave it out, or train the head whole (--lora_modules_to_save).",
    )
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=adapter.lora_r,
        lora_alpha=adapter.lora_alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=adapter.lora_target_modules or "all-linear",
        modules_to_save=adapter.lora_modules_to_save,
        use_rslora=adapter.use_rslora,
    )


def training_dtype(policy_config: PolicyConfig, adapter: AdapterConfig) -> str:
    """What a policy is loaded in to be trained: weights that train in float32, so that nothing is rounded away before
    the first step; frozen ones, and ``auto`` ones that were saved whole, in ``dtype``."""
    if adapter.use_peft or (
        policy_config.dtype == "auto" and adapter_base(policy_config.model, policy_config.model_revision) is None
    ):
        return policy_config.dtype
    return "float32"


#: folder within a run's that holds what its adapter stands on, where the run began with an adapter
BASE_FOLDER = "base"
#: in it: what was merged
MERGED_FILE = "merged.json"


def own_base(path: str, output_dir: str | Path, adapter: AdapterConfig, *, writes: bool = True, **loading: Any) -> str:
    """What a run loads: ``path``, or, for a new adapter on one that is an adapter itself, the merged policy.

    An adapter names one base, which whoever loads it must find whole. So the merged policy is written to
    ``output_dir``/base, once: a run that has checkpoints goes on with the one that it began with.

    Args:
        writes: false in all processes but one, which must have been here before them.
        loading: options of :func:`polytune.policy.load_policy`; merging happens in float32 unless ``dtype`` is "auto".

    Raises:
        ValueError: ``output_dir`` is the folder of ``path``, whose weights the run would overwrite.
        CheckpointError: the merged policy cannot be written.
    """
    require(
        not Path(path).is_dir() or Path(path).resolve() != Path(output_dir).resolve(),
        f"output_dir {output_dir} is the folder of the policy that the run begins with, which it would overwrite: "
        "choose another output_dir.",
    )
    below = adapter_base(path, loading.get("revision")) if adapter.use_peft else None
    if below is None:
        return path
    folder = Path(output_dir).resolve() / BASE_FOLDER
    if not writes or ((folder / "config.json").is_file() and list(Path(output_dir).glob("checkpoint-*"))):
        return str(folder)
    if folder.exists() and not (folder / MERGED_FILE).is_file():
        raise CheckpointError(
            f"{folder} is in the way: the merged policy {path} belongs there, and it was not written by a run. Choose "
            "another output_dir."
        )
    dtype = "auto" if loading.get("dtype") == "auto" else "float32"
    model, tokenizer = load_policy(path, **{**loading, "dtype": dtype})
    staged = folder.with_name(f".{BASE_FOLDER}.saving")
    for left in (staged, folder):
        shutil.rmtree(left, ignore_errors=True)
    try:
        model.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        (staged / MERGED_FILE).write_text(json.dumps({"adapter": str(path), "base": below}) + "\n")
        write_manifest(staged)
        os.rename(staged, folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise CheckpointError(
            f"{path}, merged into {below!r}, could not be written to {folder}: {error}. Make room, or choose another "
            "output_dir."
        ) from error
    print(f"{path} is an adapter on {below}: merged into {folder}, which the new adapter stands on", flush=True)
    return str(folder)


def adapt(
    model: PreTrainedModel, adapter: AdapterConfig, new_tokens: Sequence[int] = (), *, alone: bool = False
) -> PreTrainedModel:
    """The model with the adapter that ``adapter`` asks for; itself without one. Raises as :func:`lora_config`.

    Args:
        new_tokens: ids whose embeddings are trained, too: words that the base has never seen.
        alone: it will be saved without its base, which must then know all words.
    """
    require(
        not (alone and new_tokens),
        f"merge_adapter is false, but {len(new_tokens)} words of the task are new to the base model: alone, an adapter "
        "would stand on a base that lacks them, leave it true.",
    )
    config = lora_config(adapter, model)
    if config is not None and new_tokens:
        config.trainable_token_indices = list(new_tokens)
    return model if config is None else get_peft_model(model, config)


def merge(model: PreTrainedModel) -> PreTrainedModel:
    """The plain model, an adapter merged into its weights, all of which train."""
    if not isinstance(model, PeftModel):
        return model
    merged = model.merge_and_unload()
    restore_trainable(merged, {})
    return merged
