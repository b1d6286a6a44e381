"""Signatures of hidden states, so that sets are scored by RepExp's kernel (arXiv 2510.11686): ``diversity: leverage``.

    signature of an attempt = P (mean of the last hidden states over its own tokens), over ``scale``
P as in ``rep_exp.py``. In the place of the task's signatures, for the sets and what is logged of groups; so no judge of
strategies is needed. Scale: leverage counts as alike what lies far closer than 0.1.

Source: RepExp adds leverages to rewards within a group; scoring sets with them is ours. Assumes as ``rep_exp``: that
hidden states tell strategies apart. Degenerate cases: as of ``leverage``; attempts that look alike to the policy count
as one strategy, whatever they did, and every two that differ in a word are two signatures.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.checks import require
from polytune.lookup import is_path
from polytune.methods.base import Method, Seen, Update
from polytune.methods.options import require_option
from polytune.methods.rep_exp import project


@dataclass
class HiddenSignatures(Method):
    width: int = 32
    scale: float = 1.0
    page: ClassVar[str] = "diversity"
    signs: ClassVar[tuple[float, ...]] = (0.0,)

    def __post_init__(self) -> None:
        require_option("width", self.width, 1)
        require_option("scale", self.scale, 1e-9)

    def says(self) -> str:
        return "Signatures are the policy's mean hidden states of an attempt (method `hidden_signatures`)."

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        require(
            objective.diversity == "leverage" or is_path(objective.diversity),
            f"method 'hidden_signatures' makes signatures vectors, and diversity {objective.diversity!r} counts "
            f"names: set "
            "diversity to 'leverage'.",
        )

    def probe(self, seen: Seen) -> dict[str, torch.Tensor]:
        return {"hidden_signatures/hidden": seen.mean()}

    @property
    def pays_failures(self) -> bool:
        return False

    def reward(self, update: Update) -> float:
        hidden_B_H = update.probed["hidden_signatures/hidden"].double().cpu() / self.scale
        vectors = project(hidden_B_H, self.width, update.seed).tolist()
        for trajectory, vector in zip(update.trajectories, vectors, strict=True):
            trajectory.signature = tuple(vector)
        return 0.0
