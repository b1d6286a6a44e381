"""LoRA through peft: what a run asks for, as peft names it."""

from __future__ import annotations

from peft import LoraConfig, TaskType

from polytune.config import AdapterConfig


def lora_config(adapter: AdapterConfig) -> LoraConfig | None:
    """peft's configuration for the trainer; None without ``use_peft``."""
    if not adapter.use_peft:
        return None
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
