"""Diversity of a set, d in [0, 1]: one file per measure, one row of DIVERSITY per file.

A measure is a function of the list of the set's signatures. One that depends on the number of distinct signatures
alone may add its `count_form`, and then advantages cost O(N * classes) per group. One that depends on pairs of members
may add its `pair_form`: a matrix once per group, cut to every enumerated or sampled set. Any other is called per set.
"""

from typing import Any

from polytune.lookup import find_row
from polytune.objective.diversity.base import CountForm, Diversity, PairForm
from polytune.tables import DIVERSITY


def find_diversity(name: Any) -> Diversity:
    """A row of DIVERSITY, or "package.module:name": a `Diversity`, or a function d(signatures) -> float in [0, 1].

    ValueError for an unknown name, a path that leads nowhere, or something that is no measure.
    """
    return find_row("diversity", name, DIVERSITY, Diversity)


__all__ = ["DIVERSITY", "CountForm", "Diversity", "PairForm", "find_diversity"]
