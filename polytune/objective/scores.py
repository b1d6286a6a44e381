"""Set advantages: what each of N generations gains from the sets of n it belongs to (Poly-EPO, arXiv 2604.17654).

    baseline = mean over sets of f(G);   A(G) = f(G) - baseline;   advantage of y = mean A(G) over the sets with y
No division by a standard deviation. Other rules than the mean: `credit`.
"""

import math
import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from polytune.objective.credit import Credit, ScoredSets, find_credit
from polytune.objective.diversity import Diversity, find_diversity
from polytune.objective.diversity.of_sets import GroupDiversity
from polytune.objective.groups import Groups, as_groups, check_set_size, integer
from polytune.objective.set_objectives import Objective, find_objective
from polytune.objective.set_objectives.polychromic import diversity_given_member
from polytune.objective.sets import Sets, all_sets, draw_sets


@dataclass(frozen=True)
class GroupScores:
    """What `score_groups` finds out about P groups of N members; float64 on the CPU.

    advantages_P_N: 0 for a member in no drawn set.
    scored_P_N: bool, True for a member in at least one set; all True when every set was taken.
    deductions_P_N: mean of max(-A(G), 0) over the member's sets, for credit "per_set"; None for a rule
        without them. See
        `credit/per_set.py` for the loss they stand for.
    diversity_P: mean d of a group's sets. Of all its sets, in closed form, for a measure that counts classes; else of
        the sets that were scored; None for such a measure when the objective never read d, which is not worth
        enumerating for a log.
    mean_P: mean score of a group's sets, all of them in closed form.
    scale_P: largest |f| that was worked out for a group (in closed form: of a member's mean). What differs by less than
        a millionth of it is rounding: see `scale.py`.
    """

    advantages_P_N: torch.Tensor
    scored_P_N: torch.Tensor
    deductions_P_N: torch.Tensor | None
    diversity_P: torch.Tensor | None
    scale_P: torch.Tensor
    mean_P: torch.Tensor


def set_advantages(
    rewards: Any,
    signatures: Any,
    set_size: int,
    *,
    objective: Any = "polychromic",
    diversity: Any = "distinct_fraction",
    credit: Any = "mean",
    num_sets: int | str = "all",
    seed: int = 0,
    diversity_coef: float = 0.5,
) -> torch.Tensor:
    """Advantage of each member of one group (N,) or of P groups (P, N); float64 on the CPU, same shape as `rewards`.

    signatures: nested like rewards, any hashables; equal signatures are one strategy. None marks a degenerate member:
    it adds no strategy (two None members add none either), while its reward still counts in the mean.
    set_size: n, members per set. objective, diversity, credit: rows of OBJECTIVES, DIVERSITY, CREDIT, paths,
    "package.module:name", or objects (see `find_objective`, `find_diversity`, `find_credit`).
    num_sets: "all" takes every set: in closed form, O(N * classes) or O(N log N), for credit "mean" and
    "leave_one_out" with an objective that has one (and, where it reads d, a diversity that counts classes), else by
    enumeration up to MAX_SETS. An int M draws M sets per group with `seed` (see `draw_sets`), the baseline is their
    mean score, and a member in no set gets 0: it keeps the policy where it is, yet it was never scored. It happens
    with probability (1 - n/N)^M (6 % at N = 8, n = 4, M = 4), and then the advantages, weighted by the number of sets
    per member, sum to 0, not the plain ones. Vary the seed from step to step.
    diversity_coef: weight of d in the objective `additive`; the other built-in ones do not use it.

    Raises ValueError for a negative reward where the objective takes none (`polychromic`), set_size < 1 or > N, shapes
    that differ, a NaN or infinite reward, an unhashable signature, an unknown name, a num_sets that is no positive int
    or "all", an enumeration that is too large, and an objective or a diversity of your own whose output does not fit.

    Two successes that are alike, one of its own kind, and a failure:

    >>> [round(x, 3) for x in set_advantages([1, 1, 1, 0], ["A", "A", "B", "C"], set_size=2).tolist()]
    [0.0, 0.0, 0.167, -0.167]
    """
    scores = score_groups(
        rewards,
        signatures,
        set_size,
        objective=objective,
        diversity=diversity,
        credit=credit,
        num_sets=num_sets,
        seed=seed,
        diversity_coef=diversity_coef,
    )
    return scores.advantages_P_N.reshape(np.shape(rewards))


