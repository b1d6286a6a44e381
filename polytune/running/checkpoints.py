"""Checkpoints that are whole or absent: written to a temporary name, listed in a manifest, then renamed.

A process killed at any moment leaves either the old checkpoints alone or the old ones and the new one. What a disk
damaged later is found by the manifest (size and SHA-256 of every file); the checkpoint before it is used instead.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers.utils import logging

from polytune.errors import ToldError
from polytune.policy.manifest import MANIFEST, check_manifest, flush, note_policy, write_manifest
from polytune.policy.tensors import ReadsTensors
from polytune.policy.weights import not_finite
from polytune.running.ending import hold

logger = logging.get_logger(__name__)

STAGING = ".saving"
VERSION_FILE = "polytune_version.json"
#: of what a checkpoint holds; another number, where an older polytune could not go on with it or would not as it should
FORMAT = 1


class SaveError(ToldError, OSError):
    """A checkpoint could not be written; the message says where, why, and which checkpoint is intact."""


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first, whole or not."""
    found = []
    for path in Path(output_dir).glob("checkpoint-*"):
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and path.is_dir():
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def _number(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def latest_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest whole checkpoint of a run, or None. Damaged ones are reported and passed over."""
    for path in reversed(checkpoints(output_dir)):
        reason = check_manifest(path)
        if reason is None:
            return path
        logger.warning(f"checkpoint {path} is damaged ({reason}): going back to the one before it.")
    return None


def newest(output_dir: str | Path) -> str:
    """What a run that ends here leaves behind, in a sentence, without reading it: a checkpoint's name is whole."""
    found = checkpoints(output_dir)
    if not found:
        return "There is no checkpoint yet: the same command begins anew."
    return f"{found[-1]} is intact: the same command continues from there."


def hold_run(output_dir: str | Path) -> None:
    """Hold a run's folder; ValueError where another one does. A program that is told to end names the checkpoint.

    What safetensors was writing when a program was killed (``.tmp`` and six letters) goes.
    """
    hold(output_dir, partial(newest, output_dir))
    for torn in Path(output_dir).glob(".tmp??????"):
        if torn.is_file():
            torn.unlink()


def save_error(what: str, output_dir: str | Path, error: Exception) -> SaveError:
    """The error for ``what`` that could not be written, naming the newest checkpoint that is whole."""
    last = latest_checkpoint(output_dir)
    try:
        free = f"{shutil.disk_usage(output_dir).free / 2**20:.1f} MiB free there"
    except OSError as unknown:
        free = f"free space unknown: {unknown}"
    return SaveError(
        f"{what} could not be written: {error} ({free}). "
        f"{f'{last} is intact' if last else 'There is no earlier checkpoint'}: make room and run the same command "
        f"again, it {'continues from there' if last else 'begins anew'}."
    )


def check_space(output_dir: str | Path, model: torch.nn.Module, *, keep: int | None, own_trunk: bool = False) -> None:
    """Refuse a run whose checkpoints cannot fit: weights and two optimiser moments each, one more while it is saved. Of
    a policy with an adapter they hold what trains alone.

    Args:
        model: as it trains, with its adapter on.
        keep: checkpoints of the run that stay; None: all.
        own_trunk: whether the critic trains a copy of the policy beside it.

    Raises:
        SaveError: names the bytes needed and free.
    """
    from peft import PeftModel

    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    trained = 24 if own_trunk else 12  # float32: a weight and two moments
    adapted = isinstance(model, PeftModel)
    frozen = sum(p.numel() * p.element_size() for p in model.parameters() if not (p.requires_grad or adapted))
    each = frozen + sum(p.numel() * trained for p in model.parameters() if p.requires_grad)
    missing = max(0, (keep or 1) + 1 - len(checkpoints(output_dir)))
    free = shutil.disk_usage(output_dir).free
    if free < missing * each:
        raise SaveError(
            f"{output_dir} has {free / 2**20:.1f} MiB free, but the run's checkpoints take {missing} x "
            f"{each / 2**20:.1f} MiB: make room, lower save_total_limit, or choose another --output_dir."
        )


def check_version(folder: str | Path) -> None:
    """Refuse a checkpoint that this polytune would misread.

    Raises:
        ValueError: names the versions that wrote it and that reads it.
    """
    path = Path(folder) / VERSION_FILE
    try:
        told = json.loads(path.read_text())
        written, by = int(told["format"]), str(told["polytune"])
    except FileNotFoundError:
        return  # of a time when there was one format
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error}): remove {folder}.") from error
    if written != FORMAT:
        raise ValueError(
            f"{folder} was written by polytune {by} (format {written}), and this is polytune {version('polytune')} "
            f"(format {FORMAT}): continue the run with polytune {by}, or begin anew in another output_dir."
        )


