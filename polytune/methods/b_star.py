"""B-STaR's controller (arXiv 2412.17256): the temperature with the best balance of right and different answers.

    bs of a group = min(u / wanted, 1) * wins / attempts,   u: distinct successful signatures;  the score is its mean
``steps`` temperatures from ``low`` to ``high`` (factors on the run's) take turns, an update each; then the one with the
highest score is taken for ``hold`` updates, whatever it scores in them, and so on.

Source: the authors' code: wanted 8; it counts right answers where the paper says unique ones, which are taken here; it
measures on a small sample of its own and also sets a reward threshold, here each update of the run is the sample, and
rewards are success or failure. Grid and ``hold`` are not established for reinforcement learning, so options. Assumes as
every method with temperatures. Degenerate cases: all scores 0: the lowest temperature; steps 1 keeps ``low``.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Method, Update
from polytune.methods.options import require_names, require_option


@dataclass
class BStaR(Method):
    low: float = 0.8
    high: float = 1.4
    steps: int = 4
    hold: int = 8
    wanted: int = 8
    logs: ClassVar[dict[str, Metric]] = {
        "b_star/balance": Metric(
            "balance of right and different answers at this temperature", "0 to 1", "rises", "0: nothing succeeds"
        ),
    }

    def __post_init__(self) -> None:
        require_option("low", self.low, 1e-3)
        require_option("high", self.high, self.low)
        for name in ("steps", "hold", "wanted"):
            value = getattr(self, name)
            require_option(name, value, 1)
        self.scores = [0.0] * self.steps
        self.updates = 0

    def says(self) -> str:
        return (
            f"**B-STaR** (arXiv 2412.17256): the temperature was chosen between {self.low:g} and {self.high:g} "
            f"times the "
            "run's by the balance of right and different answers."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        require_names("b_star", objective)

    @property
    def place(self) -> int:
        """Of the temperature that is due."""
        turn = self.updates % (self.steps + self.hold)
        return turn if turn < self.steps else max(range(self.steps), key=self.scores.__getitem__)

    def temperature(self, token: int, progress: float) -> float:
        return self.low + (self.high - self.low) * self.place / max(self.steps - 1, 1)

    def learn(self, update: Update) -> None:
        trajectories = update.trajectories
        scores = [self.balance([trajectories[row] for row in rows]) for rows in update.groups_G_N]
        total, count = update.sum([sum(scores), float(len(scores))])
        score = total / max(count, 1.0)
        if self.updates % (self.steps + self.hold) < self.steps:
            self.scores[self.place] = score
        update.record("b_star/balance", score)
        self.updates += 1

    def balance(self, group: list) -> float:
        """bs of one group."""
        distinct = len({own.signature for own in group if own.success})
        return min(distinct / self.wanted, 1.0) * sum(own.success for own in group) / len(group)

    def state(self) -> dict[str, torch.Tensor]:
        return {"scores": torch.tensor(self.scores, dtype=torch.float64), "updates": torch.tensor(self.updates)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.scores, self.updates = state["scores"].tolist(), int(state["updates"])
