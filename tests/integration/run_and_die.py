"""Runs ``recipes/finetune.py`` and kills itself with SIGKILL at the n-th call of a named place.

    python tests/integration/run_and_die.py PLACE N [arguments of recipes/finetune.py]

PLACE: rollout (a generator call), update (a backward pass), staged (a checkpoint half written), manifest (written, not
renamed), renamed (renamed, old ones not removed yet), final (the policy is saved, the run's last act).
"""

import os
import runpy
import signal
import sys
from pathlib import Path

from polytune.policy import TransformersGenerator
from polytune.running import checkpoints
from polytune.trainer import PolychromicTrainer

PLACES = {
    "rollout": (TransformersGenerator, "sample"),
    "update": (PolychromicTrainer, "_compute_loss"),
    "staged": (PolychromicTrainer, "_save_optimizer_and_scheduler"),
    "manifest": (checkpoints, "write_manifest"),
    "renamed": (checkpoints, "checkpoints"),
    "final": (PolychromicTrainer, "save_model"),
}


def arm(place: str, count: int) -> None:
    owner, name = PLACES[place]
    original = getattr(owner, name)
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == count:
            if place == "manifest":
                original(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    recipe = Path(__file__).resolve().parents[2] / "recipes/finetune.py"
    sys.argv = [str(recipe), *sys.argv[3:]]
    runpy.run_path(str(recipe), run_name="__main__")
