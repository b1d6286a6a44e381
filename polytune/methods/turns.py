"""From tokens to the turns that they are of, and back."""

import torch

from polytune.methods.base import Update


def turn_tokens(turn_index_B_C: torch.Tensor, turns: int, dtype: torch.dtype) -> torch.Tensor:
    """Tokens of each own turn, (B, turns)."""
    own_B_C = (turn_index_B_C >= 0).to(dtype)
    return own_B_C.new_zeros(len(own_B_C), turns).scatter_add(1, turn_index_B_C.long().clamp(min=0), own_B_C)


def turn_means(numbers_B_C: torch.Tensor, turn_index_B_C: torch.Tensor, turns: int) -> torch.Tensor:
    """Mean over the tokens of each own turn, (B, turns), in the dtype of the numbers; 0 for turns without tokens."""
    own_B_C, index_B_C = turn_index_B_C >= 0, turn_index_B_C.long().clamp(min=0)
    sums_B_T = numbers_B_C.new_zeros(len(numbers_B_C), turns)
    counts_B_T = turn_tokens(turn_index_B_C, turns, numbers_B_C.dtype)
    return sums_B_T.scatter_add(1, index_B_C, numbers_B_C * own_B_C) / counts_B_T.clamp(min=1)


def turn_entropies(update: Update, name: str) -> torch.Tensor:
    """Of what a method probed as ``name``, the entropies of own tokens: the mean of each own turn, (B, T) float64."""
    entropy_B_C, turns_B_T = update.probed[name].double().cpu(), update.turns_mask_B_T
    return turn_means(entropy_B_C, update.turn_index_B_C[: len(entropy_B_C)].cpu(), turns_B_T.size(1))


def padded(numbers: torch.Tensor, like_B_C: torch.Tensor) -> torch.Tensor:
    """What was probed of the update's rows as a tensor like another one, which has blank rows, too."""
    out_B_C = torch.zeros_like(like_B_C)
    out_B_C[: len(numbers)] = numbers.to(out_B_C)
    return out_B_C
