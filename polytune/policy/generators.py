"""One of the generators by its name, the YAML field ``generator``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from polytune.policy.generator import Generator
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
) -> Generator:
    """The generator that ``kind`` names, over ``model``.

    Args:
        kind: "transformers" or "vllm".
        path: folder or Hub id with the model's configuration; settings, engine: of vLLM.

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
    return VLLMGenerator(model, path=path, settings=settings, engine=engine, **options)
