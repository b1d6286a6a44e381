"""What a set objective is."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from polytune.objective.diversity.base import CountForm
from polytune.objective.groups import Groups
from polytune.objective.sets import Sets

GivenMember = Callable[[Groups, int, CountForm | None, float], torch.Tensor]


@dataclass(frozen=True)
class Objective:
    """A function f of a set, and its closed form where it has one.

    score(sets) -> (S,) float64: f of each set. It must not depend on the order of a set's members.
    given_member(groups, set_size, form, diversity_coef) -> (P, N) float64: E[f(G) | i in G] over all sets G; None
        without one. `form` is the measure's `CountForm`, or None where the measure has none.
    reads_diversity: False promises that f does not depend on d; then `given_member` is used with every measure, else
        with those that have a `CountForm`.
    reads_signatures: False promises that f does not tell strategies apart; then tasks without signatures will do.
    """

    score: Callable[[Sets], torch.Tensor]
    given_member: GivenMember | None = None
    reads_diversity: bool = True
    reads_signatures: bool = True
