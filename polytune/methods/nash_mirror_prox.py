"""Nash Mirror Prox (arXiv 2505.19731): self-play on preferences, which need not be transitive, by extragradient steps.

    A(y_i) = mean over j != i of P(y_i > y_j) - 1/2 in the group, in the place of the run's advantages
    two updates in turn:  pi_(k+1/2) ~ argmax E[P(y > pi_k)]       - kl_coef KL(pi || pi_k)
                          pi_(k+1)   ~ argmax E[P(y > pi_(k+1/2))] - kl_coef KL(pi || pi_k)
Each update is played against the policy that samples it; the KL's reference becomes the policy of now at every second
one (``every``; 1: mirror descent, which goes round in circles where no strategy beats all others). 1 / kl_coef is the
step. P: ``judge``, "package.module:name", a function (one answer, another) -> probability that the first is preferred;
unset: 1, 1/2 or 0 by the returns.

Source: the abstract and general knowledge of Mirror Prox; the text and its code were not read. Each argmax is the run's
passes over one update, begun where the policy is. Not built: the game's own regularisation towards pi_0, since the one
reference is pi_k, so its linear rate is not claimed. Assumes whole answers, one advantage a row, P(a > b) = 1 - P(b >
a). Degenerate cases: a group of one, or of answers alike, teaches nothing; by returns of two values these are half of
RLOO's advantages.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.checks import require
from polytune.lookup import find, is_path
from polytune.methods.base import Method, Update, Weights
from polytune.methods.chi_squared import pretrained_at_hand
from polytune.methods.options import require_option


@dataclass
class NashMirrorProx(Method):
    judge: str = ""
    every: int = 2
    replaces: ClassVar[str] = "advantages"
    page: ClassVar[str] = "pairs"

    def __post_init__(self) -> None:
        require_option("every", self.every, 1)
        require(not self.judge or is_path(self.judge), f"judge is {self.judge!r}: name it as package.module:name.")
        self._judge = find("judge", self.judge, {}) if self.judge else None
        self.updates = 0

    def says(self) -> str:
        return (
            "**Nash Mirror Prox** (arXiv 2505.19731): attempts were rewarded by the share of their group that they are "
            f"preferred to, with a KL to the policy of every {self.every}. update."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        pretrained_at_hand("nash_mirror_prox", trainer)
        require(
            trainer.critic == "none" and objective.set_scope == "seeds",
            "method 'nash_mirror_prox' takes the place of the run's advantages: set critic to 'none' and set_scope to "
            "'seeds'.",
        )

    def reference(self, policy: Callable[[], Weights], progress: float) -> Weights | None:
        return policy() if self.updates % self.every == 0 and self.updates else None

    def turn_advantage(self, update: Update, advantages_B_T: torch.Tensor) -> torch.Tensor:
        changed_B_T, trajectories = torch.zeros_like(advantages_B_T), update.trajectories
        for rows in update.groups_G_N:
            group = [trajectories[row] for row in rows]
            said = [" ".join(update.text(turn.whole_ids) for turn in own.turns) for own in group]
            changed_B_T[rows] = self.gains(said, [own.discounted_return() for own in group])[:, None]
        return torch.where(update.scored_B_T, changed_B_T, 0.0)

    def gains(self, said: list[str], returns: list[float]) -> torch.Tensor:
        """Share of the others that each is preferred to, less a half, (N,) float64."""
        if len(said) < 2:
            return torch.zeros(len(said), dtype=torch.float64)
        if self._judge is None:
            r_N = torch.tensor(returns, dtype=torch.float64)
            wins_N_N = ((r_N[:, None] - r_N).sign() + 1) / 2
        else:
            texts = sorted(set(said))  # equal answers are judged once
            wins_K_K = torch.tensor([[self._judge(a, b) for b in texts] for a in texts], dtype=torch.float64)
            place_N = torch.tensor([texts.index(text) for text in said])
            wins_N_N = wins_K_K[place_N[:, None], place_N]
        wins_N_N.fill_diagonal_(0.0)
        return wins_N_N.sum(dim=1) / (len(said) - 1) - 0.5

    def learn(self, update: Update) -> None:
        self.updates += 1

    def state(self) -> dict[str, torch.Tensor]:
        return {"updates": torch.tensor(self.updates)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.updates = int(state["updates"])
