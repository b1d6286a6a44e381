"""Trajectory weighting (Harnessing Mixed Datasets, arXiv 2306.13085): good episodes of earlier updates come back more
often.

    chance of a remembered episode in proportion to exp(R / alpha);   advantage R - mean R of what is remembered
R: its return. Drawn without repetition in an update; the loss is the clipped surrogate of replayed rows.

Source: the authors' code (harness-offline-rl): a softmax of return / alpha, alpha 0.1, or of (return - V(s0)) / alpha,
V a linear regression on the first observation, over transitions, so that a long trajectory comes more often; here over
episodes. The dataset is the last ``size`` whole episodes of the run, and the correction takes R less the mean return of
the start state (``corrected``). alpha and size are not established, so options. Assumes discount 1. Degenerate cases:
alpha far above the spread of R draws evenly; before the second update nothing is remembered.
"""

import math
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Method, Update
from polytune.methods.options import require_option
from polytune.methods.row_buffer import Kept, Kind, keep, numbered, pack_rows, unpack_rows
from polytune.methods.solved import whole_trees
from polytune.rollout import Row, trajectory_row


@dataclass
class WeightedReplay(Method):
    alpha: float = 0.1
    size: int = 512
    share: float = 0.25
    corrected: bool = True
    logs: ClassVar[dict[str, Metric]] = {
        "weighted_replay/kept": Metric("episodes that are remembered", "count", "rises to size"),
    }

    def __post_init__(self) -> None:
        require_option("alpha", self.alpha, 1e-6)
        require_option("share", self.share, 0.0, 1.0)
        require_option("size", self.size, 1)
        self.buffer: dict[Kind, Kept] = {}
        self.updates = 0

    def says(self) -> str:
        return (
            f"**Trajectory weighting** (arXiv 2306.13085): of the last {self.size} episodes, those of high return were "
            "trained on again."
        )

    def wanted_rows(self, rows: int) -> int:
        return math.ceil(self.share * rows)

    def replay(self, room: int, progress: float) -> list[tuple[Row, float]]:
        kept, random = list(self.buffer.values()), Random(self.updates)
        if not kept:
            return []
        mean = fmean(own.value for own in kept)
        of_state: dict[int, list[float]] = {}
        for own in kept:
            of_state.setdefault(own.kind[0], []).append(own.value)
        base = {state: fmean(values) if self.corrected else 0.0 for state, values in of_state.items()}
        # the largest of log-weights plus Gumbel noise: a draw without repetition
        keys = [
            (own.value - base[own.kind[0]]) / self.alpha - math.log(-math.log(random.random() or 1e-12)) for own in kept
        ]
        drawn = sorted(range(len(kept)), key=keys.__getitem__, reverse=True)[:room]
        return [(kept[i].row, kept[i].value - mean) for i in drawn]

    def learn(self, update: Update) -> None:
        self.updates += 1
        found = []
        for tree in whole_trees(update):
            for seed in tree.seeds:
                row = trajectory_row(tree.prompt_ids, seed)
                found.append(Kept((tree.start_state, 0), seed.discounted_return(), row, 0))
        self.buffer = keep(self.buffer, numbered(update.gather(found), self.updates), since=0, size=self.size)
        update.record("weighted_replay/kept", len(self.buffer))

    def state(self) -> dict[str, torch.Tensor]:
        return pack_rows(self.buffer) | {"updates": torch.tensor(self.updates)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.buffer, self.updates = unpack_rows(state), int(state["updates"])
