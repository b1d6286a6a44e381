"""RepExp (arXiv 2510.11686): attempts whose hidden states lie apart from those of their group earn an elliptical bonus.

    h_i = P (mean of the last hidden states over the own tokens of attempt i), less its mean over the group
    Sigma = damping I + sum_i h_i h_i^T,    reward of attempt i += coef h_i^T Sigma^-1 h_i,   at its last turn
P: a sparse random projection to ``width`` dimensions, another one in every update: of its entries a share H^-1/2 is +
or - (H^1/2 / width)^1/2, the others 0 (Li, Hastie and Church 2006); none where H <= width. With the Gram matrix K of a
group's h the bonus is coef [K (K + damping I)^-1]_ii. It lies in [0, coef): about 1 - 1/N of coef for each of N
attempts that have nothing in common, less for one that others resemble.

Source of the defaults: the authors' code (group means, damping 0.01, width 32 for short answers, coef 0.01), which
takes the start policy's hidden states; here they are those of the policy that sampled. As there, a group in which no
attempt wins gets no bonus. Assumes that hidden states tell strategies apart: the paper finds no gain for weak models.
Degenerate cases: attempts that are all alike get 0, and so does a group of one.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Method, Seen, Update
from polytune.methods.options import require_option


@dataclass
class RepExp(Method):
    coef: float = 0.01
    damping: float = 0.01
    width: int = 32
    logs: ClassVar[dict[str, Metric]] = {
        "rep_exp/bonus": Metric(
            "mean bonus of an attempt",
            "reward",
            "0 to coef",
            "0: no group has a success, or all hidden states are alike",
        ),
    }

    def __post_init__(self) -> None:
        require_option("coef", self.coef, 0.0)
        require_option("damping", self.damping, 1e-9)
        require_option("width", self.width, 1)

    def says(self) -> str:
        return (
            f"**RepExp** (arXiv 2510.11686): {self.coef:g} times the leverage of an attempt's mean hidden state in its "
            "group is added to its reward, where the group wins at all."
        )

    def probe(self, seen: Seen) -> dict[str, torch.Tensor]:
        return {"rep_exp/hidden": seen.mean()}

    def reward(self, update: Update) -> torch.Tensor:
        hidden_B_W = project(update.probed["rep_exp/hidden"].double().cpu(), self.width, update.seed)
        bonus_B_T = torch.zeros(update.turns_mask_B_T.shape, dtype=torch.float64)
        last_B, trajectories = update.turns_mask_B_T.sum(dim=1) - 1, update.trajectories
        for rows in update.groups_G_N:
            if any(trajectories[row].success for row in rows):
                bonus_B_T[rows, last_B[rows]] = self.coef * leverages(hidden_B_W[rows], self.damping)
        total, count = update.sum([float(bonus_B_T.sum()), float(len(bonus_B_T))])
        update.record("rep_exp/bonus", total / count)
        return bonus_B_T


def leverages(hidden_N_W: torch.Tensor, damping: float) -> torch.Tensor:
    """h_i^T Sigma^-1 h_i of the rows less their mean, (N,)."""
    centred_N_W = hidden_N_W - hidden_N_W.mean(dim=0)
    gram_N_N = centred_N_W @ centred_N_W.T
    return torch.linalg.solve(gram_N_N + damping * torch.eye(len(gram_N_N)).to(gram_N_N), gram_N_N).diagonal()


def project(hidden_B_H: torch.Tensor, width: int, seed: int) -> torch.Tensor:
    """(B, width) of (B, H): lengths stay as they are in expectation. As it is where H <= width."""
    size = hidden_B_H.size(1)
    if size <= width:
        return hidden_B_H
    generator = torch.Generator().manual_seed(seed)
    share = size**-0.5
    draws_H_W = torch.rand(size, width, generator=generator, dtype=hidden_B_H.dtype)
    signs_H_W = (draws_H_W < share / 2).to(hidden_B_H) - (draws_H_W > 1 - share / 2).to(hidden_B_H)
    return hidden_B_H @ (signs_H_W / (share * width) ** 0.5)
