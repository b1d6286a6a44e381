"""The definition of the set advantage in plain loops: what the fast paths are checked and timed against."""

import itertools
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from polytune.objective.credit import ScoredSets, find_credit
from polytune.objective.credit.base import Members
from polytune.objective.diversity import find_diversity
from polytune.objective.diversity.of_sets import GroupDiversity
from polytune.objective.groups import as_groups, check_set_size
from polytune.objective.set_objectives import find_objective
from polytune.objective.sets import Sets


def enumerate_set_advantages(
    rewards: Sequence[float],
    signatures: Sequence[Hashable | None],
    set_size: int,
    *,
    objective: Any = "polychromic",
    diversity: Any = "distinct_fraction",
    credit: Any = "mean",
    diversity_coef: float = 0.5,
) -> torch.Tensor:
    """Set advantages (N,) of one group, over all C(N, n) sets one by one, by the rows' references; float64.

    Time grows with C(N, n) * n: about 1 s at N = 20, n = 10. ValueError as in `set_advantages`.
    """
    rule, goal, measure = find_credit(credit), find_objective(objective), find_diversity(diversity)
    groups = as_groups([rewards], [signatures])
    reward_N, signatures, num_members = groups.rewards_P_N[0], groups.signatures_P_N[0], groups.num_members
    size = check_set_size(set_size, num_members)
    of_sets = GroupDiversity(measure, groups.classes_P_N[0], signatures)

    def f(members: Members) -> float:
        if not members:
            return 0.0
        if goal.reference is None:
            return float(goal.score(Sets.of_group(reward_N, of_sets, torch.tensor([members]), diversity_coef)))
        return goal.reference([(reward_N[i].item(), signatures[i]) for i in members], measure.of_set, diversity_coef)

    scores = {members: f(members) for members in itertools.combinations(range(num_members), size)}
    if rule.reference is None:
        return rule.of_sets(_scored(scores, num_members, f))
    sets_of = [[members for members in scores if i in members] for i in range(num_members)]
    values = [rule.reference(i, sets_of[i], scores, f) for i in range(num_members)]
    return torch.tensor(values, dtype=torch.float64)


def _scored(scores: dict[Members, float], num_members: int, f) -> ScoredSets:
    """All sets of a group, for a rule without a reference."""

    def score(members_S_m: torch.Tensor) -> torch.Tensor:
        return torch.tensor([f(tuple(members)) for members in members_S_m.tolist()], dtype=torch.float64)

    values_S = torch.tensor(list(scores.values()), dtype=torch.float64)
    return ScoredSets(values_S, torch.tensor(list(scores)), num_members, score)
