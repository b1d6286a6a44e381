"""Scoring rows: chunks of like length, and the KL to the behaviour policy."""

from __future__ import annotations

import torch

#: rows that are scored together at least: fewer waste less on padding, more fill the cores better
SCORED_ROWS = 16
#: tokens up to which short rows are scored together, so that calls do not cost more than arithmetic
SCORED_TOKENS = 4096


def pad(rows: list[torch.Tensor], value: int = 0, side: str = "right") -> torch.Tensor:
    """Rows of unlike length as one tensor (B, L)."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)


def behaviour_kl(logprobs_B_C: torch.Tensor, old_B_C: torch.Tensor, mask_B_C: torch.Tensor) -> torch.Tensor:
    """KL(pi_beta || pi_theta) per sampled token, (B, C), by r - 1 - log r with r = pi_theta / pi_beta; 0 elsewhere.

    Unbiased for samples of pi_beta, never negative, and its gradient is the gradient of the KL (Schulman,
    "Approximating KL divergence", 2020, estimator k3). Poly-PPO, loss: KL(pi_beta || pi_theta) per visited state.
    """
    log_ratio_B_C = (logprobs_B_C - old_B_C) * mask_B_C
    return (log_ratio_B_C.exp() - 1 - log_ratio_B_C) * mask_B_C


def per_set_correction(
    ratio: torch.Tensor, advantages: torch.Tensor, losses: torch.Tensor, epsilon_low: float, epsilon_high: float
) -> torch.Tensor:
    """What is added to the clipped loss of the mean advantage to make it the mean of the clipped losses of one row per
    set (credit ``per_set``; Poly-PPO, arXiv 2509.25424, step 5), elementwise.

    With g = advantages + losses what the member's winning sets give it and l = losses what the others take, the rows'
    surrogates min(r A, clip(r) A) add up to g min(r, 1 + e_high) - l max(r, 1 - e_low): clipping acts on each set's
    sign, not on that of the mean. 0 where r is inside the clip range, or l or g is 0, and for g < 0: such a token was
    scored by no set, and A is the critic's.
    """
    gains = advantages + losses
    rows = gains * ratio.clamp(max=1 + epsilon_high) - losses * ratio.clamp(min=1 - epsilon_low)
    mean = torch.min(ratio * advantages, ratio.clamp(1 - epsilon_low, 1 + epsilon_high) * advantages)
    return torch.where(gains >= 0, mean - rows, 0.0)


def length_chunks(attention_mask_B_L: torch.Tensor, rows_per_chunk: int | None) -> list[tuple[torch.Tensor, int, int]]:
    """Rows sorted by length and cut into chunks: (row indices, padding columns on the left, on the right) of each.

    ``rows_per_chunk`` None: one chunk in the given order.
    """
    mask_B_L = attention_mask_B_L.bool()
    length = mask_B_L.size(1)
    positions_L = torch.arange(length, device=mask_B_L.device)
    first_B = torch.where(mask_B_L, positions_L, length).amin(dim=1)
    last_B = torch.where(mask_B_L, positions_L, -1).amax(dim=1)
    order_B = torch.arange(len(mask_B_L), device=mask_B_L.device)
    if rows_per_chunk is not None:
        order_B = last_B.argsort(stable=True)
    return [
        (rows_b, int(first_B[rows_b].min()), length - 1 - int(last_B[rows_b].max()))
        for rows_b in order_B.split(rows_per_chunk or len(order_B))
    ]