def score_groups(
    rewards: Any,
    signatures: Any,
    set_size: int,
    *,
    objective: Any = "polychromic",
    diversity: Any = "distinct_fraction",
    credit: Any = "mean",
    num_sets: int | str = "all",
    seed: int = 0,
    diversity_coef: float = 0.5,
) -> GroupScores:
    """All that `set_advantages` works out, with the same arguments and errors; a single group counts as P = 1."""
    goal, measure, rule = find_objective(objective), find_diversity(diversity), find_credit(credit)
    if not isinstance(diversity_coef, numbers.Real) or not math.isfinite(diversity_coef):
        raise ValueError(f"diversity_coef must be a finite number, got {diversity_coef!r}")
    groups = as_groups(rewards, signatures)
    size = check_set_size(set_size, groups.num_members)
    _check_negative(goal, groups, objective)
    scorer = _Scorer(groups, goal, measure, float(diversity_coef))
    if num_sets == "all" and rule.of_expectations is not None:
        advantages_P_N = rule.of_expectations(scorer.expected, size)
        advantages_P_N = _checked("credit rule's closed form", advantages_P_N, tuple(groups.rewards_P_N.shape))
        scored_P_N, deductions_P_N = torch.ones_like(advantages_P_N, dtype=torch.bool), None
    else:
        chosen = _chosen_sets(groups, size, num_sets, seed)
        advantages_P_N, scored_P_N, deductions_P_N = scorer.credited(rule, chosen)
    diversity_P = scorer.mean_diversity(size)
    return GroupScores(advantages_P_N, scored_P_N, deductions_P_N, diversity_P, scorer.scale_P, scorer.mean(size))


def _check_negative(goal: Objective, groups: Groups, name: Any) -> None:
    negative = [] if goal.takes_negative else groups.rewards_P_N[groups.rewards_P_N < -1e-9].tolist()
    if negative:
        raise ValueError(
            f"reward {min(negative):g} is below 0, and objective {name if isinstance(name, str) else 'given'!r} is a "
            "product of the mean reward with diversity, which would punish failures for being different: shift the "
            "rewards into [0, 1] (reward_shift), or take objective 'additive', 'max_at_k' or 'coverage'"
        )


