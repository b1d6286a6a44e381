"""What is to be exported: a finished run's folder or one of its checkpoints, checked before work is spent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from polytune.export.proof import check_digests
from polytune.places import at_home
from polytune.policy.loading import CheckpointError, adapter_base, load_policy
from polytune.policy.manifest import check_manifest
from polytune.policy.run_file import RUN_FILE, of_run
from polytune.running.checkpoints import checkpoints
from polytune.running.provenance import RECORDED_FILE
from polytune.trainer.recorded import digests

ADAPTER_WEIGHTS = "adapter_model.safetensors"
#: what an episode and its record must hold
RECORDED_FIELDS = frozenset({"step", "dtype", "autocast", "temperature", "weights", "episodes"})
EPISODE_FIELDS = frozenset({"start_state", "prompt_ids", "completion_ids", "own_C", "logprobs"})


class NothingTrained(ValueError):
    """The policy is the one that its run began with."""


@dataclass(frozen=True)
class Source:
    """A policy that can be exported: ``base`` is the adapter's, None for whole weights; ``run`` its settings."""

    folder: Path
    base: str | None
    run: dict[str, Any]
    recorded: dict[str, Any]

    @property
    def run_folder(self) -> Path:
        """The folder of the run that made the policy."""
        return of_run(self.folder, RUN_FILE).parent

    @property
    def name(self) -> str:
        """Task and run, for a title."""
        return f"{self.run['task']['task'].rpartition(':')[2].lower()}-{self.run_folder.resolve().name}"

    @property
    def begun_with(self) -> str:
        """What the run began with."""
        return at_home(self.run["policy"]["model"])


def read_source(policy: str) -> Source:
    """Raises CheckpointError for a folder that is no run of ours, not finished, damaged, or too old."""
    folder = Path(policy)
    if not folder.is_dir():
        raise CheckpointError(f"policy {policy!r} does not exist as a folder: name a run's output_dir or a checkpoint.")
    if not of_run(folder, RUN_FILE).is_file():
        raise CheckpointError(
            f"{policy} is no run of recipes/finetune.py ({RUN_FILE} is missing): name the output_dir of one, or a "
            "checkpoint-N in it."
        )
    found = checkpoints(folder)
    if not list(folder.glob("*.safetensors")):
        fix = f"export a checkpoint (--policy {found[-1]}), or give" if found else "give"
        raise CheckpointError(f"{policy} is not finished, it has no weights yet: {fix} its finetune command again.")
    if folder.name.startswith("checkpoint-") and (reason := check_manifest(folder)) is not None:
        raise CheckpointError(f"checkpoint {policy} is damaged ({reason}): export another one of the run.")
    run = _read(of_run(folder, RUN_FILE), "remove it from the export, or train again")
    if not isinstance(run.get("policy"), dict) or "trainer" not in run:
        raise CheckpointError(
            f"{policy} is no run of recipes/finetune.py (its {RUN_FILE} names no trainer): a pretrained policy is "
            "published as it is, with save_pretrained's own push_to_hub."
        )
    recorded = read_recorded(folder)
    check_digests(folder, recorded, digests(folder))
    if run["adapter"]["load_in_4bit"]:
        raise CheckpointError(
            f"{policy} was trained on a base in 4 bits (load_in_4bit), and on the whole base its adapter has other "
            "logprobs, so the proof of export cannot hold: train without load_in_4bit to export."
        )
    base = adapter_base(folder)
    if base is not None and Path(base).is_dir() and "base_weights" in recorded:  # older runs did not note them
        check_digests(Path(base), {"weights": recorded["base_weights"]}, digests(Path(base)))
    return Source(folder, base, run, recorded)


def read_recorded(folder: Path) -> dict[str, Any]:
    """The recorded episodes beside a policy; raises CheckpointError when there are none or they are damaged."""
    path = folder / RECORDED_FILE
    if not path.is_file():
        mid_run = folder.name.startswith("checkpoint-")
        newest = [] if mid_run else checkpoints(folder)[-1:]
        fix = f"remove {folder} and all later ones, and" if mid_run else "".join(f"remove {own}, and" for own in newest)
        raise CheckpointError(
            f"{folder} has no {RECORDED_FILE}, an older version of polytune saved it, and without it nothing can be "
            f"proved: {fix} give the run's finetune command again, which trains from the checkpoint before, or anew."
        )
    recorded = _read(path, "give the run's finetune command again, which writes it anew")
    episodes = recorded.get("episodes")
    whole = recorded.keys() >= RECORDED_FIELDS and isinstance(episodes, list) and bool(episodes)
    whole = whole and all(isinstance(e, dict) and e.keys() >= EPISODE_FIELDS for e in episodes)
    if not whole or any(sum(e["own_C"]) != len(e["logprobs"]) for e in episodes):
        raise CheckpointError(f"{path} is damaged: give the run's finetune command again, which writes it anew.")
    return recorded


def _read(path: Path, fix: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): {fix}.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not settings: {fix}.")
    return content


def check_trained(source: Source) -> str | None:
    """Refuse a policy without effect: an adapter that leaves its base as it is, or weights equal to the run's first.

    Returns:
        why that could not be checked, or None.

    Raises:
        NothingTrained: nothing was learnt.
        CheckpointError: the adapter's file cannot be read.
    """
    if source.base is not None:
        if not _moves(source):
            raise NothingTrained(
                f"{source.folder} trained nothing: the adapter leaves every weight of {source.base!r} as it is. Look "
                "at grad_norm and groups/without_signal in metrics.jsonl; raise learning_rate or num_updates."
            )
        return None
    begun = Path(source.begun_with)
    if not begun.is_dir():
        return f"{source.begun_with!r}, which the run began with, is no folder here: not compared with it"
    before, after = (load_policy(path, dtype="auto")[0].state_dict() for path in (begun, source.folder))
    if before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before):
        raise NothingTrained(
            f"{source.folder} trained nothing: its weights are those of {source.begun_with}, which the run began with. "
            "Look at grad_norm and groups/without_signal in metrics.jsonl; raise learning_rate or num_updates."
        )
    return None


def _moves(source: Source) -> bool:
    """Whether the adapter changes its base: a product B A that is not 0, or, where all are, any merged weight (modules
    trained whole, magnitudes, new tokens)."""
    path = source.folder / ADAPTER_WEIGHTS
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): export another checkpoint of the run.") from error
    others = False
    for name, down in weights.items():
        if "lora_A" in name:
            up = weights.get(name.replace("lora_A", "lora_B"))
            if up is not None and bool((up.float().flatten(1) @ down.float().flatten(1)).any()):
                return True
        others = others or not ("lora_A" in name or "lora_B" in name)
    if not others:
        return False
    before, after = (load_policy(path)[0].state_dict() for path in (source.base, source.folder))
    return any(
        name not in before
        or weight.shape != before[name].shape
        or not torch.allclose(weight, before[name], rtol=1e-6, atol=0)
        for name, weight in after.items()
    )
