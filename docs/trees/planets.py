"""Reward and signature of the question in docs/trees: an answer names three planets of the solar system."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

PLANET = re.compile(r"\b(?:Mercury|Venus|Earth|Mars|Jupiter|Saturn|Uranus|Neptune)\b")


def names_three(answer: str, row: Mapping[str, Any]) -> float:
    """1 if the answer names three different planets, no more and no less, else 0."""
    return float(len(set(PLANET.findall(answer))) == 3)


def named(answer: str, row: Mapping[str, Any]) -> str | None:
    """The planets that it names, in the order of the alphabet: its strategy; None for none."""
    return ", ".join(sorted(set(PLANET.findall(answer)))) or None
