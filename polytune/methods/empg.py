"""EMPG (arXiv 2509.09265): confident turns count more, uncertain ones less, and a turn is paid for a clearer next one.

    A'_t = A_t g(H_t) + zeta f(H_{t+1}),  then less its mean over the update;   f(H) = e^(-k' H)
    g(H) = e^(-k H) / mean over the update of e^(-k H)
H_t: mean entropy of the tokens of turn t, scaled to [0, 1] by the least and the largest of the update, over all
processes; the last turn has no bonus.

Source: the authors' pseudocode: k = k' = 1, zeta 0.1 (0.05 in a re-implementation). WARNING: it pays for low entropy,
so it works against diversity; it is here to be compared. Assumes turns; in tasks of one answer only g acts. Degenerate
cases: where all entropies are equal, g is 1 and the bonus of all turns but the last is zeta.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Method, Seen, Update
from polytune.methods.options import require_option
from polytune.methods.turns import turn_entropies


@dataclass
class EMPG(Method):
    k: float = 1.0
    k_next: float = 1.0
    zeta: float = 0.1
    logs: ClassVar[dict[str, Metric]] = {
        "empg/range": Metric(
            "largest less least entropy of a turn in the update",
            "nats",
            "above .1",
            "near 0: turns do not differ, and the method does nothing",
        ),
    }

    def __post_init__(self) -> None:
        for name in ("k", "k_next", "zeta"):
            require_option(name, getattr(self, name), 0.0)

    def says(self) -> str:
        return (
            f"**EMPG** (arXiv 2509.09265): turns of low entropy count more, and {self.zeta:g} at most is paid for "
            f"a clear "
            "next turn, which works against diversity."
        )

    def probe(self, seen: Seen) -> dict[str, torch.Tensor]:
        return {"empg/entropy": seen.entropies()}

    def turn_advantage(self, update: Update, advantages_B_T: torch.Tensor) -> torch.Tensor:
        entropy_B_T, mask_B_T = turn_entropies(update, "empg/entropy"), update.turns_mask_B_T
        own = entropy_B_T[mask_B_T]
        least = min(update.gather([float(own.min())]))
        most = max(update.gather([float(own.max())]))
        scaled_B_T = (entropy_B_T - least) / (most - least) if most > least else torch.zeros_like(entropy_B_T)
        scaled_B_T = torch.where(mask_B_T, scaled_B_T, 0.0)  # beyond an episode's end they may be of any size
        factor_B_T = (-self.k * scaled_B_T).exp()
        next_B_T = torch.zeros_like(factor_B_T)
        next_B_T[:, :-1] = (-self.k_next * scaled_B_T[:, 1:]).exp() * mask_B_T[:, 1:]
        total, count = update.sum([float(factor_B_T[mask_B_T].sum()), float(mask_B_T.sum())])
        changed_B_T = advantages_B_T * factor_B_T * (count / total) + self.zeta * next_B_T
        scored_B_T = update.scored_B_T
        total, count = update.sum([float(changed_B_T[scored_B_T].sum()), float(scored_B_T.sum())])
        update.record("empg/range", most - least if math.isfinite(most - least) else 0.0)
        return torch.where(scored_B_T, changed_B_T - total / max(count, 1.0), 0.0)
