"""Runs of equal neighbours in sorted rows."""

import torch


def run_starts(values_P_N: torch.Tensor) -> torch.Tensor:
    """The place at which each member's run of equal neighbours begins, (P, N)."""
    places_N = torch.arange(values_P_N.shape[1])
    changes_P_N = torch.nn.functional.pad(values_P_N[:, 1:] != values_P_N[:, :-1], (1, 0))
    return torch.where(changes_P_N, places_N, 0).cummax(dim=1).values


def run_ends(values_P_N: torch.Tensor) -> torch.Tensor:
    """The place of the last one of each member's run, (P, N)."""
    return values_P_N.shape[1] - 1 - run_starts(values_P_N.flip(1)).flip(1)
