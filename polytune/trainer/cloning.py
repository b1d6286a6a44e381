"""Behaviour cloning with transformers' Trainer: cross-entropy on action tokens minus an entropy bonus.

    loss = mean over action tokens of [ -log pi(a | history) ] - entropy_coef * mean entropy of pi

(arXiv 2509.25424, pretraining: policies are pretrained on expert demonstrations, 80/20 split, cross-entropy with
an entropy regulariser.) Training stops early at a named success rate, so that RL has head-room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from polytune.policy.packer import find_packer
from polytune.policy.weights import check_trainable
from polytune.running.checkpoints import AtomicCheckpoints
from polytune.terminal import say_warning
from polytune.trainer.scoring import packed_rows


class CloningCollator:
    """Pads demonstrations on the right; labels are the action tokens, -100 elsewhere."""

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        input_ids = torch.full((len(rows), width), self.pad_token_id)
        labels = torch.full((len(rows), width), -100)
        attention_mask = torch.zeros(len(rows), width, dtype=torch.long)
        for index, row in enumerate(rows):
            ids, action = torch.tensor(row["input_ids"]), torch.tensor(row["own"]).bool()
            input_ids[index, : len(ids)] = ids
            attention_mask[index, : len(ids)] = 1
            labels[index, : len(ids)] = ids.masked_fill(~action, -100)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


class CloningTrainer(AtomicCheckpoints, Trainer):
    """transformers' Trainer; the only changes are the loss (see the module) and atomic checkpoints.

    With ``teacherless_weight`` w the loss is (1 - w) next-token + w teacherless: there the answer's own tokens are
    hidden behind the pad token, so each is predicted from the prompt alone (multi-token training, arXiv 2504.15266).
    Sampling goes token by token either way.
    """

    def __init__(self, *args, entropy_coef: float, teacherless_weight: float = 0.0, **kwargs):
        super().__init__(*args, **kwargs)
        check_trainable(self.model)
        policy = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        self._packer, reason = find_packer(policy)
        if self._packer is None:
            say_warning(f"rows of {type(policy).__name__} are padded, not packed: {reason}.")
        self.entropy_coef, self.teacherless_weight = entropy_coef, teacherless_weight
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels_B_T = inputs.pop("labels")
        loss = self._loss(model, inputs, labels_B_T)
        if self.teacherless_weight > 0:
            hidden = self.processing_class.pad_token_id
            blind = inputs | {"input_ids": inputs["input_ids"].masked_fill(labels_B_T != -100, hidden)}
            loss = (1 - self.teacherless_weight) * loss + self.teacherless_weight * self._loss(model, blind, labels_B_T)
        return (loss, {}) if return_outputs else loss

    def _loss(self, model, inputs, labels_B_T: torch.Tensor) -> torch.Tensor:
        mask = labels_B_T[:, 1:] != -100
        logits_A_V = self._packed_logits(model, inputs, mask) if self._packer else model(**inputs).logits[:, :-1][mask]
        logprobs_A_V = torch.log_softmax(logits_A_V.float(), dim=-1)
        cross_entropy = torch.nn.functional.nll_loss(logprobs_A_V, labels_B_T[:, 1:][mask])
        entropy = -(logprobs_A_V.exp() * logprobs_A_V).sum(-1).mean()
        return cross_entropy - self.entropy_coef * entropy

    def _packed_logits(self, model, inputs, mask_B_T: torch.Tensor) -> torch.Tensor:
        """Logits (A, V) before the action tokens, row by row: no padding, and the head at these alone."""
        [rows] = packed_rows(
            inputs["input_ids"], inputs["attention_mask"], mask_B_T, most_tokens=None,
            last_layer=self._packer.last_layer,
        )  # fmt: skip
        with self._packer.running(rows.packed, rows.find(rows.chosen_b_C)):
            return model(**self._packer.arguments(rows.packed)).logits[0]

    def train_until(self, stop: StopAtSuccess, checkpoint: Path | None) -> None:
        """Train from the start or from a checkpoint; one whose policy had reached the target is loaded, no more."""
        if checkpoint is None:
            self.train()
            return
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        stop.restore(state)
        if stop.reached:
            self.state = state
            self._load_from_checkpoint(str(checkpoint))
        else:
            self.train(resume_from_checkpoint=str(checkpoint))


class StopAtSuccess(TrainerCallback):
    """Checks success every ``every`` steps and stops the run at ``target``.

    Args:
        success: returns the success rate of the model as it is now.
        every: optimiser steps between two checks; the last step is always checked.
        target: success rate that ends the run. ``last`` is the rate of the last check, None before the first.
        where: what ``success`` is measured on, for the line that is printed.
    """

    def __init__(
        self, success: Callable[[torch.nn.Module], float], every: int, target: float, where: str = "held-out levels"
    ):
        self.success, self.every, self.target, self.where = success, every, target, where
        self.last: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the last check reached the target."""
        return self.last is not None and self.last >= self.target

    def restore(self, state: TrainerState) -> None:
        """Take the last check from the state of a checkpoint."""
        rates = [entry["success"] for entry in state.log_history if "success" in entry]
        self.last = rates[-1] if rates else None

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.every and state.global_step != state.max_steps:
            return control
        self.last = rate = self.success(model)
        state.log_history.append({"step": state.global_step, "success": rate})
        text = f"step {state.global_step}: sampled success on {self.where} {rate:.3f} (target {self.target})"
        print(text, flush=True)
        if self.reached:
            control.should_training_stop = True
        return control
