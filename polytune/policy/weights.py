"""What a policy's weights must be before they are trained, sampled or saved: finite, large enough, and able to move."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

Named = Iterable[tuple[str, torch.Tensor]]


class WeightsError(ValueError):
    """Weights that cannot be used as they are; the message names the weight, the reason and the fix."""


def not_finite(weights: Named) -> list[str]:
    """Names of the weights that hold a NaN or an infinite number; of sharded ones, this process's part is read."""
    return [name for name, weight in weights if weight.is_floating_point() and not _is_finite(weight)]


def _is_finite(weight: torch.Tensor) -> bool:
    own = getattr(weight, "ds_tensor", weight)  # DeepSpeed's ZeRO-3 keeps its part there
    own = own.to_local() if hasattr(own, "to_local") else own  # FSDP2
    return bool(torch.isfinite(own.detach()).all())


def check_finite(model: nn.Module, name: object) -> None:
    """Raise WeightsError for a policy called ``name`` whose weights hold a NaN or an infinite number."""
    broken = not_finite(model.named_parameters())
    if broken:
        raise WeightsError(
            f"the weights of {str(name)!r} are not finite ({len(broken)} of them, {broken[0]} first): the run that "
            "wrote them has diverged. Use an earlier checkpoint, or train again with a lower learning_rate."
        )


def check_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: object) -> None:
    """Raise WeightsError for a tokenizer with ids beyond the embeddings; a table larger than it needs is fine."""
    rows = model.get_input_embeddings().weight.shape[0]
    if rows == 0:  # DeepSpeed's ZeRO-3 keeps the weights elsewhere
        rows = model.config.get_text_config().vocab_size
    word, last = max(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    if last >= rows:
        pad = f", its pad token is {tokenizer.pad_token_id}" if (tokenizer.pad_token_id or 0) >= rows else ""
        raise WeightsError(
            f"the tokenizer of {str(name)!r} goes up to id {last} ({word!r}{pad}), but the policy has {rows} "
            "embeddings: model.resize_token_embeddings(len(tokenizer)), and save both again."
        )


def check_trainable(model: nn.Module) -> None:
    """Raise WeightsError for a policy none of whose weights would move."""
    if not any(weight.requires_grad for weight in model.parameters()):
        raise WeightsError(
            f"the policy ({type(model).__name__}) has no trainable weight, so a run would change nothing: "
            "model.requires_grad_(True), or train an adapter (use_peft)."
        )


def restore_trainable(model: nn.Module, before: dict[str, bool]) -> None:
    """Let weights train as they did before an adapter froze them; ``before``: requires_grad by name."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(weight.is_floating_point() and before.get(name, True))
