"""STEER (arXiv 2510.10150): tokens that would change the entropy most count less.

    Omega_t = |A_t (1 - pi_t) (log pi_t + H_t)|,   H_t: entropy of the distribution that the token was sampled from
    weight_t = max(exp(-k Omega_t), least),   k = -ln(least) / max(max Omega, floor),   max over the update
so the weight of the token with the largest estimated change is ``least``, and that of one without 1.

Source: the authors' code (zz-haooo/STEER): least 0.8, floor 0.02. It has Omega = |A / pi_old * pi (1 - pi) (log pi +
H)| of the minibatch's policy, and the maximum of a minibatch; here one weight holds for the update, of the policy that
sampled (pi = pi_old). In that code the factor pi (1 - pi) is called pi (1 - pi)^2: what it computes is taken.
Assumes small steps, as the estimate is of first order. Degenerate cases: an update whose Omega is below ``floor``
everywhere is weighed less than ``least`` would; all advantages 0 give weights of 1.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Method, Minibatch, Seen, Update
from polytune.methods.options import require_option, require_run_temperature


@dataclass
class STEER(Method):
    least: float = 0.8
    floor: float = 0.02
    page: ClassVar[str] = "entropy"
    logs: ClassVar[dict[str, Metric]] = {
        "steer/weight": Metric(
            "mean weight of own tokens",
            "weight",
            "least to 1",
            "near least: every token would change the entropy, lower the learning rate",
        ),
    }

    def __post_init__(self) -> None:
        require_option("least", self.least, 0.0, 1.0, above=True)
        require_option("floor", self.floor, 1e-12)

    def says(self) -> str:
        return (
            "**STEER** (arXiv 2510.10150): a token counts the less, the more its step would change the entropy, "
            "down to "
            f"{self.least:g}."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        require_run_temperature("steer", "logprobs with entropies", objective)

    def probe(self, seen: Seen) -> dict[str, torch.Tensor]:
        return {"steer/entropy": seen.entropies()}

    def advantage(self, update: Update, advantages_B_C: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        entropy_B_C = torch.zeros_like(advantages_B_C)
        entropy_B_C[: len(update.probed["steer/entropy"])] = update.probed["steer/entropy"].to(entropy_B_C)
        omega_B_C = entropy_change(advantages_B_C, update.logprobs_B_C, entropy_B_C) * update.own_B_C
        largest = max(update.gather([float(omega_B_C.max())]))
        rate = -math.log(self.least) / max(largest, self.floor)
        weight_B_C = (-rate * omega_B_C).exp().clamp(min=self.least)
        total, count = update.sum([float(weight_B_C[update.own_B_C].sum()), float(update.own_B_C.sum())])
        update.record("steer/weight", total / max(count, 1.0))
        tensors["steer/weight"] = weight_B_C.to(advantages_B_C)
        return advantages_B_C

    def weight(self, batch: Minibatch) -> torch.Tensor:
        return batch.tensors["steer/weight"]


def entropy_change(advantages: torch.Tensor, logprobs: torch.Tensor, entropies: torch.Tensor) -> torch.Tensor:
    """Omega, elementwise."""
    return (advantages * (1 - logprobs.exp()) * (logprobs + entropies)).abs()
