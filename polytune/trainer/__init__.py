"""Training: Poly-PPO on TRL's ``GRPOTrainer``, the critic, behaviour cloning, atomic checkpoints."""

from polytune.trainer.checkpoints import SaveError, check_space, latest_checkpoint
from polytune.trainer.cloning import CloningCollator, CloningTrainer, StopAtSuccess
from polytune.trainer.config import PolychromicConfig
from polytune.trainer.polychromic import PolychromicTrainer, check_run

__all__ = [
    "CloningCollator",
    "CloningTrainer",
    "PolychromicConfig",
    "PolychromicTrainer",
    "SaveError",
    "StopAtSuccess",
    "check_run",
    "check_space",
    "latest_checkpoint",
]
