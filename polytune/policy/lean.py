"""Llama's norms and rotary embeddings with fewer passes over memory, on CPUs and in float32.

In a tiny policy matrix products are a third of an update; much of the rest are the single operations of which
transformers' own code makes them, and what autograd adds: a norm is five operations and nine backward, a rotary
embedding five and ten, each a pass over all tokens. Here both are functions with gradients of their own, equal to
transformers' to rounding. Elsewhere (other devices, other types, autocast) transformers' own code runs.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm


def make_lean(model: nn.Module) -> None:
    """Let the Llama layers of a model be lean ones; weights, names and configuration stay what they are."""
    for module in model.modules():
        if type(module) in _LEAN:
            module.__class__ = _LEAN[type(module)]


def _fits(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


class _Norm(torch.autograd.Function):
    """x (..., H) / sqrt(mean of squares + eps) * weight (H,)."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.size(-1)).add_(eps).rsqrt_()
        unit = x * scale
        ctx.save_for_backward(unit, weight, scale)
        return unit * weight

    @staticmethod
    def backward(ctx, grad):
        unit, weight, scale = ctx.saved_tensors
        along = grad * unit
        grad_weight = along.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        mean = (along @ weight).div_(weight.numel()).unsqueeze(-1)
        return (grad * weight).addcmul_(unit, mean, value=-1).mul_(scale), grad_weight, None


class _Rotary(torch.autograd.Function):
    """x (B, heads, T, d) turned by the angles of cos and sin (B, 1, T, d), whose halves are equal: as complex numbers
    first half + i second half, x * (cos + i sin)."""

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx, grad):
        return _turn(grad, *ctx.saved_tensors, -1), None, None


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, sign: int = 1) -> torch.Tensor:
    half = x.size(-1) // 2
    turned = x * cos
    turned[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-sign)
    turned[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)
    return turned


class LeanNorm(LlamaRMSNorm):
    """RMSNorm over the last dimension."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not _fits(hidden_states) or self.weight.dtype != torch.float32:
            return super().forward(hidden_states)
        if torch.is_grad_enabled():
            return _Norm.apply(hidden_states, self.weight, self.variance_epsilon)
        return nn.functional.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)


class LeanAttention(LlamaAttention):
    """Attention whose queries and keys are turned in two passes; it attends through transformers' interface."""

    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, past_key_values=None, **kwargs):
        how = self.config._attn_implementation
        if not _fits(hidden_states) or how not in AttentionInterface():
            return super().forward(hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs)
        projected = (project(hidden_states) for project in (self.q_proj, self.k_proj, self.v_proj))
        heads = (x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for x in projected)
        cos, sin = (x.unsqueeze(1) for x in position_embeddings)
        turn = _Rotary.apply if torch.is_grad_enabled() else _turn
        query, key, value = next(heads), next(heads), next(heads)
        query, key = turn(query, cos, sin), turn(key, cos, sin)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        dropout = self.attention_dropout if self.training else 0.0
        found, weights = AttentionInterface()[how](
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(found.flatten(2)), weights


_LEAN = {LlamaRMSNorm: LeanNorm, LlamaAttention: LeanAttention}
