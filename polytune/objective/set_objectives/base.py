"""What a set objective is."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from polytune.lookup import Row
from polytune.objective.diversity.base import CountForm, Diversity
from polytune.objective.groups import Groups
from polytune.objective.sets import Sets

GivenMember = Callable[[Groups, int, CountForm | None, float], torch.Tensor]
Members = Sequence[tuple[float, Hashable | None]]  # reward and signature of each
Measure = Callable[[Sequence[Hashable | None]], float]  # d of signatures


@dataclass(frozen=True)
class Objective(Row):
    """A function f of a set, and its closed form where it has one.

    score(sets) -> (S,) float64: f of each set. It must not depend on the order of a set's members.
    given_member(groups, set_size, form, diversity_coef) -> (P, N) float64: E[f(G) | i in G] over all sets G; None
        without one. `form` is the measure's `CountForm`, or None where the measure has none.
    reads_diversity: False promises that f does not depend on d; then `given_member` is used with every measure, else
        with those that have a `CountForm`.
    reads_signatures: False promises that f does not tell strategies apart; then tasks without signatures will do.
    reads_coef: f depends on `diversity_coef`.
    takes_negative: False: f is no measure of anything where a reward lies below 0 (a product), so such are refused.
    best_of_set: f is the score of the set's best member.
    wins_above_0: f takes a reward above 0 for a success, so a method must not pay failures.
    reference(members, d, diversity_coef) -> f of one set in plain Python, from its definition: what `score` and the
        closed form are tested against. None: `score`, one set at a time.
    """

    score: Callable[[Sets], torch.Tensor]
    given_member: GivenMember | None = None
    reads_diversity: bool = True
    reads_signatures: bool = True
    reads_coef: bool = False
    takes_negative: bool = True
    best_of_set: bool = False
    wins_above_0: bool = False
    reference: Callable[[Members, Measure, float], float] | None = None
    function: ClassVar[str] = "score"
    form: ClassVar[str] = "an Objective or a function f(sets) -> (S,) scores"

    def closed_with(self, measure: Diversity) -> bool:
        """Whether `given_member` takes the place of an enumeration of all sets."""
        return self.given_member is not None and (measure.count_form is not None or not self.reads_diversity)


def mean_reward(members: Members) -> float:
    """For references."""
    return sum(reward for reward, _ in members) / len(members)


def signatures_of(members: Members) -> list[Hashable | None]:
    """For references."""
    return [signature for _, signature in members]
