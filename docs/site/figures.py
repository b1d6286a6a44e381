"""Figures on pages, read from data/results/*.json: nobody types one that a result file holds.

A page stays plain Markdown, and shows its figures on GitHub too, since they stand between two comments:

    success is <!-- = fourrooms_collapse:policies:ppo:success -->.673 [.580, .754]<!-- . -->

    <!-- table of_policies fourrooms_collapse success pass@8 -->

    | policy | ...

    <!-- end -->

The first names a file of data/results and the keys that lead to a figure, after a comma how it is written (FORMATS);
the second a function of tables.py with its words. ``python docs/site/figures.py`` (part of `make docs`) writes what
belongs there; a test fails on a page that it would change. A comment must not begin a line of text: GitHub would take
the line for HTML.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "data/results"
INLINE = re.compile(r"<!-- = (?P<what>[^>]*?) -->(?P<text>.*?)<!-- \. -->", re.DOTALL)
BLOCK = re.compile(r"^<!-- table (?P<what>[^>]*?) -->\n(?P<text>.*?)^<!-- end -->$", re.DOTALL | re.MULTILINE)


@cache
def result(name: str) -> Any:
    """The result file of this name, without .json."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        raise KeyError(f"no {path.relative_to(ROOT)}")
    return json.loads(path.read_text())


def look_up(path: str) -> Any:
    """``file:key:key``: what the keys lead to; a list is entered by a number."""
    name, *keys = path.split(":")
    value = result(name)
    for key in keys:
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def short(value: float, digits: int = 3, *, sign: bool = False) -> str:
    """.673, 1.28, -.105; with ``sign`` +.043."""
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    text = re.sub(r"^([+-]?)0\.", r"\1.", text)
    return text[1:] if re.fullmatch(r"[+-]\.?0*", text) else text


#: what stands between the ends of an interval: it is never broken into two lines
COMMA = ",\N{NO-BREAK SPACE}"


def interval(cell: dict[str, float], digits: int = 3, *, sign: bool = False) -> str:
    """An estimate with its interval: .673 [.580, .754]."""
    low, high = short(cell["low"], digits), short(cell["high"], digits)
    return f"{short(cell['estimate'], digits, sign=sign)} [{low}{COMMA}{high}]"


def whole(value: Any, *, sign: bool = False) -> str:
    """258, or 258 [249, 267]; with ``sign`` +42 [26, 58]."""
    if isinstance(value, dict):
        return f"{whole(value['estimate'], sign=sign)} [{whole(value['low'])}{COMMA}{whole(value['high'])}]"
    return f"{value:+,.0f}" if sign else f"{value:,.0f}"


def _percent(value: Any, digits: int = 1) -> str:
    if isinstance(value, dict):
        return (
            f"{100 * value['estimate']:.{digits}f} [{100 * value['low']:.{digits}f}, {100 * value['high']:.{digits}f}]"
        )
    return f"{100 * value:.{digits}f}"


def _plain(value: Any, digits: int = 3, *, sign: bool = False) -> str:
    if isinstance(value, dict):
        return interval(value, digits, sign=sign)
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else short(value, digits, sign=sign)


FORMATS: dict[str, Callable[[Any], str]] = {
    "": _plain,  # .673 [.580, .754]
    "2": lambda value: _plain(value, 2),
    "1": lambda value: _plain(value, 1),
    "0": whole,
    "+0": lambda value: whole(value, sign=True),
    "+": lambda value: _plain(value, sign=True),  # +.043 [.005, .080]
    "+2": lambda value: _plain(value, 2, sign=True),
    "%": _percent,  # 67.3 [58.0, 75.4]
    "len": lambda value: str(len(value)),
    "estimate": lambda value: short(value["estimate"]),
    "estimate2": lambda value: short(value["estimate"], 2),
}


def figure(what: str) -> str:
    """The text of ``file:key:key`` or ``file:key:key, FORMAT``."""
    path, _, style = what.rpartition(", ")
    return FORMATS[style](look_up(path)) if path and style in FORMATS else FORMATS[""](look_up(what))


def table(what: str) -> str:
    """The Markdown of ``FUNCTION WORD WORD``: a function of tables.py."""
    import tables

    name, *words = shlex.split(what)
    return tables.TABLES[name](*words).strip()


def fill(text: str, name: str) -> str:
    """The page with every figure as the result files have it.

    Raises:
        ValueError: a comment names no figure, or begins a line of text; the message says which.
    """

    def filled(match: re.Match[str], make: Callable[[str], str], shape: str) -> str:
        try:
            return shape.format(what=match["what"], text=make(match["what"]))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{name}: no figure for {match['what']!r}: {error!r}") from error

    if re.search(r"^<!-- = ", text, re.MULTILINE):
        raise ValueError(f"{name}: a line begins with a figure's comment, and GitHub would show it as HTML")
    text = INLINE.sub(lambda match: filled(match, figure, "<!-- = {what} -->{text}<!-- . -->"), text)
    return BLOCK.sub(lambda match: filled(match, table, "<!-- table {what} -->\n\n{text}\n\n<!-- end -->"), text)


def pages() -> list[Path]:
    """Every page: those of docs/, and the README."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main() -> None:
    """Write the figures into the pages, and say which pages changed."""
    for path in pages():
        old = path.read_text()
        new = fill(old, str(path.relative_to(ROOT)))
        if new != old:
            path.write_text(new)
            print(f"{path.relative_to(ROOT)}: figures written")


if __name__ == "__main__":
    main()
