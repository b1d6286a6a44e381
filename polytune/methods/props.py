"""PROPS, proximal robust on-policy sampling (arXiv 2311.08290): what was sampled too often becomes unlikelier to be
sampled, so that the rows that an update learns from look, together, more like the policy's own.

    pi_b <- pi, then Adam on the kept rows' tokens:   mean max(r, clip(r, 1 - clip, 1 + clip)),   r = pi_b / pi
    a token moves down until its r is below 1 - clip; all stop once the mean of r - 1 - log r exceeds ``most_kl``
    the update's trees are sampled by pi_b; kept and fresh rows are learnt from as if pi had sampled both
Kept: the rows of the update before, those with an advantage of 0 among them, with their advantages of then; old
logprobs, theirs too, are those of pi now. They take half of the batch, so an update samples half as much.

Source: the authors' code (PROPS, ppo_discrete.py): clip 0.3, 16 epochs of 4 minibatches, rate 1e-3 (Adam, epsilon
1e-5), most_kl 0.01; its KL penalty, as its weight ``props_lambda``, is commented out there. There pi_b is made anew
every 16 environment steps, from what the buffer holds of this batch, too; here once an update, since its trees grow
together, so from the kept rows alone. There Adam remembers earlier updates and gradients are clipped at 0.5, and
advantages are computed anew. Assumes whole episodes, one advantage a row: the first own token's. Degenerate case: in
the first update nothing is kept, and pi_b is pi.
"""

from dataclasses import dataclass, replace
from random import Random
from typing import ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Apart, Method, Update
from polytune.methods.options import require_option
from polytune.methods.row_buffer import Kept, Kind, first_advantages, fresh_rows, keep, numbered, pack_rows, unpack_rows
from polytune.rollout import Row

ADAM_EPSILON = 1e-5


@dataclass
class PROPS(Method):
    clip: float = 0.3
    epochs: int = 16
    minibatches: int = 4
    rate: float = 1e-3
    most_kl: float = 0.01
    page: ClassVar[str] = "sampling"
    logs: ClassVar[dict[str, Metric]] = {
        "props/kl": Metric(
            "KL of the trained policy to the one that samples, on kept rows", "nats a token", "near most_kl",
            "far above: lower rate; near 0: raise it, or epochs",
        ),
    }  # fmt: skip

    def __post_init__(self) -> None:
        require_option("clip", self.clip, 0.0, 1.0)
        require_option("rate", self.rate, 0.0)
        require_option("most_kl", self.most_kl, 0.0)
        for name in ("epochs", "minibatches"):
            value = getattr(self, name)
            require_option(name, value, 1)
        self.buffer: dict[Kind, Kept] = {}
        self.updates = 0

    def says(self) -> str:
        return (
            "**PROPS** (arXiv 2311.08290): rollouts were sampled by a policy that made likelier what the rows of the "
            "update before, learnt from once more, had too little of."
        )

    def wanted_rows(self, rows: int) -> int:
        return rows // 2

    def behave(self, apart: Apart) -> None:
        if not self.buffer:
            return
        with torch.no_grad():
            logprobs_K_C = apart.logprobs([kept.row for kept in self.buffer.values()]).tolist()
        for kept, logprobs_C in zip(list(self.buffer.values()), logprobs_K_C, strict=True):
            row = replace(kept.row, logprobs=logprobs_C[: len(kept.row.completion_ids)])
            self.buffer[kept.kind] = kept._replace(row=row)
        apart.record("props/kl", self._adapt(apart, [kept.row for kept in self.buffer.values()]))

    def _adapt(self, apart: Apart, rows: list[Row]) -> float:
        """Move the weights; the last minibatch's KL."""
        adam, order = torch.optim.Adam(apart.weights, lr=self.rate, eps=ADAM_EPSILON), list(rows)
        size, kl = max(1, len(rows) // self.minibatches), 0.0
        for epoch in range(self.epochs):
            Random(f"{self.updates} {epoch}").shuffle(order)
            for first in range(0, len(order), size):
                loss, kl = self.pull(apart.logprobs(order[first : first + size]), order[first : first + size])
                if kl > self.most_kl:
                    return kl
                gradients = torch.autograd.grad(loss, apart.weights, allow_unused=True)
                for weight, gradient in zip(apart.weights, gradients, strict=True):
                    weight.grad = gradient
                adam.step()
                adam.zero_grad()
        return kl

    def pull(self, logprobs_b_C: torch.Tensor, rows: list[Row]) -> tuple[torch.Tensor, float]:
        """(mean of max(r, clip(r)) over own tokens, mean of r - 1 - log r); old logprobs are the rows'."""
        old_b_C, own_b_C = torch.zeros_like(logprobs_b_C), torch.zeros_like(logprobs_b_C, dtype=torch.bool)
        for number, row in enumerate(rows):
            old_b_C[number, : len(row.own)] = torch.tensor(row.logprobs)
            own_b_C[number, : len(row.own)] = torch.tensor(row.own) > 0
        log_r_n = (logprobs_b_C - old_b_C)[own_b_C]
        r_n = log_r_n.exp()
        kl = (r_n - 1 - log_r_n).detach().mean().item()
        return torch.maximum(r_n, r_n.clamp(1 - self.clip, 1 + self.clip)).mean(), kl

    def replay(self, room: int, progress: float) -> list[tuple[Row, float]]:
        return [(own.row, own.value) for own in list(self.buffer.values())[:room]]

    def advantage(self, update: Update, advantages_B_C: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        self._of_rows = first_advantages(update, advantages_B_C)
        return advantages_B_C

    def learn(self, update: Update) -> None:
        self.updates += 1
        found = numbered(update.gather(fresh_rows(update, self._of_rows)), self.updates)
        self.buffer = keep({}, found, since=self.updates, size=len(found))

    def state(self) -> dict[str, torch.Tensor]:
        return pack_rows(self.buffer) | {"updates": torch.tensor(self.updates)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.buffer, self.updates = unpack_rows(state), int(state["updates"])
