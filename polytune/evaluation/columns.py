"""Records in columns: what an analysis counts of an attempt, in some 60 bytes, however much was said in it.

A record's texts, vector, signature and own fields stay where they came from, a file or a list, and are taken from there
when they are asked for, one record at a time. A signature, and what was said, is kept as a digest of 8 bytes: equal for
equal ones; two others agree by chance once in 2^64.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np

#: fields with a column, and their types (of module array; b: true or false)
NUMBERS = {"start_seed": "q", "attempt": "i", "turns": "i", "invalid_actions": "i", "return": "d",
           "greedy": "b", "success": "b"}  # fmt: skip
#: digests: 0 for null, and for a field that is not there
DIGESTS = ("signature", "said")
#: fields that a record may be without; a column says which have one ("has logprob")
OPTIONAL = ("logprob", "vector", "actions")
#: the least that a number can be
LEAST = {"turns": 1, "invalid_actions": 0}
_ANY: Any = object()


class Columns:
    """The columns, which grow by :meth:`append`, and where whole records are read again."""

    def __init__(self, whole: Callable[[int], Mapping[str, Any]]):
        self.whole = whole  # of the number that append was given
        self.numbers = {name: array(kind) for name, kind in NUMBERS.items()}
        self.numbers |= {"part": array("i"), "place": array("q"), "logprob": array("d")}
        self.numbers |= {name: array("Q") for name in DIGESTS} | {f"has {name}": array("b") for name in OPTIONAL}
        self.parts: dict[tuple[str, str | None], int] = {}

    def append(self, record: Mapping[str, Any], place: int) -> None:
        """One more record; ``place``: what ``whole`` finds it by. ValueError: names a field with a value that it cannot
        have."""
        for name, kind in NUMBERS.items():
            _add(self.numbers[name], name, record[name], kind)
        policy, perturb = record["policy"], record.get("perturb")
        if not isinstance(policy, str) or not isinstance(perturb, str | None):
            raise ValueError(f"policy {policy!r:.80}, perturb {perturb!r:.80} are no names")
        logprob = record.get("logprob")
        _add(self.numbers["logprob"], "logprob", 0.0 if logprob is None else logprob, "d")
        self.numbers["part"].append(self.parts.setdefault((policy, perturb), len(self.parts)))
        self.numbers["place"].append(place)
        for name in OPTIONAL:
            self.numbers[f"has {name}"].append(record.get(name) is not None)
        for name in DIGESTS:
            self.numbers[name].append(digest(record.get(name)))


def _add(column: array, name: str, value: Any, kind: str) -> None:
    try:
        if isinstance(value, bool) != (kind == "b"):
            raise TypeError(f"a {type(value).__name__}")
        if value < LEAST.get(name, -math.inf):
            raise TypeError(f"below {LEAST[name]}")
        column.append(value)
        if kind == "d" and not math.isfinite(value):
            raise TypeError("not finite")
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{name} is {value!r:.80} ({error})") from error


def digest(value: Any) -> int:
    """Of a JSON value: 64 bits, 0 for None alone."""
    if value is None:
        return 0
    text = json.dumps(value).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") or 1


class Records(Sequence):
    """Records in the order of their file, all or some of them. Iteration and indexing read whole ones, as they are in
    the file; counting goes by :meth:`column`.

    ``rows``: which of the columns' records; None: all.
    """

    def __init__(self, columns: Columns, rows: np.ndarray | None = None):
        self._columns, self._rows = columns, rows

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> Self:
        """Records as they are, or of a list."""
        if isinstance(records, cls):
            return records
        kept = list(records)
        columns = Columns(kept.__getitem__)
        for number, record in enumerate(kept):
            columns.append(record, number)
        return cls(columns)

    def column(self, name: str) -> np.ndarray:
        """Of each record its number, whether it is so, or the digest."""
        own = self._columns.numbers[name]
        whole = np.frombuffer(own, dtype=own.typecode) if own else np.empty(0, own.typecode)
        return whole if self._rows is None else whole[self._rows]

    def __len__(self) -> int:
        return len(self._columns.numbers["part"]) if self._rows is None else len(self._rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        row = index if self._rows is None else int(self._rows[index])
        return self._columns.whole(self._columns.numbers["place"][row])

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[index] for index in range(len(self)))

    def taken(self, which: np.ndarray) -> Self:
        """Those at some indices, in their order, or where a mask is true."""
        if which.dtype == bool:
            if which.all():
                return self
            which = np.flatnonzero(which)
        which = which.astype(np.int32)
        return type(self)(self._columns, which if self._rows is None else self._rows[which])

    def where(self, *, policy: Any = _ANY, perturb: Any = _ANY, **fields: Any) -> Self:
        """Those whose fields have these values; ``perturb``: one, or one of a list."""
        which = np.ones(len(self), dtype=bool)
        if policy is not _ANY or perturb is not _ANY:
            under = perturb if isinstance(perturb, list) else [perturb]
            parts = [policy in (_ANY, own[0]) and (perturb is _ANY or own[1] in under) for own in self._columns.parts]
            which = np.array(parts, dtype=bool)[self.column("part")]
        for name, value in fields.items():
            which &= self.column(name) == value
        return self.taken(which)

    def by_start(self, *, first: bool = False) -> dict[int, Self]:
        """The records of each start state, in the order of their file; start states in ascending order, or (``first``)
        as they come."""
        starts = self.column("start_seed")
        order = np.argsort(starts, kind="stable").astype(np.int32)
        starts = starts[order]
        begins = np.flatnonzero(np.append(True, starts[1:] != starts[:-1])) if len(starts) else []
        groups = [self.taken(own) for own in np.split(order, begins[1:])]
        ranks = np.argsort(order[begins]) if first else range(len(begins))
        return {int(starts[begins[rank]]): groups[rank] for rank in ranks}

    def parts(self) -> list[tuple[str, str | None]]:
        """Policy and perturbation of the records, each pair once, in the order in which they come."""
        numbers, firsts = np.unique(self.column("part"), return_index=True)
        named = {number: own for own, number in self._columns.parts.items()}
        return [named[int(number)] for number in numbers[np.argsort(firsts)]]

    def policies(self) -> list[str]:
        """Their names, in the order in which they come."""
        return list(dict.fromkeys(policy for policy, _ in self.parts()))

    def perturbations(self) -> list[str]:
        """Those other than none, in the order in which they come."""
        return list(dict.fromkeys(perturb for _, perturb in self.parts() if perturb is not None))

    def of_each(self, policies: Iterable[str]) -> dict[str, Self]:
        """The records of each policy, by name."""
        return {policy: self.where(policy=policy) for policy in policies}

    def counts_of(self, name: str) -> tuple[list[int], list[int]]:
        """(index of the first one, count) of each value of a digest, null left out, in the order of their first
        ones."""
        own = self.column(name)
        values, firsts, counts = np.unique(own, return_index=True, return_counts=True)
        order = [place for place in np.argsort(firsts) if values[place]]
        return firsts[order].tolist(), counts[order].tolist()

    def each(self, name: str) -> Sequence[Any]:
        """A field of each record, read when it is asked for."""
        return _Field(self, name)


class _Field(Sequence):
    def __init__(self, records: Records, name: str):
        self._records, self._name = records, name

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Any:
        return self._records[index][self._name]

    def __iter__(self) -> Iterator[Any]:
        return (record[self._name] for record in self._records)
