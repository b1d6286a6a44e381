"""Imitation as learning an implicit reward (arXiv 2507.00018), by an f-divergence to the pretrained policy.

    loss += coef { - E_demo[f'(u)] + E_pi[f'(u) - f(u) / u] },   u = pi / pi_0 of a token
    pearson:    f = (u - 1)^2               -2 (u - 1)              and   u - 1/u
    hellinger:  f = (u^1/2 - 1)^2           -(1 - u^-1/2)           and   (u^1/2 - 1) / u
    js:         f = u log u - (u + 1) log((u + 1) / 2)   -log(2 u / (1 + u))   and   log((1 + u) / 2) / u
    reverse:    f = u log u                 -log u                  and   1, a constant: plain imitation
The first term is of demonstrations, as in ``demonstrations.py``, the second of the update's own tokens, weighed by pi /
pi_old. A reward whose optimal policy under a penalty f is pi is f'(u) up to a constant; the reward that sets
demonstrations apart most from what its own policy does gives the loss, and the second term is E_0 of f's conjugate. Its
minimum is the demonstrations' policy with every f; that with 'reverse' nothing holds the policy is what the paper
finds.

Source: the abstract (SFT as a special case of implicit rewards, its KL constant; other f-divergences keep the term; a
smaller learning rate helps). The derivation above is ours, the paper's text was not read; its learning rate is the
run's. Needs the pretrained policy as ``chi_squared`` does; its logprobs of demonstrations are taken once, before the
first update. log u is cut to [-most, most]. Assumes as ``demonstrations``, and loss_type 'dapo'. Degenerate case: at pi
= pi_0 the second term's gradient is 0 in expectation, and the first is plain imitation times f''(1).
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch.nn.functional import logsigmoid, softplus

from polytune.checks import require_choice
from polytune.meanings import Metric
from polytune.methods.base import Beginning, Minibatch, Update
from polytune.methods.chi_squared import pretrained_at_hand
from polytune.methods.demonstrations import Demonstrations
from polytune.methods.options import require_option
from polytune.methods.rec import mean_over_tokens

#: f'(u), and f'(u) - f(u) / u, of log u
TERMS = {
    "pearson": (lambda log_u: 2 * (log_u.exp() - 1), lambda log_u: log_u.exp() - (-log_u).exp()),
    "hellinger": (lambda log_u: 1 - (-log_u / 2).exp(), lambda log_u: ((log_u / 2).exp() - 1) * (-log_u).exp()),
    "js": (
        lambda log_u: math.log(2) + logsigmoid(log_u),
        lambda log_u: (softplus(log_u) - math.log(2)) * (-log_u).exp(),
    ),
    "reverse": (lambda log_u: log_u, torch.zeros_like),
}


@dataclass
class ImplicitSFT(Demonstrations):
    divergence: str = "pearson"
    most: float = 3.0
    logs: ClassVar[dict[str, Metric]] = {
        **Demonstrations.logs,
        "implicit_sft/logprob": Metric(
            "mean log-probability of the expert's tokens", "nats a token", "rises", "falls: raise coef or share"
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("divergence", self.divergence, tuple(TERMS))
        require_option("most", self.most, 1e-3)

    def says(self) -> str:
        return (
            f"**Implicit-reward SFT** (arXiv 2507.00018): {len(self.buffer)} demonstrations were imitated by the "
            f"{self.divergence} divergence, weight {self.coef:g}."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        super().check(trainer, rollout, objective)
        pretrained_at_hand("implicit_sft", trainer)
        mean_over_tokens("implicit_sft", trainer)

    def begin(self, beginning: Beginning) -> None:
        super().begin(beginning)
        scored = beginning.score([own.row for own in self.buffer.values()])
        pairs = zip(self.buffer.items(), scored, strict=True)
        self.buffer = {kind: own._replace(row=replace(own.row, logprobs=said)) for (kind, own), (said, _) in pairs}

    def replayed(self, batch: Minibatch) -> torch.Tensor:
        batch.record("implicit_sft/logprob", batch.logprobs_b_C * batch.mask_b_C, batch.mask_b_C)
        return -self.coef * self.terms(batch.logprobs_b_C - batch.old_b_C)[0]

    def terms(self, log_u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """f'(u) and f'(u) - f(u) / u of log u, cut."""
        slope, held = TERMS[self.divergence]
        log_u = log_u.clamp(-self.most, self.most)
        return slope(log_u), held(log_u)

    def advantage(self, update: Update, advantages_B_C: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        tensors["implicit_sft/reference"] = update.reference_B_C
        return advantages_B_C

    def loss(self, batch: Minibatch) -> torch.Tensor:
        log_u_b_C = (batch.logprobs_b_C - batch.tensors["implicit_sft/reference"]) * batch.mask_b_C
        ratio_b_C = ((batch.logprobs_b_C - batch.old_b_C) * batch.mask_b_C).exp()
        return self.coef * (ratio_b_C * self.terms(log_u_b_C)[1] * batch.mask_b_C).sum()
