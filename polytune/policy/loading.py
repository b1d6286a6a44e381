"""Loading a checkpoint, with one clear error for each way in which a folder can be wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from polytune.errors import ToldError
from polytune.places import at_home
from polytune.policy.lean import make_lean
from polytune.policy.manifest import MANIFEST, check_manifest
from polytune.policy.tensors import tensors_only
from polytune.policy.weights import WeightsError, check_embeddings, check_finite, restore_trainable

ADAPTER_FILE = "adapter_config.json"
#: a tokenizer's vocabulary lies in one of these
VOCABULARY_FILES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken", "tekken.json")

#: files of a checkpoint that no policy is loaded from, or that users change: an adapter's base may move
NOT_CHECKED = (".pt", ".pth", "critic.safetensors", "adapter_config.json")


class CheckpointError(ToldError, ValueError):
    """A checkpoint is missing, truncated or unusable; the message names the path and the fix."""


def weight_files(folder: Path) -> list[Path]:
    """The policy's ``*.safetensors`` in a folder, sorted; the critic, which a checkpoint has beside them, left out."""
    return [path for path in sorted(folder.glob("*.safetensors")) if path.name != "critic.safetensors"]


def _check_digests(folder: Path) -> None:
    """Refuse a folder whose files are not those that its manifest names; one without a manifest is taken as it is.

    Raises:
        CheckpointError: names the file.
    """
    if not (folder / MANIFEST).is_file():
        return
    if (reason := check_manifest(folder, unread=NOT_CHECKED)) is not None:
        raise CheckpointError(
            f"{folder} is not the policy that was saved there ({reason}): the disk has damaged it, or it was changed. "
            f"Restore it, or take another checkpoint of the run; if the change is yours, remove {folder / MANIFEST}."
        )


def _check_folder(path: Path) -> None:
    """Read what a local checkpoint folder must contain, so that damage is reported before any work is spent."""
    if not (path / "config.json").is_file():
        found = ", ".join(sorted(p.name for p in path.iterdir())[:6]) or "nothing"
        raise CheckpointError(
            f"{path} is no checkpoint: config.json is missing (found: {found}). {_policies_within(path)}Pass a folder "
            "written by recipes/pretrain.py, recipes/finetune.py or save_pretrained."
        )
    try:
        settings = json.loads((path / "config.json").read_text())
    except ValueError as error:
        raise CheckpointError(f"{path}/config.json is not valid JSON ({error}): the checkpoint is damaged.") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}/config.json holds a {type(settings).__name__}, not settings: it is damaged.")
    if not any(list(path.glob(pattern)) for pattern in VOCABULARY_FILES):
        raise CheckpointError(  # transformers would make up an empty one
            f"{path} has no tokenizer ({', '.join(VOCABULARY_FILES)}): save the policy's beside it "
            "(tokenizer.save_pretrained)."
        )
    weights = weight_files(path)
    if not weights and not list(path.glob("*.bin")):
        raise CheckpointError(f"{path} has no weights (*.safetensors): the checkpoint is incomplete.")
    for file in weights:
        try:
            with safe_open(file, framework="pt") as handle:
                handle.keys()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file} cannot be read ({error}): it is truncated or damaged. Use another checkpoint of the run."
            ) from error


def _policies_within(folder: Path) -> str:
    """``Did you mean FOLDER/a or FOLDER/b? ``: folders in it that hold a policy, of a run's checkpoints the last."""
    names = ("config.json", ADAPTER_FILE)
    within = [path for path in folder.iterdir() if any((path / name).is_file() for name in names)]
    steps = {int(path.name.removeprefix("checkpoint-")): path for path in within
             if path.name.removeprefix("checkpoint-").isdecimal()}  # fmt: skip
    whole = sorted(str(path) for path in within if path not in steps.values())
    near = [*whole, *([str(steps[max(steps)])] if steps else [])]
    return f"Did you mean {' or '.join(near[:3])}? " if near else ""


def adapter_base(path: str | Path, revision: str | None = None) -> str | None:
    """The base model that an adapter was trained on; None for what is no adapter.

    Args:
        path: a folder, or a Hub id, of which its configuration is fetched.

    Raises:
        CheckpointError: its adapter_config.json is damaged.
    """
    file = Path(path) / ADAPTER_FILE if Path(path).is_dir() else _hub_adapter_file(str(path), revision)
    if file is None or not file.is_file():
        return None
    try:
        base = json.loads(file.read_text())["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} cannot be read ({type(error).__name__}: {error}): the adapter is damaged."
        ) from error
    if not isinstance(base, str) or not base:
        raise CheckpointError(
            f"{file} names no base model (base_model_name_or_path is {base!r}): the adapter is damaged."
        )
    return _found_base(Path(path), at_home(base)) if Path(path).is_dir() else base


