"""The vLLM generator: the same contract on an in-process vLLM engine.

Every turn submits each branch's whole context as token ids; automatic prefix caching finds what was computed before, of
the branch itself or of the branch it was forked from, so a vine costs its own tokens only.

Sampling draws from vLLM's own random numbers, seeded by the sample's key: reproducible on one machine and engine, but
not the same actions as `TransformersGenerator` takes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from polytune.policy.engine import Answer, EngineBranch, EngineError, EngineGenerator, has_tied_head, merged_weights

#: smallest block of the prefix cache that vLLM's CPU backend has; vines share whole blocks only
CPU_BLOCK_SIZE = 32


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is built with.

    gpu_memory_utilization: share of the GPU's memory for its weights and cache. max_model_length: longest context in
    tokens; None: the model's own. sleep: leave the GPU's memory to the trainer between rollouts.
    """

    gpu_memory_utilization: float = 0.3
    max_model_length: int | None = None
    sleep: bool = False


class VLLMGenerator(EngineGenerator):
    """Generator on a vLLM engine of the same architecture as ``model``.

    Args:
        model: the policy, PEFT or plain.
        path: folder or Hub id with the model's configuration.
        settings: of the engine.
        engine: another generator's, to share it (evaluation of several policies of one architecture).
        options: see :class:`EngineGenerator`.

    Raises:
        EngineError: the engine cannot be built, or its weights are not the policy's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        path: str | Path,
        settings: EngineSettings | None = None,
        engine: Any = None,
        **options: Any,
    ):
        super().__init__(model, **options)
        self.settings = settings or EngineSettings()
        self.llm = build_engine(path, model, self.settings, self.dtype) if engine is None else engine
        self.max_positions = self.llm.model_config.max_model_len
        self._asleep = False

    def reset(self) -> None:
        """Forget every branch (the weights have changed); on a GPU the engine sleeps until it is needed."""
        super().reset()
        if self.settings.sleep and not self._asleep:
            self.llm.sleep(level=1)
            self._asleep = True

    def shutdown(self) -> None:
        """End the engine: while the process groups that it uses are there, and before another one is built."""
        self.llm.llm_engine.engine_core.shutdown()

    def _send_weights(self) -> None:
        if self._asleep:
            self.llm.wake_up()
            self._asleep = False
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": merged_weights(self.model)})
        if not self.llm.reset_prefix_cache():
            raise EngineError(
                "vLLM did not empty its prefix cache, which holds keys of older weights: restart the run."
            )

    def _complete(self, branches: Sequence[EngineBranch], turns: Sequence[int]) -> list[Answer]:
        from vllm import SamplingParams

        parameters = [
            SamplingParams(**self._sampling(branch, turn), detokenize=False)
            for branch, turn in zip(branches, turns, strict=True)
        ]
        answers = []
        for output in self._generate([branch.ids for branch in branches], parameters):
            chosen = output.outputs[0]
            ids = tuple(chosen.token_ids)
            logprobs = tuple(float(cell[token].logprob) for token, cell in zip(ids, chosen.logprobs, strict=True))
            answers.append(Answer(ids, logprobs, output.num_cached_tokens or 0))
        return answers

    def _score(self, ids: list[int]) -> list[float]:
        from vllm import SamplingParams

        (output,) = self._generate([ids], [SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)])
        return [cell[i].logprob for i, cell in zip(ids[1:], output.prompt_logprobs[1:], strict=True)]

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


def build_engine(path: str | Path, model: PreTrainedModel, settings: EngineSettings, dtype: torch.dtype):
    """A vLLM engine of the checkpoint's architecture, in this process, that computes in ``dtype``; its weights are sent
    later.

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
            dtype=str(dtype).removeprefix("torch."),
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
