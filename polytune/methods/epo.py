"""EPO (arXiv 2509.22576): an entropy bonus, and the entropy of each turn is held within a band of its own history.

    loss += -coef (H_t - smooth w(x) P_k)  at each own token,   H_t: its entropy, k: its turn
    P_k = alpha (max(0, low Hbar_k - H_k) + max(0, H_k - high Hbar_k)),   H_k: mean entropy of the row's turn k
Hbar_k: mean over all earlier updates of the mean entropy at turn k, counted from the start state, over all processes.
x: progress of the run;
    w = 1 - 0.2 (1 - e^(-4 x)) up to half of the run, then 0.8 e^(-6 (x - 1/2))

Source: the authors' code (WujiangXu/EPO): coef 0.001, low 0, high 2 (elsewhere 0.5 to 1.5, 0.8 to 1.2), alpha 0.05 to
0.1, smooth 1, and w. There P is alpha outside the band and 0 inside, which has no gradient, so that the term cannot
act; here it is alpha times the distance to the band. There it acts on the late half of an episode's turns alone, here
on all. The abstract speaks of weights that grow; the code's fall. Assumes turns that mean the same from episode to
episode. Degenerate cases: before the first update there is no band; coef 0 does nothing.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.checks import require
from polytune.meanings import Metric
from polytune.methods.base import Method, Minibatch, Seen, Update
from polytune.methods.options import require_option, require_run_temperature
from polytune.methods.turns import turn_entropies, turn_means


@dataclass
class EPO(Method):
    coef: float = 0.001
    low: float = 0.0
    high: float = 2.0
    alpha: float = 0.1
    smooth: float = 1.0
    page: ClassVar[str] = "entropy"
    logs: ClassVar[dict[str, Metric]] = {
        "epo/penalty": Metric(
            "mean penalty of own tokens outside the band",
            "nats",
            "near 0",
            "grows: entropy leaves its history, raise coef or lower the learning rate",
        ),
    }

    def __post_init__(self) -> None:
        for name in ("coef", "low", "high", "alpha", "smooth"):
            require_option(name, getattr(self, name), 0.0)
        require(self.low <= self.high, f"low is {self.low} and high {self.high}: no entropy lies between, raise high.")
        self.sums = torch.zeros(0, dtype=torch.float64)  # (K,) of means at turn k, and of updates that had one
        self.counts = torch.zeros(0, dtype=torch.float64)

    def says(self) -> str:
        return (
            f"**EPO** (arXiv 2509.22576): an entropy bonus {self.coef:g}, and a turn's entropy is held between "
            f"{self.low:g} and {self.high:g} times its mean over earlier updates."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        require_run_temperature("epo", "entropies with those of earlier updates", objective)

    def probe(self, seen: Seen) -> dict[str, torch.Tensor]:
        return {"epo/entropy": seen.entropies()}

    def advantage(self, update: Update, advantages_B_C: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        index_B_C = update.turn_index_B_C
        tensors["epo/turn"] = index_B_C.to(advantages_B_C)
        first_B_1 = torch.zeros(len(index_B_C), 1, dtype=torch.long)
        first_B_1[: len(update.trajectories), 0] = first_turns(update)
        place_B_C = index_B_C.clamp(min=0).cpu() + first_B_1
        more = int(place_B_C.max()) + 1
        mean_K = torch.cat([self.sums / self.counts.clamp(min=1), torch.zeros(more)])
        known_K = torch.cat([self.counts > 0, torch.zeros(more, dtype=torch.bool)])
        tensors["epo/mean"] = torch.where(known_K[place_B_C], mean_K[place_B_C], -1.0).to(advantages_B_C)
        self.share = band_weight(update.progress)
        return advantages_B_C

    def loss(self, batch: Minibatch) -> torch.Tensor:
        index_b_C, mean_b_C = batch.tensors["epo/turn"].long(), batch.tensors["epo/mean"]
        entropy_b_C = batch.entropies_b_C * batch.mask_b_C
        turns_b_T = turn_means(entropy_b_C, index_b_C, max(int(index_b_C.max()) + 1, 1))
        own_b_C = turns_b_T.gather(1, index_b_C.clamp(min=0))
        outside_b_C = (self.low * mean_b_C - own_b_C).relu() + (own_b_C - self.high * mean_b_C).relu()
        penalty_b_C = self.alpha * outside_b_C * (mean_b_C >= 0) * batch.mask_b_C
        batch.record("epo/penalty", penalty_b_C, batch.mask_b_C)
        return -self.coef * (entropy_b_C - self.smooth * self.share * penalty_b_C).sum()

    def learn(self, update: Update) -> None:
        means_B_T, mask_B_T = turn_entropies(update, "epo/entropy"), update.turns_mask_B_T
        place_B_T = torch.arange(mask_B_T.size(1)) + first_turns(update)[:, None]
        most = max(update.gather([int(place_B_T[mask_B_T].max()) + 1]))
        flat = torch.zeros(2, max(most, len(self.sums)), dtype=torch.float64)
        for number, values_B_T in enumerate((means_B_T, torch.ones_like(means_B_T))):
            flat[number].index_add_(0, place_B_T[mask_B_T], values_B_T[mask_B_T])
        sums_K, rows_K = torch.tensor(update.sum(flat.flatten().tolist()), dtype=torch.float64).view(2, -1)
        old = torch.nn.functional.pad(torch.stack([self.sums, self.counts]), (0, len(sums_K) - len(self.sums)))
        self.sums, self.counts = old[0] + sums_K / rows_K.clamp(min=1), old[1] + (rows_K > 0)

    def state(self) -> dict[str, torch.Tensor]:
        return {"sums": self.sums, "counts": self.counts}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.sums, self.counts = state["sums"], state["counts"]


def first_turns(update: Update) -> torch.Tensor:
    """Turns of the episode before each row's first own one, (B,), without blank rows."""
    return torch.tensor([trajectory.first_turn for trajectory in update.trajectories])


def band_weight(progress: float) -> float:
    """w of the progress of the run."""
    if progress <= 0.5:
        return 1 - 0.2 * (1 - math.exp(-4 * progress))
    return 0.8 * math.exp(-6 * (progress - 0.5))
