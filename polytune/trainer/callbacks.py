"""Callbacks: plain JSONL metrics that survive a kill, and the end of a run at its budget of environment steps."""

from __future__ import annotations

import json
import os
from pathlib import Path

from transformers import TrainerCallback


class MetricsFile(TrainerCallback):
    """Appends every log record to ``metrics.jsonl``; a resumed run first drops what lies beyond its checkpoint."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if not state.is_world_process_zero:
            return
        kept = []
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                record = json.loads(line)
            except ValueError:
                break  # a line that a kill cut short: everything from there on is written again
            if record["step"] > state.global_step:
                break
            kept.append(line)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(line + "\n" for line in kept))
        os.replace(temporary, self.path)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


class EnvStepBudget(TrainerCallback):
    """Ends the run at the first update whose rollouts reached ``max_env_steps``.

    Args:
        trainer: counts ``env_steps`` over all processes.
        max_env_steps: budget.
        steps_per_update: optimiser steps of one update; the run ends between updates only.
    """

    def __init__(self, trainer, max_env_steps: int, steps_per_update: int):
        self.trainer, self.max_env_steps, self.steps_per_update = trainer, max_env_steps, steps_per_update

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.steps_per_update == 0 and self.trainer.env_steps >= self.max_env_steps:
            control.should_training_stop = True
            control.should_save = True
        return control
