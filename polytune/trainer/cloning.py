"""Behaviour cloning with transformers' Trainer: cross-entropy on action tokens minus an entropy bonus.

    loss = mean over action tokens of [ -log pi(a | history) ] - entropy_coef * mean entropy of pi

(arXiv 2509.25424, pretraining: policies are pretrained on expert demonstrations, 80/20 split, cross-entropy with
an entropy regulariser.) Training stops early at a named success rate, so that RL has head-room.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from peft import PeftModel
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from polytune.policy import Renderer, TransformersGenerator
from polytune.policy.packer import find_packer
from polytune.policy.weights import check_trainable
from polytune.rollout import Start, sample_episodes
from polytune.running.checkpoints import AtomicCheckpoints
from polytune.tasks.base import Task
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


class PromptSampler(Sampler[int]):
    """Rows in an order drawn anew for each pass in which those of one prompt (what lies before the first action) follow
    one another. In one batch their prompt is computed once (`polytune.policy.packed`).

    Args:
        rows: with ``input_ids`` and ``own``, as the collator takes them.
        seed: with the number of the pass, which ``set_epoch`` tells, it decides the order.
    """

    def __init__(self, rows: Sequence[dict], seed: int):
        self.groups: dict[tuple[int, ...], list[int]] = {}
        for index, row in enumerate(rows):
            self.groups.setdefault(tuple(row["input_ids"][: list(row["own"]).index(1)]), []).append(index)
        self.count, self.seed, self.epoch = len(rows), seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The pass that the next order is for; transformers' trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        draw = random.Random(f"{self.seed} {self.epoch}")
        for group in draw.sample(list(self.groups.values()), len(self.groups)):
            yield from draw.sample(group, len(group))


class CloningTrainer(AtomicCheckpoints, Trainer):
    """transformers' Trainer; the only changes are the loss (see the module), atomic checkpoints and, with
    ``group_prompts``, the order of its rows (`PromptSampler`).

    With ``teacherless_weight`` w the loss is (1 - w) next-token + w teacherless: there the answer's own tokens are
    hidden behind the pad token, so each is predicted from the prompt alone (multi-token training, arXiv 2504.15266).
    Sampling goes token by token either way.
    """

    def __init__(
        self, *args, entropy_coef: float, teacherless_weight: float = 0.0, group_prompts: bool = False, **kwargs
    ):
        super().__init__(*args, **kwargs)
        check_trainable(self.model)
        policy = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        self._packer, reason = find_packer(policy)
        if self._packer is None:
            say_warning(f"rows of {type(policy).__name__} are padded, not packed: {reason}.")
        self.entropy_coef, self.teacherless_weight, self.group_prompts = entropy_coef, teacherless_weight, group_prompts
        self.model_accepts_loss_kwargs = False
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset=None):
        if not self.group_prompts:
            return super()._get_train_sampler(train_dataset)
        return PromptSampler(self.train_dataset if train_dataset is None else train_dataset, self.args.seed)

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
        if self.entropy_coef == 0:  # of a large vocabulary, entropies cost a twentieth of a step
            return cross_entropy
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


class Sampled(NamedTuple):
    """What a check of success found: the share of episodes that were won, and of turns without a legal action."""

    success: float
    invalid_rate: float = 0.0


def sample(model: torch.nn.Module, *, task: Task, renderer: Renderer, starts: Sequence[Start], seed: int) -> Sampled:
    """Let the policy play an episode from each of ``starts``."""
    generator = TransformersGenerator(model, max_action_tokens=renderer.longest_action(), stop_ids=renderer.stop_ids)
    episodes = sample_episodes(task, renderer, generator, starts, run_seed=seed)
    turns = sum(len(episode.turns) for episode in episodes)
    invalid = sum(episode.invalid_actions for episode in episodes)
    return Sampled(sum(episode.success for episode in episodes) / len(episodes), invalid / turns)


class StopAtSuccess(TrainerCallback):
    """Checks success every ``every`` steps, stops the run at ``target``, and says both in a line, with the loss.

    Args:
        sampled: what the model as it is now is found to do.
        every: optimiser steps between two checks; the last step is always checked.
        target: success rate that ends the run. ``last`` is what the last check found, None before the first.
        where: what is sampled, for the line that is printed.
    """

    def __init__(
        self, sampled: Callable[[torch.nn.Module], Sampled], every: int, target: float, where: str = "held-out levels"
    ):
        self.sampled, self.every, self.target, self.where = sampled, every, target, where
        self.last: Sampled | None = None

    @property
    def reached(self) -> bool:
        """Whether the last check reached the target."""
        return self.last is not None and self.last.success >= self.target

    def restore(self, state: TrainerState) -> None:
        """Take the last check from the state of a checkpoint."""
        told = [entry for entry in state.log_history if "success" in entry]
        self.last = Sampled(told[-1]["success"], told[-1].get("invalid_rate", 0.0)) if told else None

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.every and state.global_step != state.max_steps:
            return control
        self.last = self.sampled(model)
        state.log_history.append({"step": state.global_step, **self.last._asdict()})
        print(
            f"step {state.global_step} of {state.max_steps}: sampled success on {self.where} {self.last.success:.3f} "
            f"(target {self.target}), invalid actions {self.last.invalid_rate:.0%}",
            flush=True,
        )
        if self.reached:
            control.should_training_stop = True
        return control

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and "loss" in (logs or {}):
            print(f"step {state.global_step} of {state.max_steps}: loss {float(logs['loss']):.3f}", flush=True)
