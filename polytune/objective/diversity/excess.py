"""d = max(u - 1, 0) / (n - 1): strategies beyond the first (public replications of arXiv 2509.25424).

Assumes that the first strategy is free. Reaches 0 and 1 for every n > 1, where u / n starts at 1 / n. Degenerate
cases: n = 1 is 0 by definition (0 / 0), so every advantage vanishes; sets of None members alone are 0.
"""

from polytune.objective.diversity.base import CountForm, Diversity, Signatures, num_distinct


def excess(signatures: Signatures) -> float:
    """d of one set of n signatures."""
    others = len(signatures) - 1
    return max(num_distinct(signatures) - 1, 0) / others if others else 0.0


def count_form(set_size: int) -> CountForm:
    """(u - 1 + [u = 0]) / (n - 1)."""
    if set_size == 1:
        return CountForm(slope=0.0)
    step = 1 / (set_size - 1)
    return CountForm(slope=step, constant=-step, at_zero=step)


EXCESS = Diversity(excess, count_form, says="(distinct signatures - 1) / (n - 1)")
