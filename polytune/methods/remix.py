"""ReMix, rows of the policies before (without its KL terms): each update also learns from the last ones' rows.

    replayed token: -min(r, most) A,   r = pi / pi_old without gradient in the weight: -min(r, most) A log pi
pi_old: the policy that sampled the row, whenever that was; A: the advantage that the run gave it then. So the weight is
a truncated importance ratio, and there is no clip. ``age`` updates are remembered, a share ``share`` of rows is
replayed, up to the share ``until`` of the run: from there on it is on-policy alone.

Source: notes on the structure (mixed policies, truncated ratios, more updates per sample, a switch to on-policy);
shares and ages are not established, so options. Not built: the convex KL to the base and the last policy, whose form is
not established, and the reset of the base (the run's kl_reference stays). Assumes whole episodes, one advantage a row:
the first own token's. Degenerate case: rows whose advantage was 0 are not remembered.
"""

import math
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import torch

from polytune.config import require
from polytune.meanings import Metric
from polytune.methods.base import Method, Minibatch, Update, require_option
from polytune.methods.row_buffer import Kept, Kind, keep, numbered, pack_rows, unpack_rows
from polytune.rollout import Row, trajectory_row


@dataclass
class ReMix(Method):
    age: int = 2
    share: float = 0.25
    most: float = 2.0
    until: float = 0.5
    logs: ClassVar[dict[str, Metric]] = {
        "remix/kept": Metric("rows that are remembered", "count", "above 0", "0: all advantages are 0"),
    }

    def __post_init__(self) -> None:
        require_option("age", self.age, 1)
        require(isinstance(self.age, int), f"age must be a whole number, got {self.age!r}: change it in method_args.")
        require_option("share", self.share, 0.0, 1.0)
        require_option("until", self.until, 0.0, 1.0)
        require_option("most", self.most, 0.0)
        self.buffer: dict[Kind, Kept] = {}
        self.updates = 0

    def says(self) -> str:
        return (
            f"**ReMix**: rows of the last {self.age} updates were learnt from again, importance ratios up to "
            f"{self.most:g}, "
            f"in the first {self.until:.0%} of the run."
        )

    def wanted_rows(self, rows: int) -> int:
        return math.ceil(self.share * rows)

    def replay(self, room: int, progress: float) -> list[tuple[Row, float]]:
        kept = list(self.buffer.values()) if progress < self.until else []
        return [(own.row, own.value) for own in Random(self.updates).sample(kept, min(room, len(kept)))]

    def replayed(self, batch: Minibatch) -> torch.Tensor:
        weight_b_C = batch.ratio_b_C.detach().clamp(max=self.most)
        return -weight_b_C * batch.advantages_b_C * batch.logprobs_b_C

    def advantage(self, update: Update, advantages_B_C: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        first_B = update.own_B_C.int().argmax(dim=1, keepdim=True)
        self._of_rows = advantages_B_C.gather(1, first_B)[:, 0].tolist()
        return advantages_B_C

    def learn(self, update: Update) -> None:
        self.updates += 1
        found, row = [], 0
        for tree in update.trees:
            for trajectory in tree.trajectories():
                if (value := self._of_rows[row]) != 0:
                    found.append(Kept((tree.start_state, 0), value, trajectory_row(tree.prompt_ids, trajectory), 0))
                row += 1
        found, since = numbered(update.gather(found), self.updates), self.updates - self.age + 1
        self.buffer = keep(self.buffer, found, since=since, size=len(self.buffer) + len(found))
        update.record("remix/kept", len(self.buffer))

    def state(self) -> dict[str, torch.Tensor]:
        return pack_rows(self.buffer) | {"updates": torch.tensor(self.updates)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.buffer, self.updates = unpack_rows(state), int(state["updates"])
