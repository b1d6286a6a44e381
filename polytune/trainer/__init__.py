"""Training: Poly-PPO on TRL's ``GRPOTrainer``, the critic, behaviour cloning, atomic checkpoints."""

from polytune.running.checkpoints import SaveError, check_space, hold_run, latest_checkpoint
from polytune.running.processes import supervise
from polytune.trainer.checks import check_run
from polytune.trainer.cloning import CloningCollator, CloningTrainer, StopAtSuccess
from polytune.trainer.config import PolychromicConfig
from polytune.trainer.polychromic import PolychromicTrainer
from polytune.trainer.process_checks import check_processes
from polytune.trainer.serving import check_vllm_mode

__all__ = [
    "CloningCollator",
    "CloningTrainer",
    "PolychromicConfig",
    "PolychromicTrainer",
    "SaveError",
    "StopAtSuccess",
    "check_processes",
    "check_run",
    "check_space",
    "check_vllm_mode",
    "hold_run",
    "latest_checkpoint",
    "supervise",
]
