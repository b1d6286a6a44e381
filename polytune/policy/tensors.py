"""Files that torch pickled, read as tensors and plain values only: a pickle that names code is refused, never run."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError

import torch

from polytune.policy.weights import WeightsError

#: has torch.load read weights only, whatever its caller asks for
FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
#: plain classes that DeepSpeed puts into the optimiser's file
DEEPSPEED = {
    "deepspeed.runtime.fp16.loss_scaler": ("LossScaler", "DynamicLossScaler"),
    "deepspeed.runtime.zero.config": ("ZeroStageEnum",),
    "deepspeed.utils.tensor_fragment": ("fragment_address",),
}


@contextmanager
def tensors_only(place: str | Path) -> Iterator[None]:
    """Within it torch reads tensors and plain values. Raises WeightsError that names ``place`` and the code that a file
    there would have run."""
    before = os.environ.get(FORCE)
    os.environ[FORCE] = "1"
    try:
        with torch.serialization.safe_globals(_deepspeed()):
            yield
    except UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        holds = f"a file that would run {named[1]} when it is read" if named else "a file that is no list of tensors"
        raise WeightsError(
            f"{place} holds {holds}, so it was not read and nothing was run: it is damaged, or made to do harm. Take "
            "weights that are *.safetensors, or another checkpoint of the run."
        ) from error
    finally:
        if before is None:
            del os.environ[FORCE]
        else:
            os.environ[FORCE] = before


def _deepspeed() -> list[type]:
    if "deepspeed" not in sys.modules:
        return []
    return [getattr(import_module(module), name) for module, names in DEEPSPEED.items() for name in names]


class ReadsTensors:
    """Mixin before a transformers ``Trainer``: a run goes on from tensors and plain values alone, and leaves no
    ``training_args.bin``, a pickle that nobody reads and that has every field as it was given, credentials of a URL
    too; run.json says what the fields were."""

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        with tensors_only(resume_from_checkpoint):
            return super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint):
        with tensors_only(checkpoint):
            return super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint):
        with tensors_only(checkpoint):
            return super()._load_rng_state(checkpoint)
