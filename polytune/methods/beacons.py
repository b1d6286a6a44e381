"""Words as Beacons (arXiv 2410.08632): subgoals in words; who first sees one in an observation earns a part of the
reward.

    reward of a turn += coef / number of subgoals, for each subgoal that stands in the observation it led to and in none
    before it in the episode
``goals``: words or phrases, "/" between them, "red key/open door" say. In training only; returns are logged without.

Source: the abstract: subgoals by a language model guide MiniGrid agents in training; here their list is given, whoever
wrote it. Its reward's size is not established, so an option. Assumes that an observation names what was reached.
Degenerate cases: a subgoal that stands in the first observation pays nothing; tasks of one answer pay nothing.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from polytune.checks import require
from polytune.meanings import Metric
from polytune.methods.base import Method, Update
from polytune.methods.options import require_option


@dataclass
class Beacons(Method):
    goals: str = "goal"
    coef: float = 0.5
    page: ClassVar[str] = "archives"
    logs: ClassVar[dict[str, Metric]] = {
        "beacons/bonus": Metric(
            "mean bonus of an attempt", "reward", "above 0", "0: no subgoal is ever seen, see goals"
        ),
    }

    def __post_init__(self) -> None:
        require_option("coef", self.coef, 0.0)
        self.words = [goal.strip() for goal in str(self.goals).split("/")]
        require(all(self.words), f"goals {self.goals!r} has an empty phrase: write them with one / between them.")

    def says(self) -> str:
        return (
            f"**Words as Beacons** (arXiv 2410.08632): the subgoals {', '.join(self.words)} paid {self.coef:g} in all."
        )

    def reward(self, update: Update) -> torch.Tensor:
        bonus_B_T = torch.zeros(update.turns_mask_B_T.shape, dtype=torch.float64)
        for row, (tree, trajectory) in enumerate(update.grown):
            before = [update.text(tree.prompt_ids), *(update.text(t.feedback_ids) for t in trajectory.shared_turns)]
            left = [goal for goal in self.words if not any(goal in text for text in before)]
            for turn, told in enumerate(trajectory.turns):
                found = [goal for goal in left if goal in update.text(told.feedback_ids)]
                bonus_B_T[row, turn] = self.coef * len(found) / len(self.words)
                left = [goal for goal in left if goal not in found]
        total, count = update.sum([float(bonus_B_T.sum()), float(len(bonus_B_T))])
        update.record("beacons/bonus", total / max(count, 1.0))
        return bonus_B_T
