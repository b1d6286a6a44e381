"""One training row per set and member, each with the set's own advantage A(G) = f(G) - baseline (Poly-PPO, 2509.25424).

The rows of member i share their ratio r, so PPO's clipped surrogate, averaged over them, is
    mean_G min(r A(G), clip(r, 1 - e, 1 + e) A(G)) = gain_i * min(r, 1 + e) - loss_i * max(r, 1 - e)
    gain_i = mean over the sets of i of max(A(G), 0);   loss_i = mean over the sets of i of max(-A(G), 0)
so no row need be repeated: the two numbers are enough. Their difference is the advantage of `mean`.
Bias: at r = 1 that of `mean`, none in direction. Once r is clipped, the gains stop at 1 + e and the losses at 1 - e
on their own, while `mean` clips only the side that its sign points to: a member with A = 0 but gain = loss > 0
is held inside 1 - e .. 1 + e here and not there.
Degenerate cases: those of `mean`. It needs the sets themselves: enumerated, or M random ones.
"""

import torch

from polytune.objective.credit import mean
from polytune.objective.credit.base import Credit, ScoredSets


def gains_and_losses(scored: ScoredSets) -> tuple[torch.Tensor, torch.Tensor]:
    """(gain, loss) of each member, (N,) each, 0 or above; NaN for a member in no set."""
    advantages_S = scored.advantages_S
    return scored.member_mean(advantages_S.clamp(min=0)), scored.member_mean((-advantages_S).clamp(min=0))


PER_SET = Credit(mean.of_sets, rows=gains_and_losses, centred=True)
