"""A novelty archive (as in STAX, arXiv 2111.01919, and SERENE): attempts unlike all that earlier updates did earn a
bonus.

    reward of an attempt, at its last turn, += coef nov / (mean nov of the update),   nov: mean distance of its phi
    to the ``neighbours`` nearest members of the archive
phi: mean last hidden state of its own tokens, projected at random to ``width`` dimensions, the same projection for the
whole run. ``adds`` attempts of each update, drawn at random, join the archive; beyond ``size`` the oldest go. So the
bonus remembers across updates, where RepExp compares within a group.

Source: quality-diversity search: distance to the k nearest members, about 5 added per generation (general knowledge);
the abstracts say that STAX learns phi on the fly, from observations, and that both alternate novelty with emitters,
which optimise what was rewarded: not built, the run's own return does that; here phi is the policy's own states, which
drift as it learns. coef, k and width are not established, so options. Degenerate cases: an archive of fewer than
``neighbours`` members pays nothing; equal novelties pay coef each.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Method, Seen, Update
from polytune.methods.options import require_option
from polytune.methods.rep_exp import project


@dataclass
class Novelty(Method):
    coef: float = 0.1
    neighbours: int = 5
    adds: int = 5
    size: int = 2048
    width: int = 32
    page: ClassVar[str] = "archives"
    logs: ClassVar[dict[str, Metric]] = {
        "novelty/distance": Metric(
            "mean distance of an attempt to the archive", "", "above 0", "falls to 0: nothing is new"
        ),
    }

    def __post_init__(self) -> None:
        require_option("coef", self.coef, 0.0)
        for name in ("neighbours", "adds", "size", "width"):
            value = getattr(self, name)
            require_option(name, value, 1)
        self.archive_K_W = torch.zeros(0, 0, dtype=torch.float64)
        self.updates = 0

    def says(self) -> str:
        return (
            f"A novelty archive: attempts whose hidden states lay far from what earlier updates had done earned about "
            f"{self.coef:g} more."
        )

    def probe(self, seen: Seen) -> dict[str, torch.Tensor]:
        return {"novelty/hidden": seen.mean()}

    def reward(self, update: Update) -> torch.Tensor:
        self._phi_B_W = project(update.probed["novelty/hidden"].double().cpu(), self.width, 0)
        bonus_B_T = torch.zeros(update.turns_mask_B_T.shape, dtype=torch.float64)
        if len(self.archive_K_W) >= self.neighbours:
            novelty_B = novelties(self._phi_B_W, self.archive_K_W, self.neighbours)
            total, count = update.sum([float(novelty_B.sum()), float(len(novelty_B))])
            update.record("novelty/distance", total / count)
            last_B = update.turns_mask_B_T.sum(dim=1) - 1
            bonus_B_T[torch.arange(len(novelty_B)), last_B] = self.coef * novelty_B * count / max(total, 1e-12)
        return bonus_B_T

    def learn(self, update: Update) -> None:
        self.updates += 1
        every = torch.tensor(sorted(update.gather(self._phi_B_W.tolist())), dtype=torch.float64)
        draws = torch.randperm(len(every), generator=torch.Generator().manual_seed(self.updates))[: self.adds]
        self.archive_K_W = torch.cat([self.archive_K_W.reshape(-1, every.size(1)), every[draws]])[-self.size :]

    def state(self) -> dict[str, torch.Tensor]:
        return {"archive": self.archive_K_W, "updates": torch.tensor(self.updates)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.archive_K_W, self.updates = state["archive"], int(state["updates"])


def novelties(phi_B_W: torch.Tensor, archive_K_W: torch.Tensor, neighbours: int) -> torch.Tensor:
    """Mean distance of each row to its nearest members of the archive, (B,)."""
    return torch.cdist(phi_B_W, archive_K_W).topk(neighbours, dim=1, largest=False).values.mean(dim=1)
