"""HPT (Unify-Post-Training): where the policy fails it imitates, elsewhere it reinforces.

    of a start state's attempts at most ``gate`` succeeded: they are left out, and its demonstration is imitated
    loss += coef * mean over replayed tokens of -log pi;   elsewhere the run's own loss
Demonstrations as in ``demonstrations.py``. They join the next update, since rows are drawn before the attempts are
known to have failed (there: the same one).

Source: the authors' code: 8 attempts, gate 0 (Qwen) or 2 (LLaMA), coef 1 (0.3 for 1.5 B). Assumes as
``demonstrations``. Degenerate cases: with gate 0, groups that failed throughout have advantages of 0 in any case; a
start state without demonstration only loses its failed attempts.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Update
from polytune.methods.demonstrations import Demonstrations
from polytune.methods.options import require_option
from polytune.methods.row_buffer import Kept
from polytune.methods.solved import whole_trees


@dataclass
class HPT(Demonstrations):
    coef: float = 1.0
    episodes: int = 1024
    gate: int = 0
    logs: ClassVar[dict[str, Metric]] = {
        **Demonstrations.logs,
        "hpt/failing": Metric(
            "start states that are imitated", "count", "falls", "rises: the policy forgets, raise coef"
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require_option("gate", self.gate, 0)
        self.failing: list[int] = []

    def says(self) -> str:
        return (
            f"**HPT**: start states of whose attempts at most {self.gate} succeeded were imitated from a "
            f"demonstration, "
            f"weight {self.coef:g}, and not reinforced."
        )

    def wanted(self) -> list[Kept]:
        return [self.buffer[state, 0] for state in self.failing if (state, 0) in self.buffer]

    def turn_advantage(self, update: Update, advantages_B_T: torch.Tensor) -> torch.Tensor:
        trajectories, changed_B_T = update.trajectories, advantages_B_T.clone()
        for rows in update.groups_G_N:
            if sum(trajectories[row].success for row in rows) <= self.gate:
                changed_B_T[rows] = 0.0
        return changed_B_T

    def learn(self, update: Update) -> None:
        super().learn(update)
        trees = whole_trees(update)
        own = [tree.start_state for tree in trees if sum(seed.success for seed in tree.seeds) <= self.gate]
        self.failing = sorted(set(update.gather(own)))
        update.record("hpt/failing", len(self.failing))

    def state(self) -> dict[str, torch.Tensor]:
        return super().state() | {"failing": torch.tensor(self.failing, dtype=torch.int64)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        super().restore(state)
        self.failing = state["failing"].tolist()
