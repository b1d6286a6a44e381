"""Checked input of the set objectives: rewards and strategy classes of P groups of N members."""

import operator
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from polytune.tasks.base import as_strategy

NO_CLASS = -1


@dataclass(frozen=True)
class Groups:
    """P groups of N members. `classes_P_N` numbers the distinct signatures of a group from 0; `NO_CLASS` = None, which
    NaN and blank text have become in `signatures_P_N`, too."""

    rewards_P_N: torch.Tensor
    classes_P_N: torch.Tensor
    signatures_P_N: list[Sequence[Hashable | None]]

    @property
    def num_members(self) -> int:
        """N, the same in every group."""
        return self.rewards_P_N.shape[1]


def integer(name: str, value: Any, minimum: int) -> int:
    """`value` as an int of at least `minimum`; ValueError with the value otherwise (True and 2.0 are no ints)."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    return number


def check_set_size(set_size: Any, num_members: int) -> int:
    """`set_size` as an int in 1..N; ValueError otherwise."""
    size = integer("set_size (members per set, n)", set_size, minimum=1)
    if size > num_members:
        raise ValueError(f"set_size {size} exceeds the group's {num_members} members: sample more or lower set_size")
    return size


def as_rewards(rewards: Any) -> torch.Tensor:
    """A float64 CPU copy of shape (N,) or (P, N), detached; ValueError for anything else, NaN and infinity included."""
    try:
        # detach first: the copy must neither follow gradients nor share memory with the caller
        source = rewards.detach() if isinstance(rewards, torch.Tensor) else np.asarray(rewards, dtype=np.float64)
        tensor = torch.as_tensor(source).to(device="cpu", dtype=torch.float64, copy=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"rewards must be numbers of shape (N,) or (P, N) with rows of one length: {error}") from error
    if tensor.ndim not in (1, 2):
        raise ValueError(f"rewards must have shape (N,) or (P, N), got {tuple(tensor.shape)}")
    bad = (~torch.isfinite(tensor)).nonzero()
    if len(bad):
        index = tuple(bad[0].tolist())
        value = tensor[index].item()
        raise ValueError(f"reward {value} at index {index} is not finite: mend the grader or drop the episode")
    return tensor


def class_ids(signatures_N: Sequence[Hashable | None], where: str = "") -> list[int]:
    """Numbers the distinct signatures in order of appearance; None becomes `NO_CLASS`."""
    seen: dict[Hashable, int] = {}
    ids = []
    for index, signature in enumerate(signatures_N):
        if signature is None:
            ids.append(NO_CLASS)
            continue
        if isinstance(signature, torch.Tensor):  # hashable, but by identity: equal tensors would count as two
            raise ValueError(f"signature {where}[{index}] is a tensor, which hashes by identity: use a tuple or an int")
        try:
            ids.append(seen.setdefault(signature, len(seen)))
        except TypeError as error:
            raise ValueError(
                f"signature {where}[{index}] = {signature!r} is not hashable: use a tuple or a frozenset"
            ) from error
    return ids


def as_sequence(signatures: Any, where: str = "") -> Sequence[Any]:
    """A list, tuple or other ordered sequence; arrays and tensors become lists."""
    if isinstance(signatures, np.ndarray | torch.Tensor):
        return signatures.tolist()
    if not isinstance(signatures, Sequence):
        kind = type(signatures).__name__
        raise ValueError(f"signatures{where} must be an ordered sequence, got {kind}: {signatures!r}")
    return signatures


def as_groups(rewards: Any, signatures: Any) -> Groups:
    """Checks both inputs. A single group (N,) becomes P = 1. ValueError names what does not fit."""
    tensor = as_rewards(rewards)
    nested = as_sequence(signatures)
    if tensor.ndim == 1:
        tensor, nested = tensor[None], [nested]
    num_groups, num_members = tensor.shape
    if len(nested) != num_groups:
        raise ValueError(f"{num_groups} groups of rewards but {len(nested)} groups of signatures")
    rows = [[*map(as_strategy, as_sequence(row, where=f"[{p}]"))] for p, row in enumerate(nested)]
    for p, row in enumerate(rows):
        if len(row) != num_members:
            raise ValueError(f"group {p}: {num_members} rewards but {len(row)} signatures")
    ids = [class_ids(row, where=f"[{p}]") for p, row in enumerate(rows)]
    return Groups(tensor, torch.tensor(ids, dtype=torch.int64).reshape(num_groups, num_members), rows)
