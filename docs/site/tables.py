"""Tables on pages, made from result files: a row of TABLES is a function of words, and gives Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

TABLES: dict[str, Callable[..., str]] = {}


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
