"""Training on unsolved problems only (arXiv 2606.15455): what the policy solves already is left as it is.

Before the first update the policy tries each start state ``samples`` times. One that was solved more than ``wins``
times gives every turn of its own to one of the others, drawn evenly. So no update concentrates mass on the way that is
found already, which is what the paper calls overtraining: a single observed success saturates pass@k for high k.

Source: the paper's intervention, updates restricted to problems with zero observed success. Its number of samples is
not established here, so an option. The steps are paid from the run's budget. Not built: its Bayesian gate. Assumes that
training on some start states reaches others. Degenerate case: where all or none are solved, each keeps its turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Beginning, Method, Update
from polytune.methods.options import require_option
from polytune.rollout import Start


@dataclass
class Unsolved(Method):
    samples: int = 8
    wins: int = 0
    logs: ClassVar[dict[str, Metric]] = {
        "unsolved/open": Metric(
            "start states that are trained on",
            "count",
            "above 0",
            "0: all were solved before training, and each keeps its turn",
        ),
    }

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("wins", 0)):
            value = getattr(self, name)
            require_option(name, value, least)
        self.open: list[int] = []

    def says(self) -> str:
        return (
            f"**Unsolved problems only** (arXiv 2606.15455): start states that the policy solved more than {self.wins} "
            f"times in {self.samples} attempts before the run were not trained on."
        )

    def begin(self, beginning: Beginning) -> None:
        starts = [Start(state, -1, num_seeds=self.samples) for state in beginning.start_states]
        trees = beginning.grow(starts)
        self.open = [tree.start_state for tree in trees if sum(seed.success for seed in tree.seeds) <= self.wins]

    def starts(self, due: Sequence[Start], run_seed: int) -> list[Start]:
        return [self._draw(start, run_seed) for start in due]

    def _draw(self, start: Start, run_seed: int) -> Start:
        if not self.open or start.start_state in self.open:
            return start
        return start.instead(Random(f"{run_seed} {start.start_state} {start.attempt}").choice(self.open))

    def learn(self, update: Update) -> None:
        update.record("unsolved/open", len(self.open))

    def state(self) -> dict[str, torch.Tensor]:
        return {"open": torch.tensor(self.open, dtype=torch.int64)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.open = state["open"].tolist()
