"""BNPO, Beta normalisation (arXiv 2506.02864; not TRL's loss of that name): a group's advantages over a Beta density.

    A' = A / Beta(p; alpha, beta),   A = r - p of a member,  p: success rate of its group;  1 / Beta at most ``most``
    alpha = max(1, 1 + a / 3), beta = max(1, 1 + b / 3),   a = (m (1 - m) / v - 1) m,  b = (m (1 - m) / v - 1) (1 - m)
m, v: mean and variance of p over the update's groups, over all processes, so Beta(a, b) has their moments. Groups at
rates that are rare count more. alpha = beta = 1 changes nothing; alpha = beta = 3/2 is about GRPO's 1 / sqrt(p (1 -
p)).

Source: the authors' code (changyi7231/BNPO); there 1 / density is at most 1e6, which one group can reach: ``most`` is
10. Where rewards have parts, there each is scaled alone and the mean taken; here the run's one reward is. Assumes
advantages that nothing has divided (set_normalise 'none') and rates of whole groups. Degenerate cases: v of 0 (one
group, equal rates): alpha = beta = 1; groups at p of 0 or 1 have advantages of 0.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.checks import require
from polytune.meanings import Metric
from polytune.methods.base import Method, Update
from polytune.methods.options import require_option

#: a variance below it comes from the rounding of equal rates; one group of a thousand that differs by .001 makes 1e-9
ROUNDING = 1e-12


@dataclass
class BNPO(Method):
    most: float = 10.0
    page: ClassVar[str] = "groups"
    logs: ClassVar[dict[str, Metric]] = {
        "bnpo/alpha": Metric("alpha of the Beta density", "", "1 or more"),
        "bnpo/beta": Metric("beta of the Beta density", "", "1 or more"),
    }

    def __post_init__(self) -> None:
        require_option("most", self.most, 0.0)

    def says(self) -> str:
        return "**BNPO** (arXiv 2506.02864): a group's advantages are divided by a Beta density at its success rate."

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        require(
            objective.set_normalise == "none",
            f"method 'bnpo' divides advantages itself: set set_normalise to 'none', not {objective.set_normalise!r}.",
        )

    def turn_advantage(self, update: Update, advantages_B_T: torch.Tensor) -> torch.Tensor:
        trajectories, changed_B_T = update.trajectories, advantages_B_T.clone()
        rates = [sum(trajectories[row].success for row in rows) / len(rows) for rows in update.groups_G_N]
        alpha, beta = beta_of(update.gather(rates))
        for rows, p in zip(update.groups_G_N, rates, strict=True):
            changed_B_T[rows] = advantages_B_T[rows] * min(self.most, 1 / max(density(p, alpha, beta), 1e-300))
        update.record("bnpo/alpha", alpha)
        update.record("bnpo/beta", beta)
        return changed_B_T


def beta_of(rates: list[float]) -> tuple[float, float]:
    """(alpha, beta) of the rates of all groups."""
    m = sum(rates) / len(rates)
    v = sum((p - m) ** 2 for p in rates) / len(rates)
    scale = m * (1 - m) / v - 1 if v > ROUNDING else 0.0
    return max(1.0, 1 + scale * m / 3), max(1.0, 1 + scale * (1 - m) / 3)


def density(p: float, alpha: float, beta: float) -> float:
    """Of Beta(alpha, beta), both 1 or more, at p. In logarithms: of rates that lie close together alpha and beta are
    large, and the Beta function of two thousand is no float any more."""
    log = math.lgamma(alpha + beta) - math.lgamma(alpha) - math.lgamma(beta)
    for base, power in ((p, alpha - 1), (1 - p, beta - 1)):
        if power > 0:
            log += power * math.log(base) if base > 0 else -math.inf
    return math.exp(log)
