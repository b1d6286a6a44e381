"""Docstrings as Markdown: formulas as blocks of code, arguments as lists, examples as Python, papers as links."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence

#: the beginning of a line that says what a name, or a function, is
DEFINED = re.compile(r"(?!Assumes|Source|Raises|Why)(``)?\w+(``)?(\([^)]*\))?( -> [^:]*)?(, (``)?\w+(``)?)*: ")
#: a name, two blanks or more, what it is: a list that is laid out by hand
LISTED = re.compile(r"\w+ {2,}\S")
#: words that begin a sentence and say what kind of sentence it is
LEADS = re.compile(r"(^|(?<=[.:] ))(Source|Assumes|Degenerate cases?|Not built|Raises|WARNING|Why)(?=[ :])")
ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
HEADS = {"Args:": "Arguments:", "Raises:": "Raises:", "Returns:": "Returns:", "Yields:": "Yields:"}


def as_markdown(docstring: str, *, defines: bool = False) -> str:
    """A docstring as it stands in the source, or cleaned.

    defines: ``name: what it is`` at the beginning of a paragraph tells a name, and lines that are indented go on with
    it; without, they are formulas.
    """
    blocks, lines = [], inspect.cleandoc(docstring).splitlines()
    while lines:
        if not lines[0].strip():
            lines.pop(0)
        elif defines and DEFINED.match(lines[0]):
            blocks.append(_items(_take(lines, lambda line: bool(line.strip()))))
        elif lines[0].startswith(">>>"):
            blocks.append(_fenced(_take(lines, lambda line: bool(line.strip())), "python"))
        elif lines[0].strip() in HEADS:
            blocks.append(f"**{HEADS[lines.pop(0).strip()]}**")
            blocks.append(_items(_take(lines, _indented)))
        elif _indented(lines[0]):
            blocks.append(_fenced(_take(lines, _indented), "text"))
        else:
            taken = _take(lines, _plain)
            listed = sum(bool(LISTED.match(line)) for line in taken) > 1
            blocks.append(_fenced(taken, "text") if listed else text(" ".join(taken)))
    return "\n\n".join(blocks)


def text(words: str) -> str:
    """A paragraph, with what Markdown would take for its own spelled out; what stands in back quotes stays."""
    words = words.replace("``", "`")
    parts = re.split(r"(`[^`]*`)", words)
    for i in range(0, len(parts), 2):
        plain = re.sub(r"(?<![*\w])\*(\w+)\*(?![*\w])", r"<em>\1</em>", parts[i].replace("<", "&lt;"))
        plain = re.sub(r"([*|\\])", r"\\\1", plain).replace("[^", r"\[^")
        plain = ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", plain)
        parts[i] = LEADS.sub(r"\1**\2**", plain)
    joined = "".join(parts)
    return f"\\{joined}" if re.match(r"[+\-#>]\s|\d+\.\s", joined) else joined


def cell(words: str) -> str:
    """Text for a cell of a table, in one line."""
    return text(" ".join(words.split())).replace("`|`", "or")


def code(value: object) -> str:
    """A value between back quotes, also within a table."""
    return f"`{str(value).replace('|', 'or').replace('`', '')}`"


def first_sentence(docstring: str) -> str:
    """The first paragraph's first sentence."""
    paragraph = " ".join(inspect.cleandoc(docstring).split("\n\n")[0].split())
    return re.split(r"(?<=[a-z)\]]\.) (?=[A-Z])", paragraph)[0]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; nothing where there are no rows."""
    rows = [[*head], ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) if len(rows) > 2 else ""


def joined(*blocks: str) -> str:
    """Blocks with an empty line between two; empty ones are left out."""
    return "\n\n".join(block.strip("\n") for block in blocks if block.strip()) + "\n"


def _take(lines: list[str], belongs) -> list[str]:
    """Take lines off the beginning as long as they belong; an empty line between two that do belongs as well."""
    taken = [lines.pop(0)]
    while lines and (belongs(lines[0]) or (not lines[0].strip() and _indented_next(lines) and belongs is _indented)):
        taken.append(lines.pop(0))
    return taken


def _indented_next(lines: Sequence[str]) -> bool:
    return len(lines) > 1 and _indented(lines[1])


def _indented(line: str) -> bool:
    return line.startswith("    ")


def _plain(line: str) -> bool:
    return bool(line.strip()) and not _indented(line) and line.strip() not in HEADS and not line.startswith(">>>")


def _fenced(lines: Sequence[str], language: str) -> str:
    return "\n".join([f"```{language}", *inspect.cleandoc("\n" + "\n".join(lines)).splitlines(), "```"])


def _items(lines: Sequence[str]) -> str:
    """``name: what it is`` with lines that are indented further."""
    items: list[str] = []
    for line in inspect.cleandoc("\n" + "\n".join(lines)).splitlines():
        if line.startswith(" ") and items:
            items[-1] += " " + line.strip()
        elif items and not DEFINED.match(line):
            items[-1] += " " + line.strip()
        elif line.strip():
            items.append(line.strip())
    named = [re.match(r"((?:``)?[\w., *]+(?:``)?(?:\([^)]*\))?(?: -> [^:]*)?): (.*)", item) for item in items]
    return "\n".join(
        f"- {code(found[1])}: {text(found[2])}" if found else f"- {text(item)}"
        for found, item in zip(named, items, strict=True)
    )


def title(markdown: str) -> str:
    """A page's first heading."""
    return markdown.split("# ", 1)[1].split("\n", 1)[0]


def lead(markdown: str) -> str:
    """A page's first paragraph."""
    return markdown.split("\n\n", 2)[1].replace("\n", " ")
