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
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from trl.trainer import grpo_trainer

from polytune.checks import require
from polytune.methods import Method
from polytune.trainer.config import PolychromicConfig

#: in a checkpoint, where a method gave the reference other weights
REFERENCE_FILE = "reference.safetensors"


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
    """Mixin before a TRL trainer with ``_pass_logprobs`` and ``methods``: the only changes are which policy is the
    reference, at the beginning and once methods give it other weights, and the forward direction of the KL term."""

    methods: dict[str, Method]

    def __init__(self, model: PreTrainedModel, args: PolychromicConfig, peft_config=None, **kwargs):
        with start_policy_as_reference(model, args, peft_config):
            super().__init__(model=model, args=args, peft_config=peft_config, **kwargs)
        setting = ", ".join(repr(name) for name, method in self.methods.items() if method.sets_reference)
        require(
            not setting or (self.ref_model is not None and not self._is_sharded),
            f"method {setting} gives the KL term a reference of its own, which must lie whole in memory: set "
            "kl_reference to 'pretrained' and kl_coef above 0, leave the adapter (use_peft) out, do not shard weights.",
        )

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


class RenewsReference:
    """Mixin before :class:`HoldsReference` and what saves checkpoints: methods give the reference other weights (hook
    ``reference``); without one nothing changes."""

    methods: dict[str, Method]
    _renewed = False  # the reference is not the policy that the run began with

    def _renew_reference(self) -> None:
        """What methods make of the reference at the beginning of an update."""
        progress = self.state.global_step / self.args.max_steps
        for method in self.methods.values():
            given = method.reference(self._policy_weights, progress) if method.sets_reference else None
            if given is not None:
                self.accelerator.unwrap_model(self.ref_model).load_state_dict(given)
                self._renewed = True

    def _policy_weights(self) -> dict[str, torch.Tensor]:
        return self.accelerator.unwrap_model(self.model).state_dict()

    def _save_extra_state(self, folder: Path) -> None:
        super()._save_extra_state(folder)
        if self._renewed:
            held = self.accelerator.unwrap_model(self.ref_model).state_dict()
            save_file({name: tensor.detach().cpu().clone() for name, tensor in held.items()}, folder / REFERENCE_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        path = None if checkpoint is None else Path(checkpoint) / REFERENCE_FILE
        if path is not None and path.is_file():
            self.accelerator.unwrap_model(self.ref_model).load_state_dict(load_file(path))
            self._renewed = True
