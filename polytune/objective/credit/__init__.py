"""Credit rules: from the scores of the sets to one number per member; one file per rule, one row per file.

rule            advantage of member i                                    expected update, in units of grad E[f]
mean            mean over i's sets of f(G) - baseline (the default)      (N-n)/n: unbiased in direction
per_set         the same, but every set clips on its own                 (N-n)/n before clipping
leave_one_out   mean over i's sets of f(G) - f(G without i)              N/n: unbiased, n = N allowed
max             best of i's sets minus baseline                          biased, against grad E[f] for pass_at_k
`tests/unit/test_credit_bias.py` measures them on a softmax bandit.
"""

from polytune.objective.credit.base import Credit, ScoredSets
from polytune.objective.credit.leave_one_out import LEAVE_ONE_OUT
from polytune.objective.credit.max import MAX
from polytune.objective.credit.mean import MEAN
from polytune.objective.credit.per_set import PER_SET

CREDIT: dict[str, Credit] = {
    "mean": MEAN,
    "max": MAX,
    "per_set": PER_SET,
    "leave_one_out": LEAVE_ONE_OUT,
}

__all__ = ["CREDIT", "Credit", "ScoredSets"]
