"""KL-Cov (arXiv 2505.22617): the tokens that lower the entropy most are held near the policy that sampled them.

    c_t as in clip_cov.py;  the share ``share`` of own tokens with the highest c_t > 0, over all processes, gets
    loss_t = -A_t r_t + coef |log pi_t - log pi_old_t|,   r = pi / pi_old,   in the place of the clipped surrogate
Defaults are those of the authors' code, which takes c from each minibatch's current policy, and where the other tokens
lose their clip, too; here c is of the policy that sampled, and they keep it. Assumes loss_type 'dapo', a mean over the
update's tokens. Degenerate cases: an update of fewer than 1 / share tokens is left as it is; tokens that tie with the
last of the share are all held.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.checks import require
from polytune.meanings import Metric
from polytune.methods.base import Method, Minibatch, Update
from polytune.methods.clip_cov import covariance
from polytune.methods.options import require_option


@dataclass
class KLCov(Method):
    share: float = 2e-3
    coef: float = 1.0
    replaces: ClassVar[str] = "loss"
    page: ClassVar[str] = "entropy"
    logs: ClassVar[dict[str, Metric]] = {
        "kl_cov/share": Metric(
            "share of own tokens that are held", "share", "at most share", "0: no token has a positive covariance"
        ),
    }

    def __post_init__(self) -> None:
        require_option("share", self.share, 0.0, 1.0)
        require_option("coef", self.coef, 0.0)

    def says(self) -> str:
        return (
            f"**KL-Cov** (arXiv 2505.22617): on the share {self.share:g} of the tokens with the highest covariance of "
            f"log-probability and advantage, no clip but a penalty {self.coef:g} |log pi - log pi_old|."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        require(
            trainer.loss_type == "dapo",
            f"method 'kl_cov' replaces terms of a mean over all tokens, loss_type 'dapo', not {trainer.loss_type!r}.",
        )

    def advantage(self, update: Update, advantages_B_C: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        c_B_C = covariance(update, advantages_B_C)
        (tokens,) = update.sum([float(update.own_B_C.sum())])
        count = int(self.share * tokens)
        own_d = c_B_C[update.own_B_C].sort(descending=True).values
        highest = sorted(update.gather(own_d[:count].tolist()), reverse=True)[:count]
        held_B_C = update.own_B_C & (c_B_C > 0) & (c_B_C >= min(highest, default=math.inf))
        (held,) = update.sum([float(held_B_C.sum())])
        update.record("kl_cov/share", held / max(tokens, 1.0))
        tensors["kl_cov/held"] = held_B_C.to(advantages_B_C)
        return advantages_B_C

    def weight(self, batch: Minibatch) -> torch.Tensor:
        return 1 - batch.tensors["kl_cov/held"]

    def loss(self, batch: Minibatch) -> torch.Tensor:
        moved_b_C = (batch.logprobs_b_C - batch.old_b_C).abs()
        terms_b_C = self.coef * moved_b_C - batch.advantages_b_C * batch.ratio_b_C
        return (batch.tensors["kl_cov/held"] * batch.mask_b_C * terms_b_C).sum()
