"""SALSA (arXiv 2411.01798): the KL term refers to an average of policies, not to the one that the run began with.

    theta_ref = share theta_0 + (1 - share) mean of the others' weights;   the KL term as the run has it (kl_coef)
``others``: folders of other policies of the same shape and words, "/a:/b" with ":" between them, pretrained with other
seeds say. Set once, before the first update; ``reference_B_C`` of other methods is the average's, too.

Source: the abstract: an average of the weights of two independently fine-tuned models as reference, PPO, further away
from the start at the same KL; share 1/2 of two is its plain mean. Assumes policies that lie in one basin: averages of
weights of policies that were begun differently mean nothing, and nobody checks that. Degenerate case: without others,
or with share 1, the reference is the policy that the run began with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from polytune.checks import require
from polytune.methods.base import Method, Weights
from polytune.methods.chi_squared import pretrained_at_hand
from polytune.methods.options import require_option
from polytune.policy.loading import load_policy


@dataclass
class SALSA(Method):
    others: str = ""
    share: float = 0.5

    def __post_init__(self) -> None:
        require_option("share", self.share, 0.0, 1.0)
        for folder in self.folders:
            require(Path(folder).is_dir(), f"others names {folder!r}, which is no folder: name saved policies.")

    @property
    def folders(self) -> list[str]:
        """Folders of the other policies."""
        return [folder for folder in str(self.others or "").split(":") if folder]

    def says(self) -> str:
        return (
            f"**SALSA** (arXiv 2411.01798): the KL term referred to an average of the policy that the run began with, "
            f"share {self.share:g}, and {len(self.folders)} others."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        pretrained_at_hand("salsa", trainer)

    def reference(self, policy: Callable[[], Weights], progress: float) -> Weights | None:
        if progress > 0 or not self.folders:
            return None
        own = policy()
        others = [load_policy(folder, dtype="float32")[0].state_dict() for folder in self.folders]
        for folder, other in zip(self.folders, others, strict=True):
            for name in sorted(own.keys() | other.keys()):
                mine, found = (tuple(one[name].shape) if name in one else None for one in (own, other))
                require(
                    mine == found,
                    f"others names {folder!r}, whose {name} has shape {found}, the policy's has {mine}: only policies "
                    "of one shape can be averaged.",
                )
        return {name: self.mean(tensor, [other[name] for other in others]) for name, tensor in own.items()}

    def mean(self, own: torch.Tensor, others: list[torch.Tensor]) -> torch.Tensor:
        """Of one tensor of weights; what is no floating point number stays."""
        if not own.is_floating_point():
            return own
        mean = torch.stack([other.to(own) for other in others]).mean(dim=0)
        return self.share * own + (1 - self.share) * mean
