"""One training row per set and member, each with the set's own advantage A(G) = f(G) - baseline (Poly-PPO, 2509.25424).

The rows of member i share their ratio r, so PPO's clipped surrogate, averaged over them, is
    mean_G min(r A(G), clip(r, 1 - e, 1 + e) A(G)) = gain_i * min(r, 1 + e) - loss_i * max(r, 1 - e)
    gain_i = mean over the sets of i of max(A(G), 0);   loss_i = mean over the sets of i of max(-A(G), 0)
so no row need be repeated: the two numbers are enough. Their difference is the advantage of `mean`.
Bias: at r = 1 that of `mean`, none in direction. Once r is clipped, the gains stop at 1 + e and the deductions at 1 - e
on their own, while `mean` clips only the side that its sign points to: a member with A = 0 but gain = loss > 0
is held inside 1 - e .. 1 + e here and not there.
Degenerate cases: those of `mean`. It needs the sets themselves: enumerated, or M random ones.
"""

from typing import Any

import torch

from polytune.checks import require
from polytune.objective.credit import mean
from polytune.objective.credit.base import Credit, ScoredSets
from polytune.objective.normalise import find_scaling

#: TRL's fields that change the ratio or the mask of the clipped term -> the values that do not
NEUTRAL = {
    "importance_sampling_level": "token",
    "delta": None,
    "off_policy_mask_threshold": None,
    "top_entropy_quantile": 1.0,
}


def deductions(scored: ScoredSets) -> torch.Tensor:
    """loss_i, (N,), 0 or above; NaN for a member in no set. gain_i is the advantage plus it."""
    return scored.member_mean((-scored.advantages_S).clamp(min=0))


def check(trainer: Any, rollout: Any, objective: Any) -> None:
    """The loss is TRL's clipped mean over tokens, and gains and deductions stay apart."""
    require(
        not find_scaling("set_normalise", objective.set_normalise).shifts,
        f"credit 'per_set' keeps what sets gain and lose apart, and set_normalise {objective.set_normalise!r} would "
        "shift both: use 'std' or 'none'.",
    )
    require(
        trainer.loss_type == "dapo",
        f"credit 'per_set' corrects the clipped loss over all tokens, loss_type 'dapo', not {trainer.loss_type!r}.",
    )
    for name, neutral in NEUTRAL.items():
        require(
            getattr(trainer, name) == neutral,
            f"credit 'per_set' knows nothing of {name} {getattr(trainer, name)!r}: leave it at {neutral!r}.",
        )


PER_SET = Credit(
    mean.of_sets,
    deductions=deductions,
    centred=True,
    needs_others=True,
    reference=mean.reference,
    check=check,
    says="**one clipped row per set** (Poly-PPO, arXiv 2509.25424): a member's advantage is the mean score of its sets "
    "less the baseline, and each set is clipped on its own",
)
