"""An imitation term on expert demonstrations beside reinforcement learning (concurrent BC).

    loss += coef * mean over replayed tokens of -log pi(a_t | history)
``episodes`` of the run's start states, drawn at random, are acted out by the task's expert before the first update; of
the successful ones a share ``share`` of the rows is drawn in every update.

Source: the abstract on offline data in procedurally generated worlds (L = L_RL + lambda L_BC on a few demonstrations);
lambda and their number are not established, so options. Assumes a task with an expert, whose words are the policy's;
its steps are not counted as the run's. Degenerate case: an expert that solves nothing leaves the run as it is.
"""

import math
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Beginning, Method, Minibatch, Update
from polytune.methods.options import require_option
from polytune.methods.row_buffer import Kept, Kind, pack_rows, unpack_rows
from polytune.rollout import Row


@dataclass
class Demonstrations(Method):
    coef: float = 0.1
    episodes: int = 64
    share: float = 0.125
    page: ClassVar[str] = "expert"
    logs: ClassVar[dict[str, Metric]] = {
        "demonstrations/logprob": Metric(
            "mean log-probability of the expert's tokens", "nats a token", "rises", "falls: raise coef or share"
        ),
    }

    def __post_init__(self) -> None:
        require_option("coef", self.coef, 0.0)
        require_option("share", self.share, 0.0, 1.0)
        require_option("episodes", self.episodes, 1)
        self.buffer: dict[Kind, Kept] = {}
        self.updates = 0

    def says(self) -> str:
        return f"An imitation term, weight {self.coef:g}, on an expert's episodes from {self.episodes} start states."

    def wanted_rows(self, rows: int) -> int:
        return math.ceil(self.share * rows)

    def begin(self, beginning: Beginning) -> None:
        states = list(beginning.start_states)
        for state in Random(0).sample(states, min(self.episodes, len(states))):
            if (row := beginning.demonstrate(state)) is not None:
                self.buffer[state, 0] = Kept((state, 0), 1.0, row, 0)

    def wanted(self) -> list[Kept]:
        """The demonstrations that an update may take."""
        return list(self.buffer.values())

    def replay(self, room: int, progress: float) -> list[tuple[Row, float]]:
        kept = self.wanted()
        return [(own.row, 1.0) for own in Random(self.updates).sample(kept, min(room, len(kept)))]

    def replayed(self, batch: Minibatch) -> torch.Tensor:
        batch.record("demonstrations/logprob", batch.logprobs_b_C * batch.mask_b_C, batch.mask_b_C)
        return -self.coef * batch.advantages_b_C * batch.logprobs_b_C

    def learn(self, update: Update) -> None:
        self.updates += 1

    def state(self) -> dict[str, torch.Tensor]:
        return pack_rows(self.buffer) | {"updates": torch.tensor(self.updates)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.buffer, self.updates = unpack_rows(state), int(state["updates"])
