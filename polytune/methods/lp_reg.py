"""Lp-Reg (arXiv 2510.03222): unlikely tokens that are no noise are not pushed down further.

    q = pi_old where pi_old >= kappa max pi_old, else 0, made to sum to 1    (a min-p filter)
    held: of own tokens with A < 0 the share ``share`` of lowest log pi_old, of those the tokens with log pi < log q
    loss_t = -A_t r_t + coef (exp(log q - log pi) - (log q - log pi) - 1)   in the place of the clipped surrogate
r = pi / pi_old, at most ``most``. A token that the filter drops has log q -1e4, and is never held.

Source of formula and defaults: the authors' code (CarlanLark/Lp-Reg-dev): kappa 0.02, share 0.01 (0.005 for 32 B), coef
1, ratio in [0, 10]. There the share is of a minibatch and log pi of its policy; here both are of the update and the
policy that sampled, so that log pi < log q holds at tokens whose distribution the filter cuts. Assumes loss_type
'dapo'. Degenerate cases: no negative advantage, or fewer than 1 / share tokens with one: nothing changes.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.checks import require
from polytune.meanings import Metric
from polytune.methods.base import TOKENS_AT_ONCE, Method, Minibatch, Seen, Update
from polytune.methods.options import require_option, require_run_temperature

DROPPED = -1e4


@dataclass
class LpReg(Method):
    kappa: float = 0.02
    share: float = 0.01
    coef: float = 1.0
    most: float = 10.0
    replaces: ClassVar[str] = "loss"
    page: ClassVar[str] = "entropy"
    logs: ClassVar[dict[str, Metric]] = {
        "lp_reg/share": Metric(
            "share of own tokens that are held", "share", "0 to share", "0: no unlikely token had a negative advantage"
        ),
    }

    def __post_init__(self) -> None:
        for name, highest in (("kappa", 1.0), ("share", 1.0), ("coef", math.inf), ("most", math.inf)):
            require_option(name, getattr(self, name), 0.0, highest)

    def says(self) -> str:
        return (
            f"**Lp-Reg** (arXiv 2510.03222): the share {self.share:g} of least likely tokens among those with "
            f"a negative advantage is held at the policy without tokens below {self.kappa:g} of the likeliest."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        require(
            trainer.loss_type == "dapo",
            f"method 'lp_reg' replaces terms of a mean over all tokens, loss_type 'dapo', not {trainer.loss_type!r}.",
        )
        require_run_temperature("lp_reg", "logprobs with those of a filter", objective)

    def probe(self, seen: Seen) -> dict[str, torch.Tensor]:
        found, ids_d = [], seen.ids_b_C[seen.own_b_C]
        for logprobs_c_V, ids_c in zip(seen.distributions(), ids_d.split(TOKENS_AT_ONCE), strict=True):
            chosen_c = logprobs_c_V.gather(1, ids_c[:, None])[:, 0]
            found.append(log_proxy(logprobs_c_V, chosen_c, self.kappa))
        return {"lp_reg/log_q": seen.spread(torch.cat(found))}

    def advantage(self, update: Update, advantages_B_C: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        logprobs_B_C = update.logprobs_B_C
        log_q_B_C = torch.zeros_like(logprobs_B_C)
        log_q_B_C[: len(update.probed["lp_reg/log_q"])] = update.probed["lp_reg/log_q"].to(log_q_B_C)
        negative_B_C = update.own_B_C & (advantages_B_C < 0)
        (tokens,) = update.sum([float(negative_B_C.sum())])
        count = int(self.share * tokens)
        lowest = sorted(update.gather(logprobs_B_C[negative_B_C].sort().values[:count].tolist()))[:count]
        held_B_C = negative_B_C & (logprobs_B_C <= max(lowest, default=-math.inf)) & (logprobs_B_C < log_q_B_C)
        (held, own) = update.sum([float(held_B_C.sum()), float(update.own_B_C.sum())])
        update.record("lp_reg/share", held / max(own, 1.0))
        tensors |= {"lp_reg/held": held_B_C.to(advantages_B_C), "lp_reg/log_q": log_q_B_C}
        return advantages_B_C

    def weight(self, batch: Minibatch) -> torch.Tensor:
        return 1 - batch.tensors["lp_reg/held"]

    def loss(self, batch: Minibatch) -> torch.Tensor:
        held_b_C = batch.tensors["lp_reg/held"] * batch.mask_b_C
        gap_b_C = (batch.tensors["lp_reg/log_q"] - batch.logprobs_b_C) * held_b_C  # 0 elsewhere: exp stays finite
        terms_b_C = self.coef * (gap_b_C.exp() - gap_b_C - 1)
        return (held_b_C * (terms_b_C - batch.advantages_b_C * batch.ratio_b_C.clamp(max=self.most))).sum()


def log_proxy(logprobs_d_V: torch.Tensor, chosen_d: torch.Tensor, kappa: float) -> torch.Tensor:
    """log q of the chosen tokens, (d,)."""
    floor_d_1 = logprobs_d_V.amax(dim=-1, keepdim=True) + math.log(kappa) if kappa > 0 else -torch.inf
    kept_d = logprobs_d_V.masked_fill(logprobs_d_V < floor_d_1, -torch.inf).logsumexp(dim=-1)
    stays_d = chosen_d >= floor_d_1[:, 0] if kappa > 0 else torch.ones_like(chosen_d, dtype=torch.bool)
    return torch.where(stays_d, chosen_d - kept_d, DROPPED)
