"""Credit rules: from the scores of the sets to one number per member; one file per rule, one row of CREDIT per file.

rule            advantage of member i                                    expected update, in units of grad E[f]
mean            mean over i's sets of f(G) - baseline (the default)      (N-n)/n: unbiased in direction
per_set         the same, but every set clips on its own                 (N-n)/n before clipping
leave_one_out   mean over i's sets of f(G) - f(G without i)              N/n: unbiased, n = N allowed
max             best of i's sets minus baseline                          biased, against grad E[f] for pass_at_k
`tests/unit/test_credit_bias.py` measures them on a softmax bandit.
"""

from typing import Any

from polytune.lookup import find_row
from polytune.objective.credit.base import Credit, ScoredSets
from polytune.tables import CREDIT


def find_credit(name: Any) -> Credit:
    """A row of CREDIT, or "package.module:name": a `Credit`, or a function of_sets(scored) -> (N,) advantages.

    ValueError for an unknown name, a path that leads nowhere, or something that is no credit rule.
    """
    return find_row("credit", name, CREDIT, Credit)


__all__ = ["CREDIT", "Credit", "ScoredSets", "find_credit"]
