"""The canary of the transformers generator: one branch scored with the cache and without it, before any rollout.

The generator hands a model tokens at positions of their own and a mask over a cache that it keeps itself. A model that
takes positions from elsewhere (alibi, an encoder), that attends to less than it is shown (local attention) or that
keeps a state instead of keys and values would sample one distribution and be trained on another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import PretrainedConfig, PreTrainedModel

from polytune.policy.generator import SampleKey
from polytune.policy.loading import positions_of

if TYPE_CHECKING:
    from polytune.policy.transformers_generator import TransformersGenerator

#: tokens of the two branches at first; of unlike length, so that one of them is padded
LENGTHS = (11, 6)
#: windows up to this one are tried
WIDEST = 2048
#: largest difference of a logprob in nats, and of its size where that is above 1
LIMIT = 1e-4
#: mean difference of a pass in 16 bits, whose rounding alone gives .01
LIMIT_16_BITS = 0.1


class CacheError(ValueError):
    """A model whose logprobs with the generator's cache are not those without it."""


def check_cache(model: PreTrainedModel, make: type[TransformersGenerator]) -> float:
    """Largest difference between logprobs with and without the cache, in nats.

    Args:
        model: the policy, in evaluation mode. make: the generator's class.

    Raises:
        CacheError: it cannot be run with the generator's cache, or gives other logprobs; the policy's kind is named.
    """
    kind = type(model).__name__
    config = model.config.get_text_config()
    if getattr(model.config, "is_encoder_decoder", False):
        raise CacheError(_message(kind, "it is half of an encoder-decoder"))
    words = int(getattr(config, "vocab_size", 0) or model.get_input_embeddings().weight.shape[0])
    room = positions_of(model) or 1 << 20
    if room < LENGTHS[0] + 8:
        raise CacheError(_message(kind, f"it has only {room} positions"))
    try:
        gaps = _gaps(model, make, words, (min(LENGTHS[0] + _window(config), room - 8), LENGTHS[1]))
    except (torch.OutOfMemoryError, MemoryError, FloatingPointError):
        raise
    except Exception as error:  # whatever a model's own code does with a mask or a cache that it does not know
        raise CacheError(_message(kind, f"it fails there ({type(error).__name__}: {error})")) from error
    largest = max(gap / max(1.0, size) for gap, size in gaps)
    mean = sum(gap for gap, _ in gaps) / len(gaps)
    if _computes_in_16_bits(model):
        wrong = not mean <= LIMIT_16_BITS
    else:
        wrong = not largest <= LIMIT
    if wrong:
        raise CacheError(_message(kind, f"its logprobs differ there by up to {max(gap for gap, _ in gaps):.2g} nats"))
    return largest


def attention_kinds(config: PretrainedConfig) -> set[str]:
    """What a model's layers attend to: ``full_attention``, ``sliding_attention`` ..."""
    kinds = set(getattr(config, "layer_types", None) or [])
    if not kinds:  # models that say it otherwise: one window for all layers (Mistral), or none
        kinds = {"sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"}
    return kinds


def _window(config: PretrainedConfig) -> int:
    """The widest window that the configuration speaks of, so that the canary reaches beyond it (GPT-Neo: 256)."""
    named = [value for name, value in config.to_dict().items() if "window" in name or "chunk" in name]
    return max([0, *(value for value in named if type(value) is int and value <= WIDEST)])


def _message(kind: str, reason: str) -> str:
    return (
        f"the transformers generator cannot sample {kind} with its cache of keys and values: {reason}. Choose a "
        "decoder with full attention and learned or rotary positions (Llama, Qwen, GPT-2, GPT-NeoX), or --generator "
        "vllm."
    )


def _computes_in_16_bits(model: PreTrainedModel) -> bool:
    device = model.device.type
    narrow = (torch.bfloat16, torch.float16)
    rounded = device == "cuda" and torch.get_float32_matmul_precision() != "highest"  # TF32 has as few digits
    return model.dtype in narrow or torch.is_autocast_enabled(device) or rounded


def _gaps(
    model: PreTrainedModel, make: type[TransformersGenerator], words: int, lengths: tuple[int, int]
) -> list[tuple[float, float]]:
    """(difference, size) of the logprob of every token sampled in two turns, the second in a fork as well."""
    generator = make(model, max_action_tokens=2, checked=True)
    branches = [
        generator.open([(7 * i + n) % words for i in range(n)], SampleKey(0, n, 0, 0), forkable=True) for n in lengths
    ]
    found = []
    for turn in range(2):
        samples = generator.sample(branches, [turn] * len(branches))
        for branch, sample in zip(branches, samples, strict=True):
            found += _compare(model, branch.ids, sample.logprobs)
            generator.extend(branch, [1 % words, 3 % words])
        if turn == 0:
            branches.append(generator.fork(branches[0], lengths[0], SampleKey(0, 0, 1, 0)))
    return found


def _compare(model: PreTrainedModel, ids: list[int], logprobs: tuple[float, ...]) -> list[tuple[float, float]]:
    """(difference, size) of each sampled logprob, against a plain pass over the whole branch."""
    scored_T_V = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0].float()
    first = len(ids) - len(logprobs)
    scored_T_V = scored_T_V[first - 1 : -1].log_softmax(-1)
    plain = [float(scored_T_V[t, token]) for t, token in enumerate(ids[first:])]
    return [(abs(one - other), abs(other)) for one, other in zip(logprobs, plain, strict=True)]
