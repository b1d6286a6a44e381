"""The scale of a population of advantages, and which groups carry a signal at all.

Set advantages (about .02 to .12) and GAE advantages differ in size, so each population is normalised on its own and
both scales are logged.
"""

from typing import Any

import torch

MIN_STD = 1e-8
NO_SIGNAL = 1e-12


def normalise(values: torch.Tensor, mask: Any, mode: str) -> tuple[torch.Tensor, float]:
    """Scales the entries of `values` (any shape, any float type) where `mask` is True; returns (values, std).

    mode "std" divides by the population standard deviation of the masked entries and keeps their mean: set advantages
    sum to 0 over a group already, and subtracting the mean of a batch would move members of tied groups off 0.
    "mean_std" subtracts the mean first (usual for GAE). "none" changes nothing.
    Entries outside the mask keep their value, so two populations of one tensor can be treated one after the other.
    Degenerate case: with a std below 1e-8 (no entry, one entry, all alike) the values stay as they are.
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
    if mode != "none" and std >= MIN_STD:
        result[mask] = rescale(chosen, chosen.mean().item(), std, mode).to(values.dtype)
    return result, std


def rescale(values: torch.Tensor, mean: float, std: float, mode: str) -> torch.Tensor:
    """`values` under one of `normalise`'s modes, given the mean and std of their whole population (which may be spread
    over processes); as they are with mode "none" or a std below 1e-8."""
    if mode == "none" or std < MIN_STD:
        return values
    return (values - (mean if mode == "mean_std" else 0.0)) / std


MODES = ("std", "mean_std", "none")


def group_signal(advantages_P_N: torch.Tensor) -> torch.Tensor:
    """Bool (P,): True where a group has some |advantage| of at least 1e-12, False where it teaches nothing.

    Between 10 and 80 % of groups tie in practice; their share belongs in the log. ValueError unless shape is (P, N).
    """
    if advantages_P_N.ndim != 2:
        raise ValueError(f"advantages must have shape (P, N), got {tuple(advantages_P_N.shape)}")
    return (advantages_P_N.abs() >= NO_SIGNAL).any(dim=1)
