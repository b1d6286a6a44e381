"""A chi-squared guard (Correlated Proxies, arXiv 2403.03185): what moves far from the pretrained policy earns less.

    reward of an attempt, at its last turn, -= coef u / sqrt(chi2),   u = pi(y) / pi_0(y), at most ``most``
    chi2 = E_pi[u] - 1, the mean over the update's attempts, over all processes, at least ``least``
This is the policy gradient of -coef sqrt(chi2(pi || pi_0)): grad E_pi[u] = 2 E_pi[u grad log pi], and the root's slope
is 1 / (2 sqrt(chi2)); the derivation is ours. Unlike a KL it bounds how much reward a proxy can have wrong (say, a
judge of diversity), since it weighs what the pretrained policy hardly did.

Source: the paper's penalty lambda sqrt(chi2), over occupancies there, and its reward, less lambda / sqrt(chi2) times
the ratio, which there a discriminator estimates (read in a digest of the paper; its number is right); over answers
here, whose ratio is known. coef, most, least are not established, so options. Needs ``kl_reference`` 'pretrained' with
a kl_coef above 0, a tiny one will do, so that pi_0 is there. Assumes attempts sampled at pi. Degenerate case: at pi =
pi_0 all u are 1, and all attempts lose alike.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.checks import require
from polytune.meanings import Metric
from polytune.methods.base import Method, Update
from polytune.methods.options import require_option


def pretrained_at_hand(name: str, trainer: Any) -> None:
    """ValueError unless the run holds the policy that it began with."""
    require(
        trainer.kl_reference == "pretrained" and trainer.kl_coef > 0,
        f"method {name!r} reads the pretrained policy: set kl_reference to 'pretrained' and kl_coef above 0, to "
        f"1e-9 say.",
    )


def log_ratios(update: Update) -> torch.Tensor:
    """log pi(y) / pi_0(y) of each row's own tokens, (B,) float64, without blank rows."""
    gap_B_C = (update.logprobs_B_C - update.reference_B_C) * update.own_B_C
    return gap_B_C.double().sum(dim=1)[: len(update.turns_mask_B_T)].cpu()


@dataclass
class ChiSquared(Method):
    coef: float = 0.01
    most: float = 10.0
    least: float = 0.01
    logs: ClassVar[dict[str, Metric]] = {
        "chi_squared/chi2": Metric(
            "chi-squared distance to the pretrained policy",
            "",
            "grows slowly, at least least",
            "jumps: lower the learning rate, raise coef",
        ),
    }

    def __post_init__(self) -> None:
        require_option("coef", self.coef, 0.0)
        require_option("most", self.most, 1.0)
        require_option("least", self.least, 1e-9)

    def says(self) -> str:
        return (
            f"A chi-squared guard (arXiv 2403.03185), weight {self.coef:g}: attempts that the policy had made "
            f"likelier than "
            "the pretrained one earned less."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        pretrained_at_hand("chi_squared", trainer)

    def reward(self, update: Update) -> torch.Tensor:
        u_B = log_ratios(update).clamp(max=math.log(self.most)).exp()
        total, count = update.sum([float(u_B.sum()), float(len(u_B))])
        chi2 = max(total / max(count, 1.0) - 1, self.least)
        update.record("chi_squared/chi2", chi2)
        bonus_B_T = torch.zeros(update.turns_mask_B_T.shape, dtype=torch.float64)
        last_B = update.turns_mask_B_T.sum(dim=1) - 1
        bonus_B_T[torch.arange(len(u_B)), last_B] = -self.coef * u_B / math.sqrt(chi2)
        return bonus_B_T
