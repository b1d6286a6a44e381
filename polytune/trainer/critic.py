"""The critic: a value of each decision, read from the policy's own features.

A three-layer perceptron on the policy's last hidden state at the token before an action. The features are detached,
so the value loss never moves the policy; the critic has its own learning rate. With an adapter of its own the features
are the base's and the adapter's, and the value loss moves the adapter, too. Its target is the ordinary return
(Poly-PPO, arXiv 2509.25424): the set advantage never enters it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

CRITIC_FILE = "critic.safetensors"


class Critic(nn.Module):
    """Hidden states (..., hidden size) -> values (...), float32. The last layer begins at 0, hence every value too."""

    def __init__(self, hidden_size: int, width: int = 256, *, seed: int = 0, adapter: nn.Module | None = None):
        super().__init__()
        self.adapter = adapter
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Linear(hidden_size, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)
            )
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden.detach() if self.adapter is None else hidden
        with torch.autocast(hidden.device.type, enabled=False):  # values are float32, whatever the policy computes in
            return self.layers(hidden.float()).squeeze(-1)

    def save(self, folder: str | Path) -> None:
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, Path(folder) / CRITIC_FILE)

    def load(self, folder: str | Path) -> None:
        """Raises ``FileNotFoundError`` when the checkpoint was written without a critic."""
        self.load_state_dict(load_file(Path(folder) / CRITIC_FILE))


def variance_sums(values: torch.Tensor, returns: torch.Tensor) -> list[float]:
    """Sums of flat tensors that add up over processes: count, values, returns, their squares, errors, their squares."""
    errors = returns - values
    return [float(len(values)), float(values.sum()), float(returns.sum()), float((returns**2).sum()),
            float(errors.sum()), float((errors**2).sum())]  # fmt: skip


def explained_variance(sums: list[float]) -> float:
    """1 - Var(returns - values) / Var(returns) from :func:`variance_sums`; NaN when all returns are alike."""
    count, _, returns, returns_squared, errors, errors_squared = sums
    variance = returns_squared / count - (returns / count) ** 2
    return float("nan") if variance < 1e-12 else 1 - (errors_squared / count - (errors / count) ** 2) / variance
