"""THR, token hidden reward (arXiv 2510.03669): how much a token's step raises the group's right answers steers it.

    g_t = e(y_t) - pi_t, over the tokens that occur in the group;  h_t: last hidden state that y_t was sampled from
    s_t = g_t^T M h_t,  M = sum of g h^T over tokens of the group's successes;   THR_t = sign(A_t) s_t
    A'_t = 1[|THR_t| > tau] (1 + sign(THR_t) p) A_t,   tau = beta min over successes of the mean of s over their tokens
p > 0 favours what is right already (exploitation), p < 0 leaves mass to other answers (exploration). Only groups of
whole attempts in which some succeed and some do not are touched.

Source: an implementation note of its predecessor NTHR, for s and tau (beta 1), and the abstract for the signs; that
THR_t takes the sign of A_t, not its size, and p = -0.1 are not established (reviewers: the best p varies by model), so
both are what to vary: ``p``, ``beta``. Memory: hidden states of all own tokens of an update, and of those of a group
the probabilities of the tokens that occur in it. Assumes that the head is all that moves. Degenerate cases: p 0 with
beta 0 leaves all but tokens of s = 0; groups without success or failure are left as they are.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Method, Seen, Update, distributions
from polytune.methods.options import require_option

#: share of tau within which a token ties with it, and counts as not above: rounding must not decide
TIE = 1e-5


@dataclass
class THR(Method):
    rewrites: ClassVar[bool] = True
    p: float = -0.1
    beta: float = 1.0
    logs: ClassVar[dict[str, Metric]] = {
        "thr/kept": Metric(
            "share of the tokens of mixed groups that keep an advantage", "share", ".2 to 1", "near 0: lower beta"
        ),
    }

    def __post_init__(self) -> None:
        require_option("p", self.p, -1.0, 1.0)
        require_option("beta", self.beta, 0.0)

    def says(self) -> str:
        return (
            f"**THR** (arXiv 2510.03669): tokens that raise the group's right answers count {1 + self.p:g} times, "
            f"those that lower them {1 - self.p:g} times, of little influence not at all."
        )

    def probe(self, seen: Seen) -> dict[str, torch.Tensor]:
        return {"thr/hidden": seen.spread(seen.at(before=1)), "thr/ids": seen.ids_b_C}

    def advantage(self, update: Update, advantages_B_C: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        changed_B_C, trajectories = advantages_B_C.clone(), update.trajectories
        hidden_B_C_H, ids_B_C = update.probed["thr/hidden"], update.probed["thr/ids"]
        kept = touched = 0.0
        for rows in update.groups_G_N:
            wins_N = torch.tensor([trajectories[row].success for row in rows], device=ids_B_C.device)
            if wins_N.all() or not wins_N.any():
                continue
            own_N_C = update.own_B_C[rows]
            hidden_d_H, member_d = hidden_B_C_H[rows][own_N_C], own_N_C.nonzero()[:, 0]
            vocabulary_U, places_d = ids_B_C[rows][own_N_C].unique(return_inverse=True)
            with torch.no_grad():
                found = [said_c_V[:, vocabulary_U] for said_c_V in distributions(update.head, hidden_d_H)]
            influence_d = influence(torch.cat(found).exp(), places_d, hidden_d_H.float(), wins_N[member_d])
            tau = self.beta * min(float(influence_d[member_d == i].mean()) for i in wins_N.nonzero()[:, 0].tolist())
            old_d = advantages_B_C[rows][own_N_C]
            thr_d = old_d.sign() * influence_d
            factor_d = (thr_d.abs() > tau + TIE * abs(tau)) * (1 + thr_d.sign() * self.p)
            new_N_C = advantages_B_C[rows]
            new_N_C[own_N_C] = old_d * factor_d.to(old_d)
            changed_B_C[rows] = new_N_C
            kept, touched = kept + float((factor_d > 0).sum()), touched + len(factor_d)
        kept, touched = update.sum([kept, touched])
        update.record("thr/kept", kept / touched if touched else math.nan)
        return changed_B_C


def influence(
    probabilities_d_U: torch.Tensor, places_d: torch.Tensor, hidden_d_H: torch.Tensor, right_d: torch.Tensor
) -> torch.Tensor:
    """s of each token, (d,), from the probabilities of the tokens that occur and its place among them."""
    g_d_U = -probabilities_d_U
    g_d_U[torch.arange(len(places_d), device=places_d.device), places_d] += 1
    m_U_H = (g_d_U * right_d[:, None]).T @ hidden_d_H
    return (g_d_U * (hidden_d_H @ m_U_H.T)).sum(dim=1)
