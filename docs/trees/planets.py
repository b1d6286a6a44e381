"""Reward and signature of the question of `make trees`: an answer names a planet of the solar system."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

PLANET = re.compile(r"\b(Mercury|Venus|Earth|Mars|Jupiter|Saturn|Uranus|Neptune)\b")


def names_one(answer: str, row: Mapping[str, Any]) -> float:
    """1 if the answer ends as a sentence and names a planet, else 0."""
    return float(named(answer, row) is not None and answer.rstrip().endswith((".", "!")))


def named(answer: str, row: Mapping[str, Any]) -> str | None:
    """The first planet that it names: its strategy."""
    found = PLANET.search(answer)
    return found[0] if found else None
