"""d = u / n, and 0 where the set holds one strategy only (Poly-PPO, arXiv 2509.25424, definition of d).

Assumes that a set of one strategy deserves nothing, even when it succeeds. Degenerate cases: one class beside None
members is u = 1, hence 0; n = 1 is always 0, so every advantage vanishes; a group of one strategy has no signal.
"""

from polytune.objective.diversity.base import CountForm, Diversity, Signatures, num_distinct


def zero_if_identical(signatures: Signatures) -> float:
    """d of one set of n signatures."""
    distinct = num_distinct(signatures)
    return distinct / len(signatures) if distinct > 1 else 0.0


def count_form(set_size: int) -> CountForm:
    """u / n - [u = 1] / n."""
    return CountForm(slope=1 / set_size, at_one=-1 / set_size)


ZERO_IF_IDENTICAL = Diversity(
    zero_if_identical, count_form, says="distinct signatures / n, and 0 when all members are alike"
)
