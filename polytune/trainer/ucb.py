"""Count-based exploration bonus, as in Poly-PPO's "+ UCB" rows (arXiv 2509.25424): lambda * min(1, N(s, a)^-1/2).

N(s, a) counts how often action a followed observation s in all earlier updates of the run, over all processes; a pair
that was never tried gets the whole of lambda. Observation and action are compared token by token, so two states that
look alike count as one. The bonus is added to the scaled advantage of every scored action. Degenerate case: lambda 0
leaves everything as it is, and nothing is counted.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from polytune.rollout import Trajectory, Tree

COUNTS_FILE = "visit_counts.npz"
KEY_BYTES = 16


def visits(tree: Tree, trajectory: Trajectory) -> list[bytes]:
    """A key for (observation, action) of each of the trajectory's own turns."""
    shared = trajectory.shared_turns
    observation = shared[-1].feedback_ids if shared else tree.prompt_ids
    keys = []
    for turn in trajectory.turns:
        packed = array("q", (len(observation), *observation, *turn.whole_ids)).tobytes()
        keys.append(hashlib.blake2b(packed, digest_size=KEY_BYTES).digest())
        observation = turn.feedback_ids
    return keys


class VisitCounts:
    """N(s, a) over the updates of a run."""

    def __init__(self):
        self._counts: Counter[bytes] = Counter()

    def bonus(self, keys_B: Sequence[Sequence[bytes]], num_turns: int) -> torch.Tensor:
        """min(1, N^-1/2) for each turn of B rows, (B, T) float64; 0 beyond a row's end."""
        bonus_B_T = torch.zeros(len(keys_B), num_turns, dtype=torch.float64)
        for row, keys in enumerate(keys_B):
            counts = [max(1, self._counts[key]) for key in keys]
            bonus_B_T[row, : len(counts)] = torch.tensor(counts, dtype=torch.float64) ** -0.5
        return bonus_B_T

    def add(self, keys: Iterable[bytes]) -> None:
        self._counts.update(keys)

    def __len__(self) -> int:
        return len(self._counts)

    def save(self, folder: str | Path) -> None:
        keys = np.frombuffer(b"".join(self._counts), dtype=np.uint8).reshape(-1, KEY_BYTES)
        counts = np.fromiter(self._counts.values(), dtype=np.int64, count=len(self._counts))
        np.savez(Path(folder) / COUNTS_FILE, keys=keys, counts=counts)

    def load(self, folder: str | Path) -> None:
        """Raises ``FileNotFoundError`` when the checkpoint was written without counts."""
        with np.load(Path(folder) / COUNTS_FILE) as stored:
            keys, counts = stored["keys"], stored["counts"]
        self._counts = Counter({key.tobytes(): int(count) for key, count in zip(keys, counts, strict=True)})
