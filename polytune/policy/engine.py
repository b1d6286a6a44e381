"""What the two vLLM generators share: branches, seeds, weights as an engine reads them, and the canary.

An engine holds a copy of the weights: ``reset()`` marks it stale, and the next ``sample`` hands the policy's weights
over (LoRA merged on the way, tied heads included), empties the prefix cache, and scores one canary on both sides.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from polytune.digests import number_from
from polytune.errors import ToldError
from polytune.policy.generator import Branch, Sample, SampleKey, TokenCounters

log = logging.getLogger(__name__)

#: mean |logprob of the engine - logprob of the policy| on the canary, in nats, from which on it is told; by weight type
CANARY_WARNING = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 1e-2}
#: and at which the engine's weights cannot be the policy's
CANARY_ERROR = 0.1
#: parts of a state dict's names that the plain model has not: adapters, what a trained module replaced, and how
#: bitsandbytes scales a weight
NO_WEIGHTS = (".lora_", ".original_module.", ".weight.")


class EngineError(ToldError, RuntimeError):
    """The engine died, or does not hold the policy's weights."""


@dataclass(eq=False, slots=True)
class EngineBranch(Branch):
    """A branch and what of it has been sent to the engine."""

    #: tokens that the engine has run once, here or in the branch this one was forked from
    known: int = 0
    forked: bool = False
    epoch: int = 0
    closed: bool = False


