"""A success returns ``value`` whenever it comes: a late one counts as a strategy as much as an early one.

    r'_last = r_last + (value - sum_t r_t)   for trajectories that end in success, over their own turns
Time's price makes the first way that works the best one, and a policy drops the longer ways. Logged returns and every
evaluation keep the task's own reward. Assumes gamma 1 and a task that pays for success alone; what a task with partial
credit paid a success on the way is replaced as well. Degenerate case: a task that pays ``value`` for every success is
left as it is.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Method, Update
from polytune.methods.options import require_option


@dataclass
class FlatSuccess(Method):
    value: float = 1.0
    replaces: ClassVar[str] = "return"
    logs: ClassVar[dict[str, Metric]] = {
        "flat_success/bonus": Metric("mean bonus of a trajectory", "reward", "0 to value"),
    }

    def __post_init__(self) -> None:
        require_option("value", self.value, 0.0)

    def says(self) -> str:
        return f"In training a success returned {self.value:g} whenever it came (method `flat_success`)."

    @property
    def pays_failures(self) -> bool:
        return self.value <= 0.0

    def reward(self, update: Update) -> torch.Tensor:
        bonus_B_T = torch.zeros(update.turns_mask_B_T.shape, dtype=torch.float64)
        for row, trajectory in enumerate(update.trajectories):
            if trajectory.success:
                bonus_B_T[row, len(trajectory.turns) - 1] = self.value - trajectory.discounted_return()
        total, count = update.sum([float(bonus_B_T.sum()), float(len(bonus_B_T))])
        update.record("flat_success/bonus", total / max(count, 1.0))
        return bonus_B_T
