"""Set objectives f(G): one file per objective, one row per file.

An objective is a function of `Sets`; one that can may add its closed form of E[f(G) | i in G].
"""

from dataclasses import replace
from typing import Any

from polytune.lookup import find, is_path, said
from polytune.objective.set_objectives.additive import ADDITIVE
from polytune.objective.set_objectives.base import Objective
from polytune.objective.set_objectives.coverage import COVERAGE
from polytune.objective.set_objectives.max_at_k import MAX_AT_K
from polytune.objective.set_objectives.mean import MEAN
from polytune.objective.set_objectives.pass_at_k import PASS_AT_K
from polytune.objective.set_objectives.polychromic import POLYCHROMIC

OBJECTIVES: dict[str, Objective] = {
    "polychromic": POLYCHROMIC,
    "mean": MEAN,
    "pass_at_k": PASS_AT_K,
    "max_at_k": MAX_AT_K,
    "additive": ADDITIVE,
    "coverage": COVERAGE,
}


def find_objective(name: Any) -> Objective:
    """A row of OBJECTIVES, or "package.module:name": an `Objective`, or a function f(sets) -> (S,) scores.

    ValueError for an unknown name, a path that leads nowhere, or something that is no objective.
    """
    found = find("objective", name, OBJECTIVES)
    if isinstance(found, Objective):
        return replace(found, score=said("objective", name, found.score)) if is_path(name) else found
    if isinstance(found, type) or not callable(found):
        raise ValueError(f"objective {name!r} is {found!r}: give an Objective or a function f(sets) -> (S,) scores")
    return Objective(said("objective", name, found))


__all__ = ["OBJECTIVES", "Objective", "find_objective"]
