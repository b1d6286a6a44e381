"""Weights that train are float32, always; bfloat16 is for the forward pass and for what rests.

A float32 weight w moves when lr * update > w * 2^-24, a bfloat16 one when it exceeds w * 2^-9: at a learning rate of
1e-6 nearly all of the first move and one in a hundred of the second. So ``dtype: bfloat16`` means: float32 weights
under bfloat16 autocast in full fine-tuning, a bfloat16 base under a float32 adapter with LoRA. Rollouts are sampled
under the same autocast. Checkpoints keep float32; the policy at the end of a run is saved as ``save_dtype`` says.
"""

from __future__ import annotations

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from polytune.checks import require
from polytune.config import PolicyConfig
from polytune.trainer.config import PolychromicConfig


def widen(model: nn.Module) -> int:
    """Make every weight that trains float32, in place; returns how many tensors were not."""
    narrow = [p for p in model.parameters() if p.requires_grad and p.is_floating_point() and p.dtype != torch.float32]
    for weight in narrow:
        weight.data = weight.data.float()
    return len(narrow)


def forward_dtype(model: nn.Module, policy_config: PolicyConfig) -> torch.dtype:
    """What the policy computes in beside the trainer's own ``bf16``: bfloat16 when asked for, or when its weights are
    (``dtype: auto``)."""
    narrow = any(p.dtype == torch.bfloat16 for p in model.parameters())
    return torch.bfloat16 if narrow or policy_config.dtype == "bfloat16" else torch.float32


def check_save_dtype(args: PolychromicConfig, use_peft: bool) -> None:
    """ValueError for a type that what is saved cannot have."""
    if args.save_dtype == "float32":
        return
    require(
        not use_peft,
        f"save_dtype is {args.save_dtype!r}, but use_peft is true, and an adapter is small and stays float32: leave "
        "save_dtype at 'float32'.",
    )


def autocast_for(args: PolychromicConfig, dtype: torch.dtype) -> None:
    """Make the run's forward passes bfloat16 where ``dtype`` is; on CPUs, too."""
    if dtype != torch.bfloat16 or args.bf16:
        return
    args.bf16, args.mixed_precision = True, "bf16"
    if args.deepspeed_plugin is not None:
        args.deepspeed_plugin.set_mixed_precision("bf16")


class MasterWeights:
    """Mixin before a TRL trainer with ``policy_config``: the only change is the type of weights that train, and of
    those that are saved at the end."""

    def __init__(self, model: PreTrainedModel, args: PolychromicConfig, peft_config=None, **kwargs):
        check_save_dtype(args, peft_config is not None or isinstance(model, PeftModel))
        #: what an engine of its own samples in
        self.forward_dtype = forward_dtype(model, self.policy_config)
        autocast_for(args, self.forward_dtype)
        if peft_config is None:  # else all of the model is to be frozen
            widen(model)
        super().__init__(model=model, args=args, peft_config=peft_config, **kwargs)
        require(
            args.save_dtype == "float32" or not (self.is_fsdp_enabled or self.is_deepspeed_enabled),
            f"save_dtype is {args.save_dtype!r}, but FSDP2 and DeepSpeed keep weights in a form of their own: leave it "
            "at 'float32'.",
        )
        widen(self.model)  # TRL casts adapters of a 4-bit base to bfloat16, peft copies modules in the base's type

    def _narrow(self, dtype: torch.dtype) -> None:
        """Weights alone: buffers such as rotary frequencies are not saved, and a loaded policy has them in float32."""
        model = self.accelerator.unwrap_model(self.model)
        for weight in model.parameters():
            weight.data = weight.data.to(dtype)
        model.config.dtype = dtype

    def save_policy(self) -> None:
        """Save the policy that the run ends with, in ``save_dtype``; the run must be over."""
        if self.args.save_dtype != "float32":
            self._narrow(getattr(torch, self.args.save_dtype))
        self.save_model(self.args.output_dir)