class _Scorer:
    """Scores sets of checked groups, and remembers the mean d and the largest |f| of what it scored."""

    def __init__(self, groups: Groups, goal: Objective, measure: Diversity, diversity_coef: float):
        self.groups, self.goal, self.measure, self.diversity_coef = groups, goal, measure, diversity_coef
        rows = zip(groups.classes_P_N, groups.signatures_P_N, strict=True)
        self.diversity = [GroupDiversity(measure, classes_N, row) for classes_N, row in rows]
        self.scale_P = torch.zeros(len(groups.rewards_P_N), dtype=torch.float64)
        self.means_P: dict[int, torch.Tensor] = {}  # set size -> mean f, where sets of that size were scored
        self.mean_read: dict[tuple[int, int], float] = {}  # (group, set size) -> mean d, where the objective read it

    def expected(self, size: int) -> torch.Tensor:
        """E[f(G) | i in G] over all sets of `size` members, (P, N): in closed form where there is one."""
        groups, form = self.groups, self.measure.count_form
        if self.goal.closed_with(self.measure):
            values_P_N = self.goal.given_member(groups, size, form(size) if form else None, self.diversity_coef)
            values_P_N = _checked("objective's closed form", values_P_N, tuple(groups.rewards_P_N.shape))
            self.scale_P = torch.maximum(self.scale_P, values_P_N.abs().amax(dim=1))
        else:
            members_S_n = all_sets(groups.num_members, size)
            rows = [self._scored(p, members_S_n) for p in range(len(groups.rewards_P_N))]
            values_P_N = _stack([scored.member_mean(scored.scores_S) for scored in rows], groups)
        self.means_P[size] = values_P_N.mean(dim=1)
        return values_P_N

    def mean(self, size: int) -> torch.Tensor:
        """Mean f of each group's sets of ``size`` members, (P,); of those that were drawn, where some were."""
        if size not in self.means_P:
            self.expected(size)
        return self.means_P[size]

    def credited(self, rule: Credit, chosen: list[torch.Tensor]) -> tuple:
        """(advantages, scored, deductions), each (P, N), from explicit sets per group."""
        sets_P = [self._scored(p, members_S_n) for p, members_S_n in enumerate(chosen)]
        if sets_P:
            self.means_P[chosen[0].shape[1]] = torch.stack([scored.scores_S.mean() for scored in sets_P])
        shape = (self.groups.num_members,)
        rows = [_checked("credit rule's advantages", rule.of_sets(sets), shape, unscored=True) for sets in sets_P]
        raw_P_N = _stack(rows, self.groups)
        deductions_P_N = None
        if rule.deductions is not None:
            deductions_P_N = _stack([rule.deductions(scored) for scored in sets_P], self.groups).nan_to_num(nan=0.0)
        return raw_P_N.nan_to_num(nan=0.0), ~raw_P_N.isnan(), deductions_P_N

    def mean_diversity(self, size: int) -> torch.Tensor | None:
        """Mean d of each group's sets, (P,); see `GroupScores`."""
        if self.measure.count_form is not None:  # each set has n members: the mean over members is that over sets
            return diversity_given_member(self.groups, size, self.measure.count_form(size)).mean(dim=1)
        values = [self.mean_read.get((p, size)) for p in range(len(self.groups.rewards_P_N))]
        return None if None in values else torch.tensor(values, dtype=torch.float64)

    def _scored(self, p: int, members_S_n: torch.Tensor) -> ScoredSets:
        return ScoredSets(
            self._score(p, members_S_n), members_S_n, self.groups.num_members, lambda members: self._score(p, members)
        )

    def _score(self, p: int, members_S_n: torch.Tensor) -> torch.Tensor:
        sets = Sets.of_group(self.groups.rewards_P_N[p], self.diversity[p], members_S_n, self.diversity_coef)
        scores_S = _checked("objective's scores", self.goal.score(sets), (len(sets),))
        if len(scores_S):
            self.scale_P[p] = max(self.scale_P[p].item(), scores_S.abs().max().item())
        if "diversity_S" in vars(sets):
            self.mean_read[p, members_S_n.shape[1]] = sets.diversity_S.mean().item()
        return scores_S


def _chosen_sets(groups: Groups, size: int, num_sets: int | str, seed: int) -> list[torch.Tensor]:
    """The explicit sets of each group: all of them, or random ones."""
    if num_sets == "all":
        return [all_sets(groups.num_members, size)] * len(groups.rewards_P_N)
    if isinstance(num_sets, str):
        raise ValueError(f'num_sets must be "all" or an integer of at least 1, got {num_sets!r}')
    count = integer('num_sets (or "all")', num_sets, minimum=1)
    generator = torch.Generator().manual_seed(seed)
    return [draw_sets(groups.num_members, size, count, generator) for _ in groups.rewards_P_N]


def _checked(what: str, values: Any, shape: tuple[int, ...], *, unscored: bool = False) -> torch.Tensor:
    """float64 `values`; ValueError unless they are a real tensor of this shape without NaN or infinity (`unscored`: NaN
    is allowed)."""
    if not isinstance(values, torch.Tensor) or values.is_complex():
        kind = values.dtype if isinstance(values, torch.Tensor) else type(values).__name__
        raise ValueError(f"the {what} must be a torch tensor of real numbers, got {kind}: {repr(values)[:100]}")
    if tuple(values.shape) != shape:
        raise ValueError(f"the {what} must have shape {shape}, got {tuple(values.shape)}")
    values = values.detach().to(device="cpu", dtype=torch.float64)
    bad = (values.isinf() if unscored else ~torch.isfinite(values)).nonzero()
    if len(bad):
        index = tuple(bad[0].tolist())
        raise ValueError(f"the {what} at {index} are {values[index].item()}, not finite")
    return values


def _stack(rows: list[torch.Tensor], groups: Groups) -> torch.Tensor:
    return torch.stack(rows) if rows else torch.zeros_like(groups.rewards_P_N)