class Answer(NamedTuple):
    """What an engine sampled for one branch; ``cached``: tokens of its context that it did not compute again."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    cached: int


def sample_seed(key: SampleKey, turn: int) -> int:
    """The 63-bit seed of one sampled action: BLAKE2b over the key and the turn."""
    packed = struct.pack("<5q", *key, turn)
    return number_from(packed, 8, person=b"vllm") >> 1


class EngineGenerator:
    """The generators' contract over an engine; subclasses say how weights are sent, tokens sampled and scored.

    Args:
        model: the policy, PEFT or plain; its weights are copied at the first sample after each ``reset``.
        temperature: of the sampling distribution; logprobs are those of that distribution.
        max_action_tokens: tokens of one action at most.
        stop_ids: tokens that end an action earlier.
        greedy: take the most likely token instead of sampling.
        dtype: what the engine computes in; None: the type of the model's weights.
    """

    #: what to do about a canary that tells of other weights, and about contexts that are too long
    remedy = "Use --generator transformers, and report the model's architecture."
    longer = "raise vllm_max_model_length"
    #: longest context in tokens; subclasses set it
    max_positions: int | None = None

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        temperature: float = 1.0,
        max_action_tokens: int = 1,
        stop_ids: Sequence[int] = (),
        greedy: bool = False,
        dtype: torch.dtype | None = None,
    ):
        self.model = model
        self.temperature, self.greedy = temperature, greedy
        self.max_action_tokens, self.stop_ids = max_action_tokens, tuple(stop_ids)
        self.counters = TokenCounters()
        self.dtype = dtype or next(model.parameters()).dtype
        self.epoch, self._stale = 0, True
        #: gap of the last canary in nats; None before the first
        self.canary_gap: float | None = None
        #: its tokens, and the policy's scores of them at the first and at the last synchronisation
        self._canary: tuple[list[int], torch.Tensor, torch.Tensor] | None = None

    # ------------------------------------------------------------------ what subclasses say

    def _send_weights(self) -> None:
        """Give the engine the policy's weights, and empty its prefix cache."""
        raise NotImplementedError

    def _complete(self, branches: Sequence[EngineBranch], turns: Sequence[int]) -> list[Answer]:
        """Sample one action for every branch, each with its own seed."""
        raise NotImplementedError

    def _score(self, ids: list[int]) -> list[float]:
        """The engine's logprobs of the tokens after the first, at temperature 1."""
        raise NotImplementedError

    # ------------------------------------------------------------------ the contract

    def reset(self) -> None:
        """Forget every branch: the weights have changed, or will. Whether the engine still had those that it was sent
        is asked before: a server that was started again in between has others, and samples from them without a word."""
        if not self._stale:
            self._check_kept()
        self.epoch, self._stale = self.epoch + 1, True

    def open(self, ids: Sequence[int], key: SampleKey, *, forkable: bool = False) -> EngineBranch:
        """As ``Generator`` says; nothing is asked of the engine yet."""
        if not ids:
            raise ValueError("a branch needs at least one token to begin with.")
        return EngineBranch(key=key, ids=list(ids), epoch=self.epoch)

    def extend(self, branch: EngineBranch, ids: Sequence[int]) -> None:
        """As ``Generator`` says."""
        branch.ids.extend(ids)

    def fork(self, branch: EngineBranch, length: int, key: SampleKey, *, begun: int = 0) -> EngineBranch:
        """As ``Generator`` says; what is shared is the engine's business."""
        if not 0 < length <= len(branch.ids):
            raise ValueError(f"cannot fork at token {length}: the branch has {len(branch.ids)} tokens.")
        self._check_current(branch)
        known = min(length, branch.known)
        return EngineBranch(key, branch.ids[:length], begun, known=known, forked=True, epoch=self.epoch)

    def close(self, branches: Iterable[EngineBranch]) -> None:
        """As ``Generator`` says; an engine holds nothing of a branch."""
        for branch in branches:
            branch.closed = True

    def sample(self, branches: Sequence[EngineBranch], turns: Sequence[int]) -> list[Sample]:
        """As ``Generator`` says; the policy's weights are sent before, where they have changed."""
        for branch in branches:
            self._check_current(branch)
            if branch.closed:
                raise ValueError(f"cannot sample branch {tuple(branch.key)}: it is closed.")
            if self.max_positions is not None and len(branch.ids) + self._most(branch) > self.max_positions:
                raise ValueError(
                    f"an episode has reached {len(branch.ids)} tokens, but the engine has only {self.max_positions} "
                    f"positions: shorten task_horizon, {self.longer}, or use a policy with a longer context."
                )
        if not branches:
            return []
        if self._stale:
            self._send_weights()
            self._stale = False
            self._compare(list(branches[0].ids))
        samples = []
        for branch, answer in zip(branches, self._complete(branches, turns), strict=True):
            if not all(value > float("-inf") for value in answer.logprobs):  # NaN compares false, too
                raise FloatingPointError(
                    "the policy's logits are not finite: it has diverged. Lower learning_rate, or go back to an "
                    "earlier checkpoint."
                )
            self._count(branch, answer.cached, len(answer.ids))
            branch.ids.extend(answer.ids)
            branch.begun = 0
            samples.append(Sample(answer.ids, answer.logprobs))
        return samples

    def _most(self, branch: EngineBranch) -> int:
        """Tokens that its next sample may have."""
        return self.max_action_tokens - branch.begun

    def _sampling(self, branch: EngineBranch, turn: int) -> dict[str, Any]:
        """How one action is sampled, in vLLM's own names, the same in this process and over HTTP."""
        return {
            "temperature": 0.0 if self.greedy else self.temperature,
            "top_k": 0,
            "top_p": 1.0,
            "max_tokens": self._most(branch),
            "seed": None if self.greedy else sample_seed(branch.key, turn),
            "stop_token_ids": list(self.stop_ids),
            "ignore_eos": True,  # stop_ids say what ends an action
            "logprobs": 0,
        }

    def _check_current(self, branch: EngineBranch) -> None:
        if branch.epoch != self.epoch:
            raise ValueError(f"branch {tuple(branch.key)} was opened before reset(): open it again.")

    def _count(self, branch: EngineBranch, cached: int, sampled: int) -> None:
        if branch.forked:  # its first turn: what the fork shared, and what blocks cut off
            self.counters.reused += min(cached, branch.known)
            self.counters.recomputed += branch.known - min(cached, branch.known)
            self.counters.prefilled += len(branch.ids) - max(cached, branch.known)
        else:
            self.counters.prefilled += len(branch.ids) - cached
        self.counters.prefilled += sampled - 1  # each sampled token but the last goes back in
        self.counters.sampled += sampled
        branch.known, branch.forked = len(branch.ids) + sampled - 1, False

    def _check_kept(self) -> None:
        """EngineError where the canary's scores are not those of the last synchronisation."""
        if self._canary is None:
            return
        ids, _, sent_T = self._canary
        gap = float((torch.tensor(self._score(ids)) - sent_T).abs().mean())
        if not gap <= max(CANARY_WARNING.get(self.dtype, 1e-2), 2 * (self.canary_gap or 0.0)):
            raise EngineError(
                f"vLLM's logprobs are {gap:.3g} nats from those of the weights that it was sent for these rollouts: it "
                "was started again, or something else has sent it weights. What it sampled is not learnt from. "
                "The run stops here; its checkpoints are intact: give the same command again."
            )

    @torch.no_grad()
    def _compare(self, ids: list[int]) -> None:
        """Score one branch, always the same, on both sides; an engine that kept older weights has older scores."""
        if len(ids) < 2 and self._canary is None:
            return
        ids, *older = self._canary or (ids,)
        now_T = score(self.model, ids)
        theirs_T = torch.tensor(self._score(ids))
        self._canary = (ids, older[0] if older else now_T, now_T)
        self.canary_gap = gap = float((theirs_T - now_T).abs().mean())
        limit = CANARY_WARNING.get(self.dtype, 1e-2)
        stale = any(float((theirs_T - then_T).abs().mean()) < 0.1 * gap for then_T in older) and gap > 0.1 * limit
        if stale or not gap <= CANARY_ERROR:
            raise EngineError(
                f"after the weights were sent, vLLM's logprobs are {gap:.3g} nats from the policy's on average "
                + ("and equal those before the update: it kept its old weights. " if stale else
                   f"(limit {CANARY_ERROR}): it does not hold the policy's weights. ")
                + self.remedy
            )  # fmt: skip
        if gap > limit:
            log.warning(
                "canary: vLLM's logprobs are %.3g nats from the policy's on average (expected at most %g)", gap, limit
            )


