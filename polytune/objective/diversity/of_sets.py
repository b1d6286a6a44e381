"""d of many sets of one group, by the fastest form that its measure has."""

import functools
import numbers
from typing import Any

import torch

from polytune.objective.diversity.base import Diversity, Signatures
from polytune.objective.groups import NO_CLASS
from polytune.objective.runs import run_starts

MAX_ENTRIES = 4_000_000  # of cut matrices at a time: 32 MB
TOLERANCE = 1e-9  # rounding beyond [0, 1]


class GroupDiversity:
    """d of sets of one group's members; a measure's matrix over pairs is computed once, when first asked for."""

    def __init__(self, measure: Diversity, classes_N: torch.Tensor, signatures_N: Signatures):
        self.measure, self.classes_N, self.signatures_N = measure, classes_N, signatures_N

    def of_members(self, members_S_n: torch.Tensor) -> torch.Tensor:
        """d of each set, (S,) float64. ValueError where a measure's own value is no number in [0, 1]."""
        measure, size = self.measure, members_S_n.shape[1]
        if measure.count_form is not None:
            values_S = measure.count_form(size).of_counts(count_classes(self.classes_N[members_S_n]))
        elif measure.pair_form is not None:
            chunks = members_S_n.split(max(MAX_ENTRIES // size**2, 1))
            parts = [measure.pair_form.of_sets(self._matrix_N_N[c[:, :, None], c[:, None, :]]) for c in chunks]
            values_S = torch.cat(parts)
        else:
            values = [_number(measure.of_set(self._signatures(members))) for members in members_S_n.tolist()]
            values_S = torch.tensor(values, dtype=torch.float64)
        bad = (~((values_S >= -TOLERANCE) & (values_S <= 1 + TOLERANCE))).nonzero()
        if len(bad):
            s = int(bad[0])
            signatures = self._signatures(members_S_n[s].tolist())
            raise ValueError(f"diversity of {signatures!r} is {values_S[s].item()}: it must be a number in [0, 1]")
        return values_S

    def _signatures(self, members: list[int]) -> list:
        return [self.signatures_N[i] for i in members]

    @functools.cached_property
    def _matrix_N_N(self) -> torch.Tensor:
        return self.measure.pair_form.matrix(self.signatures_N)


def count_classes(classes_S_n: torch.Tensor) -> torch.Tensor:
    """Distinct classes of each set other than `NO_CLASS`, (S,) int64."""
    sorted_S_n = classes_S_n.sort(dim=1).values
    first_S_n = run_starts(sorted_S_n) == torch.arange(sorted_S_n.shape[1])
    return (first_S_n & (sorted_S_n != NO_CLASS)).sum(dim=1)


def _number(value: Any) -> float:
    if isinstance(value, torch.Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"a diversity measure returned {value!r} ({type(value).__name__}): it must be one number")
    return float(value)