class AtomicCheckpoints(ReadsTensors):
    """Mixin before a transformers ``Trainer``: the only change is how a checkpoint folder comes into being."""

    _staging = False

    def _get_output_dir(self, trial=None) -> str:
        return str(Path(self.args.output_dir) / STAGING) if self._staging else super()._get_output_dir(trial=trial)

    def _save_checkpoint(self, model, trial) -> None:
        self._check_finite()
        output_dir = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        staged, final = output_dir / STAGING / name, output_dir / name
        if self.is_world_process_zero():
            shutil.rmtree(output_dir / STAGING, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._staging = True
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # every process has written its part before the manifest lists them
            if self.is_world_process_zero():
                self._save_extra_state(staged)
                write_manifest(staged)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(output_dir / STAGING, ignore_errors=True)
            raise save_error(f"checkpoint {final}", output_dir, error) from error
        finally:
            self._staging = False
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            if final.exists():  # a damaged one that was passed over
                self._discard(final)
            os.rename(staged, final)
            flush(output_dir)  # its name, before older ones lose theirs
            limit = self.args.save_total_limit
            past = [path for path in checkpoints(output_dir) if _number(path) <= self.state.global_step]
            for old in past[: -limit if limit else 0]:  # damaged ones that lie ahead count for nothing
                self._discard(old)
            shutil.rmtree(output_dir / STAGING, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The parent's, also used for the policy at the end of a run: what the disk refuses becomes a SaveError."""
        folder = Path(output_dir or self.args.output_dir)
        if not self._staging:
            self._check_finite()
        try:
            if not self._staging and self.is_world_process_zero():
                (folder / MANIFEST).unlink(missing_ok=True)  # of the policy that was there
            super().save_model(output_dir, _internal_call)
            if not self._staging and self.is_world_process_zero():
                note_policy(folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            if self._staging:
                raise
            raise save_error(f"the policy {folder}", self.args.output_dir, error) from error

    def _check_finite(self) -> None:
        """Refuse to save weights that hold a NaN or an infinite number, the critic's included, on every process."""
        named = [*self.model.named_parameters()]
        if getattr(self, "critic", None) is not None:
            named += [(f"critic.{name}", weight) for name, weight in self.critic.named_parameters()]
        broken = not_finite(named)
        count = torch.tensor(float(len(broken)), device=self.accelerator.device)
        if self.accelerator.reduce(count, reduction="sum") > 0:
            raise FloatingPointError(
                f"after step {self.state.global_step} {len(broken)} weights are not finite ({', '.join(broken[:3])}): "
                f"the run has diverged, and nothing was saved. {newest(self.args.output_dir)} Lower learning_rate, and "
                "begin again in another output_dir."
            )

    def create_model_card(self, *args, **kwargs) -> None:
        """None: TRL's would name another method, and the card of an export says what was trained and measured."""

    def _discard(self, folder: Path) -> None:
        """Remove a checkpoint so that a kill in between leaves no half of it under a checkpoint's name."""
        grave = folder.parent / STAGING / f"old-{folder.name}"
        shutil.rmtree(grave, ignore_errors=True)
        grave.parent.mkdir(exist_ok=True)
        os.rename(folder, grave)
        shutil.rmtree(grave)

    def _save_extra_state(self, folder: Path) -> None:
        """Hook: write what the parent class does not save."""
        (folder / VERSION_FILE).write_text(json.dumps({"format": FORMAT, "polytune": version("polytune")}))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """The parent's; the only change is that a checkpoint of another format is refused."""
        check_version(resume_from_checkpoint)
        super()._load_from_checkpoint(resume_from_checkpoint, model)
