"""The KL to the policy that the run began with: which policy that is, and the two directions of the divergence.

The reference is a copy of the policy in memory, taken before the trainer is built and before a checkpoint is loaded: a
merged adapter, a revision and a model that was never saved included, whatever its name points to now. With
``peft_config`` it is the base, the adapter disabled; of a ``PeftModel`` that is handed in, TRL copies the adapter.

With r = pi_theta / pi_beta (behaviour policy), u = pi_ref / pi_theta of a sampled token:

    reverse, KL(policy || reference):  r (u - 1 - log u)           TRL, use_bias_correction_kl (arXiv 2512.02556)
    forward, KL(reference || policy):  r (u log u - u + 1)         Schulman's k3 of the other direction, weighed by r

Both are unbiased for samples of pi_beta, never negative, and their gradients are those of the divergences (the tests
enumerate them). Without r, TRL's term has the gradient of the forward divergence on the first pass, its own value
notwithstanding. Reverse lets go of what the reference does and keeps off what it does not; forward keeps all that the
reference does, and its weights pi_ref / pi_beta are as large as the policy has moved away.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from peft import PeftModel
from transformers import PreTrainedModel
from trl.trainer import grpo_trainer

from polytune.trainer.config import PolychromicConfig


def forward_kl(
    logprobs_B_C: torch.Tensor, old_B_C: torch.Tensor, reference_B_C: torch.Tensor, mask_B_C: torch.Tensor
) -> torch.Tensor:
    """KL(reference || policy) per sampled token, (B, C), as in the module's docstring; 0 elsewhere."""
    log_u_B_C = (reference_B_C - logprobs_B_C) * mask_B_C
    weight_B_C = ((reference_B_C - old_B_C) * mask_B_C).exp()  # r u, which knows nothing of theta
    ratio_B_C = ((logprobs_B_C - old_B_C) * mask_B_C).exp()
    return (weight_B_C * (log_u_B_C - 1) + ratio_B_C) * mask_B_C


@contextlib.contextmanager
def start_policy_as_reference(model: PreTrainedModel, args: PolychromicConfig, lora) -> Iterator[None]:
    """Within, a TRL trainer that is built gets a copy of ``model`` as its reference instead of loading one by name; it
    prepares the copy as it would its own (dropout, head, FSDP2, DeepSpeed). Nothing is copied where none is needed."""
    if args.beta == 0.0 or lora is not None or isinstance(model, PeftModel):
        yield
        return
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    load, grpo_trainer.create_model_from_path = grpo_trainer.create_model_from_path, lambda *_, **__: reference
    try:
        yield
    finally:
        grpo_trainer.create_model_from_path = load


class HoldsReference:
    """Mixin before a TRL trainer with ``_pass_logprobs``: the only changes are which policy is the reference, and the
    forward direction of the KL term."""

    def __init__(self, model: PreTrainedModel, args: PolychromicConfig, peft_config=None, **kwargs):
        with start_policy_as_reference(model, args, peft_config):
            super().__init__(model=model, args=args, peft_config=peft_config, **kwargs)

    def _compute_loss(self, model, inputs):
        if self.beta == 0.0 or self.args.kl_towards != "forward":
            return super()._compute_loss(model, inputs)
        beta, self.beta = self.beta, 0.0  # TRL's term is the other one
        try:
            loss = super()._compute_loss(model, inputs)
        finally:
            self.beta = beta
        mask_B_C = inputs["completion_mask"] * inputs["tool_mask"]
        old_B_C = inputs.get("old_per_token_logps", inputs["sampling_per_token_logps"])
        kl_B_C = forward_kl(self._pass_logprobs, old_B_C, inputs["ref_per_token_logps"], mask_B_C)
        self._record_mean("kl", kl_B_C, mask_B_C)
        return loss + beta * kl_B_C.sum() / self._normaliser(inputs["num_items_in_batch"])
