"""f-DPO (arXiv 2309.16240) on groups of rollouts: every success is preferred to every failure of its group.

    loss of a pair (w, l) = -log sigma(beta (f'(u_w) - f'(u_l))) - nll mean_t log pi(w_t),   u = pi(y) / pi_0(y)
    reverse: f' = log u (DPO)   forward: 1 - 1/u   js: log(2 u / (1 + u))   alpha: (u^(a-1) - 1) / (a - 1)
in the place of the clipped surrogate, the mean over a group's pairs times its rows. Rows of a pair need not share a
minibatch: sigma(-beta (f'(u_w) - f'(u_l))), the weight of a pair in the gradient, is taken of the policy that sampled,
so the gradient is exact at an update's first step, and later ones move by the weights of the first.

Source: the paper's loss, as TRL's DPOTrainer has it (f_divergence_type; read in its code); there on a data set of
pairs, which a TRL run off policy needs, here the pairs are those of the update. log u is cut to [-most, most]. Needs
the pretrained policy as ``chi_squared`` does, and loss_type 'dapo'. The advantages are not read. Assumes success or
failure; of vines only their own tokens count, which is the ratio from their rollout state on. Degenerate case: a group
whose attempts all succeed, or all fail, has no pair and teaches nothing.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn.functional import logsigmoid

from polytune.checks import require, require_choice
from polytune.meanings import Metric
from polytune.methods.base import Method, Minibatch, Update
from polytune.methods.chi_squared import log_ratios, pretrained_at_hand
from polytune.methods.options import require_option
from polytune.methods.rec import mean_over_tokens

DIVERGENCES = ("reverse", "forward", "js", "alpha")


@dataclass
class FDPO(Method):
    divergence: str = "js"
    beta: float = 0.1
    alpha: float = 0.5
    most: float = 10.0
    nll: float = 0.0
    name: ClassVar[str] = "f_dpo"
    replaces: ClassVar[str] = "loss"
    page: ClassVar[str] = "pairs"
    logs: ClassVar[dict[str, Metric]] = {
        "f_dpo/pairs": Metric("pairs of a success and a failure", "count", "above 0", "0: no group has both"),
    }

    def __post_init__(self) -> None:
        require_choice("divergence", self.divergence, DIVERGENCES)
        for name, least in (("beta", 1e-6), ("alpha", 0.0), ("most", 1e-3), ("nll", 0.0)):
            require_option(name, getattr(self, name), least)
        require(self.alpha != 1.0, "alpha is 1, where f' divides by 0: take divergence reverse, which is its limit.")

    def says(self) -> str:
        imitates = f", and their likelihood, weight {self.nll:g}" if self.nll else ""
        return (
            f"**f-DPO** (arXiv 2309.16240) on groups of rollouts: successes preferred to failures, {self.divergence} "
            f"divergence, beta {self.beta:g}{imitates}."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        pretrained_at_hand(self.name, trainer)
        mean_over_tokens(self.name, trainer)

    def slope(self, log_u: torch.Tensor) -> torch.Tensor:
        """f'(u) of log u, cut."""
        log_u = log_u.clamp(-self.most, self.most)
        if self.divergence == "reverse":
            return log_u
        if self.divergence == "forward":
            return 1 - (-log_u).exp()
        if self.divergence == "js":
            return math.log(2) + logsigmoid(log_u)
        return (((self.alpha - 1) * log_u).exp() - 1) / (self.alpha - 1)

    def pulls(self, log_u_N: torch.Tensor, wins_N: torch.Tensor) -> torch.Tensor:
        """What multiplies -grad f'(u) of each member, (N,): beta times the weights of its pairs, failures negative."""
        score_N = self.beta * self.slope(log_u_N)
        weights_W_L = (score_N[~wins_N] - score_N[wins_N][:, None]).sigmoid()
        pulls_N = torch.zeros_like(score_N)
        pulls_N[wins_N], pulls_N[~wins_N] = weights_W_L.sum(dim=1), -weights_W_L.sum(dim=0)
        return self.beta * pulls_N * len(wins_N) / max(weights_W_L.numel(), 1)

    def advantage(self, update: Update, advantages_B_C: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        pull_B_C, likely_B_C = torch.zeros_like(advantages_B_C), torch.zeros_like(advantages_B_C)
        log_u_B, trajectories, pairs = log_ratios(update), update.trajectories, 0
        lengths_B = update.own_B_C.sum(dim=1).clamp(min=1)
        for rows in update.groups_G_N:
            wins_N = torch.tensor([trajectories[row].success for row in rows])
            won = int(wins_N.sum())
            if 0 < won < len(rows):
                pull_B_C[rows] = self.pulls(log_u_B[rows], wins_N).to(pull_B_C)[:, None]
                of_wins = [row for row, win in zip(rows, wins_N.tolist(), strict=True) if win]
                likely_B_C[of_wins] = (len(rows) / won / lengths_B[of_wins]).to(pull_B_C)[:, None]
                pairs += won * (len(rows) - won)
        [pairs] = update.sum([float(pairs)])
        update.record(f"{self.name}/pairs", pairs)
        tensors |= {
            f"{self.name}/pull": pull_B_C,
            f"{self.name}/likely": likely_B_C,
            f"{self.name}/reference": update.reference_B_C,
        }
        return advantages_B_C

    def weight(self, batch: Minibatch) -> torch.Tensor:
        return torch.zeros_like(batch.advantages_b_C)

    def loss(self, batch: Minibatch) -> torch.Tensor:
        own_b_C = batch.mask_b_C.bool()
        log_u_b = ((batch.logprobs_b_C - batch.tensors[f"{self.name}/reference"]) * batch.mask_b_C).sum(dim=1)
        first_b = own_b_C.int().argmax(dim=1, keepdim=True)
        pull_b = batch.tensors[f"{self.name}/pull"].gather(1, first_b)[:, 0] * own_b_C.any(dim=1)
        likelihood = (batch.tensors[f"{self.name}/likely"] * batch.logprobs_b_C * batch.mask_b_C).sum()
        return -(pull_b * self.slope(log_u_b)).sum() - self.nll * likelihood
