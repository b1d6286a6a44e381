"""f-DPG (arXiv 2302.08215): towards a distribution, by any f-divergence, not towards a maximum.

    p(y) = pi_0(y) w(y) / Z,   w = 1[success], or exp(return / beta) with target 'tilted';   t = pi(y) / p(y)
    A = -f'(t), less its mean over the group, in the place of the run's advantages
    js: f' = log(2 t / (t + 1))     forward: -1 / t     reverse: log t + 1     tv: sign(t - 1) / 2
Z: the mean over the group of w pi_0 / pi. Target 'success' is the pretrained policy restricted to right answers: each
keeps its share, so that right strategies stay as likely among each other as they were. grad D_f = E_pi[f'(t) grad log
pi].

Source: the authors' code (naver/disco; the paper's number and title agree, of its text the abstract was read): -f' as
pseudo-reward, f' of js and tv as above, weighed by pi / proposal, a moving average of 1024 of them as baseline and of
Z; here the group's means, since each group has a prompt of its own. log t is cut to [-most, most]. Needs the pretrained
policy as ``chi_squared`` does. Assumes whole answers, one advantage a row. Degenerate case: a group without success
(target 'success') teaches nothing.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.checks import require, require_choice
from polytune.methods.base import Method, Update
from polytune.methods.chi_squared import log_ratios, pretrained_at_hand
from polytune.methods.options import require_option

SLOPES = {
    "js": lambda log_t: math.log(2) + log_t - torch.nn.functional.softplus(log_t),
    "forward": lambda log_t: -(-log_t).exp(),
    "reverse": lambda log_t: log_t + 1,
    "tv": lambda log_t: log_t.sign() / 2,
}
TARGETS = ("success", "tilted")


@dataclass
class FDPG(Method):
    divergence: str = "js"
    target: str = "success"
    beta: float = 1.0
    most: float = 5.0
    replaces: ClassVar[str] = "advantages"
    page: ClassVar[str] = "losses"

    def __post_init__(self) -> None:
        require_choice("divergence", self.divergence, tuple(SLOPES))
        require_choice("target", self.target, TARGETS)
        require_option("beta", self.beta, 1e-6)
        require_option("most", self.most, 1e-3)

    def says(self) -> str:
        wanted = "restricted to success" if self.target == "success" else f"times exp(return / {self.beta:g})"
        return f"**f-DPG** (arXiv 2302.08215): {self.divergence} divergence to the pretrained policy {wanted}."

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        pretrained_at_hand("f_dpg", trainer)
        require(
            trainer.critic == "none" and objective.set_scope == "seeds",
            "method 'f_dpg' takes the place of the run's advantages: set critic to 'none' and set_scope to 'seeds'.",
        )

    def turn_advantage(self, update: Update, advantages_B_T: torch.Tensor) -> torch.Tensor:
        ratio_B, changed_B_T, trajectories = log_ratios(update), torch.zeros_like(advantages_B_T), update.trajectories
        for rows in update.groups_G_N:
            changed_B_T[rows] = self.pulls(ratio_B[rows], [trajectories[row] for row in rows])[:, None]
        return torch.where(update.scored_B_T, changed_B_T, 0.0)

    def pulls(self, log_ratio_N: torch.Tensor, group: list) -> torch.Tensor:
        """-f'(t) less its mean, (N,)."""
        if self.target == "success":
            log_w_N = torch.tensor([0.0 if own.success else -math.inf for own in group], dtype=torch.float64)
        else:
            log_w_N = torch.tensor([own.discounted_return() / self.beta for own in group], dtype=torch.float64)
        log_z = (log_w_N - log_ratio_N).logsumexp(dim=0) - math.log(len(group))
        if log_z == -math.inf:
            return torch.zeros_like(log_ratio_N)
        pull_N = -SLOPES[self.divergence]((log_ratio_N - log_w_N + log_z).clamp(-self.most, self.most))
        return pull_N - pull_N.mean()
