"""Temperatures by token (hook ``temperature`` of methods): the rollouts', and all logprobs of their update.

    logprobs = log_softmax(logits / (temperature * factor)),   factor: of the token's number in its action, by the table
    of the update, which is the product over methods at the progress with which its rollouts begin
Factors divide the hidden states that go to the head, which is the same where the head is linear: without bias, without
softcapping. What reads hidden states (critic, probes) gets them as they are. Under bfloat16 autocast the pass rounds
them after the division, the sampler its logits before: 2e-3 nats a token in a trial; old and new logprobs, both of
passes there, agree.
Sampler, old, new and reference logprobs and all entropies, logged ones too, are those of that distribution; evaluations
and episodes that a checkpoint records are at the run's temperature. Degenerate case: with factors of 1 nothing changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real

import torch
from transformers import PreTrainedModel

from polytune.checks import require
from polytune.config import RolloutConfig
from polytune.methods import Method

#: with the rows of a batch, (B, C)
FACTORS = "temperature_factors"
#: where factors are tried before work; an update's own are, all of them, before its rollouts
TRIED_TOKENS, TRIED_PROGRESS = (0, *(2**k for k in range(16))), (0.0, 0.25, 0.5, 0.75, 0.999)


def tempering(methods: Mapping[str, Method]) -> dict[str, Method]:
    """Those with the hook."""
    return {name: method for name, method in methods.items() if method.has("temperature")}


def factor_at(methods: Mapping[str, Method], token: int, progress: float) -> float:
    """The product of all methods' factors.

    Raises:
        ValueError: one that is no finite number above 0.
    """
    product = 1.0
    for name, method in tempering(methods).items():
        factor = method.temperature(token, progress)
        require(
            isinstance(factor, Real) and math.isfinite(factor) and factor > 0,
            f"method {name!r} gives temperature({token}, {progress:g}) = {factor!r}: it must be a finite number above "
            "0, 1.0 where nothing is changed.",
        )
        product *= float(factor)
    return product


def check_tempering(methods: Mapping[str, Method], rollout: RolloutConfig, generator: str) -> None:
    """ValueError for fields that contradict temperatures by token, or for factors that are none."""
    tempers = ", ".join(map(repr, tempering(methods)))
    if not tempers:
        return
    require(
        generator == "transformers",
        f"method {tempers} changes the temperature by token, which generator {generator!r} cannot: set generator to "
        "'transformers'.",
    )
    require(
        rollout.branch_at == "turn",
        f"method {tempers} changes the temperature by token, and branch_at 'token' begins vines within an answer: set "
        "branch_at to 'turn'.",
    )
    replays = ", ".join(repr(name) for name, own in methods.items() if own.has("replay"))
    require(
        not replays,
        f"method {tempers} changes the temperature by token, and method {replays} replays rows of earlier updates, "
        "which had other temperatures: leave one out.",
    )
    for progress in TRIED_PROGRESS:
        for token in TRIED_TOKENS:
            factor_at(methods, token, progress)


class TempersTokens:
    """Mixin before :class:`~polytune.trainer.observed.ReadsRollouts`. Without a method with the hook it does nothing.

    Expects ``methods``, ``generator``, ``_rows``, ``_turn_index``, ``_first_tokens`` and ``_record_mean``.
    """

    _factors_N: torch.Tensor | None = None  # of the last rollouts, by a token's number in its action
    _factors_b_C: torch.Tensor | None = None  # of the minibatch that is passed

    @property
    def _tempers(self) -> bool:
        return bool(tempering(self.methods))

    def _watch_trunk(self, policy: PreTrainedModel) -> None:
        super()._watch_trunk(policy)
        if not self._tempers:
            return
        told = f"method {', '.join(map(repr, tempering(self.methods)))} changes the temperature by token, which "
        require(
            self._packers[id(policy)] is not None and not self.aux_loss_enabled,
            f"{told}needs rows that run packed, and those of {type(policy).__name__} do not: take another policy (or "
            "attn_implementation 'sdpa', and no router_aux_loss_coef), or leave the method out.",
        )
        softcapping = getattr(policy.config.get_text_config(), "final_logit_softcapping", None)
        for what, found in (("a bias", getattr(policy.get_output_embeddings(), "bias", None)),
                            ("softcapping", softcapping)):  # fmt: skip
            require(
                found is None,
                f"{told}needs logits that are linear in hidden states, and the head of {type(policy).__name__} has "
                f"{what}: take another policy, or leave the method out.",
            )

    def _roll_out(self, prompts: list[str]) -> dict[str, list]:
        """Tempered in training; the generator is as before when it ends."""
        self._factors_N = None
        if not self._tempers or not self.model.training:
            return super()._roll_out(prompts)
        progress = self.state.global_step / self.args.max_steps
        factors = [factor_at(self.methods, token, progress) for token in range(self.generator.max_action_tokens)]
        self._factors_N = torch.tensor(factors, device=self.accelerator.device)
        self.generator.factors = factors
        try:
            return super()._roll_out(prompts)
        finally:
            self.generator.factors = ()

    def _factors(self, ids_B_L: torch.Tensor, width: int) -> torch.Tensor | None:
        """Of a minibatch those that came with it; else of the rows that were rolled out."""
        if self._factors_b_C is not None or self._rows is None or self._factors_N is None:
            return self._factors_b_C
        return self._row_factors(ids_B_L[:, -width:])

    def _row_factors(self, ids_B_C: torch.Tensor) -> torch.Tensor:
        """(B, C) of ``self._rows``, 1 off own tokens."""
        turn_index_B_C = self._turn_index(ids_B_C)
        columns_B_C = torch.arange(ids_B_C.size(1), device=ids_B_C.device).expand_as(ids_B_C)
        first_B_C = columns_B_C.masked_fill(~self._first_tokens(turn_index_B_C), 0).cummax(dim=1).values
        token_B_C = (columns_B_C - first_B_C).clamp(max=len(self._factors_N) - 1)
        return torch.where(turn_index_B_C >= 0, self._factors_N[token_B_C], 1.0)

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, torch.Tensor]:
        output = super()._generate_and_score_completions(inputs)
        if self._factors_N is not None:
            output[FACTORS] = self._row_factors(output["completion_ids"])
            own_B_C = output["completion_mask"] * output["tool_mask"]
            self._record_mean("sampling/temperature_factor", output[FACTORS] * own_B_C, own_B_C)
        return output

    def _minibatch(self, model, inputs):
        self._factors_b_C = inputs.get(FACTORS)
        try:
            return super()._minibatch(model, inputs)
        finally:
            self._factors_b_C = None
