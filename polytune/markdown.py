"""Words that users chose, as Markdown: shown as they are, no markup, no HTML and no end of a table's cell."""

from __future__ import annotations

import html
import re

_BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_MARKUP = re.compile(r"([\\`*_\[\]|])")


def words(text: str) -> str:
    """Text in a line or a heading."""
    return _MARKUP.sub(r"\\\1", html.escape(_BREAKS.sub(" ", text), quote=False))


def code(text: str) -> str:
    """Text as code, with as many backticks around it as it needs; ``|`` as a table wants it."""
    text = _BREAKS.sub(" ", text)
    longest = max(map(len, re.findall("`+", text)), default=0)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{'`' * (longest + 1)}{space}{text}{space}{'`' * (longest + 1)}"


def quoted(text: str) -> str:
    """Lines as a quotation."""
    return "\n".join(f"> {words(line)}".rstrip() for line in text.strip().splitlines())


def cell(text: str) -> str:
    """Markdown within a table: on one line, and no ``|`` that ends the cell."""
    return re.sub(r"(?<!\\)\|", r"\\|", _BREAKS.sub(" ", text))
