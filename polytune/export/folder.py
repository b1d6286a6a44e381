"""The exported folder: put together under another name, proved there, then renamed; nothing half-written remains."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoTokenizer, GenerationConfig

from polytune.checks import require
from polytune.export.source import ADAPTER_WEIGHTS, Source
from polytune.policy.loading import ADAPTER_FILE, load_policy
from polytune.running.checkpoints import SaveError
from polytune.running.ending import hold

#: marks an export, which a later one may replace
EXPORT_FILE = "polytune.json"


def check_output(output_dir: Path, source: Source) -> None:
    """Refuse a place that holds anything but an earlier export, or lies where the run does.

    Raises:
        ValueError: names the folder.
    """
    taken = output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir()))
    require(
        not taken or (output_dir / EXPORT_FILE).is_file(),
        f"output_dir {output_dir} holds something other than an export ({EXPORT_FILE} is missing): choose another "
        "--output_dir, or empty it.",
    )
    run, own = source.run_folder.resolve(), output_dir.resolve()
    require(
        own != run and own not in run.parents,
        f"output_dir {output_dir} is the run's own folder or one around it: choose another --output_dir.",
    )


def check_base(source: Source, *, merge: bool, base_model: str | None, push: str | None) -> str | None:
    """The name under which the exported adapter's base will be loaded; None for whole weights.

    Raises:
        ValueError: options that contradict each other, or a base that nobody else could load.
    """
    if source.base is None or merge:
        require(
            base_model is None,
            f"base_model is {base_model!r}, but whole weights are exported, which need no base: leave it out.",
        )
        return None
    base = base_model or source.base
    local = Path(base).is_dir()
    require(
        local or re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", base) is not None,
        f"the adapter's base {base!r} is neither a folder here nor a model's name on the Hub: run this where the "
        "policy was trained, or name the base with --base_model.",
    )
    require(
        push is None or not local,
        f"the adapter's base {base!r} is a folder on this machine, so nobody could load the adapter from {push!r}: "
        "export whole weights (--merge true), or push the base first and name it (--base_model USER/BASE).",
    )
    return str(Path(base).resolve()) if local else base


@contextlib.contextmanager
def staged(output_dir: Path) -> Iterator[Path]:
    """An empty folder beside ``output_dir``, which becomes it at the end; removed when anything fails."""
    stage = output_dir.with_name(f".{output_dir.name}.exporting")
    hold(output_dir.parent, name=f".{output_dir.name}.lock")
    old = output_dir.with_name(f".{output_dir.name}.replaced")
    if old.exists() and not output_dir.exists():  # an export was killed between the two renames
        os.rename(old, output_dir)
    for left in (stage, old):
        shutil.rmtree(left, ignore_errors=True)
    stage.mkdir()
    try:
        yield stage
        if output_dir.exists():
            os.rename(output_dir, old)
        os.rename(stage, output_dir)
    finally:
        if old.exists() and not output_dir.exists():
            os.rename(old, output_dir)
        for left in (stage, old):
            shutil.rmtree(left, ignore_errors=True)
        output_dir.with_name(f".{output_dir.name}.lock").unlink(missing_ok=True)


def write_policy(source: Source, stage: Path, base: str | None, *, trust_remote_code: bool) -> None:
    """Weights and tokenizer: an adapter on ``base``, or, without one, whole weights (an adapter merged into its base).

    Raises:
        CheckpointError: the policy cannot be loaded.
        SaveError: the disk refuses its weights.
    """
    if base is None:
        dtype = source.recorded["dtype"]
        model, tokenizer = load_policy(source.folder, dtype=dtype, trust_remote_code=trust_remote_code)
        model.generation_config = GenerationConfig()  # its own may ask for what transformers refuses to save
        try:
            model.save_pretrained(stage)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise SaveError(
                f"the weights could not be written to {stage}: {error}. Make room and export again."
            ) from error
        tokenizer.save_pretrained(stage)
        return
    shutil.copyfile(source.folder / ADAPTER_WEIGHTS, stage / ADAPTER_WEIGHTS)
    settings = json.loads((source.folder / ADAPTER_FILE).read_text())
    settings["base_model_name_or_path"] = base
    if not Path(base).exists() and base == source.begun_with:
        settings["revision"] = source.run["policy"]["model_revision"]
    (stage / ADAPTER_FILE).write_text(json.dumps(settings, indent=2) + "\n")
    AutoTokenizer.from_pretrained(str(source.folder)).save_pretrained(stage)


def write_generation(stage: Path, sampling: Mapping[str, Any]) -> None:
    """Sampling as in training: the whole distribution, which transformers would cut to 50 tokens when not told."""
    GenerationConfig(**sampling).save_pretrained(stage)
