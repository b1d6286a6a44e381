"""The minibatches of an update: whole trees where rows share long prefixes, so that a pass computes those once.

Rows of one start state are more alike than others, so a minibatch of whole trees has the noisier gradient. Whole
episodes share no more than their prompt, which a minibatch computes once whatever it holds: they are shuffled one by
one. (With whole trees of 8 episodes, PPO on FourRooms ended at .535 success of rollouts after 120,000 steps, one seed;
runs that shuffled rows at .563 to .621, five seeds.)

Where chance leaves a minibatch nothing but blank rows (a budget that few trees fit into), those with tokens are dealt
out evenly. A step without a token of anybody, fewer trees than minibatches, moves no weight: its gradient is 0, but an
optimiser's momentum is not. (DeepSpeed keeps gradients to itself, and there it does.) Nor does such a minibatch count
in what is logged as a mean over tokens, or move TRL's adaptive entropy coefficient: an entropy of no token is not 0.
"""

from __future__ import annotations

import torch
from trl.trainer.utils import split_tensor_dict

#: what TRL logs of each minibatch, a mean over its fresh tokens
OF_TOKENS = (
    "entropy",
    "kl",
    *(f"clip_ratio/{name}" for name in ("low_mean", "high_mean", "region_mean", "low_min", "high_max")),
)


class WholeTrees:
    """Mixin before a TRL trainer with ``rollout`` and ``_sum``: the only changes are what is shuffled, trees instead of
    rows, where they have vines, and that a step without tokens is none and a minibatch without them is not logged.

    The rows of such a tree stand together. Where a minibatch has room for less than a tree, or for one and a half,
    trees are cut at its end.
    """

    _tokens_M: list[float] = []  # of the update's minibatches, over all processes: those that its loss sees
    _fresh_M: list[float] = []  # the fresh ones among them
    _step_tokens = 0.0  # of the optimiser step that is under way
    _moved = False  # whether an optimiser step of this update has moved weights
    _blank_step = False  # whether the step that is under way saw no token

    def _prepare_inputs(self, generation_batch):
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        minibatches = self.args.steps_per_generation
        if self._step % (minibatches * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = split_tensor_dict(self._shuffle(batch), minibatches)
            self._tokens_M = self._sum([float(self._seen_tokens(part).sum()) for part in self._buffered_inputs])
            self._fresh_M = self._sum([float(_fresh_tokens(part).sum()) for part in self._buffered_inputs])
            self._moved = False
        return self._buffered_inputs[self._step % minibatches]

    def _shuffle(self, batch: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor | None]:
        """The rows of a batch in a random order, those of a tree with vines together."""
        rows, size = len(batch["completion_ids"]), self.num_generations if self.rollout.num_rollout_states else 1
        order_T = torch.randperm(rows // size)
        tokens_T = self._seen_tokens(batch).cpu().view(-1, size).sum(dim=1)[order_T]
        parts = tokens_T.repeat_interleave(size).chunk(self.args.steps_per_generation)
        if any(not part.any() for part in parts):
            order_T = order_T[_spread(tokens_T > 0)]
        order_B = torch.arange(rows).view(-1, size)[order_T].flatten()
        return {name: x[order_B] if x is not None and x.ndim else x for name, x in batch.items()}

    def _compute_loss(self, model, inputs):
        """TRL's; what it logs of no token, and makes of it for its entropy coefficient, is taken back."""
        blank = bool(self._fresh_M) and not self._fresh_M[self._step % len(self._fresh_M)]
        if not blank or not self.model.training:
            return super()._compute_loss(model, inputs)
        metrics = self._metrics["train"]
        counts = {name: len(values) for name, values in metrics.items()}
        window, held = self._entropy_window_stats, (self.entropy_coef, self._last_world_entropy)
        loss = super()._compute_loss(model, inputs)
        for name in metrics.keys() & OF_TOKENS:
            del metrics[name][counts.get(name, 0) :]
        if self._entropy_window_stats is not None:
            self._entropy_window_stats = window
        elif window is None:  # the step's other minibatches had none either
            self.entropy_coef, self._last_world_entropy = held
        return loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        """TRL's; the gradients of a step that saw no token are taken away before it is made."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._step_tokens += self._tokens_M[(self._step - 1) % len(self._tokens_M)]
        if self.accelerator.sync_gradients:
            if not self._step_tokens:
                model.zero_grad(set_to_none=True)  # optimisers pass over weights without a gradient
            self._blank_step = not self._step_tokens
            self._moved |= self._step_tokens > 0
            self._step_tokens = 0.0
        return loss

    def _seen_tokens(self, batch: dict[str, torch.Tensor | None]) -> torch.Tensor:
        """Tokens of each row, (B,), that the loss sees: own ones, and replayed ones with an advantage, or a loss of
        their method's own."""
        tokens_B = _fresh_tokens(batch)
        if "replay_mask" in batch:
            seen_B_C = batch["replay_mask"].bool()
            if not any(method.has("replayed") for method in self.methods.values()):
                seen_B_C &= batch["replay_advantages"] != 0
            tokens_B = tokens_B + seen_B_C.sum(dim=1)
        return tokens_B


def _fresh_tokens(batch: dict[str, torch.Tensor | None]) -> torch.Tensor:
    """Own tokens of each row, (B,), of the update's rollouts."""
    return (batch["completion_mask"] * batch["tool_mask"]).sum(dim=1)


def _spread(chosen_T: torch.Tensor) -> torch.Tensor:
    """The places of what is chosen and of the others, each in its order, at even distances among each other: wherever
    the row of them is cut, each part has its share of both, to within one."""
    places = torch.empty(len(chosen_T), dtype=torch.float64)
    for kind_T in (chosen_T, ~chosen_T):
        count = int(kind_T.sum())
        places[kind_T] = (torch.arange(count, dtype=torch.float64) + 0.5) / max(count, 1)
    return places.argsort(stable=True)