def _found_base(adapter: Path, base: str) -> str:
    """The base of an adapter's folder: a relative path is one from the working directory or from that folder.

    Raises:
        CheckpointError: it is both, and they are two folders.
    """
    beside = (adapter / base).resolve()
    if Path(base).is_absolute() or not beside.is_dir():
        return base
    if Path(base).is_dir() and Path(base).resolve() != beside:
        raise CheckpointError(
            f"{adapter} is an adapter on {base!r}, which is {beside} as well as {Path(base).resolve()}: write the one "
            f"that is meant into {adapter / ADAPTER_FILE} as a whole path."
        )
    return str(beside)


def _hub_adapter_file(path: str, revision: str | None) -> Path | None:
    """The adapter's configuration of a model on the Hub, from the cache or fetched; None for what has none.

    Raises:
        CheckpointError: the Hub cannot be reached, and nothing of the model is in the cache.
    """
    if not _is_hub_id(path):
        return None
    try:
        return Path(hf_hub_download(path, ADAPTER_FILE, revision=revision))
    except LocalEntryNotFoundError as error:
        if isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str):
            return None
        raise CheckpointError(
            f"checkpoint {path!r} is no folder here, and as a Hub id it cannot be fetched ({type(error).__name__}): "
            "check the path, or the network and HF_ENDPOINT."
        ) from error
    except (HfHubHTTPError, HFValidationError):
        return None  # no such file, or a name that loading the model will refuse with its reason


def _is_hub_id(path: str | Path) -> bool:
    """Whether a name that is no folder may be that of a model on the Hub."""
    return not Path(path).exists() and not str(path).startswith((".", "/", "~", "outputs/"))


def _load_adapter(
    path: str | Path, base: str, options: dict, revision: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model with the adapter merged into its weights, and the tokenizer saved beside the adapter."""
    from peft import PeftModel

    _check_digests(Path(path))
    try:
        model, tokenizer = _load(base, **options)
    except CheckpointError as error:
        looked = "" if Path(base).is_absolute() else f" (looked for in {Path.cwd()}, in {path} and on the Hub)"
        raise CheckpointError(f"{path} is an adapter on {base!r}{looked}, which cannot be loaded: {error}") from error
    local, version = Path(path).is_dir(), revision or "main"
    try:
        if not local or any(list(Path(path).glob(pattern)) for pattern in VOCABULARY_FILES):
            tokenizer = AutoTokenizer.from_pretrained(str(path), padding_side="left", revision=version)
        trains = {name: weight.requires_grad for name, weight in model.named_parameters()}
        with tensors_only(path):
            merged = PeftModel.from_pretrained(model, str(path), revision=version).merge_and_unload()
        restore_trainable(merged, trains)  # peft froze them
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"the adapter in {path} cannot be put on {base!r}: {error}") from error
    return merged, tokenizer


def _load(
    path: str | Path,
    *,
    dtype: torch.dtype | str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantization: Any = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer as they are, each way in which a folder can be wrong reported."""
    folder = Path(path)
    if folder.is_dir():
        _check_folder(folder)
        _check_digests(folder)
    elif not _is_hub_id(path):
        raise CheckpointError(
            f"checkpoint {str(path)!r} does not exist as a folder: check the path, or make it first "
            "(`python recipes/pretrain.py` writes outputs/quickstart/pretrained)."
        )
    hub = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    more = {} if quantization is None else {"quantization_config": quantization}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), padding_side="left", **hub)
        with tensors_only(path):
            model, report = _load_weights(str(path), dtype=dtype, **hub, **more)
    except AssertionError as error:  # torch's embedding
        raise CheckpointError(
            f"checkpoint {str(path)!r} cannot be loaded: {error} (pad_token_id of its config.json, more than its "
            "embeddings): model.resize_token_embeddings(len(tokenizer)), and save both again."
        ) from error
    except WeightsError as error:
        raise CheckpointError(str(error)) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        code = "trust_remote_code" in str(error)
        raise CheckpointError(
            f"checkpoint {str(path)!r} cannot be loaded: {error}. "
            + ("If you have read its code and trust it: --trust_remote_code true." if code else
               "Pass a folder written by save_pretrained or a Hub id.")
        ) from error  # fmt: skip
    if quantization is not None:
        leave_unpacked(model)
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise CheckpointError(
            f"checkpoint {str(path)!r} lacks {len(report['missing_keys'])} weights ({missing}), which would start at "
            "random: it is incomplete, or not a causal language model. Use another checkpoint."
        )
    return model, tokenizer


