"""The critic's own LoRA adapter (arXiv 2106.09685): value features of a frozen base that the policy's adapter shares.

Each linear layer of the base that has an adapter of the policy's gets a second one of the critic's, W x + scale B A x
with B = 0 at first, so the first values are those of the head on the plain base. Its weights belong to the critic: its
optimiser, its clipping, its file. The policy holds none of them, so whatever saves, merges or disables the
policy's adapter knows nothing of them. Values take a forward pass of their own, with the policy's adapter off.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from polytune.checks import require
from polytune.trainer.config import PolychromicConfig


def check_critic_adapter(args: PolychromicConfig, use_peft: bool) -> None:
    """ValueError for an adapter of the critic's on a base that moves."""
    require(
        args.critic_lora_r == 0 or use_peft,
        f"critic_lora_r is {args.critic_lora_r}, but use_peft is false, so there is no frozen base to adapt: set "
        "use_peft to true, or critic_lora_r to 0.",
    )
    require(
        args.critic != "own" or not use_peft or args.critic_lora_r > 0,
        "critic is 'own' and use_peft true, so its trunk is an adapter on the frozen base, and critic_lora_r is 0: set "
        "critic_lora_r to its rank, or critic to 'head'.",
    )


class LowRank(nn.Module):
    """x (..., in) -> scale B A x (..., out), in float32 under autocast, too; 0 at first."""

    def __init__(self, layer: LoraLayer, rank: int, scale: float):
        super().__init__()
        self.A = nn.Parameter(torch.empty(rank, layer.in_features))
        self.B = nn.Parameter(torch.zeros(layer.out_features, rank))
        self.scale = scale
        nn.init.kaiming_uniform_(self.A, a=5**0.5)  # as peft draws it

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.linear(nn.functional.linear(x.to(self.A.dtype), self.A), self.B) * self.scale


class CriticAdapter(nn.Module):
    """Low-rank updates for the critic's pass, named after the layers that they add to.

    Args:
        policy: holds the layers; they stay its own.
        rank: of every update; the scale is the policy's ``lora_alpha`` over it (over its root with ``use_rslora``).
    """

    def __init__(self, policy: PeftModel, rank: int, *, seed: int = 0):
        super().__init__()
        config = policy.active_peft_config
        scale = config.lora_alpha / (rank**0.5 if config.use_rslora else rank)
        layers = {  # an embedding has lora_embedding_A instead
            name.removeprefix("base_model.model.").replace(".", "_"): layer
            for name, layer in policy.named_modules()
            if isinstance(layer, LoraLayer) and policy.active_adapter in layer.lora_A
        }
        require(
            bool(layers),
            f"critic_lora_r is {rank}, but the policy's adapter is on no linear layer: check lora_target_modules, or "
            "set critic_lora_r to 0.",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.updates = nn.ModuleDict({name: LowRank(layer, rank, scale) for name, layer in layers.items()})
        self._of_policy = (policy, list(layers.values()))  # in a tuple, so that they are no modules of the critic's

    @contextlib.contextmanager
    def activate(self) -> Iterator[None]:
        """The base with this adapter instead of the policy's; ``requires_grad`` of both is as before at the end."""
        policy, layers = self._of_policy
        hooks = [
            layer.get_base_layer().register_forward_hook(lambda _, x, y, update=update: y + update(x[0]).to(y.dtype))
            for layer, update in zip(layers, self.updates.values(), strict=True)
        ]
        try:
            with policy.disable_adapter():
                yield
        finally:
            for hook in hooks:
                hook.remove()
