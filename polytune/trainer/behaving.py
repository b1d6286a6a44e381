"""Another policy that samples (hook ``behave`` of methods): the trained weights are changed for the rollouts, and put
back.

    sampled by pi_b;   old logprobs, entropies, hidden states: those of the trained policy, from a pass over the rows
so that the loss takes the rollouts for its own. Repeated attempts are judged by what sampled them
(``duplicates/expected``), and a rule of ``rollout_states`` that asks the policy asks that one. How far pi_b is from the
trained policy is ``sampling/logprob_gap``. One copy of the weights that train stays in memory as trees grow. Degenerate
case: a method that changes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch

from polytune.checks import require
from polytune.methods import Apart, Method


def behaving(methods: Mapping[str, Method]) -> dict[str, Method]:
    """Those with the hook."""
    return {name: method for name, method in methods.items() if method.has("behave")}


def check_behaving(methods: Mapping[str, Method], generator: str) -> None:
    """ValueError for a sampler that reads other weights than those that train."""
    told = ", ".join(map(repr, behaving(methods)))
    require(
        not told or generator == "transformers",
        f"method {told} changes the weights that sample, which generator {generator!r} holds as a copy: set generator "
        "to 'transformers'.",
    )


class SamplesApart:
    """Mixin before :class:`~polytune.trainer.observed.ReadsRollouts`; without such a method it changes nothing.

    Expects ``methods``, ``generator``, ``_pass_over_given``, ``_record`` and ``_is_sharded`` of the trainer.
    """

    methods: dict[str, Method]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        told = ", ".join(map(repr, behaving(self.methods)))
        require(
            not told or not self._is_sharded,
            f"method {told} changes the weights that sample, which must lie whole in memory: do not shard (FSDP2).",
        )

    @property
    def _behaves(self) -> bool:
        return bool(behaving(self.methods))

    @contextlib.contextmanager
    def _behaving(self) -> Iterator[None]:
        """The weights of the policy that samples."""
        if not self._behaves:
            yield
            return
        weights = [own for own in self.accelerator.unwrap_model(self.model).parameters() if own.requires_grad]
        kept = [own.detach().clone() for own in weights]
        apart = Apart(weights, lambda rows: self._pass_over_given(rows, graph=True)[0], self._record)
        try:
            for method in behaving(self.methods).values():
                method.behave(apart)
            self.generator.reset()
            yield
        finally:
            with torch.no_grad():
                for own, before in zip(weights, kept, strict=True):
                    own.copy_(before)
            self.generator.reset()

    def _take_for_own(self, output: dict[str, torch.Tensor], scored_B_C: torch.Tensor, own_B_C: torch.Tensor) -> None:
        """Fresh tokens have the trained policy's logprobs, as if it had sampled them."""
        sampled_B_C = output["sampling_per_token_logps"]
        output["sampling_per_token_logps"] = torch.where(own_B_C, scored_B_C.to(sampled_B_C.dtype), sampled_B_C)
        output["old_per_token_logps"] = scored_B_C
