"""Numbers and names made from bytes, the same in every process and on every machine. Committed files and runs hold
them, so none may ever change its value."""

import hashlib
from pathlib import Path
from typing import Any, BinaryIO


def short_digest(content: bytes) -> str:
    """The first 16 hex characters of the SHA-256 of ``content``."""
    return hashlib.sha256(content).hexdigest()[:16]


def file_digest(path: str | Path) -> str:
    """The SHA-256 of a file's content, 64 hex characters."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def beginning_digest(file: BinaryIO, num_bytes: int) -> Any:
    """The SHA-256 of an open file's first ``num_bytes``, or of as many as it has, to be updated further; its place is
    what it was."""
    found, place = hashlib.sha256(), file.tell()
    file.seek(0)
    while num_bytes > 0 and (part := file.read(min(num_bytes, 2**20))):
        found.update(part)
        num_bytes -= len(part)
    file.seek(place)
    return found


def number_from(content: bytes, num_bytes: int, person: bytes = b"") -> int:
    """A number in 0..256**num_bytes - 1: BLAKE2b of ``content``, little end first; ``person`` keeps purposes apart."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=num_bytes, person=person).digest(), "little")
