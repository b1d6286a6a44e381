"""Rows of a dataset in one file, as they stand there: .json, .jsonl, .csv, .parquet.

JSON is read as it is: no column is cast, none is filled in, and what JSON leaves open is refused with its line (a name
twice in an object, NaN). Every cell of a CSV is text as it stands, "007", "0.50", "True" and "NA" too; an empty cell is
None. Its first line names the columns, each once; other lines have as many cells.
"""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from polytune.lookup import did_you_mean

Rows = Sequence[dict[str, Any]]
#: of a whole number in JSON
MOST_DIGITS = 1000
#: a surrogate, which JSON may write and which is text in pairs only
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_rows(place: Path) -> Rows:
    """The rows of a file. Raises ValueError that names the file, the line where there is one, and what is wrong."""
    if place.suffix not in READERS:
        raise ValueError(f"a dataset file ends in {', '.join(READERS)}, got {place.name!r}")
    try:
        return READERS[place.suffix](place)
    except UnicodeDecodeError as error:
        raise ValueError(f"{place} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error


def _json(place: Path) -> Rows:
    """A list of objects, or one object a line."""
    text = place.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith("["):
        return _lines(place)
    rows = _loads(text, f"{place}")
    for number, row in enumerate(rows):
        _check_object(row, f"{place}, entry {number}")
    return rows


def _lines(place: Path) -> Rows:
    rows = []
    with place.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                rows.append(_loads(line, f"{place}, line {number}"))
                _check_object(rows[-1], f"{place}, line {number}")
    return rows


def _loads(text: str, where: str) -> Any:
    """JSON without what it leaves open."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
            raise ValueError(f"{where}: the name {twice!r} stands twice in one object: leave one out")
        return found

    def refuse(word: str) -> None:
        raise ValueError(f"{where}: {word} is no JSON: write null, or a number")

    def whole(digits: str) -> int:
        if len(digits) > MOST_DIGITS:
            raise ValueError(f"{where}: a number of {len(digits)} digits, {MOST_DIGITS} at most: write it as text")
        return int(digits)

    def finite(digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            raise ValueError(f"{where}: {digits[:40]} is too large for a number: write it as text")
        return number

    try:
        found = json.loads(text, object_pairs_hook=once, parse_constant=refuse, parse_int=whole, parse_float=finite)
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: half of a character, \\u{ord(error.object[error.start]):04x}, is no text: leave it out"
        ) from error
    except json.JSONDecodeError as error:
        near = text[max(0, error.pos - 20) : error.pos + 20].strip()
        raise ValueError(f"{where}: no JSON ({error.msg}) near {near!r}: mend it") from error
    except RecursionError as error:
        raise ValueError(f"{where}: nested too deeply to be read") from error


def _check_object(row: Any, where: str) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a row is an object of columns, got a {type(row).__name__}")
    _check_names(row, where)


def _check_names(names: Iterable[str], where: str) -> None:
    """No NUL in a column's name, which libraries that are written in C cut there."""
    if (broken := next((name for name in names if "\0" in name), None)) is not None:
        raise ValueError(f"{where}: the name of column {broken!r:.80} has a NUL: leave it out")


def _csv(place: Path) -> Rows:
    rows: list[dict[str, Any]] = []
    names: list[str] | None = None
    for line, cells in _cells(place):
        if names is None:
            names = cells
            _check_header(names, place)
            continue
        if len(cells) != len(names):
            raise ValueError(
                f"{place}, line {line}: {len(cells)} cells, and the header has {len(names)}: mend the line (a comma "
                'within a cell needs quotes, "a, b")'
            )
        rows.append({name: cell or None for name, cell in zip(names, cells, strict=True)})
    return rows


def _cells(place: Path) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line that is not blank, with the number of the line that they end in."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        with place.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            try:
                for cells in reader:
                    if len(cells) > 1 or "".join(cells).strip():
                        yield reader.line_num, cells
            except csv.Error as error:
                raise ValueError(f"{place}, line {reader.line_num}: no CSV ({error}): mend it") from error
    finally:
        csv.field_size_limit(before)


def _check_header(names: Sequence[str], place: Path) -> None:
    _check_names(names, f"{place}")
    blank = next((number for number, name in enumerate(names, start=1) if not name.strip()), None)
    if blank is not None:
        raise ValueError(f"{place}: column {blank} has no name in the header: give it one, or leave the column out")
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{place}: the header names {name!r:.80} twice: rename one of the columns")


def _parquet(place: Path) -> Rows:
    from datasets import Dataset
    from pyarrow import ArrowException, OSFile
    from pyarrow.parquet import read_table

    try:
        with OSFile(str(place)) as file:
            table = read_table(file)
        _check_names(table.column_names, f"{place}")
        return Dataset(table)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{place} is no parquet file: {error}") from error


#: ending -> what reads such a file
READERS = {".json": _json, ".jsonl": _lines, ".csv": _csv, ".parquet": _parquet}


def check_there(path: str, place: Path) -> None:
    """ValueError for what can only be meant as a file or folder, and is not there."""
    if place.exists() or not (place.suffix in READERS or path.startswith((".", "/", "~"))):
        return
    beside = place.parent.iterdir() if place.parent.is_dir() else ()
    near = did_you_mean(place.name, [one.name for one in beside])
    raise ValueError(f"dataset {path!r}: there is no such file{near and '; '}{near}")
