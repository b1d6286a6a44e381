"""Group-relative REINFORCE off its policy (arXiv 2509.24203): REC, OPMD, AsymRE and RED, one formula for all of them.

    loss_t = -w (A_t + shift) log pi_t [t in the region] + tau (log pi_t - log pi_old_t)^2   in the surrogate's place
    r = pi / pi_old;   w: 1 (``weigh`` none), r (importance) or exp(A_t / temp) (advantage), without gradient
Regions, for a = A_t + shift:
    none      everywhere
    one_side  a >= 0 and r <= 1 + high,  or  a <= 0 and r >= 1 - low
    two_side  1 - low <= r <= 1 + high
    ring      two_side,  or  a >= 0 and r <= 1 - ring_low,  or  a <= 0 and r >= 1 + ring_high
REC: a region, with weights none or importance. OPMD (Kimi's): region none, tau 0.1. AsymRE: region none, shift 0.1 (a
baseline lowered by 0.1, or a term -0.1 log pi). RED-weight: region none, weigh advantage. RED-drop: ``balance``: of
each group failures are dropped at random until there are no more of them than successes, and what is left is centred
anew.

Source of formulas and defaults: the authors' code (Trinity-RFT): low, high 0.2, ring_low 0.6, ring_high 2, temp 1, no
division by a std. There shift is no part of a, whose sign then is A's. What they find: the region, not the importance
weight, keeps training stable. Assumes loss_type 'dapo'. Degenerate case: on the first step r = 1, every region holds,
and the gradient is that of REINFORCE.
"""

import math
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

import torch

from polytune.checks import require, require_choice
from polytune.meanings import Metric
from polytune.methods.base import Method, Minibatch, Update
from polytune.methods.options import require_option

REGIONS = ("none", "one_side", "two_side", "ring")
WEIGHTS = ("none", "importance", "advantage")


def mean_over_tokens(name: str, trainer: Any) -> None:
    """ValueError unless the loss is a mean over all tokens: the method replaces terms of it."""
    require(
        trainer.loss_type == "dapo",
        f"method {name!r} replaces terms of a mean over all tokens, loss_type 'dapo', not {trainer.loss_type!r}.",
    )


@dataclass
class REC(Method):
    region: str = "one_side"
    weigh: str = "none"
    temp: float = 1.0
    low: float = 0.2
    high: float = 0.2
    ring_low: float = 0.6
    ring_high: float = 2.0
    tau: float = 0.0
    shift: float = 0.0
    balance: bool = False
    replaces: ClassVar[str] = "loss"
    logs: ClassVar[dict[str, Metric]] = {
        "rec/inside": Metric(
            "share of own tokens inside the region",
            "share",
            "above .8",
            "below: the policy leaves the one that sampled, lower the learning rate",
        ),
    }

    def __post_init__(self) -> None:
        require_choice("region", self.region, REGIONS)
        require_choice("weigh", self.weigh, WEIGHTS)
        require_option("temp", self.temp, 1e-6)
        for name in ("low", "high", "ring_low", "ring_high", "tau"):
            require_option(name, getattr(self, name), 0.0)
        require_option("shift", self.shift, -math.inf)

    def says(self) -> str:
        return (
            f"**Group-relative REINFORCE** (arXiv 2509.24203): region `{self.region}`, weights "
            f"`{self.weigh}`, tau {self.tau:g}, advantages shifted by {self.shift:g}"
            f"{', failures dropped until they are no more than successes' * self.balance}."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        mean_over_tokens("rec", trainer)

    def turn_advantage(self, update: Update, advantages_B_T: torch.Tensor) -> torch.Tensor:
        if not self.balance:
            return advantages_B_T
        changed_B_T, trajectories = advantages_B_T.clone(), update.trajectories
        for number, rows in enumerate(update.groups_G_N):
            wins = [row for row in rows if trajectories[row].success]
            losses = [row for row in rows if not trajectories[row].success]
            kept = Random(f"{update.seed} {number}").sample(losses, min(len(losses), len(wins))) + wins
            changed_B_T[rows] = 0.0
            changed_B_T[kept] = centred(advantages_B_T[kept], update.scored_B_T[kept])
        return changed_B_T

    def weight(self, batch: Minibatch) -> torch.Tensor:
        return torch.zeros_like(batch.advantages_b_C)

    def loss(self, batch: Minibatch) -> torch.Tensor:
        advantages_b_C, ratio_b_C = batch.advantages_b_C + self.shift, batch.ratio_b_C.detach()
        kept_b_C = self.inside(advantages_b_C, ratio_b_C) * batch.mask_b_C
        batch.record("rec/inside", kept_b_C, batch.mask_b_C)
        by_advantage_b_C = (advantages_b_C / self.temp).exp()
        weight_b_C = {"none": 1.0, "importance": ratio_b_C, "advantage": by_advantage_b_C}[self.weigh]
        terms_b_C = -weight_b_C * advantages_b_C * batch.logprobs_b_C * kept_b_C
        return (terms_b_C + self.tau * ((batch.logprobs_b_C - batch.old_b_C) * batch.mask_b_C) ** 2).sum()

    def inside(self, a: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """Whether tokens are in the region, elementwise."""
        if self.region == "none":
            return torch.ones_like(r, dtype=torch.bool)
        if self.region == "one_side":
            return ((a >= 0) & (r <= 1 + self.high)) | ((a <= 0) & (r >= 1 - self.low))
        found = (r >= 1 - self.low) & (r <= 1 + self.high)
        if self.region == "ring":
            found |= ((a >= 0) & (r <= 1 - self.ring_low)) | ((a <= 0) & (r >= 1 + self.ring_high))
        return found


def centred(advantages_k_T: torch.Tensor, scored_k_T: torch.Tensor) -> torch.Tensor:
    """Advantages of attempts less their mean, in which each attempt with a scored turn counts the same; 0 elsewhere."""
    counts_k = scored_k_T.sum(dim=1)
    means_k = torch.where(scored_k_T, advantages_k_T, 0.0).sum(dim=1) / counts_k.clamp(min=1)
    mean = means_k.sum() / (counts_k > 0).sum().clamp(min=1)
    return torch.where(scored_k_T, advantages_k_T - mean, 0.0)
