"""Clip-Cov (arXiv 2505.22617): entropy falls by the covariance of log pi and A, and a few tokens carry most of it; some
of them are left out of the clipped surrogate.

    c_t = (A_t - mean A)(log pi_t - mean log pi),   means over the own tokens of the update, over all processes
Of the tokens with low < c_t < high, a share ``ratio`` of all own tokens, at least one, is drawn at random and weighs 0.
Defaults and formula are those of the authors' code, which takes c from each minibatch's current policy and draws anew
there, among the tokens that PPO does not clip; here one draw, from the policy that sampled, holds for the update.
Assumes advantages of one scale: with sets and a critic both populations are scaled before. Degenerate case: where no
token lies between low and high, nothing changes.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from polytune.checks import require
from polytune.meanings import Metric
from polytune.methods.base import Method, Minibatch, Update
from polytune.methods.options import require_option


@dataclass
class ClipCov(Method):
    ratio: float = 2e-4
    low: float = 1.0
    high: float = 5.0
    page: ClassVar[str] = "entropy"
    logs: ClassVar[dict[str, Metric]] = {
        "clip_cov/share": Metric(
            "share of own tokens that are left out of the loss",
            "share",
            "about ratio",
            "below: few tokens lie between low and high, widen them",
        ),
    }

    def __post_init__(self) -> None:
        require_option("ratio", self.ratio, 0.0, 1.0)
        require_option("low", self.low, 0.0)
        require_option("high", self.high, 0.0)
        require(self.low < self.high, f"low is {self.low} and high {self.high}: no token lies between, raise high.")

    def says(self) -> str:
        return (
            f"**Clip-Cov** (arXiv 2505.22617): a share {self.ratio:g} of the tokens, drawn among those whose "
            f"covariance of log-probability and advantage lies in ({self.low:g}, {self.high:g}), is left out of the "
            "loss."
        )

    def advantage(self, update: Update, advantages_B_C: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        c_B_C = covariance(update, advantages_B_C)
        inside_B_C = update.own_B_C & (c_B_C > self.low) & (c_B_C < self.high)
        generator = torch.Generator().manual_seed(update.seed)
        draws_d = torch.rand(int(inside_B_C.sum()), generator=generator, dtype=torch.float64)
        (tokens,) = update.sum([float(update.own_B_C.sum())])
        count = max(1, int(self.ratio * tokens))
        smallest = update.gather(draws_d.sort().values[:count].tolist())
        limit = max(sorted(smallest)[:count], default=-1.0)
        weight_B_C = torch.ones_like(advantages_B_C)
        weight_B_C[inside_B_C] = (draws_d > limit).to(weight_B_C)
        update.record("clip_cov/share", min(count, len(smallest)) / max(tokens, 1.0))
        tensors["clip_cov/weight"] = weight_B_C
        return advantages_B_C

    def weight(self, batch: Minibatch) -> torch.Tensor:
        return batch.tensors["clip_cov/weight"]


def covariance(update: Update, advantages_B_C: torch.Tensor) -> torch.Tensor:
    """c_t of own tokens, (B, C) float64; of others, which have no part in the means, it says nothing."""
    own_B_C, parts = update.own_B_C, (advantages_B_C.double(), update.logprobs_B_C.double())
    *totals, count = update.sum([*(float(part[own_B_C].sum()) for part in parts), float(own_B_C.sum())])
    advantage_B_C, logprob_B_C = (part - total / max(count, 1.0) for part, total in zip(parts, totals, strict=True))
    return advantage_B_C * logprob_B_C
