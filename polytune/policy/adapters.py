"""LoRA through peft: what a run asks for, as peft names it."""

from __future__ import annotations

from peft import LoraConfig, TaskType
from torch import nn
from transformers import PreTrainedModel

from polytune.config import AdapterConfig, require


def lora_config(adapter: AdapterConfig, model: PreTrainedModel) -> LoraConfig | None:
    """peft's configuration for the trainer; None without ``use_peft``.

    Raises:
        ValueError: a module that the model has not, naming those that it has.
    """
    if not adapter.use_peft:
        return None
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
