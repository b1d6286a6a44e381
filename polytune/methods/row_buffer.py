"""Rows that a method remembers for replay: of each kind the newest, the oldest first."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch

from polytune.methods.base import Update
from polytune.methods.ragged import pack, unpack
from polytune.rollout import Row, trajectory_row

Kind = tuple[int, int]


class Kept(NamedTuple):
    """A row, its kind (two numbers), what its episode returned, and the update that sampled it."""

    kind: Kind
    value: float
    row: Row
    born: int


def keep(buffer: Mapping[Kind, Kept], found: Iterable[Kept], *, since: int, size: int) -> dict[Kind, Kept]:
    """The buffer with what was found in one update; of one kind the highest return, whatever the processes' order.

    Args:
        since: the oldest update whose rows stay; ``size``: rows that stay at most, the newest ones.
    """
    kept = dict(buffer)
    for own in sorted(found, key=lambda own: (own.kind, own.value, own.row.prompt_ids, own.row.completion_ids)):
        kept.pop(own.kind, None)
        kept[own.kind] = own
    young = [own for own in kept.values() if own.born >= since]
    return {own.kind: own for own in young[-size:]}


def first_advantages(update: Update, advantages_B_C: torch.Tensor) -> list[float]:
    """Of each row the advantage of its first own token."""
    first_B = update.own_B_C.int().argmax(dim=1, keepdim=True)
    return advantages_B_C.gather(1, first_B)[:, 0].tolist()


def fresh_rows(update: Update, values: Sequence[float]) -> list[Kept]:
    """This process's rows of an update with a number each, of the kind (start state, 0)."""
    return [
        Kept((tree.start_state, 0), value, trajectory_row(tree.prompt_ids, trajectory), 0)
        for (tree, trajectory), value in zip(update.grown, values, strict=False)  # blank rows come after them
    ]


def numbered(found: Iterable[Kept], update: int) -> list[Kept]:
    """What all processes found in an update, each of a kind of its own: (its first number, a number of this update), in
    an order that does not depend on the processes'."""
    ordered = sorted(found, key=lambda own: (own.kind, own.value, own.row.prompt_ids, own.row.completion_ids))
    return [own._replace(kind=(own.kind[0], update * 2**20 + i), born=update) for i, own in enumerate(ordered)]


def pack_rows(buffer: Mapping[Kind, Kept]) -> dict[str, torch.Tensor]:
    """For a checkpoint, of K rows: kinds (K, 2), values, born (K,); ragged prompts, completions, turns, logprobs."""
    kept = list(buffer.values())
    return {
        "kinds": torch.tensor([own.kind for own in kept], dtype=torch.int64).reshape(-1, 2),
        "values": torch.tensor([own.value for own in kept], dtype=torch.float64),
        "born": torch.tensor([own.born for own in kept], dtype=torch.int64),
        **pack("prompts", [own.row.prompt_ids for own in kept]),
        **pack("completions", [own.row.completion_ids for own in kept]),
        **pack("turns", [own.row.turn_index for own in kept]),
        **pack("logprobs", [own.row.logprobs for own in kept], torch.float64),
    }


def unpack_rows(state: Mapping[str, torch.Tensor]) -> dict[Kind, Kept]:
    """The buffer that :func:`pack_rows` was given."""
    numbers = [state[name].tolist() for name in ("kinds", "values", "born")]
    ragged = [unpack(name, state) for name in ("prompts", "completions", "turns", "logprobs")]
    kept = {}
    for kind, value, born, prompt, completion, turns, logprobs in zip(*numbers, *ragged, strict=True):
        row = Row(prompt, completion, [int(turn >= 0) for turn in turns], logprobs, turns)
        kept[tuple(kind)] = Kept(tuple(kind), value, row, born)
    return kept
