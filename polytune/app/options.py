"""The fields of pretraining."""

from __future__ import annotations

from dataclasses import dataclass, field

from polytune.config import require, require_finite, require_integer, require_number


@dataclass
class PretrainConfig:
    """Behaviour cloning on the task's expert, or next-token prediction on its training lines."""

    preset: str = field(default="tiny", metadata={"help": "Size of the new policy (polytune.policy.PRESETS)."})
    output_dir: str = field(default="outputs/quickstart/pretrained", metadata={"help": "Where the policy is saved."})
    base_model: str | None = field(
        default=None,
        metadata={
            "help": "Begin with this causal LM (folder or Hub id, gpt2 say) instead of a preset; the words of a "
            "creativity task are added to its tokens."
        },  # fmt: skip
    )
    num_demonstrations: int | None = field(
        default=None,
        metadata={
            "help": "Expert episodes, 80 %% to train, 20 %% held out (unset: 1500). Creativity tasks have their own "
            "training lines, all of which are used: leave it unset."
        },
    )
    teacherless_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the teacherless loss (every answer token from the prompt alone) beside next-token "
            "prediction, 0 to 1."
        },  # fmt: skip
    )
    entropy_coef: float = field(default=0.01, metadata={"help": "Weight of the entropy regulariser."})
    learning_rate: float = field(default=1e-3, metadata={"help": "AdamW's learning rate, cosine to zero."})
    batch_size: int = field(default=32, metadata={"help": "Episodes in a batch."})
    epochs: int = field(default=20, metadata={"help": "Passes over the demonstrations at most."})
    target_success: float = field(
        default=0.35, metadata={"help": "Stop as soon as sampled success on held-out levels reaches this."}
    )
    eval_every: int = field(default=15, metadata={"help": "Optimiser steps between two success checks."})
    eval_episodes: int = field(default=128, metadata={"help": "Episodes of a success check."})
    seed: int = field(default=0, metadata={"help": "Seed of weights, demonstrations and checks."})

    def __post_init__(self) -> None:
        require_finite(self)
        for name in ("batch_size", "epochs", "eval_every", "eval_episodes"):
            require_integer(name, getattr(self, name), 1)
        require_integer("seed", self.seed, 0)
        if self.num_demonstrations is not None:
            require_integer("num_demonstrations", self.num_demonstrations, 5)
        require_number("teacherless_weight", self.teacherless_weight, 0.0, 1.0)
        require(0.0 < self.target_success <= 1.0, f"target_success must lie in (0, 1], got {self.target_success}.")
        require(self.entropy_coef >= 0.0, f"entropy_coef must not be negative, got {self.entropy_coef}.")
        require(self.learning_rate > 0.0, f"learning_rate must be above 0, got {self.learning_rate}.")
