"""InfiGUI-G1's adaptive exploration reward (AEPO): a response may name several answers, and fewer are worth more.

    the k-th of N answers is the first right one:  1 / sqrt(N k)        none is:  -1 / N
in the place of the task's reward in training, at the last turn. Answers: the parts of the last action between
``separator``. ``grade``: a function of your own, "package.module:name", (observation, answer) -> bool; unset, the
task's verdict on the whole response stands for its first answer.

Source: the authors' code (InfiXAI/InfiGUI-G1). There malformed responses and three collinear points get -1 and a right
format 1 more; those belong to its task and are not here. Assumes that a response is worth as much as its best answer.
Degenerate case: one answer is worth 1 or -1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from polytune.checks import require
from polytune.lookup import find, said
from polytune.meanings import Metric
from polytune.methods.base import Method, Update
from polytune.methods.options import require_option
from polytune.rollout import Trajectory, Tree


@dataclass
class Efficiency(Method):
    separator: str = ";"
    grade: str = ""
    coef: float = 1.0
    replaces: ClassVar[str] = "return"
    logs: ClassVar[dict[str, Metric]] = {
        "efficiency/bonus": Metric("mean change of an attempt's reward", "reward"),
    }

    def __post_init__(self) -> None:
        require_option("coef", self.coef, 0.0)
        require(bool(str(self.separator)), "separator is empty: name what stands between two answers.")
        self._grade: Callable | None = said("grade", self.grade, find("grade", self.grade, {})) if self.grade else None

    def says(self) -> str:
        return "**Adaptive exploration reward** (InfiGUI-G1): the k-th of N answers being right is worth 1 / sqrt(N k)."

    def reward(self, update: Update) -> torch.Tensor:
        bonus_B_T = torch.zeros(update.turns_mask_B_T.shape, dtype=torch.float64)
        for row, (tree, trajectory) in enumerate(update.grown):
            worth = self.coef * self.worth(update, tree, trajectory)
            bonus_B_T[row, len(trajectory.turns) - 1] = worth - trajectory.discounted_return()
        total, count = update.sum([float(bonus_B_T.sum()), float(len(bonus_B_T))])
        update.record("efficiency/bonus", total / max(count, 1.0))
        return bonus_B_T

    def worth(self, update: Update, tree: Tree, trajectory: Trajectory) -> float:
        """1 / sqrt(N k) or -1 / N."""
        before = [*trajectory.shared_turns, *trajectory.turns[:-1]]
        observation = update.text(before[-1].feedback_ids if before else tree.prompt_ids)
        answers = [part.strip() for part in update.text(trajectory.turns[-1].whole_ids).split(str(self.separator))]
        if self._grade is None:
            right = [trajectory.success]
        else:
            right = [bool(self._grade(observation, answer)) for answer in answers]
        return (len(answers) * (right.index(True) + 1)) ** -0.5 if any(right) else -1 / len(answers)
