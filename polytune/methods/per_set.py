"""One clipped row per set: what credit ``per_set`` adds to the clipped loss of a member's mean advantage (Poly-PPO,
arXiv 2509.25424, step 5).

With g = advantage + l what the member's winning sets give it and l >= 0 what the others take, the rows' surrogates
min(r A, clip(r) A) add up to
    g min(r, 1 + e_high) - l max(r, 1 - e_low)
so clipping acts on each set's sign, not on that of the mean. The term is the difference to the mean's clipped loss.
Assumes that all sets of a member share its ratio. Degenerate cases: 0 where r is inside the clip range, or l or g is
0. For g < 0 no set scored the token, and its advantage is the critic's: 0, too.
"""

from dataclasses import dataclass

import torch

from polytune.methods.base import Method, Minibatch


@dataclass
class PerSetRows(Method):
    """The difference as a loss of a minibatch's rows; no option, ``credit: per_set`` brings it."""

    def loss(self, batch: Minibatch) -> torch.Tensor:
        extra_b_C = per_set_correction(batch.ratio_b_C, batch.advantages_b_C, batch.set_deductions_b_C, *batch.epsilon)
        return (batch.mask_b_C * extra_b_C * batch.weight).sum()


def per_set_correction(
    ratio: torch.Tensor, advantages: torch.Tensor, deductions: torch.Tensor, epsilon_low: float, epsilon_high: float
) -> torch.Tensor:
    """The term of each token, elementwise."""
    gains = advantages + deductions
    rows = gains * ratio.clamp(max=1 + epsilon_high) - deductions * ratio.clamp(min=1 - epsilon_low)
    mean = torch.min(ratio * advantages, ratio.clamp(1 - epsilon_low, 1 + epsilon_high) * advantages)
    return torch.where(gains >= 0, mean - rows, 0.0)