def _load_weights(path: str, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model and what transformers says of its weights, with torch's fused attention, or, in an architecture that
    has none (GPT-J, gpt-oss), with eager attention."""
    load = AutoModelForCausalLM.from_pretrained
    try:
        return load(path, attn_implementation="sdpa", output_loading_info=True, **options)
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
    return load(path, attn_implementation="eager", output_loading_info=True, **options)


def leave_unpacked(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for a kernel of its own, as it does on processors with AVX512-BF16
    in a pass without gradients: that one computes in bfloat16 whatever was asked for, rounds the scales for good, and
    takes no layer whose size is no multiple of 64. A policy would sample other logprobs than it trains with."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def positions_of(model: PreTrainedModel) -> int | None:
    """Tokens that an episode may have; None where the model names no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def load_policy(
    path: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantization: Any = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a policy, a causal transformer and its tokenizer, from a folder or the Hub, in evaluation mode.

    Args:
        path: folder written by ``save_pretrained``, or a Hub id; an adapter is merged into its base.
        device: where the weights go; None: the CPU, or where the quantisation put them.
        dtype: of the weights; "auto": as they were saved.
        revision: branch, tag or commit on the Hub; None: main.
        trust_remote_code: run Python code that the checkpoint brings along.
        quantization: transformers' configuration of a quantised base (QLoRA).

    Raises:
        CheckpointError: the folder is missing, truncated, lacks weights, has no tokenizer, or its tokenizer has no pad
            token; its weights are not finite, or fewer than the tokenizer has words.
    """
    model, tokenizer = _load_any(
        path, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code, quantization=quantization
    )
    check_pad_token(tokenizer, path)
    _check_weights(model, path, tokenizer)
    make_lean(model)
    return (model if device is None else model.to(device)).eval(), tokenizer


def _load_any(
    path: str | Path, *, revision: str | None = None, quantization: Any = None, **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer; an adapter is merged into its base."""
    base = adapter_base(path, revision)
    if base is None:
        return _load(path, **options, revision=revision, quantization=quantization)
    if quantization is not None:
        raise CheckpointError(f"{path} is an adapter, which cannot be merged into 4 bits: leave load_in_4bit off.")
    return _load_adapter(path, base, options, revision)


def _check_weights(model: PreTrainedModel, path: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Raise CheckpointError for weights that are not finite, or fewer than the tokenizer has words."""
    try:
        if tokenizer is not None:
            check_embeddings(model, tokenizer, path)
        check_finite(model, path)
    except WeightsError as error:
        raise CheckpointError(str(error)) from error


def load_base(
    path: str | Path, words: Iterable[str], *, alone: bool = False, dtype: torch.dtype | str = torch.float32, **hub: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[int]]:
    """A causal language model whose tokenizer learns ``words`` as tokens, and a pad token where it has none.

    The new embeddings are drawn around the mean of the old ones, as transformers does it. Raises as
    :func:`load_policy`; for a pad token only with ``alone``: what is saved will be an adapter without its base, which
    could not grow by one.

    Returns:
        model, tokenizer, and the ids of the words that are new to it.
    """
    model, tokenizer = _load_any(path, dtype=dtype, **hub)
    _check_weights(model, path)
    make_lean(model)
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
        if alone and tokenizer.pad_token_id >= model.get_input_embeddings().num_embeddings:
            raise CheckpointError(
                f"merge_adapter is false, but the tokenizer of {str(path)!r} has no pad token, and its embeddings have "
                "no room for one: alone, an adapter would stand on a base that lacks it. Leave merge_adapter true, or "
                "add the token to the base (tokenizer.add_special_tokens({'pad_token': '<pad>'})), resize its "
                "embeddings and save both."
            )
    known = tokenizer.get_vocab()
    new = [word for word in dict.fromkeys(words) if word not in known]
    tokenizer.add_tokens(new)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer, tokenizer.convert_tokens_to_ids(new)


def check_pad_token(tokenizer: PreTrainedTokenizerBase, path: str | Path) -> None:
    """Refuse a tokenizer without a pad token: rows of different length could not be told from their padding."""
    if tokenizer.pad_token_id is None:
        raise CheckpointError(
            f"the tokenizer of {str(path)!r} has no pad token: add one that the policy never emits "
            "(tokenizer.add_special_tokens({'pad_token': '<pad>'})), resize the embeddings and save both again."
        )
