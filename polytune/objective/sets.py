"""Set advantages: what each of N generations gains from the sets of n it belongs to (Poly-EPO, arXiv 2604.17654).

    baseline = mean over sets of f(G);   A(G) = f(G) - baseline;   advantage of y = mean (or best) A(G), y in G
No division by a standard deviation. Under all sets and mean credit a group's advantages sum to 0, and the baseline is
the average of the members' conditional means, because each set holds n members.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from polytune.objective.binomial import pool_tables
from polytune.objective.credit import CREDIT
from polytune.objective.diversity import DIVERSITY, CountForm, Diversity
from polytune.objective.groups import (
    NO_CLASS,
    Groups,
    as_groups,
    as_sequence,
    check_set_size,
    class_ids,
    integer,
    named,
)
from polytune.objective.polychromic import polychromic, polychromic_given_member

MAX_SETS = 2_000_000
MAX_MEMBERSHIPS = 40_000_000  # sets times members: 320 MB of indices


@dataclass(frozen=True)
class Objective:
    """`score(rewards_S_n, diversity_S) -> (S,)`; `given_member` is E[f | i in G] in closed form, None without one."""

    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    given_member: Callable[[Groups, int, CountForm], torch.Tensor] | None = None


OBJECTIVES: dict[str, Objective] = {
    "polychromic": Objective(polychromic, polychromic_given_member),
}


def set_advantages(
    rewards: Any,
    signatures: Any,
    set_size: int,
    *,
    objective: str = "polychromic",
    diversity: str = "distinct_fraction",
    credit: str = "mean",
    num_sets: int | str = "all",
    seed: int = 0,
) -> torch.Tensor:
    """Advantage of each member of one group (N,) or of P groups (P, N); float64 on the CPU, same shape as `rewards`.

    signatures: nested like rewards, any hashables; equal signatures are one strategy. None marks a degenerate member:
    it adds no strategy (two None members add none either), while its reward still counts in the mean.
    set_size: n, members per set. objective, diversity, credit: rows of OBJECTIVES, DIVERSITY, CREDIT.
    num_sets: "all" takes every set: in closed form, O(N * classes), for credit "mean" and a diversity that counts
    classes, else by enumeration up to MAX_SETS. An int M draws M sets per group with `seed` (see `draw_sets`), the
    baseline is their mean score, and a member in no set gets 0: it keeps the policy where it is, yet it was never
    scored. It happens with probability (1 - n/N)^M (6 % at N = 8, n = 4, M = 4), and then the advantages, weighted
    by the number of sets per member, sum to 0, not the plain ones. Vary the seed from step to step.

    Raises ValueError for set_size < 1 or > N, shapes that differ, a NaN or infinite reward, an unhashable signature,
    an unknown name, a num_sets that is no positive int or "all", and an enumeration that is too large.
    """
    goal, measure = named("objective", objective, OBJECTIVES), named("diversity", diversity, DIVERSITY)
    named("credit", credit, CREDIT)
    groups = as_groups(rewards, signatures)
    size = check_set_size(set_size, groups.num_members)
    shape = np.shape(rewards)
    if num_sets == "all" and credit == "mean" and measure.count_form and goal.given_member:
        given_member_P_N = goal.given_member(groups, size, measure.count_form(size))
        return (given_member_P_N - given_member_P_N.mean(dim=1, keepdim=True)).reshape(shape)
    if num_sets == "all":
        all_sets_S_n = all_sets(groups.num_members, size)
        chosen = [all_sets_S_n] * len(groups.rewards_P_N)
    else:
        if isinstance(num_sets, str):
            raise ValueError(f'num_sets must be "all" or an integer of at least 1, got {num_sets!r}')
        generator = torch.Generator().manual_seed(seed)
        count = integer('num_sets (or "all")', num_sets, minimum=1)
        chosen = [draw_sets(groups.num_members, size, count, generator) for _ in groups.rewards_P_N]
    rows = [_from_sets(groups, p, members, goal, measure, credit) for p, members in enumerate(chosen)]
    return torch.stack(rows).reshape(shape) if rows else torch.zeros(shape, dtype=torch.float64)


def all_sets(num_members: int, set_size: int) -> torch.Tensor:
    """Every set of `set_size` of `num_members` members as indices (C(N, n), n); ValueError beyond MAX_SETS."""
    count = math.comb(num_members, set_size)
    if count > MAX_SETS or count * set_size > MAX_MEMBERSHIPS:
        raise ValueError(
            f"C({num_members}, {set_size}) = {count} sets are too many to enumerate (limit {MAX_SETS} sets, "
            f'{MAX_MEMBERSHIPS} memberships): use num_sets=M, or credit "mean" with a diversity that has a closed form'
        )
    flat = itertools.chain.from_iterable(itertools.combinations(range(num_members), set_size))
    return torch.from_numpy(np.fromiter(flat, dtype=np.int64, count=count * set_size)).reshape(count, set_size)


def draw_sets(num_members: int, set_size: int, num_sets: int, generator: torch.Generator) -> torch.Tensor:
    """`num_sets` uniform sets as indices (M, n). Members of a set differ; draws are independent, so sets may repeat."""
    keys_S_N = torch.rand(num_sets, num_members, generator=generator, dtype=torch.float64)
    return keys_S_N.argsort(dim=1)[:, :set_size]


def mean_diversity(signatures: Any, set_size: int, diversity: str = "distinct_fraction") -> float:
    """Expected d over all sets of `set_size` out of one group's N signatures (for logging).

    In closed form where the diversity counts classes, by enumeration otherwise. ValueError as in `set_advantages`.
    """
    measure, row = named("diversity", diversity, DIVERSITY), as_sequence(signatures)
    ids_N = torch.tensor(class_ids(row), dtype=torch.int64)
    size = check_set_size(set_size, len(row))
    if measure.count_form is None:
        return _diversity_of_sets(ids_N, row, all_sets(len(row), size), measure).mean().item()
    form, whole = measure.count_form(size), pool_tables(len(row), size).whole
    sizes_K, num_none = torch.bincount(ids_N[ids_N != NO_CLASS]), int((ids_N == NO_CLASS).sum())
    mean_count = (1 - whole[len(row) - sizes_K]).sum()
    one_class = (whole[sizes_K + num_none] - whole[num_none]).sum()
    mean = form.slope * mean_count + form.constant + form.at_one * one_class + form.at_zero * whole[num_none]
    return float(mean)


def _from_sets(
    groups: Groups, p: int, members_S_n: torch.Tensor, goal: Objective, measure: Diversity, credit: str
) -> torch.Tensor:
    """Advantages (N,) of group p from explicit sets."""
    diversity_S = _diversity_of_sets(groups.classes_P_N[p], groups.signatures_P_N[p], members_S_n, measure)
    scores_S = goal.score(groups.rewards_P_N[p][members_S_n], diversity_S)
    advantages_N = CREDIT[credit](scores_S, members_S_n, groups.num_members) - scores_S.mean()
    return torch.where(torch.isnan(advantages_N), 0.0, advantages_N)


def _diversity_of_sets(ids_N: torch.Tensor, row: Any, members_S_n: torch.Tensor, measure: Diversity) -> torch.Tensor:
    """d of each set, (S,): by counting classes where the measure allows, else one call per set."""
    if measure.count_form is None:
        values = [measure.of_set([row[i] for i in members]) for members in members_S_n.tolist()]
        return torch.tensor(values, dtype=torch.float64)
    sorted_S_n = ids_N[members_S_n].sort(dim=1).values
    new_S_n = torch.ones_like(sorted_S_n, dtype=torch.bool)
    new_S_n[:, 1:] = sorted_S_n[:, 1:] != sorted_S_n[:, :-1]
    counts_S = (new_S_n & (sorted_S_n != NO_CLASS)).sum(dim=1)
    return measure.count_form(members_S_n.shape[1]).of_counts(counts_S)
