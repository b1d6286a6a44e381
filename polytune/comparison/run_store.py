"""The finished runs of one world of the benchmark: a line of JSON each, appended when a run ends, so that a kill loses
the run in progress alone. Of lines about one run of one identity the last one counts; a torn last line is none.

A line: ``base``, ``method`` (BASE_ALONE: nothing over the base), ``seed``, ``identity`` (a digest of what decides the
run), and ``values`` (measure -> number), ``env_steps``, ``gradient_steps``, ``cpu_seconds`` of training, or
``refused`` or ``failed``, the line that it ended with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

BASE_ALONE = ""
#: base, method, seed, identity
Key = tuple[str, str, int, str]


class RunStore:
    """Runs of the file ``path``; ``kept``: lines from elsewhere, which those of the file replace."""

    def __init__(self, path: Path, kept: Iterable[Mapping[str, Any]] = ()):
        self.path = path
        self.runs: dict[Key, dict[str, Any]] = {}
        for line in [*kept, *_lines(path)]:
            self._take(dict(line))

    def _take(self, line: dict[str, Any]) -> None:
        self.runs[line["base"], line["method"], line["seed"], line["identity"]] = line

    def find(self, base: str, method: str, seed: int, identity: str) -> dict[str, Any] | None:
        """The line of a run; None where there is none, or only ones of another identity."""
        return self.runs.get((base, method, seed, identity))

    def add(self, line: Mapping[str, Any]) -> None:
        """Write a line, which is on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.is_file() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a") as file:
            file.write("\n" * torn + json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._take(dict(line))


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of the file."""
    if not path.is_file():
        return []
    found = []
    for text in path.read_text().splitlines():
        try:
            found.append(json.loads(text))
        except ValueError:  # torn by a kill; the run is done again
            continue
    return found
