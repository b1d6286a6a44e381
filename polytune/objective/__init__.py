"""Set objectives, diversity measures, credit rules and single-trajectory estimators: pure functions on tensors."""

from polytune.objective.credit import CREDIT
from polytune.objective.diversity import DIVERSITY, CountForm, Diversity
from polytune.objective.estimators import gae, returns_to_go
from polytune.objective.reference import enumerate_set_advantages
from polytune.objective.scale import group_signal, normalise, rescale
from polytune.objective.sets import OBJECTIVES, Objective, draw_sets, mean_diversity, set_advantages
from polytune.objective.window import polychromic_window

__all__ = [
    "CREDIT",
    "DIVERSITY",
    "OBJECTIVES",
    "CountForm",
    "Diversity",
    "Objective",
    "draw_sets",
    "enumerate_set_advantages",
    "gae",
    "group_signal",
    "mean_diversity",
    "normalise",
    "polychromic_window",
    "rescale",
    "returns_to_go",
    "set_advantages",
]
