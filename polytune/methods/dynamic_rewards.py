"""Dynamic reward weights (arXiv 2509.11452), by hypervolume: updates that push the Pareto front out are paid more.

    an attempt's reward at its last turn = c sum_k w_k o_k,   c = 1/2 + 3/2 tanh(V),   in the place of its return
    V = hypervolume of (front and p) - hypervolume of the front,   p: the update's means of the objectives o_k
The front is what earlier updates' means have reached; volumes count from the first update's means on, so that c is 1/2
where nothing new is reached and at most 2. ``objectives``, "/" between them: return; distinct, 1 / attempts of the
group that have its signature, 0 without one; brief, 1 / its turns; or your own as package.module:name, a function of
the attempt. ``weights`` alike, divided by their sum.

Source: the authors' code (dynamic-reward-weighting, hypervolumn_contribution.py): c as above, fixed weights, the front
of validations; here an update's own attempts are the sample, which costs nothing. Not built: its other variant, weights
by the gradients of each objective, which takes one backward pass for each. Assumes that bigger is better, objectives of
about one size, and set_normalise 'none', since a division by a spread takes c away. Degenerate cases: one objective of
one value, and an update that reaches nothing new: c is 1/2 throughout, half the learning rate.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.checks import require, require_number
from polytune.lookup import find, is_path
from polytune.meanings import Metric
from polytune.methods.base import Method, Update
from polytune.methods.options import require_names
from polytune.rollout import Trajectory

KNOWN = ("return", "distinct", "brief")


@dataclass
class DynamicRewards(Method):
    objectives: str = "return/distinct"
    weights: str = "1/1"
    replaces: ClassVar[str] = "return"
    logs: ClassVar[dict[str, Metric]] = {
        "dynamic_rewards/factor": Metric("factor on the weights of the rewards in this update", "factor", "1 or above"),
    }

    def __post_init__(self) -> None:
        self.names = [name.strip() for name in str(self.objectives).split("/")]
        told = str(self.weights).split("/")
        require(
            len(told) == len(self.names),
            f"weights has {self.weights!r}, objectives {self.objectives!r}: give each objective one.",
        )
        for name in self.names:
            require(
                name in KNOWN or is_path(name),
                f"objectives has {name!r}: each is one of {', '.join(KNOWN)}, or your own as package.module:name.",
            )
        self.own: dict[str, Callable[[Trajectory], float]] = {
            name: find("objective of a method", name, {}) for name in self.names if name not in KNOWN
        }
        self.shares = [_number(weight) for weight in told]
        require(sum(self.shares) > 0, f"weights {self.weights!r} must not all be 0: change it in method_args.")
        self.shares = [share / sum(self.shares) for share in self.shares]
        self.front: list[list[float]] = []  # means of updates that no other's dominate, after those of the first

    def says(self) -> str:
        return (
            f"**Dynamic reward weights** (arXiv 2509.11452) of {', '.join(self.names)}: more where an update reached "
            "what none before had."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        if "distinct" in self.names:
            require_names("dynamic_rewards", objective)
        require(
            objective.set_normalise == "none",
            "method 'dynamic_rewards' pays some updates more, which a division by their spread takes away: set "
            f"set_normalise to 'none', not {objective.set_normalise!r}.",
        )

    def reward(self, update: Update) -> torch.Tensor:
        trajectories = update.trajectories
        told_B_K = torch.tensor(self.told(trajectories, update.groups_G_N), dtype=torch.float64)
        *sums, count = update.sum([*told_B_K.sum(dim=0).tolist(), float(len(told_B_K))])
        point = [total / max(count, 1.0) for total in sums]
        factor = self.factor(point)
        self.front = pareto([*self.front, point])
        update.record("dynamic_rewards/factor", factor)
        paid_B = factor * told_B_K @ torch.tensor(self.shares, dtype=torch.float64)
        bonus_B_T = torch.zeros(update.turns_mask_B_T.shape, dtype=torch.float64)
        for row, (trajectory, paid) in enumerate(zip(trajectories, paid_B.tolist(), strict=True)):
            bonus_B_T[row, len(trajectory.turns) - 1] = paid - trajectory.discounted_return()
        return bonus_B_T

    def told(self, trajectories: Sequence[Trajectory], groups_G_N: Sequence[Sequence[int]]) -> list[list[float]]:
        """The objectives of each attempt, (B, K)."""
        alike = [1] * len(trajectories)
        for rows in groups_G_N:
            counts = Counter(trajectories[row].signature for row in rows)
            for row in rows:
                alike[row] = counts[trajectories[row].signature]
        columns = {
            "return": lambda own, same: own.discounted_return(),
            "distinct": lambda own, same: 0.0 if own.signature is None else 1 / same,
            "brief": lambda own, same: 1 / len(own.turns),
        } | {name: lambda own, same, tell=tell: float(tell(own)) for name, tell in self.own.items()}
        pairs = list(zip(trajectories, alike, strict=True))
        return [[columns[name](own, same) for name in self.names] for own, same in pairs]

    def factor(self, point: Sequence[float]) -> float:
        """c of an update with these means."""
        if not self.front:
            return 0.5
        _, *front = ([value - start for value, start in zip(own, self.front[0], strict=True)]
                         for own in (*self.front, point))  # fmt: skip
        gained = hypervolume(front) - hypervolume(front[:-1])
        return 0.5 + 1.5 * math.tanh(gained)

    def state(self) -> dict[str, torch.Tensor]:
        return {"front": torch.tensor(self.front, dtype=torch.float64).reshape(-1, len(self.names))}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.front = state["front"].tolist()


def pareto(points: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """The first point, from which volumes count, and of the others those that no other one reaches everywhere."""
    first, *others = points
    kept = [own for i, own in enumerate(others) if not any(
        all(a >= b for a, b in zip(other, own, strict=True)) and (other != own or j < i)
        for j, other in enumerate(others) if j != i
    )]  # fmt: skip
    return [first, *kept]


def hypervolume(points: Sequence[Sequence[float]]) -> float:
    """Of all that lies between 0 and at least one of the points, coordinates below 0 counting as 0: slices along the
    first coordinate, from one point to the next."""
    points = [[max(value, 0.0) for value in point] for point in points]
    if not points:
        return 0.0
    if len(points[0]) == 1:
        return max(point[0] for point in points)
    total, begun = 0.0, 0.0
    for end in sorted({point[0] for point in points}):
        total += (end - begun) * hypervolume([point[1:] for point in points if point[0] >= end])
        begun = end
    return total


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise ValueError(f"weights has {text!r}: give numbers with '/' between them.") from error
    require_number("weights", number, 0.0, where="change it in method_args")
    return number
