"""Callbacks: one line an update, plain JSONL metrics that survive a kill."""

from __future__ import annotations

import json
import time
from pathlib import Path

from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from polytune.running.provenance import write_text
from polytune.terminal import duration, say_warning, shows_bars

#: what the line of an update shows: (metric, title, format)
SHOWN = (
    ("rollout/env_steps", "env steps", ",.0f"),
    ("rollout/success", "success", ".3f"),
    ("rollout/return", "return", ".3f"),
    ("groups/distinct_signatures", "distinct", ".2f"),
    ("groups/without_signal", "no signal", ".0%"),
    ("critic/explained_variance", "explained", ".2f"),
    ("entropy", "entropy", ".3f"),
    ("kl", "KL", ".4f"),
    ("speed/env_steps_per_second", "steps/s", ",.0f"),
)

#: entries of the trainer's log_history
KEPT_LOGS = 200


def update_line(logs: dict, update: int, updates: int) -> str:
    """One update in a line; the rest is in ``metrics.jsonl``."""
    cells = [f"{title} {shown(logs[name], form)}" for name, title, form in SHOWN if logs.get(name) is not None]
    return f"update {update}/{updates}: " + ", ".join(cells)


def shown(value: float, form: str) -> str:
    """A number of an update's line; a rate below 10 keeps its decimals."""
    return f"{value:.2g}" if form == ",.0f" and 0 < value < 10 and value != int(value) else f"{value:{form}}"


class UpdateLines(ProgressCallback):
    """transformers' progress bar; the only change is the text of a log entry. Without a bar the line is printed."""

    def __init__(self, steps_per_update: int, *, bar: bool):
        super().__init__()
        self.steps_per_update, self.bar = steps_per_update, bar
        self.begun, self.first_step = time.monotonic(), 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.begun, self.first_step = time.monotonic(), state.global_step
        if self.bar:
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar:
            super().on_step_end(args, state, control, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs and "rollout/env_steps" in logs:
            line = update_line(
                logs, state.global_step // self.steps_per_update, state.max_steps // self.steps_per_update
            )
            if self.bar and self.training_bar is not None:
                self.training_bar.write(line)
            else:
                taken = (time.monotonic() - self.begun) / (state.global_step - self.first_step)
                left = taken * (state.max_steps - state.global_step)
                print(f"{line}; {duration(left)} left" if left else line, flush=True)

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar:
            super().on_train_end(args, state, control, **kwargs)


def replace_progress(trainer, steps_per_update: int) -> None:
    """Show updates instead of raw log entries; a bar only where somebody can see it move."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(UpdateLines(steps_per_update, bar=shows_bars() and not trainer.args.disable_tqdm))


def keep_until(path: Path, step: int) -> list[dict]:
    """Drop the records of a JSONL file from the first one on that lies beyond ``step``, or that a kill cut short; a run
    that goes on from a checkpoint writes them again. A line in the middle that a disk has damaged is left out, and
    told. Returns those that stay."""
    kept, lines = [], path.read_text(errors="replace").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            beyond = record["step"] > step
        except (ValueError, TypeError, KeyError):
            if number < len(lines):
                say_warning(f"{path} line {number} is damaged and left out: {line[:40]!r}")
            continue
        if beyond:
            break
        kept.append(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    return kept


class MetricsFile(TrainerCallback):
    """Appends every log record to ``metrics.jsonl``; a resumed run first drops what lies beyond its checkpoint. Memory,
    and the state that checkpoints hold, keep the last :data:`KEPT_LOGS` alone."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            keep_until(self.path, state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        del state.log_history[:-KEPT_LOGS]
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")
