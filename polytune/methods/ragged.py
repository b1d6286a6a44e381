"""Lists of numbers of any length as two tensors, for what a method remembers."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch


def pack(name: str, rows: Sequence[Sequence[float]], dtype: torch.dtype = torch.int64) -> dict[str, torch.Tensor]:
    """``name`` (all numbers) and ``name_lengths`` (K,)."""
    flat = [number for row in rows for number in row]
    lengths = [len(row) for row in rows]
    return {name: torch.tensor(flat, dtype=dtype), f"{name}_lengths": torch.tensor(lengths, dtype=torch.int64)}


def unpack(name: str, state: Mapping[str, torch.Tensor]) -> list[list]:
    """The rows that :func:`pack` was given."""
    flat, ends = state[name].tolist(), list(accumulate(state[f"{name}_lengths"].tolist()))
    return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]
