"""Set objectives, diversity measures, credit rules, scalings and single-trajectory estimators: pure functions on
tensors, and what each row of their tables knows of itself."""

from polytune.objective.credit import CREDIT, Credit, ScoredSets, find_credit
from polytune.objective.diversity import DIVERSITY, CountForm, Diversity, PairForm, find_diversity
from polytune.objective.estimators import gae, returns_to_go
from polytune.objective.groups import Groups
from polytune.objective.judge import JUDGES, SignatureJudge, find_judge
from polytune.objective.ngram_judge import NGramJudge
from polytune.objective.normalise import Scaling, find_scaling
from polytune.objective.reference import enumerate_set_advantages
from polytune.objective.scale import MIN_STD, SPREAD, group_signal, standardise_groups
from polytune.objective.scores import GroupScores, score_groups, set_advantages
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
    "Scaling",
    "ScoredSets",
    "Sets",
    "SignatureJudge",
    "check_enumerable",
    "draw_sets",
    "enumerate_set_advantages",
    "find_credit",
    "find_diversity",
    "find_judge",
    "find_objective",
    "find_scaling",
    "gae",
    "group_signal",
    "polychromic_window",
    "returns_to_go",
    "score_groups",
    "set_advantages",
    "standardise_groups",
]
