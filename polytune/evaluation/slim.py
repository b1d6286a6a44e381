"""A record of a large file: what an analysis reads of an attempt in a fifth of a dict's memory, without its actions."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

#: a record's fields but for ``actions``, in the order of their file
NAMES = (
    "policy", "perturb", "start_seed", "attempt", "greedy", "success", "return", "turns", "stop_reason", "signature",
    "invalid_actions", "logprob", "said",
)  # fmt: skip
_ABSENT = object()


class SlimRecord(Mapping):
    """A record as a mapping. ``shared``: equal signatures of a file are one object; fields that no record of ours has
    are left out."""

    __slots__ = NAMES

    def __init__(self, record: Mapping[str, Any], shared: dict[str, Any]):
        for name in NAMES:
            value = record.get(name, _ABSENT)
            if isinstance(value, str) and name != "said":
                value = sys.intern(value)
            elif isinstance(value, list):
                value = shared.setdefault(repr(value), value)
            setattr(self, name, value)

    def __getitem__(self, name: str) -> Any:
        value = getattr(self, name, _ABSENT) if name in NAMES else _ABSENT
        if value is _ABSENT:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return (name for name in NAMES if getattr(self, name) is not _ABSENT)

    def __len__(self) -> int:
        return sum(1 for _ in self)
