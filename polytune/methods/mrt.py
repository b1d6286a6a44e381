"""MRT (arXiv 2503.07572) on vines: a part of an episode earns by the progress that it makes.

    J_k: mean return of the vines of rollout state k, from there on;  J_end: 0
    reward of the turn before rollout state k+1, or of the last turn, += coef (J_{k+1} + rewards between - J_k)
of seed trajectories. What a part earns in all telescopes, so that progress only says when it came; parts that lead
nowhere earn nothing, those that make success unlikely lose. The vines are the policy's own continuations.

Source: notes on the paper: reward = outcome + alpha progress, J by a policy that is forced to answer after each block,
the same one; alpha is not established, so an option. Here J is what the policy goes on to do, which vines estimate
without bias, and a block ends at a rollout state. Not built: its meta-policy for J. Assumes discount 1 and rollout
states in the order of turns. Degenerate cases: without vines, and where all J are equal, nothing but the end's own
reward is told again.
"""

from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

import torch

from polytune.checks import require
from polytune.meanings import Metric
from polytune.methods.base import Method, Update
from polytune.methods.options import require_option


@dataclass
class MRT(Method):
    coef: float = 1.0
    page: ClassVar[str] = "objectives"
    logs: ClassVar[dict[str, Metric]] = {
        "mrt/progress": Metric("mean bonus of a trajectory", "reward", "near 0: progress telescopes"),
    }

    def __post_init__(self) -> None:
        require_option("coef", self.coef, 0.0)

    def says(self) -> str:
        return (
            f"**MRT** (arXiv 2503.07572): progress between rollout states, as vines tell it, paid {self.coef:g} times."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        require(
            rollout.num_rollout_states > 0 and rollout.branch_at == "turn",
            "method 'mrt' tells progress from vines between turns: set num_rollout_states above 0 and branch_at "
            "to 'turn'.",
        )

    def reward(self, update: Update) -> torch.Tensor:
        bonus_B_T, row = torch.zeros(update.turns_mask_B_T.shape, dtype=torch.float64), 0
        for tree in update.trees:
            for seed, groups in zip(tree.seeds, tree.vines, strict=True):
                returns: dict[int, list[float]] = {}  # in a short episode several rollout states may be one
                for vine in (vine for group in groups for vine in group):
                    returns.setdefault(vine.branch_turn, []).append(vine.discounted_return())
                values = {state: fmean(own) for state, own in returns.items()}
                for turn, progress in self.progress(values, [own.reward for own in seed.turns]):
                    bonus_B_T[row, turn] += self.coef * progress
                row += 1 + sum(map(len, groups))
        total, count = update.sum([float(bonus_B_T.sum()), float(len(bonus_B_T))])
        update.record("mrt/progress", total / max(count, 1.0))
        return bonus_B_T

    @staticmethod
    def progress(values: dict[int, float], rewards: list[float]) -> list[tuple[int, float]]:
        """(turn that ends a part, its progress); ``values``: turn of a rollout state -> J."""
        states = [*sorted(values), len(rewards)]
        ends = [*(values[state] for state in states[:-1]), 0.0]
        parts = zip(states, states[1:], ends, ends[1:], strict=False)
        return [(last - 1, after + sum(rewards[first:last]) - before) for first, last, before, after in parts]
