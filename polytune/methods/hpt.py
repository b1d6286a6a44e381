"""HPT (Unify-Post-Training): where the policy fails it imitates, elsewhere it reinforces.

    of a start state's attempts at most ``gate`` succeeded: they are left out, and its demonstration is imitated
    loss += coef * mean over replayed tokens of -log pi;   elsewhere the run's own loss
Demonstrations as in ``demonstrations.py``. They join the next update, since rows are drawn before the attempts are
known to have failed (there: the same one).

Source: the authors' code: 8 attempts, gate 0 (Qwen) or 2 (LLaMA), coef 1 (0.3 for 1.5 B). Assumes as
``demonstrations``. Vines count as attempts of their tree; trees that begin in mid-episode keep the run's own loss.
Degenerate cases: with gate 0, groups that failed throughout have advantages of 0 in any case; a start state without
demonstration only loses its failed attempts.
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
from polytune.rollout import Tree


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
        fails = [tree.root is None and self.fails(tree) for tree, _ in update.grown]
        return torch.where(torch.tensor(fails)[:, None], 0.0, advantages_B_T)

    def fails(self, tree: Tree) -> bool:
        """Whether at most ``gate`` attempts of a tree succeeded, vines among them."""
        return sum(own.success for own in tree.trajectories()) <= self.gate

    def learn(self, update: Update) -> None:
        super().learn(update)
        own = [tree.start_state for tree in whole_trees(update) if self.fails(tree)]
        self.failing = sorted(set(update.gather(own)))
        update.record("hpt/failing", len(self.failing))

    def state(self) -> dict[str, torch.Tensor]:
        return super().state() | {"failing": torch.tensor(self.failing, dtype=torch.int64)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        super().restore(state)
        self.failing = state["failing"].tolist()
