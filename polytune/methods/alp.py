"""A teacher by absolute learning progress (ALP-GMM without its mixture, arXiv 1910.07224): start states whose success
rate changed most come more often.

    ALP = |success rate of the last tree - of the tree before|
With chance 1 - ``uniform`` a start state that is due gives its turn to one of those that were met twice, drawn in
proportion to ALP; else it keeps it. Progress and forgetting count alike.

Source: the authors' code (teachDeepRL, alp_gmm.py): ALP from the nearest earlier parameters, 20 % uniform;
``alp_gmm.py`` is that teacher as published, for start states that have parameters. Start states have no distance here,
so each is its own nearest one, and no Gaussian mixture is fitted. Assumes that start states come back. Degenerate
cases: while all ALP are 0, and with one start state, each keeps its turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Method, Update
from polytune.methods.options import require_option
from polytune.methods.solved import Known, note, pack_known, success_rate, unpack_known, whole_trees
from polytune.rollout import Start

#: ALP of a start state that was met once
NONE_YET = -1.0


@dataclass
class ALP(Method):
    uniform: float = 0.2
    logs: ClassVar[dict[str, Metric]] = {
        "alp/progress": Metric(
            "mean change of success rates between the last two trees of start states met twice",
            "share",
            "above 0",
            "0: nothing changes",
        ),
    }

    def __post_init__(self) -> None:
        require_option("uniform", self.uniform, 0.0, 1.0)
        self.known: Known = {}  # start state -> (success rate, ALP or NONE_YET)

    def says(self) -> str:
        return (
            f"**Absolute learning progress**: a share {1 - self.uniform:g} of the trees grew from start states "
            f"drawn by "
            "how much their success rate had changed."
        )

    def starts(self, due: Sequence[Start], run_seed: int) -> list[Start]:
        states, weights = list(self.known), [max(progress, 0.0) for _, progress in self.known.values()]
        return [self._draw(start, states, weights, run_seed) for start in due]

    def _draw(self, start: Start, states: list[int], weights: list[float], run_seed: int) -> Start:
        random = Random(f"{run_seed} {start.start_state} {start.attempt}")
        if random.random() < self.uniform or sum(weights) <= 0:
            return start
        return start.instead(random.choices(states, weights)[0])

    def learn(self, update: Update) -> None:
        found = [(tree.start_state, (success_rate(tree.seeds),)) for tree in whole_trees(update)]
        for state, (rate,) in note({}, update, found).items():
            before = self.known.get(state)
            self.known[state] = (rate, NONE_YET if before is None else abs(rate - before[0]))
        twice = [progress for _, progress in self.known.values() if progress != NONE_YET]
        update.record("alp/progress", sum(twice) / max(len(twice), 1))

    def state(self) -> dict[str, torch.Tensor]:
        return pack_known(self.known, 2)

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.known = unpack_known(state)
