"""GRPO's own mean: each attempt counts the same, however long it is.

    A'_t = A_t mean|o| / |o_i|        |o_i|: own tokens of the attempt of token t, the mean over the update's attempts
The loss is a mean over all tokens, so an attempt counts by its length; with A' it is the mean over attempts of each
one's mean over its tokens, (1/G) sum_i (1/|o_i|) sum_t. Where failures last long and successes are short, the mean
over all tokens pushes down more than up and entropy rises; here the two are even.

Source: GRPO (arXiv 2402.03300, equation 3); DAPO (arXiv 2503.14476, section 3.3) averages over tokens instead, for
long answers of language models; Dr. GRPO (arXiv 2503.20783) names the bias of 1/|o_i|: long failures are punished less
a token. Made of advantages, not of ``loss_type: grpo``, for a budget (``max_env_steps``) leaves rows blank, which that
one would count; under any other loss than the mean over tokens it would weigh lengths twice, and is refused. The KL
term stays a mean over tokens. Degenerate case: attempts of one length leave all as it is.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.methods.base import Method, Update
from polytune.methods.options import require_token_mean


@dataclass
class EpisodeMean(Method):
    page: ClassVar[str] = "tokens"

    def says(self) -> str:
        return "Each attempt counted the same, however long it was (the mean over attempts of means over their tokens)."

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        require_token_mean("episode_mean", trainer)

    def turn_advantage(self, update: Update, advantages_B_T: torch.Tensor) -> torch.Tensor:
        tokens_B = (update.turn_index_B_C[: len(advantages_B_T)] >= 0).sum(dim=1).to(advantages_B_T)
        total, attempts = update.sum([float(tokens_B.sum()), float((tokens_B > 0).sum())])
        return advantages_B_T * (total / max(attempts, 1.0) / tokens_B.clamp(min=1.0))[:, None]
