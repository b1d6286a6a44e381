"""CoPG, contrastive policy gradient (arXiv 2406.19185): a group's attempts as pairs, right whatever policy sampled
them.

    loss = mean over pairs of  [ (R_i - R_j) - beta (l_i - l_j) ]^2 / 2 beta,   l: sum over a row's tokens of
                                                                                   log pi - log pi_ref
The pairs of a group are twice its variance of R - beta l, so a row costs (A_i - beta (l_i - lbar))^2 / 2 beta with A_i
= R_i - mean R, and its gradient is -(A_i - beta (l_i - lbar)) grad log pi(y_i): REINFORCE that stops where pi ~ pi_ref
exp(R / beta). IPO is the case of two labels.

Source: the pair loss as its authors' report on Command A has it (read in a digest): sum over pairs of (R_i - R_j - beta
(l_i - l_j))^2 / (k - 1) in a group of k, which is ours but for the factor 2 beta; on its policy it is said there to be
RLOO, and so is this gradient at l = 0. Of the paper itself abstract and digests were read: its optimum is the one
above, IPO and policy gradients are cases of it. There pi_ref is a policy that stands still: ``to`` 'pretrained'
(with kl_reference 'pretrained'). With 'behaviour' it is the policy that sampled, whose l are 0, and the step is a
proximal one. lbar, which a minibatch does not have, is that of the sampled group in both. Not established, so an
option: ``beta``. A_i is the advantage that the run gives the row's first own token. Assumes one advantage a row (window
-1, no critic) and loss_type 'dapo'. Degenerate case: beta 0 is REINFORCE without a clip.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.checks import require, require_choice
from polytune.methods.base import Method, Minibatch, Update
from polytune.methods.chi_squared import log_ratios, pretrained_at_hand
from polytune.methods.options import require_option
from polytune.methods.rec import mean_over_tokens


@dataclass
class CoPG(Method):
    beta: float = 0.1
    to: str = "behaviour"
    replaces: ClassVar[str] = "loss"
    page: ClassVar[str] = "pairs"

    def __post_init__(self) -> None:
        require_choice("to", self.to, ("behaviour", "pretrained"))
        require_option("beta", self.beta, 0.0)

    def says(self) -> str:
        return (
            f"**CoPG** (arXiv 2406.19185): squared differences of return and {self.beta:g} log ratios within a group."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        mean_over_tokens("copg", trainer)
        if self.to == "pretrained":
            pretrained_at_hand("copg", trainer)
        require(
            trainer.critic == "none" and objective.window in (None, -1),
            "method 'copg' takes one advantage for a row: set critic to 'none' and window to -1.",
        )

    def advantage(self, update: Update, advantages_B_C: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        if self.to == "pretrained":
            l_B, mean_B_C = log_ratios(update), torch.zeros_like(advantages_B_C)
            for rows in update.groups_G_N:
                mean_B_C[rows] = l_B[rows].mean().to(mean_B_C)
            tensors |= {"copg/reference": update.reference_B_C, "copg/mean": mean_B_C}
        return advantages_B_C

    def weight(self, batch: Minibatch) -> torch.Tensor:
        return torch.zeros_like(batch.advantages_b_C)

    def loss(self, batch: Minibatch) -> torch.Tensor:
        own_b_C = batch.mask_b_C.bool()
        first_b_1 = own_b_C.int().argmax(dim=1, keepdim=True)
        a_b = batch.advantages_b_C.gather(1, first_b_1)[:, 0] * own_b_C.any(dim=1)
        reference_b_C = batch.tensors.get("copg/reference", batch.old_b_C)
        l_b = ((batch.logprobs_b_C - reference_b_C) * batch.mask_b_C).sum(dim=1)
        if "copg/mean" in batch.tensors:
            l_b = (l_b - batch.tensors["copg/mean"].gather(1, first_b_1)[:, 0]) * own_b_C.any(dim=1)
        return (self.beta * l_b**2 / 2 - a_b * l_b).sum()  # (a - beta l)^2 / 2 beta without its constant
