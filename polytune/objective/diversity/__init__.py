"""Diversity of a set, d in [0, 1]: one file per measure, one row per file.

A measure is a function of the list of the set's signatures. One that depends on the number of distinct signatures
alone may add its `count_form`, and then advantages cost O(N * classes) per group. One that depends on pairs of members
may add its `pair_form`: a matrix once per group, cut to every enumerated or sampled set. Any other is called per set.
"""

from dataclasses import replace
from typing import Any

from polytune.lookup import find, is_path, said
from polytune.objective.diversity.action_distance import ACTION_DISTANCE
from polytune.objective.diversity.base import CountForm, Diversity, PairForm
from polytune.objective.diversity.distinct_fraction import DISTINCT_FRACTION
from polytune.objective.diversity.excess import EXCESS
from polytune.objective.diversity.vendi import VENDI
from polytune.objective.diversity.zero_if_identical import ZERO_IF_IDENTICAL

DIVERSITY: dict[str, Diversity] = {
    "distinct_fraction": DISTINCT_FRACTION,
    "zero_if_identical": ZERO_IF_IDENTICAL,
    "excess": EXCESS,
    "vendi": VENDI,
    "action_distance": ACTION_DISTANCE,
}


def find_diversity(name: Any) -> Diversity:
    """A row of DIVERSITY, or "package.module:name": a `Diversity`, or a function d(signatures) -> float in [0, 1].

    ValueError for an unknown name, a path that leads nowhere, or something that is no measure.
    """
    found = find("diversity", name, DIVERSITY)
    if isinstance(found, Diversity):
        return replace(found, of_set=said("diversity", name, found.of_set)) if is_path(name) else found
    if isinstance(found, type) or not callable(found):
        raise ValueError(f"diversity {name!r} is {found!r}: give a Diversity or a function d(signatures) -> float")
    return Diversity(said("diversity", name, found))


__all__ = ["DIVERSITY", "CountForm", "Diversity", "PairForm", "find_diversity"]
