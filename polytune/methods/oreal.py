"""OREAL (arXiv 2502.06781) without its token reward model: likelihood of one success, policy gradient on one failure.

    success:  -right A_t log pi_t         failure:  wrong * (clipped surrogate of A_t)
of each group one success and one failure, drawn at random; all others are left out. A_t is the run's advantage: RLOO's
(credit leave_one_out), as the authors have it. Imitating the best of n is optimal under a KL, so successes need no
ratio; failures are weighed by ``wrong``.

Source: the authors' code (InternLM/OREAL): right 1, wrong 0.5, a KL of 0.01 (``kl_coef``), 16 attempts. Not built: its
token reward model, which weighs tokens (here 1). ``pairs`` false keeps all attempts. Assumes success or failure and
loss_type 'dapo'. Degenerate cases: a group without success teaches by its failure alone, and one without failure by its
success, if their advantages are not 0.
"""

import math
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

import torch

from polytune.methods.base import Method, Minibatch, Update
from polytune.methods.options import require_option
from polytune.methods.rec import mean_over_tokens


@dataclass
class OREAL(Method):
    right: float = 1.0
    wrong: float = 0.5
    pairs: bool = True
    replaces: ClassVar[str] = "loss"

    def __post_init__(self) -> None:
        require_option("right", self.right, 0.0, math.inf)
        require_option("wrong", self.wrong, 0.0, math.inf)

    def says(self) -> str:
        return (
            f"**OREAL** (arXiv 2502.06781, without its token reward model): likelihood of successes times "
            f"{self.right:g}, "
            f"policy gradient on failures times {self.wrong:g}{', one of each in a group' * self.pairs}."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        mean_over_tokens("oreal", trainer)

    def advantage(self, update: Update, advantages_B_C: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        kind_B_C, trajectories = torch.zeros_like(advantages_B_C), update.trajectories
        for number, rows in enumerate(update.groups_G_N):
            random = Random(f"{update.seed} {number}")
            for sign in (1.0, -1.0):
                found = [row for row in rows if trajectories[row].success == (sign > 0)]
                kind_B_C[random.sample(found, min(1, len(found))) if self.pairs else found] = sign
        tensors["oreal/kind"] = kind_B_C
        return advantages_B_C

    def weight(self, batch: Minibatch) -> torch.Tensor:
        return self.wrong * (batch.tensors["oreal/kind"] < 0)

    def loss(self, batch: Minibatch) -> torch.Tensor:
        right_b_C = (batch.tensors["oreal/kind"] > 0) * batch.mask_b_C
        return -(self.right * right_b_C * batch.advantages_b_C * batch.logprobs_b_C).sum()
