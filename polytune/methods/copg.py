"""CoPG, contrastive policy gradient (arXiv 2406.19185): a group's attempts as pairs, right whatever policy sampled
them.

    loss = mean over pairs of  [ (R_i - R_j) - beta (l_i - l_j) ]^2 / 2 beta,   l: sum over a row's tokens of
                                                                                   log pi - log pi_old
The pairs of a group are twice its variance of R - beta l, so a row costs (A_i - beta (l_i - lbar))^2 / 2 beta with A_i
= R_i - mean R, and its gradient is -(A_i - beta (l_i - lbar)) grad log pi(y_i): REINFORCE that stops where pi ~ pi_old
exp(R / beta). IPO is the case of two labels.

Source: the paper's loss as told; that its optimum is pi ~ reference exp(R / beta), whatever sampled, and that IPO and
policy gradients are cases of it was read in digests of the paper, the loss itself was not. Here the reference is the
policy that sampled, and lbar, which a minibatch does not have, is its value there, 0. Not established, so an option:
``beta``. A_i is the advantage that the run gives the row's first own token. Assumes one advantage a row (window -1, no
critic) and loss_type 'dapo'. Degenerate case: beta 0 is REINFORCE without a clip.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.config import require
from polytune.methods.base import Method, Minibatch, require_option
from polytune.methods.rec import mean_over_tokens


@dataclass
class CoPG(Method):
    beta: float = 0.1
    page: ClassVar[str] = "pairs"

    def __post_init__(self) -> None:
        require_option("beta", self.beta, 0.0)

    def says(self) -> str:
        return (
            f"**CoPG** (arXiv 2406.19185): squared differences of return and {self.beta:g} log ratios within a group."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        mean_over_tokens("copg", trainer)
        require(
            trainer.critic == "none" and objective.window in (None, -1),
            "method 'copg' takes one advantage for a row: set critic to 'none' and window to -1.",
        )

    def weight(self, batch: Minibatch) -> torch.Tensor:
        return torch.zeros_like(batch.advantages_b_C)

    def loss(self, batch: Minibatch) -> torch.Tensor:
        l_b = ((batch.logprobs_b_C - batch.old_b_C) * batch.mask_b_C).sum(dim=1)
        own_b_C = batch.mask_b_C.bool()
        first_b = own_b_C.int().argmax(dim=1)
        a_b = batch.advantages_b_C.gather(1, first_b[:, None])[:, 0] * own_b_C.any(dim=1)
        return (self.beta * l_b**2 / 2 - a_b * l_b).sum()  # (a - beta l)^2 / 2 beta without its constant
