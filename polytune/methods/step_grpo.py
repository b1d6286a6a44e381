"""Step-GRPO (R1-Router): rewards of each step are compared across the group, step by step.

    z_t = (r_t - mean r_t) / (std r_t + eps) over the members of the group that have a turn t
    A_t = z_t, or with ``to_go`` the sum of z from turn t on, in the place of the run's advantages
so that a step earns by what siblings got at the same step. Source: the abstract; whether later steps count is not
established, so an option. Assumes rewards on the way (or shaped ones, of other methods: they are included) and whole
attempts from one state. Degenerate cases: a step that one member alone has, or all are paid alike for, gets 0; in tasks
of one answer it is GRPO.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.checks import require
from polytune.methods.base import Method, Update
from polytune.methods.options import require_option


@dataclass
class StepGRPO(Method):
    to_go: bool = True
    eps: float = 1e-6
    replaces: ClassVar[str] = "advantages"
    page: ClassVar[str] = "groups"

    def __post_init__(self) -> None:
        require_option("eps", self.eps, 1e-12)

    def says(self) -> str:
        return "**Step-GRPO**: a turn's advantage is its reward, standardised over the group's rewards at that turn."

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        require(
            trainer.critic == "none" and objective.set_scope == "seeds",
            "method 'step_grpo' takes the place of the run's advantages: set critic to 'none' and set_scope to "
            "'seeds'.",
        )

    def turn_advantage(self, update: Update, advantages_B_T: torch.Tensor) -> torch.Tensor:
        rewards_B_T, changed_B_T = torch.zeros_like(advantages_B_T), torch.zeros_like(advantages_B_T)
        for row, trajectory in enumerate(update.trajectories):
            told = [turn.reward for turn in trajectory.turns]
            rewards_B_T[row, : len(told)] = torch.tensor(told, dtype=rewards_B_T.dtype)
        rewards_B_T += update.bonus_B_T
        for rows in update.groups_G_N:
            own_N_T = update.turns_mask_B_T[rows].double()
            count_T, r_N_T = own_N_T.sum(dim=0).clamp(min=1), rewards_B_T[rows]
            centred_N_T = (r_N_T - (r_N_T * own_N_T).sum(dim=0) / count_T) * own_N_T
            std_T = ((centred_N_T**2).sum(dim=0) / (count_T - 1).clamp(min=1)).sqrt()
            z_N_T = centred_N_T / (std_T + self.eps)
            changed_B_T[rows] = z_N_T.flip(1).cumsum(dim=1).flip(1) * own_N_T if self.to_go else z_N_T
        return torch.where(update.scored_B_T, changed_B_T, 0.0)
