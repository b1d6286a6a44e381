"""Set objectives, diversity measures, credit rules and single-trajectory estimators: pure functions on tensors."""

from polytune.objective.credit import CREDIT, Credit, ScoredSets
from polytune.objective.diversity import DIVERSITY, CountForm, Diversity, PairForm, find_diversity
from polytune.objective.estimators import gae, returns_to_go
from polytune.objective.groups import Groups
from polytune.objective.judge import JUDGES, SignatureJudge, find_judge
from polytune.objective.ngram_judge import NGramJudge
from polytune.objective.reference import enumerate_set_advantages
from polytune.objective.scale import MIN_STD, SPREAD, group_signal, normalise, rescale, standardise_groups
from polytune.objective.scores import GroupScores, mean_diversity, score_groups, set_advantages
from polytune.objective.set_objectives import OBJECTIVES, Objective, find_objective
from polytune.objective.sets import Sets, check_enumerable, draw_sets
from polytune.objective.window import polychromic_window

__all__ = [
    "CREDIT",
    "DIVERSITY",
    "JUDGES",
    "MIN_STD",
    "OBJECTIVES",
    "SPREAD",
    "CountForm",
    "Credit",
    "Diversity",
    "GroupScores",
    "Groups",
    "NGramJudge",
    "Objective",
    "PairForm",
    "ScoredSets",
    "Sets",
    "SignatureJudge",
    "check_enumerable",
    "draw_sets",
    "enumerate_set_advantages",
    "find_diversity",
    "find_judge",
    "find_objective",
    "gae",
    "group_signal",
    "mean_diversity",
    "normalise",
    "polychromic_window",
    "rescale",
    "returns_to_go",
    "score_groups",
    "set_advantages",
    "standardise_groups",
]
