"""Set objectives f(G): one file per objective, one row of OBJECTIVES per file.

An objective is a function of `Sets`; one that can may add its closed form of E[f(G) | i in G].
"""

from typing import Any

from polytune.lookup import find_row
from polytune.objective.set_objectives.base import Objective
from polytune.tables import OBJECTIVES


def find_objective(name: Any) -> Objective:
    """A row of OBJECTIVES, or "package.module:name": an `Objective`, or a function f(sets) -> (S,) scores.

    ValueError for an unknown name, a path that leads nowhere, or something that is no objective.
    """
    return find_row("objective", name, OBJECTIVES, Objective)


__all__ = ["OBJECTIVES", "Objective", "find_objective"]
