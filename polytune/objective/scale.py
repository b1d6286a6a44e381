"""The scale of a population of advantages, and which groups carry a signal at all.

Set advantages (about .02 to .12) and GAE advantages differ in size, so each population is normalised on its own and
both scales are logged. Nothing is divided by what rounding left: a spread below :data:`SPREAD` of what the advantages
were worked out from counts as none.
"""

from dataclasses import replace
from typing import Any

import torch

from polytune.objective.scores import GroupScores

#: share of the largest score of a group below which its advantages do not differ
SPREAD = 1e-6
MIN_STD = 1e-8


def normalise(values: torch.Tensor, mask: Any, mode: str) -> tuple[torch.Tensor, float]:
    """Scales the entries of `values` (any shape, any float type) where `mask` is True; returns (values, std).

    The modes are those of `rescale`.
    Entries outside the mask keep their value, so two populations of one tensor can be treated one after the other.
    Degenerate case: with a std below 1e-8 or 1e-6 of the largest entry (no entry, one entry, all alike) nothing is
    divided by it.
    Raises ValueError for an unknown mode, shapes that differ, or a masked entry that is not finite.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; known: {', '.join(MODES)}")
    mask = torch.as_tensor(mask, device=values.device).bool()
    if mask.shape != values.shape:
        raise ValueError(f"values have shape {tuple(values.shape)}, the mask {tuple(mask.shape)}")
    chosen = values[mask].double()
    if not torch.isfinite(chosen).all():
        raise ValueError(f"{int((~torch.isfinite(chosen)).sum())} of {chosen.numel()} advantages are not finite")
    std = chosen.std(correction=0).item() if chosen.numel() else 0.0
    result = values.clone()
    if mode != "none" and chosen.numel():
        least = max(MIN_STD, SPREAD * chosen.abs().max().item())
        result[mask] = rescale(chosen, chosen.mean().item(), std, mode, least).to(values.dtype)
    return result, std


def rescale(values: torch.Tensor, mean: float, std: float, mode: str, least: float = MIN_STD) -> torch.Tensor:
    """`values` under a mode, given the mean and std of their whole population (which may be spread over processes).

    "std" divides by the std and keeps the mean: set advantages sum to 0 over a group already, and subtracting the mean
    of a batch would move members of tied groups off 0. Where |mean| is larger than the std, as leave_one_out can have
    it, |mean| is the size of the population and divides it, so that values which hardly differ do not become large.
    "mean_std" subtracts the mean and divides by the std (usual for GAE). "none" changes nothing.
    A size of `least` or below is that of rounding: nothing is divided by it, "mean_std" still subtracts the mean.
    """
    if mode == "none":
        return values
    size = std if mode == "mean_std" else max(std, abs(mean))
    centred = values - mean if mode == "mean_std" else values
    return centred if size <= least else centred / size


MODES = ("std", "mean_std", "none")


def centred_groups(advantages_P_N: torch.Tensor, scored_P_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(advantages less their group's mean, std of each group (P,)), both over the scored members; unscored ones get 0.

    The std is that of a sample (N - 1), 0 for fewer than two scored members.
    """
    count_P_1 = scored_P_N.sum(dim=1, keepdim=True)
    mean_P_1 = torch.where(scored_P_N, advantages_P_N, 0.0).sum(dim=1, keepdim=True) / count_P_1.clamp(min=1)
    centred_P_N = torch.where(scored_P_N, advantages_P_N - mean_P_1, 0.0)
    std_P_1 = ((centred_P_N**2).sum(dim=1, keepdim=True) / (count_P_1 - 1).clamp(min=1)).sqrt()
    return centred_P_N, std_P_1[:, 0]


def standardise_groups(scores: GroupScores) -> GroupScores:
    """Each group's advantages centred over its scored members and divided by their std, as GRPO does; 0 for all members
    of a group whose std is below 1e-6 of its largest score: such a group says nothing about its actions.

    Losses of `per_set` (and gains) are divided by the same number, and what centring takes goes to the side that it
    belongs to, so that advantage = gain - loss stays true with both at least 0. Over all sets there is nothing to take.
    """
    centred_P_N, std_P = centred_groups(scores.advantages_P_N, scores.scored_P_N)
    signal_P_1 = group_signal(scores)[:, None]
    factor_P_1 = torch.where(signal_P_1, 1.0 / std_P[:, None], 0.0)
    gains_P_N, losses_P_N = scores.gains_P_N, scores.losses_P_N
    if losses_P_N is not None:
        moved_P_N = torch.where(scores.scored_P_N, scores.advantages_P_N - centred_P_N, 0.0)  # the group's mean
        gains_P_N = (gains_P_N - moved_P_N.clamp(max=0.0)) * factor_P_1
        losses_P_N = (losses_P_N + moved_P_N.clamp(min=0.0)) * factor_P_1
    return replace(scores, advantages_P_N=centred_P_N * factor_P_1, gains_P_N=gains_P_N, losses_P_N=losses_P_N)


def group_signal(scores: GroupScores) -> torch.Tensor:
    """Bool (P,): True where the scored members' advantages differ (a std above 1e-6 of the group's largest score),
    False where the group teaches nothing about its actions.

    Between 10 and 80 % of groups tie in practice; their share belongs in the log. A constant that all members share,
    as `leave_one_out` gives a tied group, is no signal.
    """
    _, std_P = centred_groups(scores.advantages_P_N, scores.scored_P_N)
    return std_P > SPREAD * scores.scale_P
