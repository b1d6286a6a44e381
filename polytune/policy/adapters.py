"""LoRA and QLoRA through peft and bitsandbytes: what a run asks for, as they name it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from polytune.config import AdapterConfig, PolicyConfig, require
from polytune.policy.loading import adapter_base


def quantization(adapter: AdapterConfig, policy: PolicyConfig) -> BitsAndBytesConfig | None:
    """NF4 with double quantisation (QLoRA, arXiv 2305.14314); None without ``load_in_4bit``."""
    if not adapter.load_in_4bit:
        return None
    compute = torch.float32 if policy.dtype == "float32" else torch.bfloat16
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )


def lora_config(adapter: AdapterConfig, model: PreTrainedModel, path: str) -> LoraConfig | None:
    """peft's configuration for the trainer; None without ``use_peft``.

    Args:
        path: where the model came from.

    Raises:
        ValueError: a module that the model has not, naming those that it has; or a model that was an adapter itself.
    """
    if not adapter.use_peft:
        return None
    base = adapter_base(path)
    require(
        base is None,
        f"use_peft is true, but {path} is an adapter on {base!r} already, and one on top of it would be saved without "
        "it: save the merged policy first (load_policy(...)[0].save_pretrained), or leave use_peft off.",
    )
    modules = dict(model.named_modules())
    linear = sorted({name.rpartition(".")[2] for name, module in modules.items() if isinstance(module, nn.Linear)})
    for field in ("lora_target_modules", "lora_modules_to_save"):
        for name in getattr(adapter, field) or []:
            known = name == "all-linear" or any(m == name or m.endswith(f".{name}") for m in modules)
            require(known, f"{field} has {name!r}, but the policy has no such module; its linear layers are {linear}.")
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


def adapt(model: PreTrainedModel, adapter: AdapterConfig, path: str, new_tokens: Sequence[int] = ()) -> PreTrainedModel:
    """The model with the adapter that ``adapter`` asks for; itself without one. Raises as :func:`lora_config`.

    Args:
        new_tokens: ids whose embeddings are trained, too: words that the base has never seen.
    """
    config = lora_config(adapter, model, path)
    if config is not None and new_tokens:
        config.trainable_token_indices = list(new_tokens)
    return model if config is None else get_peft_model(model, config)


def merge(model: PreTrainedModel) -> PreTrainedModel:
    """The plain model, an adapter merged into its weights."""
    return model.merge_and_unload() if isinstance(model, PeftModel) else model
