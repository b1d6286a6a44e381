"""MDPO, mirror descent policy optimisation (arXiv 2005.09814): no clip, but a KL to the last policy that grows.

    loss_t = -A_t r_t + (1 / t) (r_t log r_t - r_t + 1)   in the place of the clipped surrogate,   r = pi / pi_old
    t = step (1 - progress), at least ``least``
The second term is KL(pi || pi_old) per token in expectation over pi_old, never negative. Several steps on one update
solve each mirror step. ``step`` is the step size at the start of the run: the paper's on-policy one anneals from 1 to
0.

Source: the authors' code (mdpo_on): mean of A r less KL(pi || pi_old) / t, 5 gradient steps on each update, both as
here but that its KL is exact over actions, here of the sampled token; that t anneals from 1 to 0 is the paper's as
told, the code takes it as an input. Not established for language models, so options: ``step``, ``least``. Assumes
loss_type 'dapo' and advantages of about unit size. Degenerate case: on the first step r = 1, and the gradient is that
of REINFORCE.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Method, Minibatch, Update
from polytune.methods.options import require_option
from polytune.methods.rec import mean_over_tokens


@dataclass
class MDPO(Method):
    step: float = 1.0
    least: float = 0.05
    replaces: ClassVar[str] = "loss"
    logs: ClassVar[dict[str, Metric]] = {
        "mdpo/step": Metric("step size t", "", "falls from step to least"),
        "mdpo/kl": Metric("mean KL to the last policy", "nats a token", "below .1", "above: lower step"),
    }

    def __post_init__(self) -> None:
        require_option("step", self.step, 1e-6)
        require_option("least", self.least, 1e-6)
        self.t = self.step

    def says(self) -> str:
        return (
            f"**MDPO** (arXiv 2005.09814): no clip, but KL to the policy before the update over a step size that "
            f"fell from "
            f"{self.step:g}."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        mean_over_tokens("mdpo", trainer)

    def advantage(self, update: Update, advantages_B_C: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        self.t = max(self.least, self.step * (1 - update.progress))
        update.record("mdpo/step", self.t)
        return advantages_B_C

    def weight(self, batch: Minibatch) -> torch.Tensor:
        return torch.zeros_like(batch.advantages_b_C)

    def loss(self, batch: Minibatch) -> torch.Tensor:
        log_ratio_b_C = (batch.logprobs_b_C - batch.old_b_C) * batch.mask_b_C
        ratio_b_C = log_ratio_b_C.exp()
        kl_b_C = ratio_b_C * log_ratio_b_C - ratio_b_C + 1
        batch.record("mdpo/kl", kl_b_C, batch.mask_b_C)
        return ((kl_b_C / self.t - batch.advantages_b_C * ratio_b_C) * batch.mask_b_C).sum()
