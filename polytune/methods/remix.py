"""ReMix (arXiv 2507.06892), rows of the policies before: each update also learns from the last ones' rows.

    replayed token: -min(r, most) A,   r = pi / pi_old without gradient in the weight: -min(r, most) A log pi
    fresh token:    the run's loss + kl (base KL(pi || pi_base) + (1 - base) KL(pi || pi_last))
pi_old: the policy that sampled the row, whenever that was; A: the advantage that the run gave it then. So the weight is
a truncated importance ratio, and there is no clip. ``age`` updates are remembered, a share ``share`` of rows is
replayed, up to the share ``until`` of the run: from there on it is on-policy alone, and pi_base, which was the policy
that the run began with, is the policy of that moment (reincarnation). pi_last is the policy that sampled the update.
Per token, in expectation over pi_last: KL(pi || pi_base) = r (u - 1 - log u), u = pi_base / pi, and KL(pi || pi_last) =
r log r - r + 1.

Source: the abstract: mixed policies, more updates per sample, a convex combination of the KL to the base and to the
precedent model, reincarnation midway and on-policy training from there; truncated ratios by notes on the paper. That
the two weights are base and 1 - base, and which way the KLs go, was not read; shares, ages, ``kl`` and ``base`` are not
established, so options. kl above 0 needs kl_reference 'pretrained', for pi_base, with a kl_coef above 0, and loss_type
'dapo'. Assumes whole episodes, one advantage a row: the first own token's. Degenerate cases: rows whose advantage was 0
are not remembered; kl 0: neither KL nor reincarnation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Method, Minibatch, Update, Weights
from polytune.methods.chi_squared import pretrained_at_hand
from polytune.methods.options import require_option
from polytune.methods.rec import mean_over_tokens
from polytune.methods.row_buffer import Kept, Kind, first_advantages, fresh_rows, keep, numbered, pack_rows, unpack_rows
from polytune.rollout import Row


@dataclass
class ReMix(Method):
    age: int = 2
    share: float = 0.25
    most: float = 2.0
    until: float = 0.5
    kl: float = 0.0
    base: float = 0.5
    logs: ClassVar[dict[str, Metric]] = {
        "remix/kl": Metric(
            "convex KL to the reference and the last policy",
            "nats a token",
            "grows slowly",
            "above .1: lower the learning rate",
        ),
        "remix/kept": Metric(
            "rows that are remembered", "count", "above 0", "0: all advantages are 0, or the share until is over"
        ),
    }

    def __post_init__(self) -> None:
        require_option("age", self.age, 1)
        require_option("share", self.share, 0.0, 1.0)
        require_option("until", self.until, 0.0, 1.0)
        require_option("most", self.most, 0.0)
        require_option("kl", self.kl, 0.0)
        require_option("base", self.base, 0.0, 1.0)
        self.buffer: dict[Kind, Kept] = {}
        self.updates = 0
        self.reborn = False

    def says(self) -> str:
        return (
            f"**ReMix**: rows of the last {self.age} updates were learnt from again, importance ratios up to "
            f"{self.most:g}, "
            f"in the first {self.until:.0%} of the run."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        if self.kl > 0:
            pretrained_at_hand("remix", trainer)
            mean_over_tokens("remix", trainer)

    @property
    def sets_reference(self) -> bool:
        return self.kl > 0

    def reference(self, policy: Callable[[], Weights], progress: float) -> Weights | None:
        if self.reborn or progress < self.until:
            return None
        self.reborn = True
        return policy()

    def wanted_rows(self, rows: int) -> int:
        return math.ceil(self.share * rows) if self.buffer or not self.updates else 0

    def replay(self, room: int, progress: float) -> list[tuple[Row, float]]:
        kept = list(self.buffer.values()) if progress < self.until else []
        return [(own.row, own.value) for own in Random(self.updates).sample(kept, min(room, len(kept)))]

    def replayed(self, batch: Minibatch) -> torch.Tensor:
        weight_b_C = batch.ratio_b_C.detach().clamp(max=self.most)
        return -weight_b_C * batch.advantages_b_C * batch.logprobs_b_C

    def advantage(self, update: Update, advantages_B_C: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        self._of_rows = first_advantages(update, advantages_B_C)
        if self.kl > 0:
            tensors["remix/base"] = update.reference_B_C
        return advantages_B_C

    def loss(self, batch: Minibatch) -> torch.Tensor | float:
        if self.kl == 0:
            return 0.0
        log_r_b_C = (batch.logprobs_b_C - batch.old_b_C) * batch.mask_b_C
        log_u_b_C = (batch.tensors["remix/base"] - batch.logprobs_b_C) * batch.mask_b_C
        r_b_C = log_r_b_C.exp()
        to_base_b_C = r_b_C * (log_u_b_C.exp() - 1 - log_u_b_C)
        to_last_b_C = r_b_C * log_r_b_C - r_b_C + 1
        convex_b_C = self.base * to_base_b_C + (1 - self.base) * to_last_b_C
        batch.record("remix/kl", convex_b_C * batch.mask_b_C, batch.mask_b_C)
        return self.kl * (convex_b_C * batch.mask_b_C).sum()

    def learn(self, update: Update) -> None:
        self.updates += 1
        found = [own for own in fresh_rows(update, self._of_rows) if own.value != 0]
        found, since = numbered(update.gather(found), self.updates), self.updates - self.age + 1
        self.buffer = keep(self.buffer, found, since=since, size=len(self.buffer) + len(found))
        if update.progress >= self.until:  # on-policy alone from here on, so the rows are the trees'
            self.buffer = {}
        update.record("remix/kept", len(self.buffer))

    def state(self) -> dict[str, torch.Tensor]:
        numbers = {"updates": torch.tensor(self.updates), "reborn": torch.tensor(self.reborn)}
        return pack_rows(self.buffer) | numbers

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.buffer, self.updates = unpack_rows(state), int(state["updates"])
        self.reborn = bool(state["reborn"])
