"""Weights by duration (RL for machine-learning engineering agents, arXiv 2509.01684): slow actions are not
under-trained.

    A'_t = A_t d_t / mean d,   d_t: duration of action t, here its tokens, the mean over the update's own turns
Where fast actions come round more often in the same time, a gradient by count favours them; weighed by what each took
it is that of time spent. ``power`` makes less (0: nothing) or more of it.

Source: arXiv 2509.01684: each gradient times the action's duration, since fast ones come back sooner (abstract, and a
digest of the paper); the division by the mean, which leaves the learning rate as it is, is ours. Durations there are
seconds of a sandbox; a text world's actions take the time of their tokens. Assumes turns that differ in length.
Degenerate case: actions of one token each leave all as it is.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from polytune.methods.base import Method, Update
from polytune.methods.options import require_option


@dataclass
class Duration(Method):
    power: float = 1.0
    page: ClassVar[str] = "tokens"

    def __post_init__(self) -> None:
        require_option("power", self.power, 0.0)

    def says(self) -> str:
        return "An action's advantage was weighed by its tokens over the mean action's."

    def turn_advantage(self, update: Update, advantages_B_T: torch.Tensor) -> torch.Tensor:
        lengths_B_T = torch.ones_like(advantages_B_T)
        for row, trajectory in enumerate(update.trajectories):
            told = [float(len(turn.action_ids)) ** self.power for turn in trajectory.turns]
            lengths_B_T[row, : len(told)] = torch.tensor(told, dtype=lengths_B_T.dtype)
        own = lengths_B_T[update.turns_mask_B_T]
        total, count = update.sum([float(own.sum()), float(len(own))])
        return advantages_B_T * lengths_B_T * (count / total)
