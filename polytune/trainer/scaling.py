"""The two populations of advantages, of sets and of the critic, scaled apart over all processes; their sizes, logged.

Of each population ``..._mean_raw`` and ``..._scale_raw`` are the mean and standard deviation of the advantages as they
were worked out, before any division; ``..._mean_applied`` and ``..._scale_applied`` those of what the loss gets:
divided as ``set_normalise`` or ``gae_normalise`` says (``group_std``: each group by its own), times ``set_weight``. So
raw figures can be compared between methods, whatever divides, and applied ones say what the loss sees.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from polytune.config import ObjectiveConfig
from polytune.objective import MIN_STD, SPREAD, Scaling, find_scaling
from polytune.trainer.advantages import TurnAdvantages

Sum = Callable[[list[float]], list[float]]
Largest = Callable[[float], float]


def scale_populations(
    turns: TurnAdvantages, objective: ObjectiveConfig, add: Sum, largest: Largest
) -> dict[str, float]:
    """Scale ``turns`` in place; returns what is logged of it.

    Args:
        add, largest: sums of numbers, and the largest of a number, over all processes.
    """
    least = SPREAD * largest(turns.score_scale)
    scaling = find_scaling("set_normalise", objective.set_normalise)
    metrics = _scale(turns, "set", turns.set_mask_B_T, scaling, objective.set_weight, least, add)
    found = turns.advantages_B_T[turns.gae_mask_B_T].abs()
    least = max(MIN_STD, SPREAD * largest(found.max().item() if len(found) else 0.0))
    scaling = find_scaling("gae_normalise", objective.gae_normalise)
    return metrics | _scale(turns, "gae", turns.gae_mask_B_T, scaling, 1.0, least, add)


def _scale(
    turns: TurnAdvantages, name: str, mask_B_T: torch.Tensor, scaling: Scaling, weight: float, least: float, add: Sum
) -> dict[str, float]:
    values = turns.advantages_B_T[mask_B_T]
    count, mean, std = _moments(values, add)
    _, raw_mean, raw_std = _moments(turns.raw_B_T[mask_B_T], add)
    scaled = scaling.apply(values, mean, std, least) * weight
    turns.advantages_B_T[mask_B_T] = scaled
    if name == "set" and turns.losses_B_T is not None:  # one factor for what sets give and take
        turns.losses_B_T[mask_B_T] = scaling.apply(turns.losses_B_T[mask_B_T], mean, std, least) * weight
    if not count:
        return {}
    _, applied_mean, applied_std = _moments(scaled, add)
    figures = {"mean_raw": raw_mean, "scale_raw": raw_std, "mean_applied": applied_mean, "scale_applied": applied_std}
    return {f"advantages/{name}_{figure}": value for figure, value in figures.items()}


def _moments(values: torch.Tensor, add: Sum) -> tuple[int, float, float]:
    """(count, mean, std) of a population that is spread over processes."""
    count, total, squares = add([len(values), float(values.sum()), float((values**2).sum())])
    mean = total / max(count, 1)
    return count, mean, max(squares / max(count, 1) - mean**2, 0.0) ** 0.5
