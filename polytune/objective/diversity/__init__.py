"""Diversity of a set, d in [0, 1]: one file per measure, one row per file.

A measure is a function of the list of the set's signatures. One that depends on the number of distinct signatures
alone may add its `count_form`, and then advantages cost O(N * classes) per group; any other goes through enumeration
or sampled sets.
"""

from polytune.objective.diversity.base import CountForm, Diversity
from polytune.objective.diversity.distinct_fraction import DISTINCT_FRACTION
from polytune.objective.diversity.excess import EXCESS
from polytune.objective.diversity.zero_if_identical import ZERO_IF_IDENTICAL

DIVERSITY: dict[str, Diversity] = {
    "distinct_fraction": DISTINCT_FRACTION,
    "zero_if_identical": ZERO_IF_IDENTICAL,
    "excess": EXCESS,
}

__all__ = ["DIVERSITY", "CountForm", "Diversity"]
