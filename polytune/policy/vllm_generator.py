"""The vLLM generator: the same contract on an in-process vLLM engine.

Every turn submits each branch's whole context as token ids; automatic prefix caching finds what was computed before, of
the branch itself or of the branch it was forked from, so a vine costs its own tokens only. The engine holds a copy of
the weights: `reset()` marks it stale, and the next `sample` copies the policy's weights over (LoRA merged on the way,
tied heads included), empties the prefix cache, and scores one canary branch on both sides.

Sampling draws from vLLM's own random numbers, seeded by the sample's key: reproducible on one machine and engine, but
not the same actions as `TransformersGenerator` takes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from polytune.policy.generator import Branch, Sample, SampleKey, TokenCounters

log = logging.getLogger(__name__)

#: mean |logprob of the engine - logprob of the policy| on the canary, in nats, from which on it is told; by weight type
CANARY_WARNING = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 1e-2}
#: and at which the engine's weights cannot be the policy's
CANARY_ERROR = 0.1
#: smallest block of the prefix cache that vLLM's CPU backend has; vines share whole blocks only
CPU_BLOCK_SIZE = 32


class EngineError(RuntimeError):
    """The engine died, or does not hold the policy's weights."""


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is built with.

    gpu_memory_utilization: share of the GPU's memory for its weights and cache. max_model_length: longest context in
    tokens; None: the model's own. sleep: leave the GPU's memory to the trainer between rollouts.
    """

    gpu_memory_utilization: float = 0.3
    max_model_length: int | None = None
    sleep: bool = False


@dataclass(eq=False, slots=True)
class EngineBranch(Branch):
    """A branch and what of it has been sent to the engine."""

    #: tokens that the engine has run once, here or in the branch this one was forked from
    known: int = 0
    forked: bool = False
    epoch: int = 0
    closed: bool = False


def sample_seed(key: SampleKey, turn: int) -> int:
    """The 63-bit seed of one sampled action: BLAKE2b over the key and the turn."""
    packed = struct.pack("<5q", *key, turn)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8, person=b"vllm").digest(), "little") >> 1


class VLLMGenerator:
    """Generator on a vLLM engine of the same architecture as ``model``.

    Args:
        model: the policy, PEFT or plain; its weights are copied at the first sample after each ``reset``.
        path: folder or Hub id with the model's configuration.
        temperature: of the sampling distribution; logprobs are those of that distribution.
        max_action_tokens: tokens of one action at most.
        stop_ids: tokens that end an action earlier.
        greedy: take the most likely token instead of sampling.
        settings: of the engine.
        engine: another generator's, to share it (evaluation of several policies of one architecture).

    Raises:
        EngineError: the engine cannot be built, or its weights are not the policy's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        path: str | Path,
        temperature: float = 1.0,
        max_action_tokens: int = 1,
        stop_ids: Sequence[int] = (),
        greedy: bool = False,
        settings: EngineSettings | None = None,
        engine: Any = None,
    ):
        self.model, self.settings = model, settings or EngineSettings()
        self.temperature, self.greedy = temperature, greedy
        self.max_action_tokens, self.stop_ids = max_action_tokens, tuple(stop_ids)
        self.counters = TokenCounters()
        self.dtype = next(model.parameters()).dtype
        self.llm = build_engine(path, model, self.settings) if engine is None else engine
        self.max_positions = self.llm.model_config.max_model_len
        self.epoch, self._stale, self._asleep = 0, True, False
        #: gap of the last canary in nats; None before the first
        self.canary_gap: float | None = None
        #: its tokens, and the policy's scores of them at the first and at the last synchronisation
        self._canary: tuple[list[int], torch.Tensor, torch.Tensor] | None = None

    # ------------------------------------------------------------------ the contract

    def reset(self) -> None:
        """Forget every branch (the weights have changed); on a GPU the engine sleeps until it is needed."""
        self.epoch, self._stale = self.epoch + 1, True
        if self.settings.sleep and not self._asleep:
            self.llm.sleep(level=1)
            self._asleep = True

    def open(self, ids: Sequence[int], key: SampleKey, *, forkable: bool = False) -> EngineBranch:
        if not ids:
            raise ValueError("a branch needs at least one token to begin with.")
        return EngineBranch(key=key, ids=list(ids), epoch=self.epoch)

    def extend(self, branch: EngineBranch, ids: Sequence[int]) -> None:
        branch.ids.extend(ids)

    def fork(self, branch: EngineBranch, length: int, key: SampleKey) -> EngineBranch:
        if not 0 < length <= len(branch.ids):
            raise ValueError(f"cannot fork at token {length}: the branch has {len(branch.ids)} tokens.")
        self._check_current(branch)
        return EngineBranch(
            key=key, ids=branch.ids[:length], known=min(length, branch.known), forked=True, epoch=self.epoch
        )

    def close(self, branches: Iterable[EngineBranch]) -> None:
        for branch in branches:
            branch.closed = True

    def sample(self, branches: Sequence[EngineBranch], turns: Sequence[int]) -> list[Sample]:
        for branch in branches:
            self._check_current(branch)
            if branch.closed:
                raise ValueError(f"cannot sample branch {tuple(branch.key)}: it is closed.")
            if self.max_positions is not None and len(branch.ids) + self.max_action_tokens > self.max_positions:
                raise ValueError(
                    f"an episode has reached {len(branch.ids)} tokens, but the engine has only {self.max_positions} "
                    "positions: shorten task_horizon, raise vllm_max_model_length, or use a policy with a longer "
                    "context."
                )
        if not branches:
            return []
        self._sync(branches[0].ids)
        requests = [self._parameters(branch, turn) for branch, turn in zip(branches, turns, strict=True)]
        outputs = self._generate([branch.ids for branch in branches], requests)
        samples = []
        for branch, output in zip(branches, outputs, strict=True):
            chosen = output.outputs[0]
            ids = tuple(chosen.token_ids)
            logprobs = tuple(float(cell[token].logprob) for token, cell in zip(ids, chosen.logprobs, strict=True))
            if not all(value > float("-inf") for value in logprobs):  # NaN compares false, too
                raise FloatingPointError(
                    "the policy's logits are not finite: it has diverged. Lower learning_rate, or go back to an "
                    "earlier checkpoint."
                )
            self._count(branch, output.num_cached_tokens or 0, len(ids))
            branch.ids.extend(ids)
            samples.append(Sample(ids, logprobs))
        return samples

    def shutdown(self) -> None:
        """End the engine: while the process groups that it uses are there, and before another one is built."""
        self.llm.llm_engine.engine_core.shutdown()

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

    # ------------------------------------------------------------------ the engine

    def _parameters(self, branch: EngineBranch, turn: int):
        from vllm import SamplingParams

        return SamplingParams(
            temperature=0.0 if self.greedy else self.temperature,
            top_k=0,
            top_p=1.0,
            max_tokens=self.max_action_tokens,
            seed=None if self.greedy else sample_seed(branch.key, turn),
            stop_token_ids=list(self.stop_ids),
            ignore_eos=True,  # stop_ids say what ends an action
            logprobs=0,
            detokenize=False,
        )

    def _generate(self, ids: Sequence[Sequence[int]], parameters: Sequence[Any]) -> list[Any]:
        prompts = [{"prompt_token_ids": list(own)} for own in ids]
        try:
            with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):  # the trainer's may be on
                return self.llm.generate(prompts, list(parameters), use_tqdm=False)
        except ValueError:
            raise
        except Exception as error:
            raise EngineError(
                f"the vLLM engine failed ({type(error).__name__}: {error}). The run stops here; its checkpoints are "
                "intact: give the same command again."
            ) from error

    def _sync(self, canary_ids: Sequence[int]) -> None:
        """Copy the policy's weights if they may have changed, then compare both sides on one branch."""
        if not self._stale:
            return
        if self._asleep:
            self.llm.wake_up()
            self._asleep = False
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": merged_weights(self.model)})
        if not self.llm.reset_prefix_cache():
            raise EngineError(
                "vLLM did not empty its prefix cache, which holds keys of older weights: restart the run."
            )
        self._stale = False
        self._compare(list(canary_ids))

    @torch.no_grad()
    def _compare(self, ids: list[int]) -> None:
        """Score one branch, always the same, on both sides; an engine that kept older weights has older scores."""
        from vllm import SamplingParams

        if len(ids) < 2 and self._canary is None:
            return
        ids, *older = self._canary or (ids,)
        now_T = score(self.model, ids)
        (output,) = self._generate([ids], [SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)])
        theirs_T = torch.tensor([cell[i].logprob for i, cell in zip(ids[1:], output.prompt_logprobs[1:], strict=True)])
        self._canary = (ids, older[0] if older else now_T, now_T)
        self.canary_gap = gap = float((theirs_T - now_T).abs().mean())
        limit = CANARY_WARNING.get(self.dtype, 1e-2)
        stale = any(float((theirs_T - then_T).abs().mean()) < 0.1 * gap for then_T in older) and gap > 0.1 * limit
        if stale or not gap <= CANARY_ERROR:
            raise EngineError(
                f"after the weights were sent, vLLM's logprobs are {gap:.3g} nats from the policy's on average "
                + ("and equal those before the update: it kept its old weights." if stale else
                   f"(limit {CANARY_ERROR}): it does not hold the policy's weights.")
                + " Use --generator transformers, and report the model's architecture."
            )  # fmt: skip
        if gap > limit:
            log.warning(
                "canary: vLLM's logprobs are %.3g nats from the policy's on average (expected at most %g)", gap, limit
            )


