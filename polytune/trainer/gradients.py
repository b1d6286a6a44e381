"""A run that cannot learn ends: no trainable weight at its start, or no gradient in an update that has signal.

An update without signal (all advantages 0) has no gradient of its own accord. With one, the first pass over the rows
has ratios of 1, so nothing is clipped, and the norms of all optimiser steps of an update are exactly 0 only when what
trains has no part in the logprobs, or when every action has become certain. A term beside the clipped one (entropy, KL
to the pretrained policy, a shared value loss) has a gradient of its own, and such a run goes on. Norms are those of the
trainer, over all processes and shards.
"""

from __future__ import annotations

import math

import torch

from polytune.policy.weights import check_trainable


class NoGradientError(RuntimeError):
    """An update whose actions had advantages, and whose policy gradient was exactly 0 in every step."""


class MustMove:
    """Mixin before :class:`~polytune.trainer.minibatches.WholeTrees` and a TRL trainer with ``_sum``: the only changes
    are that it stops where nothing can be learnt, and that the norm which is logged of an update is that of its last
    step with tokens."""

    #: actions of the update with an advantage other than 0, over all processes
    _actions_with_signal = 0.0
    #: largest norm of the policy's gradient among the update's steps so far; None: the trainer knows none
    _largest_norm: float | None = 0.0
    #: of the last step with tokens
    _last_norm: float = 0.0

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        check_trainable(self.model)

    def _note_signal(self, output: dict[str, torch.Tensor]) -> None:
        """Count what an update may learn from, before its first step."""
        with_signal = output["advantages"] != 0
        if "set_deductions" in output:
            with_signal = with_signal | (output["set_deductions"] != 0)
        (count,) = self._sum([float(with_signal.sum())])
        if self.model.training:
            self._actions_with_signal, self._largest_norm = count, 0.0

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        if torch.is_grad_enabled() and not loss.requires_grad:
            raise NoGradientError(
                "the policy's loss depends on no weight that trains, so nothing can be learnt: check requires_grad, "
                "lora_target_modules and lora_modules_to_save."
            )
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is None:  # DeepSpeed before it knows
            self._largest_norm = None
            return norm
        self._check_finite_norm(float(norm))
        if self._largest_norm is not None:
            self._largest_norm = max(self._largest_norm, float(norm))
        if (self.state.global_step + 1) % self.args.steps_per_update == 0:
            self._check_moved()
        if not self._blank_step:
            self._last_norm = norm
        return self._last_norm

    def _check_finite_norm(self, norm: float) -> None:
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"the policy's gradient has norm {norm} in step {self.state.global_step + 1}: the run has diverged, "
                "and this step was not taken. Lower learning_rate or max_grad_norm, and begin again or from an earlier "
                "checkpoint."
            )

    def _check_moved(self) -> None:
        """Raise NoGradientError at the end of an update with signal and no gradient."""
        if self._actions_with_signal > 0 and self._largest_norm == 0.0:
            update = self.state.global_step // self.args.steps_per_update + 1
            raise NoGradientError(
                f"update {update}: {self._actions_with_signal:,.0f} tokens had an advantage, but the policy's gradient "
                "was exactly 0 in every step, so nothing can be learnt. Either what trains has no part in the policy's "
                "output (requires_grad, lora_target_modules, lora_modules_to_save), or its actions have become certain "
                "(entropy 0): begin with another policy or checkpoint, or lower learning_rate."
            )
