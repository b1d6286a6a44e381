"""Advantages and returns of a single trajectory, over turns (one environment step each), not tokens.

GAE (Schulman et al. 2016, arXiv 1506.02438, equation 16), and it is the estimator of every action outside the
polychromic window in Poly-PPO (arXiv 2509.25424):
    delta_t = r_t + gamma * V_{t+1} - V_t;   A_t = delta_t + gamma * lam * A_{t+1}
Assumes that the last turn of a row is terminal: V and A after it are 0, for time-outs too (the horizon is part of
the task). Degenerate cases: lam = 0 is the one-step error, lam = 1 the return minus the value; an empty row is all 0.
"""

from typing import Any

import torch


def gae(rewards_B_T: Any, values_B_T: Any, mask_B_T: Any, gamma: float = 1.0, lam: float = 0.95) -> torch.Tensor:
    """Advantages (B, T), float64, 0 where the mask is 0. Rows are padded on the right; padding may hold anything.

    Raises ValueError for shapes that differ or are not (B, T), a mask with a gap, gamma or lam outside [0, 1].

    >>> gae([[0.0, 1.0]], [[0.5, 0.75]], [[1, 1]], lam=1.0)  # the return less the value
    tensor([[0.5000, 0.2500]], dtype=torch.float64)
    """
    _check_fraction("gamma", gamma)
    _check_fraction("lam", lam)
    mask_B_T = _right_padded(mask_B_T)
    rewards_B_T, values_B_T = _masked("rewards", rewards_B_T, mask_B_T), _masked("values", values_B_T, mask_B_T)
    advantages_B_T = torch.zeros_like(rewards_B_T)
    next_value_B = next_advantage_B = rewards_B_T.new_zeros(len(rewards_B_T))
    for t in reversed(range(rewards_B_T.shape[1])):
        delta_B = rewards_B_T[:, t] + gamma * next_value_B - values_B_T[:, t]
        next_advantage_B = (delta_B + gamma * lam * next_advantage_B) * mask_B_T[:, t]
        next_value_B = values_B_T[:, t]
        advantages_B_T[:, t] = next_advantage_B
    return advantages_B_T


def returns_to_go(rewards_B_T: Any, mask_B_T: Any, gamma: float = 1.0) -> torch.Tensor:
    """Discounted sum of the rewards from each turn on, (B, T) float64, 0 in padding: the critic's target.

    >>> returns_to_go([[1.0, 2.0, 9.0]], [[1, 1, 0]], gamma=0.5)
    tensor([[2., 2., 0.]], dtype=torch.float64)
    """
    _check_fraction("gamma", gamma)
    mask_B_T = _right_padded(mask_B_T)
    rewards_B_T = _masked("rewards", rewards_B_T, mask_B_T)
    returns_B_T = torch.zeros_like(rewards_B_T)
    running_B = rewards_B_T.new_zeros(len(rewards_B_T))
    for t in reversed(range(rewards_B_T.shape[1])):
        running_B = rewards_B_T[:, t] + gamma * running_B
        returns_B_T[:, t] = running_B
    return returns_B_T


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")


def _right_padded(mask_B_T: Any) -> torch.Tensor:
    """The mask as bool (B, T); ValueError where a turn follows padding."""
    mask_B_T = torch.as_tensor(mask_B_T).bool()
    if mask_B_T.ndim != 2:
        raise ValueError(f"mask must have shape (B, T), got {tuple(mask_B_T.shape)}")
    gaps = (mask_B_T[:, 1:] & ~mask_B_T[:, :-1]).nonzero()
    if len(gaps):
        row, turn = gaps[0].tolist()
        raise ValueError(f"mask row {row} has a turn at {turn + 1} after padding at {turn}: pad on the right only")
    return mask_B_T


def _masked(name: str, tensor_B_T: Any, mask_B_T: torch.Tensor) -> torch.Tensor:
    """float64 copy, padding set to 0, gradients cut; ValueError for another shape or a value that is not finite."""
    tensor_B_T = torch.as_tensor(tensor_B_T).detach().double()
    if tensor_B_T.shape != mask_B_T.shape:
        raise ValueError(f"{name} have shape {tuple(tensor_B_T.shape)}, the mask {tuple(mask_B_T.shape)}")
    clean_B_T = torch.where(mask_B_T, tensor_B_T, 0.0)
    bad = (~torch.isfinite(clean_B_T)).nonzero()
    if len(bad):
        index = tuple(bad[0].tolist())
        raise ValueError(f"{name} at {index} is {clean_B_T[index].item()}, not finite")
    return clean_B_T
