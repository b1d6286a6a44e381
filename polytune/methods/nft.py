"""NFT, negative-aware fine-tuning (arXiv 2505.18116): likelihood of successes, and of what failures leave over.

    success:  -log r_t              failure:  -log((1 - q r_t) / (1 - q));   q: success rate of the group
    r = pi / pi_old
both times the group's weight, in the place of the clipped surrogate: (1 - q), or sqrt((1 - q) / q), which on the first
step is GRPO. A policy that is pi_old on failures shrinks them as pi_old = q pi+ + (1 - q) pi- says. The inside of the
second log is at least ``floor`` in value, while its gradient goes on (straight through).

Source: the authors' code (NVlabs/NFT): q clipped to [0.02, 0.98], floor 1, negatives times 1 (0.5 for 32 B; 0 is
rejection sampling), groups of q 0 or 1 dropped. The advantages are not read. Assumes success or failure, whole attempts
and loss_type 'dapo'. Degenerate case: without mixed groups nothing is learnt.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.checks import require_choice
from polytune.meanings import Metric
from polytune.methods.base import Method, Minibatch, Update
from polytune.methods.options import require_option
from polytune.methods.rec import mean_over_tokens

WEIGHTS = ("failures", "grpo")


@dataclass
class NFT(Method):
    weigh: str = "failures"
    negatives: float = 1.0
    floor: float = 1.0
    replaces: ClassVar[str] = "loss"
    logs: ClassVar[dict[str, Metric]] = {
        "nft/mixed": Metric(
            "share of own tokens in groups with both outcomes",
            "share",
            "above .3",
            "below: nothing is learnt, larger groups or other start states",
        ),
    }

    def __post_init__(self) -> None:
        require_choice("weigh", self.weigh, WEIGHTS)
        require_option("negatives", self.negatives, 0.0)
        require_option("floor", self.floor, 1e-6)

    def says(self) -> str:
        return (
            "**NFT** (arXiv 2505.18116): the likelihood of successes, and of failures under the policy that they leave "
            f"over, the latter times {self.negatives:g}."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        mean_over_tokens("nft", trainer)

    def advantage(self, update: Update, advantages_B_C: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        rate_B_C, sign_B_C = torch.zeros_like(advantages_B_C), torch.zeros_like(advantages_B_C)
        trajectories = update.trajectories
        for rows in update.groups_G_N:
            wins = [trajectories[row].success for row in rows]
            q = sum(wins) / len(wins)
            if 0 < q < 1:
                rate_B_C[rows] = min(max(q, 0.02), 0.98)
                sign_B_C[rows] = torch.tensor([1.0 if win else -1.0 for win in wins]).to(sign_B_C)[:, None]
        mixed, own = update.sum([float((sign_B_C[update.own_B_C] != 0).sum()), float(update.own_B_C.sum())])
        update.record("nft/mixed", mixed / max(own, 1.0))
        tensors |= {"nft/rate": rate_B_C, "nft/sign": sign_B_C}
        return advantages_B_C

    def weight(self, batch: Minibatch) -> torch.Tensor:
        return torch.zeros_like(batch.advantages_b_C)

    def loss(self, batch: Minibatch) -> torch.Tensor:
        q_b_C, sign_b_C = batch.tensors["nft/rate"], batch.tensors["nft/sign"] * batch.mask_b_C
        log_ratio_b_C = (batch.logprobs_b_C - batch.old_b_C) * batch.mask_b_C
        left_b_C = (1 - q_b_C * log_ratio_b_C.exp()) / (1 - q_b_C)
        left_b_C = left_b_C + (left_b_C.clamp(min=self.floor) - left_b_C).detach()
        group_b_C = 1 - q_b_C if self.weigh == "failures" else ((1 - q_b_C) / q_b_C.clamp(min=0.02)).sqrt()
        up_b_C, down_b_C = -log_ratio_b_C * (sign_b_C > 0), -self.negatives * left_b_C.log() * (sign_b_C < 0)
        return (group_b_C * (up_b_C + down_b_C)).sum()
