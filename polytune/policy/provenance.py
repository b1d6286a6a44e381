"""What a checkpoint folder says of its own origin: the settings of its run, the levels its policy was shown."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RUN_FILE = "run.json"
DEMONSTRATIONS_FILE = "demonstrations.json"

#: settings that may change between two sittings of one run
FREE_FIELDS = frozenset({"disable_tqdm", "save_total_limit", "report_to", "logging_dir", "max_branches", "local_rank"})


def _plain(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Dataclasses as JSON: what JSON cannot hold becomes text."""
    plain = {}
    for part, value in settings.items():
        fields = value.to_dict() if hasattr(value, "to_dict") else dataclasses.asdict(value)
        plain[part] = json.loads(json.dumps(fields, default=str))
    return plain


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)


def record_run(output_dir: str | Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a run beside its checkpoints."""
    write_json(Path(output_dir) / RUN_FILE, _plain(settings))


def check_same_run(output_dir: str | Path, settings: Mapping[str, Any]) -> None:
    """Refuse to continue a run under other settings than it began with.

    Raises:
        ValueError: names the fields that differ, with both values.
    """
    path = Path(output_dir) / RUN_FILE
    if not path.exists() or not list(Path(output_dir).glob("checkpoint-*")):
        return
    try:
        before = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({error}): remove {output_dir} or choose another output_dir."
        ) from error
    now = _plain(settings)
    differences = [
        f"{name} was {before[part].get(name)!r}, now {value!r}"
        for part, fields in now.items()
        if part in before
        for name, value in fields.items()
        if name not in FREE_FIELDS and before[part].get(name) != value
    ]
    if differences:
        raise ValueError(
            f"{output_dir} holds a run with other settings ({'; '.join(differences[:5])}): give the settings it began "
            "with to continue it, choose another --output_dir, or remove the folder to start anew."
        )


def fingerprint(checkpoint: str | Path) -> str:
    """Hash of a checkpoint's weights; a Hub id stands for itself."""
    digest = hashlib.sha256()
    files = [p for p in sorted(Path(checkpoint).glob("*.safetensors")) if p.name != "critic.safetensors"]
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16] if files else str(checkpoint)


def set_aside_other_run(output_dir: str | Path, settings: Mapping[str, Any], fingerprints: Mapping[str, str]) -> None:
    """Make ``output_dir`` ready for an evaluation: the records of another one (other settings, other weights) are kept
    under another name, those of this one stay to be continued."""
    path, records = Path(output_dir) / RUN_FILE, Path(output_dir) / "records.jsonl"
    now = {**_plain(settings), "weights": dict(fingerprints)}
    before = json.loads(path.read_text()) if path.exists() else None
    if records.exists() and before != now:
        number = 1
        while (kept := records.with_name(f"records-{number}.jsonl")).exists():
            number += 1
        os.replace(records, kept)
        print(f"{records} belonged to other settings or weights: kept as {kept.name}")
    write_json(path, now)


def demonstration_hashes(checkpoint: str | Path) -> list[str]:
    """Hashes of the levels that the policy's demonstrations showed; empty when the checkpoint does not say."""
    path = Path(checkpoint) / DEMONSTRATIONS_FILE
    return json.loads(path.read_text())["level_hashes"] if path.is_file() else []


def carry_provenance(source: str | Path, target: str | Path) -> None:
    """Copy what a checkpoint says of its demonstrations to the checkpoint that was fine-tuned from it."""
    path = Path(source) / DEMONSTRATIONS_FILE
    if path.is_file():
        write_json(Path(target) / DEMONSTRATIONS_FILE, json.loads(path.read_text()))
