"""Proof of export: what is shipped says of recorded episodes what the trainer said.

The trainer wrote the logprobs of a few episodes beside its weights (``polytune/trainer/recorded.py``). A fresh process,
``fresh.py``, loads the exported folder with plain transformers and peft and scores the same tokens; the largest
difference must stay within a tolerance that depends on the precision the run computed in:

- float32: 1e-4, largest and mean. Measured on the quick start's LoRA run: 1e-6 for an adapter, 3e-6 merged.
- bfloat16 (weights, or autocast): .1 the largest, .01 the mean. Measured there: the same weights in bfloat16 and in
  float32 differ by up to .033, .003 on average, an adapter and its merged weights by .037 and .002. Two kernels may
  differ by as much, while the base differs from its adapter by .56 and .067 after 16 gradient steps.

Weights are also compared with the digests that the trainer noted, which finds what no logprob shows.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from polytune.policy.loading import CheckpointError

#: precision -> (largest, mean) difference in nats
TOLERANCES = {"float32": (1e-4, 1e-4), "bfloat16": (0.1, 0.01)}


class ProofError(ValueError):
    """What would be exported is not what was trained; nothing has been written."""


@dataclass(frozen=True)
class Proof:
    """The outcome: ``largest`` and ``mean`` difference in nats over ``tokens`` of ``episodes``."""

    episodes: int
    tokens: int
    largest: float
    mean: float
    tolerance: float
    precision: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def precision_of(recorded: Mapping[str, Any]) -> str:
    """What the run computed in: its autocast type, else that of its weights.

    Raises:
        ProofError: a type without a tolerance.
    """
    precision = recorded["autocast"] or recorded["dtype"]
    if precision not in TOLERANCES:
        raise ProofError(
            f"the episodes were recorded in {precision}, for which no tolerance is stated ({', '.join(TOLERANCES)}): "
            "train with --dtype float32 or bfloat16 to export."
        )
    return precision


def prove(folder: Path, recorded: Mapping[str, Any], *, trust_remote_code: bool = False) -> Proof:
    """Score the recorded episodes with ``folder`` in a fresh process and hold them against the trainer's.

    Raises:
        ProofError: the folder cannot be loaded, a logprob is not finite, or one differs by more than the tolerance.
    """
    precision = precision_of(recorded)
    return compare(recorded, score_afresh(folder, recorded, trust_remote_code=trust_remote_code), precision)


def score_afresh(folder: Path, recorded: Mapping[str, Any], *, trust_remote_code: bool = False) -> list[list[float]]:
    """Logprobs by episode from a new Python process; raises ProofError with its last words when it fails."""
    program = Path(__file__).with_name("fresh.py")
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with tempfile.TemporaryDirectory() as scratch:
        episodes, result = Path(scratch) / "episodes.json", Path(scratch) / "result.json"
        episodes.write_text(json.dumps(recorded))
        # -P: nothing beside the program is found by its imports
        command = [sys.executable, "-P", str(program), str(folder.resolve()), str(episodes), str(result)]
        command += ["--trust_remote_code"] if trust_remote_code else []
        done = subprocess.run(command, capture_output=True, text=True, cwd=scratch, env=os.environ | quiet)
        if done.returncode != 0 or not result.is_file():
            said = [line for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
            raise ProofError(
                f"proof of export failed: a fresh process cannot load and score what would be exported ({said[-1]}). "
                "Nothing was written. Check that the base model can be loaded under the name given (--base_model), or "
                "export merged weights (--merge)."
            )
        return json.loads(result.read_text())


def compare(recorded: Mapping[str, Any], found: list[list[float]], precision: str) -> Proof:
    """Differences between the trainer's logprobs and those ``found``, by episode; ProofError beyond the tolerance."""
    worst, total, tokens, where = 0.0, 0.0, 0, ""
    for number, (episode, scored) in enumerate(zip(recorded["episodes"], found, strict=True)):
        for index, (ours, theirs) in enumerate(zip(episode["logprobs"], scored, strict=True)):
            if not (math.isfinite(ours) and math.isfinite(theirs)):
                raise ProofError(
                    f"proof of export failed: the logprob of token {index} of recorded episode {number} is {ours} in "
                    f"the trainer and {theirs} in a fresh process. Nothing was written: the weights are broken, export "
                    "an earlier checkpoint."
                )
            gap = abs(ours - theirs)
            total, tokens = total + gap, tokens + 1
            if gap > worst:
                worst, where = gap, f"token {index} of episode {number}: {ours:.6f} trained, {theirs:.6f} exported"
    tolerance, mean_tolerance = TOLERANCES[precision]
    if tokens == 0:
        raise ProofError("proof of export failed: the recorded episodes hold no token of the policy's. Train again.")
    if worst > tolerance or total / tokens > mean_tolerance:
        raise ProofError(
            f"proof of export failed: a fresh process differs from the trainer by up to {worst:.3g} nats ({where}), "
            f"{total / tokens:.3g} on average, and {precision} allows {tolerance:g} and {mean_tolerance:g}. Nothing "
            "was written: the weights, the base or the recorded episodes are not those of the run. Restore them, or "
            "export another checkpoint."
        )
    return Proof(len(found), tokens, worst, total / tokens, tolerance, precision)


def check_digests(folder: Path, recorded: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    """Refuse weights, of a policy or an adapter's base, other than those the trainer noted as it scored the episodes.

    Raises:
        CheckpointError: names the file.
    """
    for name, digest in recorded["weights"].items():
        if digests.get(name) != digest:
            raise CheckpointError(
                f"{folder / name} is not what the run saved (its SHA-256 is not the one noted in "
                "recorded_episodes.json): it was changed or damaged since. Restore it, or export another checkpoint."
            )
