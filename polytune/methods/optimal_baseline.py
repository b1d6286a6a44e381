"""OPO, the optimal reward baseline: a group's mean weighted by length, so its advantages sum to 0 over its tokens.

    A'_i = r_i - sum_j |o_j| r_j / sum_j |o_j|        |o_j|: own tokens of attempt j of the group
The baseline of least variance weighs each reward by its squared gradient norm, which grows with length. Under a loss
that is a mean over all tokens, a plain mean of the group leaves a sum below 0 wherever failures last longer: sampled
tokens are pushed down on the whole, and entropy rises. This one leaves the gradient unbiased, unlike a mean over each
episode (``episode_mean``).

Source: arXiv 2505.23585. There of rewards without a division; here of what sets, window and set_normalise have made,
over the turns that are scored: sum over tokens t of A_t, divided by their number, is taken from each. A division by
the group's std goes on standing. Groups are attempts from one state, vines too. Assumes that sets alone give
advantages, which sum to 0 over a group, and a loss that is a mean over all tokens: a critic is refused, whose
advantages say how an attempt did against what was foretold, not against its group. Degenerate cases: attempts of one
length, and groups of equal rewards, stay as they are.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.checks import require
from polytune.methods.base import Method, Update
from polytune.methods.options import require_token_mean
from polytune.methods.turns import turn_tokens


@dataclass
class OptimalBaseline(Method):
    page: ClassVar[str] = "groups"

    def says(self) -> str:
        return "**OPO** (arXiv 2505.23585): a group's baseline is its mean weighted by length."

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        require(
            trainer.critic == "none",
            f"method 'optimal_baseline' is the baseline of groups, and critic {trainer.critic!r} has one of its own: "
            "set critic to 'none', or use method 'episode_mean'.",
        )
        require(
            "episode_mean" not in objective.methods,
            "method 'optimal_baseline' makes advantages sum to 0 in a mean over all tokens, and 'episode_mean' takes "
            "another mean: leave one of them out.",
        )
        require_token_mean("optimal_baseline", trainer)

    def turn_advantage(self, update: Update, advantages_B_T: torch.Tensor) -> torch.Tensor:
        (rows, turns), changed_B_T = advantages_B_T.shape, advantages_B_T.clone()
        scored_B_T = update.scored_B_T[:rows].to(advantages_B_T)
        tokens_B_T = turn_tokens(update.turn_index_B_C[:rows].cpu(), turns, advantages_B_T.dtype) * scored_B_T
        for group in map(list, update.groups_G_N):
            tokens_N_T = tokens_B_T[group]
            baseline = (tokens_N_T * advantages_B_T[group]).sum() / tokens_N_T.sum().clamp(min=1.0)
            changed_B_T[group] -= baseline * scored_B_T[group]
        return changed_B_T
