"""VERL: the effective rank of an attempt's hidden states says how much exploring and exploiting is added to its
advantage.

    ER(Z) = exp(-sum q log q),   q: singular values of the centred hidden states Z of its own tokens, over their sum
    ERV, ERA: mean first and second difference of ER along the attempt, every ``stride`` tokens
    d_X = clip((X - EMA_X) / (|EMA_X| + eps), -5, 5),   w = sigmoid(gain d_ERA)
    Phi = w tanh(d_ER) + (1 - w) tanh(d_ERV);   A' = A + min(max(0, Phi), |A| / kappa)   at the row's own tokens
EMA: over updates, of the mean over the update's rows, over all processes, weight ``momentum`` on the new one.

Source: the authors' code (hf618/VERL): gain 2 (default 1.5), kappa 2, momentum 0.3, stride 40. There Phi is at the last
token alone, before shaping; here at all own tokens of the row, as all of them have its advantage. Assumes long answers:
one shorter than 2 (ERV) or 3 (ERA) strides has 0 there. Cost: a singular value decomposition every stride tokens of
a row. Degenerate cases: an advantage of 0 stays 0; the first update, which has no EMA, is left as it is.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Method, Seen, Update
from polytune.methods.options import require_option

EPS = 1e-8
#: share of the rows' size below which their differences are rounding
ROUNDING = 1e-6


@dataclass
class VERL(Method):
    gain: float = 2.0
    kappa: float = 2.0
    momentum: float = 0.3
    stride: int = 40
    logs: ClassVar[dict[str, Metric]] = {
        "verl/rank": Metric(
            "mean effective rank of an attempt's hidden states", "", "above 1", "near 1: answers are too short to tell"
        ),
    }

    def __post_init__(self) -> None:
        require_option("gain", self.gain, 0.0)
        require_option("kappa", self.kappa, 1e-6)
        require_option("momentum", self.momentum, 0.0, 1.0)
        require_option("stride", self.stride, 1)
        self.means = torch.zeros(0, dtype=torch.float64)  # of ER, ERV, ERA; none before the first update

    def says(self) -> str:
        return "**VERL**: advantages raised by how the effective rank of an attempt's hidden states moves."

    def probe(self, seen: Seen) -> dict[str, torch.Tensor]:
        hidden_d_H, rows_d = seen.at().float(), seen.own_b_C.nonzero()[:, 0]
        return {
            "verl/ranks": torch.stack([ranks(hidden_d_H[rows_d == b], self.stride) for b in range(len(seen.ids_b_C))])
        }

    def advantage(self, update: Update, advantages_B_C: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        ranks_B_3 = update.probed["verl/ranks"].double().cpu()
        *totals, count = update.sum([*ranks_B_3.sum(dim=0).tolist(), float(len(ranks_B_3))])
        self._now = torch.tensor(totals, dtype=torch.float64) / count
        update.record("verl/rank", float(self._now[0]))
        if not len(self.means):
            return advantages_B_C
        er_B, erv_B, era_B = ((ranks_B_3 - self.means) / (self.means.abs() + EPS)).clamp(-5, 5).T
        weight_B = (self.gain * era_B).sigmoid()
        phi_B = weight_B * er_B.tanh() + (1 - weight_B) * erv_B.tanh()
        phi_B_1 = torch.zeros_like(advantages_B_C[:, :1])
        phi_B_1[: len(phi_B), 0] = phi_B.to(phi_B_1).relu()
        raised_B_C = advantages_B_C + torch.min(phi_B_1, advantages_B_C.abs() / self.kappa)
        return torch.where(update.own_B_C, raised_B_C, advantages_B_C)

    def learn(self, update: Update) -> None:
        old = self.means if len(self.means) else self._now
        self.means = (1 - self.momentum) * old + self.momentum * self._now

    def state(self) -> dict[str, torch.Tensor]:
        return {"means": self.means}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.means = state["means"]


def effective_rank(hidden_d_H: torch.Tensor) -> float:
    """ER of the rows; 0 where they do not differ."""
    values = torch.linalg.svdvals(hidden_d_H - hidden_d_H.mean(dim=0))
    total = values.sum()
    if total <= ROUNDING * hidden_d_H.norm():
        return 0.0
    return torch.special.entr(values / total).sum().exp().item()


def ranks(hidden_d_H: torch.Tensor, stride: int) -> torch.Tensor:
    """(ER, ERV, ERA) of one row's own tokens, (3,)."""
    if len(hidden_d_H) == 0:
        return torch.zeros(3)
    along = torch.tensor([effective_rank(hidden_d_H[:end]) for end in range(stride, len(hidden_d_H) + 1, stride)])
    first, second = along.diff(), along.diff().diff()
    means = [differences.mean().item() if len(differences) else 0.0 for differences in (first, second)]
    return torch.tensor([effective_rank(hidden_d_H), *means])
