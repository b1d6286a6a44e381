"""Count-based exploration bonus, as in Poly-PPO's "+ UCB" rows (arXiv 2509.25424): coef * min(1, N(s, a)^-1/2).

N(s, a) counts how often action a followed observation s in all earlier updates of the run, over all processes; a pair
that was never tried gets the whole of coef. The bonus is added to the scaled advantage of every scored action. Assumes
that observation and action, compared token by token, name a state: two that look alike count as one. Degenerate case:
coef 0 leaves every advantage as it is.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from polytune.meanings import Metric
from polytune.methods.base import Method, Update
from polytune.methods.options import require_option
from polytune.rollout import Trajectory, Tree

KEY_BYTES = 16


@dataclass
class UCB(Method):
    coef: float = 0.1
    only_adds: ClassVar[bool] = True
    page: ClassVar[str] = "bonuses"
    logs: ClassVar[dict[str, Metric]] = {
        "ucb/bonus": Metric(
            "mean bonus of scored actions",
            "advantage",
            "falls as pairs are seen again",
            "as large as advantages/*_scale_applied: lower coef",
        ),
        "ucb/visited": Metric(
            "pairs of observation and action seen so far",
            "count",
            "rises, ever more slowly",
            "rises steadily: observations never repeat, and the bonus tells nothing apart",
        ),
    }

    def __post_init__(self) -> None:
        require_option("coef", self.coef, 0.0)
        self.counts: Counter[bytes] = Counter()

    def says(self) -> str:
        return f"Exploration bonus {self.coef:g} min(1, N(s, a)^-1/2) on scored actions (Poly-PPO, arXiv 2509.25424)."

    def turn_advantage(self, update: Update, advantages_B_T: torch.Tensor) -> torch.Tensor:
        bonus_B_T = self.bonus(_keys(update), advantages_B_T.size(1)) * update.scored_B_T
        total, count = update.sum([float(bonus_B_T.sum()), float(update.scored_B_T.sum())])
        update.record("ucb/bonus", self.coef * total / max(count, 1))
        return advantages_B_T + self.coef * bonus_B_T

    def learn(self, update: Update) -> None:
        self.add(update.gather([key for keys in _keys(update) for key in keys]))
        update.record("ucb/visited", len(self.counts))

    def bonus(self, keys_B: Sequence[Sequence[bytes]], num_turns: int) -> torch.Tensor:
        """min(1, N^-1/2) for each turn of B rows, (B, T) float64; 0 beyond a row's end."""
        bonus_B_T = torch.zeros(len(keys_B), num_turns, dtype=torch.float64)
        for row, keys in enumerate(keys_B):
            counts = [max(1, self.counts[key]) for key in keys]
            bonus_B_T[row, : len(counts)] = torch.tensor(counts, dtype=torch.float64) ** -0.5
        return bonus_B_T

    def add(self, keys: Iterable[bytes]) -> None:
        """Count pairs."""
        self.counts.update(keys)

    def state(self) -> dict[str, torch.Tensor]:
        """keys (K, 16) of bytes, counts (K,)."""
        keys = np.frombuffer(b"".join(self.counts), dtype=np.uint8).reshape(-1, KEY_BYTES).copy()
        return {"keys": torch.from_numpy(keys), "counts": torch.tensor(list(self.counts.values()), dtype=torch.int64)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        keys, counts = (state[name].numpy() for name in ("keys", "counts"))
        self.counts = Counter({key.tobytes(): int(count) for key, count in zip(keys, counts, strict=True)})


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


def _keys(update: Update) -> list[list[bytes]]:
    return [visits(tree, trajectory) for tree, trajectory in update.grown]