def build_engine(path: str | Path, model: PreTrainedModel, settings: EngineSettings):
    """A vLLM engine of the checkpoint's architecture, in this process; its weights are sent later.

    Whether the output head is tied is read from the weights: a head with an adapter of its own, or one that is trained
    beside a frozen embedding, is tied no longer, whatever the configuration says.
    """
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    # at "ERROR" an engine that fails writes every request down; POLYTUNE_DEBUG=1 shows what vLLM says
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO" if os.environ.get("POLYTUNE_DEBUG") else "CRITICAL")
    on_gpu = torch.cuda.is_available()
    options: dict[str, Any] = {"hf_overrides": {"tie_word_embeddings": has_tied_head(model)}}
    if on_gpu:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # an engine for each process, on its own GPU
            options["distributed_executor_backend"] = "external_launcher"
        options |= {"gpu_memory_utilization": settings.gpu_memory_utilization, "enable_sleep_mode": settings.sleep}
    else:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # the trainer's threads live here, too
        # a prompt in two parts would rewind its seeded random numbers, which those of a CPU cannot
        options |= {"enforce_eager": True, "block_size": CPU_BLOCK_SIZE, "enable_chunked_prefill": False}
    threads = torch.get_num_threads()
    try:
        from vllm import LLM

        return LLM(
            model=str(path),
            dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
            load_format="dummy",
            max_model_len=settings.max_model_length,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            skip_tokenizer_init=True,
            disable_log_stats=False,
            seed=0,
            **options,
        )
    except Exception as error:
        raise EngineError(
            f"vLLM cannot run the policy at {str(path)!r}: {type(error).__name__}: {error}. Use --generator "
            "transformers, or mend the cause."
        ) from error
    finally:
        torch.set_num_threads(threads)


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
        if ".lora_" in name or ".original_module." in name:
            continue
        owner, _, leaf = name.rpartition(".")
        if ".weight." in name:  # how bitsandbytes scales a weight
            continue
        if leaf == "weight" and getattr(model.get_submodule(owner).weight, "quant_state", None) is not None:
            weight = dequantize_module_weight(model.get_submodule(owner))
        layer = layers.get(owner.removesuffix(".base_layer")) if leaf == "weight" else None
        if layer is not None and not layer.disable_adapters and not layer.merged:
            weight = weight + sum(layer.get_delta_weight(active).to(weight.dtype) for active in layer.active_adapters)
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
