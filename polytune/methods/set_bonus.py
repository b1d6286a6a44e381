"""Sets beside the critic: the set advantage is added to the critic's, where Poly-PPO puts it in its place.

    A_t = GAE_t (as scaled) + coef * s_i / std(s)     in the first turn and the next ``window`` of attempt i (-1: all)

with coef going from ``coef`` to ``coef_end`` in a straight line over the run, s_i the set advantage of attempt i in
its group (``objective``, ``diversity``, ``diversity_coef``, ``set_size``; all sets, credit `mean`, so a group's sum to
0) and std(s) that of all attempts of the update. A turn keeps what the critic says of it, and an attempt that adds a
new way to sets that succeed is favoured as a whole. Source: our own; in Poly-PPO (arXiv 2509.25424, Algorithm 1) every
turn of the window has the same advantage, so within it nothing tells a good turn from a bad one. With ``coef_end`` 0
sets widen the policy first, and the critic alone sharpens what they found. Assumes independent attempts from one
state, rewards of at least 0 where the objective is a product, and a critic. Degenerate cases: coef 0 is PPO; a group
whose sets all score alike adds nothing, nor does one smaller than ``set_size``; all of s alike: nothing is added.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.checks import require
from polytune.meanings import Metric
from polytune.methods.base import Method, Update
from polytune.methods.options import require_names, require_option
from polytune.objective import (
    SPREAD,
    check_enumerable,
    find_diversity,
    find_objective,
    polychromic_window,
    score_groups,
)
from polytune.schedule import on_the_way


@dataclass
class SetBonus(Method):
    coef: float = 0.5
    coef_end: float | None = None
    window: int = -1
    objective: str = "polychromic"
    diversity: str = "distinct_fraction"
    set_size: int = 4
    diversity_coef: float = 0.5
    logs: ClassVar[dict[str, Metric]] = {
        "set_bonus/scale_raw": Metric(
            "standard deviation of the bonus before anything divides it",
            "reward",
            "above 0",
            "0: no set tells its members apart",
        ),
    }

    def __post_init__(self) -> None:
        require_option("coef", self.coef, 0.0)
        require_option("coef_end", self.coef_end, 0.0, unset=True)
        require_option("set_size", self.set_size, 1)
        require_option("window", self.window, -1)
        require_option("diversity_coef", self.diversity_coef, 0.0)

    def says(self) -> str:
        falls = "" if self.coef_end is None else f", by the end of the run {self.coef_end:g} times,"
        return (
            f"**sets beside the critic**: {self.coef:g} times the set advantage ({self.objective}, sets of "
            f"{self.set_size}){falls} is added to the critic's."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        require(
            trainer.critic != "none" and objective.set_scope == "none",
            "method 'set_bonus' adds set advantages to the critic's: set set_scope to 'none', and critic to 'head'.",
        )
        goal, measure = find_objective(self.objective), find_diversity(self.diversity)
        if goal.reads_signatures and measure.count_form is not None:
            require_names("set_bonus", objective)
        members = {"num_seeds": rollout.num_seeds}
        if rollout.num_rollout_states:
            members["num_vines"] = rollout.num_vines
        largest = max(members.values())
        require(
            self.set_size < largest,
            f"set_bonus.set_size is {self.set_size}, and no group has more members ({' and '.join(members)}: {largest} "
            "at most), so no set would tell them apart: lower it in method_args, or raise them.",
        )
        if not goal.closed_with(measure):
            for number in members.values():
                check_enumerable(number, min(self.set_size, number))

    def turn_advantage(self, update: Update, advantages_B_T: torch.Tensor) -> torch.Tensor:
        added_B = torch.zeros(len(advantages_B_T), dtype=advantages_B_T.dtype)
        attempts, largest = update.trajectories, 0.0
        of_size: dict[int, list] = defaultdict(list)
        for rows in update.groups_G_N:
            if len(rows) >= self.set_size:
                of_size[len(rows)].append(rows)
        for groups in of_size.values():
            returns = [[attempts[row].discounted_return(update.gamma) for row in rows] for rows in groups]
            signatures = [[attempts[row].signature for row in rows] for rows in groups]
            how = {"objective": self.objective, "diversity": self.diversity, "credit": "mean", "num_sets": "all",
                   "diversity_coef": self.diversity_coef}  # fmt: skip
            scores = score_groups(returns, signatures, self.set_size, **how)
            largest = max(largest, scores.scale_P.max().item())
            added_B[torch.tensor(groups)] = scores.advantages_P_N.to(added_B)
        count, squares = update.sum([float(sum(map(len, update.groups_G_N))), float((added_B**2).sum())])
        std = (squares / max(count, 1.0)) ** 0.5
        update.record("set_bonus/scale_raw", std)
        if std <= SPREAD * max(update.gather([largest])):
            return advantages_B_T
        coef = on_the_way(self.coef, self.coef_end, update.progress)
        window = None if self.window == -1 else self.window
        advantages_B_T = advantages_B_T.clone()
        for row, attempt in enumerate(attempts):
            inside = polychromic_window(len(attempt.turns), window)
            advantages_B_T[row, : len(inside)][inside] += coef * added_B[row] / std
        return advantages_B_T