def has_tied_head(model: PreTrainedModel) -> bool:
    """Whether the output head is the embedding matrix itself, with no adapter on either."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and getattr(head, "weight", None) is getattr(embedding, "weight", 0)


def merged_weights(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, weight) of every weight of the plain model, LoRA merged into copies; the model itself is not touched.

    A tied output head is listed under its own name as well, because vLLM keeps its own copy of it; weights in 4 bits
    (QLoRA) are listed in full.
    """
    from peft.tuners.lora import LoraLayer
    from peft.utils.integrations import dequantize_module_weight

    adapted = getattr(model, "peft_config", None) is not None and hasattr(model, "get_base_model")
    layers = {}
    if adapted:
        layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    for name, weight in model.state_dict().items():
        if any(part in name for part in NO_WEIGHTS):
            continue
        owner, _, leaf = name.rpartition(".")
        if leaf == "weight":
            module, layer = model.get_submodule(owner), layers.get(owner.removesuffix(".base_layer"))
            if getattr(module.weight, "quant_state", None) is not None:
                weight = dequantize_module_weight(module)
            if layer is not None and not layer.disable_adapters and not layer.merged:
                weight = weight + sum(layer.get_delta_weight(own).to(weight.dtype) for own in layer.active_adapters)
        for part in (".base_layer", ".modules_to_save.default"):
            name = name.replace(part, "")
        yield (name.removeprefix("base_model.model.") if adapted else name), weight.detach()


def score(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    """Logprobs (T - 1,) of the tokens after the first, at temperature 1, on the CPU in float32."""
    training = model.training
    model.eval()
    try:
        input_1T = torch.tensor([list(ids)], device=next(model.parameters()).device)
        logprobs_T_V = model(input_ids=input_1T).logits[0, :-1].float().log_softmax(-1)
    finally:
        model.train(training)
    return logprobs_T_V.gather(-1, input_1T[0, 1:, None])[:, 0].cpu()
