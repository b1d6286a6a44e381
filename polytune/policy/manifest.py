"""Manifests: size and SHA-256 of each file of a checkpoint, and of a finished policy, so that damage is found."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from polytune.digests import file_digest

MANIFEST = "manifest.json"
#: what transformers and peft load a policy from; an adapter's configuration may be told where its base has moved to
POLICY_FILES = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json",
    "*token*.json", "vocab.*", "merges.txt", "*.model", "chat_template.*",
)  # fmt: skip


def write_manifest(folder: Path) -> None:
    """List every file of ``folder`` with size and hash, and flush all of them to the disk."""
    _list(folder, sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST))


def note_policy(folder: Path) -> None:
    """The same of the files alone that a policy is loaded from, in a folder where others grow."""
    _list(folder, sorted({path for pattern in POLICY_FILES for path in folder.glob(pattern)}))


def _list(folder: Path, files: Sequence[Path]) -> None:
    listing = {str(path.relative_to(folder)): [path.stat().st_size, file_digest(path)] for path in files}
    written = folder / f"{MANIFEST}.tmp"
    written.write_text(json.dumps(listing, indent=1))
    os.replace(written, folder / MANIFEST)
    for path in [*files, folder / MANIFEST, folder]:
        flush(path)


def flush(path: Path) -> None:
    """Have the disk hold a file, or a folder's names, before anything else happens."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_manifest(folder: Path, *, unread: Collection[str] = ()) -> str | None:
    """Why ``folder`` is not whole, or None when it is. ``unread``: endings of files that need not be right."""
    try:
        listing = json.loads((folder / MANIFEST).read_text())
        entries = [(name, size, digest) for name, (size, digest) in listing.items()]
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    if not entries:
        return f"{MANIFEST} lists no files"
    for name, size, digest in entries:
        if name.endswith(tuple(unread)):
            continue
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
        if file_digest(path) != digest:
            return f"{name} has other content than was written"
    return None
