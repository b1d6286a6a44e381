"""One of the generators by its name, the YAML field ``generator``; and those of several policies in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from polytune.config import PolicyConfig
from polytune.policy.generator import Generator
from polytune.policy.loading import adapter_base
from polytune.policy.rendering import Renderer
from polytune.policy.transformers_generator import TransformersGenerator
from polytune.policy.vllm_generator import EngineSettings, VLLMGenerator


def build_generator(
    kind: str,
    model: PreTrainedModel,
    *,
    path: str | Path,
    max_action_tokens: int,
    stop_ids: Sequence[int],
    temperature: float = 1.0,
    greedy: bool = False,
    settings: EngineSettings | None = None,
    engine: Any = None,
    dtype: torch.dtype | None = None,
) -> Generator:
    """The generator that ``kind`` names, over ``model``.

    Args:
        kind: "transformers" or "vllm".
        path: folder or Hub id with the model's configuration; settings, engine: of vLLM.
        dtype: what vLLM computes in; None: the type of the model's weights.

    Raises:
        ValueError: the model suits no generator of this kind; EngineError: vLLM cannot run it.
    """
    options = {
        "temperature": temperature,
        "max_action_tokens": max_action_tokens,
        "stop_ids": stop_ids,
        "greedy": greedy,
    }
    if kind == "transformers":
        return TransformersGenerator(model, **options)
    architecture = adapter_base(path) or path  # an adapter's folder has no configuration of a model
    return VLLMGenerator(model, path=architecture, settings=settings, engine=engine, dtype=dtype, **options)


#: fields of a generation_config.json that change the distribution that is sampled
WARPS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty")


def set_aside_warps(model: PreTrainedModel) -> dict[str, float]:
    """What a checkpoint's generation_config.json asks of sampling, which our generators leave aside: they sample the
    policy's whole distribution at the temperature they are given, as training does."""
    config = getattr(model, "generation_config", None)
    asked = {} if config is None else config.to_diff_dict()
    neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
    return {name: asked[name] for name in WARPS if asked.get(name) not in (None, neutral.get(name))}


class GeneratorsInTurn:
    """Generators of several policies for an evaluation. vLLM's engines are built when they are due, one at a time.

    Args:
        policy_config: which generator, and the tokens of an action.
        models: the policies by name; paths: their folders or Hub ids; renderers: how each is prompted.
        temperature: of the samples.
    """

    def __init__(
        self,
        policy_config: PolicyConfig,
        models: Mapping[str, PreTrainedModel],
        paths: Mapping[str, str | Path],
        renderers: Mapping[str, Renderer],
        *,
        temperature: float,
    ):
        self.policy_config, self.models, self.paths, self.renderers = policy_config, models, paths, renderers
        self.temperature = temperature
        self._current: tuple[str, VLLMGenerator] | None = None
        if (
            policy_config.generator == "transformers"
        ):  # a model that it cannot run is refused before another one is sampled
            for name in models:
                self.of(name, greedy=True).check()

    def of(self, name: str, *, greedy: bool) -> Generator:
        """The generator of the policy called ``name``."""
        renderer, engine = self.renderers[name], None
        if self._current is not None:
            if self._current[0] == name:
                engine = self._current[1].llm
            else:
                self.shutdown()
        generator = build_generator(
            self.policy_config.generator,
            self.models[name],
            path=self.paths[name],
            engine=engine,
            temperature=self.temperature,
            max_action_tokens=self.policy_config.max_action_tokens or renderer.longest_action(),
            stop_ids=renderer.stop_ids,
            greedy=greedy,
        )
        if isinstance(generator, VLLMGenerator):
            self._current = (name, generator)
        return generator

    def shutdown(self) -> None:
        """End the engine, if one runs."""
        if self._current is not None:
            self._current[1].shutdown()
            self._current = None
