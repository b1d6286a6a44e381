"""d = u / n: the share of distinct strategies in a set of n (Poly-EPO, arXiv 2604.17654, set objective).

Assumes that a signature names the strategy and nothing else. Degenerate cases: all members alike give 1/n, not 0, so
the reward still counts; only None members give 0; n = 1 gives 1, and the objective is mean-centred reward exactly.
"""

from polytune.objective.diversity.base import CountForm, Diversity, Signatures, num_distinct


def distinct_fraction(signatures: Signatures) -> float:
    """d of one set of n signatures."""
    return num_distinct(signatures) / len(signatures)


def count_form(set_size: int) -> CountForm:
    """u / n."""
    return CountForm(slope=1 / set_size)


DISTINCT_FRACTION = Diversity(distinct_fraction, count_form, says="distinct signatures / n")
