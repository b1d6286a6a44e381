"""Keys and values of running branches: one row of a buffer each, and blocks of new tokens that attend to it.

Rows of different length need no alignment: a token is written at its own position, and a mask over positions does the
rest. A branch that leaves the buffer but may still be forked is parked outside of it. A fork copies its prefix's keys
and values when it first runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from polytune.policy.generator import Branch

Layers = list[tuple[torch.Tensor, torch.Tensor]]
#: logits (V,) after a branch's last token and, of a generator that observes, the hidden state (H,) they come from
Point = tuple[torch.Tensor, torch.Tensor | None]


@dataclass(eq=False, slots=True)
class CachedBranch(Branch):
    """A branch and where its keys and values are: a buffer row, its own parked copy, or (unloaded fork) its source."""

    forkable: bool = False
    cached: int = 0
    row: int = -1
    parked: Layers | None = None
    source: CachedBranch | None = None
    waiting_forks: int = 0
    closed: bool = False
    #: the generator's cache that it belongs to, counted in resets
    epoch: int = 0
    #: branch length -> what was seen there, for forks
    points: dict[int, Point] = field(default_factory=dict)

    def share(self, other: CachedBranch, tokens: int) -> None:
        """Take the first ``tokens`` of what ``other`` has when this branch first runs."""
        self.source, self.cached = other, tokens
        other.waiting_forks += 1

    def release_source(self) -> None:
        """An unloaded fork needs its source no longer: it was loaded, or closed."""
        source, self.source = self.source, None
        if source is not None:
            source.waiting_forks -= 1
            if source.closed and not source.waiting_forks:
                source.parked = None


class RowCache(Cache):
    """Per layer two buffers of shape (rows, heads, slots, head size); ``rows``: whose they are."""

    def __init__(self, rows: Sequence[CachedBranch] = (), slots: int = 0) -> None:
        super().__init__(layers=[])
        self.rows = list(rows)
        self.buffers: Layers = []
        self.slots = slots
        self.length = 0
        self.rows_n = self.positions_n = torch.empty(0, dtype=torch.long)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def write(self, rows_n: torch.Tensor, positions_n: torch.Tensor, length: int) -> None:
        """Where the next block's keys and values go; ``length``: positions that are then in use."""
        self.rows_n, self.positions_n, self.length = rows_n, positions_n, length

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        """Write keys and values of a block, (1, heads, n, size) or, padded, (rows, heads, Q, size) with n = rows * Q;
        return views over all positions in use."""
        if layer_idx == len(self.buffers):
            self.buffers.append(
                tuple(
                    x.new_zeros(len(self.rows), x.shape[1], self.slots, x.shape[3]) for x in (key_states, value_states)
                )
            )
        pair = self.buffers[layer_idx]
        for buffer, states in zip(pair, (key_states, value_states), strict=True):
            buffer[self.rows_n, :, self.positions_n] = states.transpose(1, 2).flatten(0, 1)
        return tuple(buffer[:, :, : self.length] for buffer in pair)

    def make_room(self, tokens: int) -> None:
        """At least ``tokens`` positions, and the spare one for padding."""
        if tokens <= self.slots - 1:
            return
        slots = round_up(max(tokens, self.slots * 3 // 2))
        for layer, pair in enumerate(self.buffers):
            grown = []
            for buffer in pair:
                grown.append(buffer.new_zeros(*buffer.shape[:2], slots, buffer.shape[3]))
                grown[-1][:, :, : self.slots] = buffer
            self.buffers[layer] = tuple(grown)
        self.slots = slots

    def seat(self, branches: Sequence[CachedBranch]) -> RowCache:
        """A cache with a row for every branch: this one, or a new one when a branch is new to it or a quarter of the
        rows is idle."""
        if all(b.row >= 0 for b in branches) and len(branches) > 0.75 * len(self.rows):
            return self
        staying = {id(branch) for branch in branches}
        for branch in self.rows:
            if id(branch) not in staying and (branch.waiting_forks or not branch.closed):
                branch.parked = [
                    tuple(x[branch.row, :, : branch.cached].clone() for x in pair) for pair in self.buffers
                ]
        new = RowCache(branches, max(self.slots, round_up(max(len(b.ids) for b in branches))))
        if self.buffers or any(b.cached for b in branches):
            new._copy_rows(self)
        for branch in self.rows:
            branch.row = -1
        for row, branch in enumerate(branches):
            branch.row, branch.parked = row, (branch.parked if branch.waiting_forks else None)
            branch.release_source()
        return new

    def _copy_rows(self, old: RowCache) -> None:
        """Fill new buffers from the old ones, from parked copies and from the sources of forks."""
        taking: dict[tuple[int, int], list[int]] = defaultdict(list)  # holder, tokens -> rows
        holders = {}
        for row, branch in enumerate(self.rows):
            holder = branch.source or branch
            holders[id(holder)] = holder
            if branch.cached:
                taking[id(holder), branch.cached].append(row)
        template = old.buffers or next(h.parked for h in holders.values() if h.parked)
        for layer, pair in enumerate(template):
            new = tuple(t.new_zeros(len(self.rows), t.shape[-3], self.slots, t.shape[-1]) for t in pair)
            for (number, tokens), rows in taking.items():
                holder = holders[number]
                have = old.buffers[layer] if holder.row >= 0 else holder.parked[layer]
                for target, tensor in zip(new, have, strict=True):
                    origin = tensor[holder.row] if holder.row >= 0 else tensor
                    for row in rows:
                        target[row, :, :tokens] = origin[:, :tokens]
            self.buffers.append(new)


#: tokens of a block, and of its sampling points, at least: a matrix product of fewer rows rounds otherwise, and what a
#: branch samples must not depend on how many others there are
LEAST = 16


def round_up(tokens: int) -> int:
    """The length of a cache that holds so many tokens: grown in steps of 32."""
    return (tokens // 32 + 1) * 32 + 1  # one spare slot at the end for padding


@dataclass(eq=False)
class Block:
    """New tokens of the rows of a cache, T in one sequence without padding, for :class:`Packer`.

    ids_1_T, positions_1_T: token ids, and where each stands in its row; idle ones follow (``LEAST``).
    place_T: row * Q + number among the row's new tokens, of which there are at most Q.
    see_B1QK: the mask, as numbers: what each of them sees, padding position 0 alone.
    ends_n: the last new token of each of R rows, in the order of rows, then the idle tokens; row_R: these rows.
    last_layer: number of the layer that works at these tokens alone; -1: none.
    """

    ids_1_T: torch.Tensor
    positions_1_T: torch.Tensor
    place_T: torch.Tensor
    see_B1QK: torch.Tensor
    ends_n: torch.Tensor
    row_R: torch.Tensor
    last_layer: int

    @property
    def reads_R(self) -> torch.Tensor | None:
        """For the packer: the tokens whose hidden states a pass gives; None: all."""
        return None if self.last_layer < 0 else self.ends_n

    @property
    def last_n(self) -> torch.Tensor:
        """Numbers of the last tokens' hidden states among those that a pass gives, of the idle tokens after them."""
        return torch.arange(len(self.ends_n), device=self.ends_n.device) if self.last_layer >= 0 else self.ends_n

    def attend(
        self, module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None,
        dropout: float,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        """Outputs (1, T, heads, d) of queries (1, heads, T, d) over the cache's keys (B, heads, K, d); in the last
        layer 0 off the reads."""
        rows, _, width, _ = self.see_B1QK.shape
        query_T, place_n, see = query[0, :, : len(self.place_T)].transpose(0, 1), self.place_T, self.see_B1QK
        last = self.last_layer >= 0 and module.layer_idx == self.last_layer
        ends_R = self.ends_n[: len(self.row_R)]
        if last:
            query_T, place_n, width = query_T[ends_R], self.row_R, 1
            see_R1K = see.flatten(0, 2)[self.place_T[ends_R]][:, None, None]
            see = see.new_zeros(rows, *see_R1K.shape[1:]).index_copy(0, self.row_R, see_R1K)
        whole = len(place_n) == rows * width  # every row has as many, in order
        padded = (
            query_T if whole else query_T.new_zeros(rows * width, *query_T.shape[1:]).index_copy(0, place_n, query_T)
        )
        padded = padded.unflatten(0, (rows, width)).transpose(1, 2)
        found = sdpa_attention_forward(module, padded, key, value, see, dropout, scaling, is_causal=False)[0]
        found = found.flatten(0, 1)
        found = found if whole else found[place_n]
        if last or len(found) < query.size(2):
            where_n = ends_R if last else torch.arange(len(found), device=found.device)
            found = found.new_zeros(query.size(2), *found.shape[1:]).index_copy(0, where_n, found)
        return found[None], None


def next_block(cache: RowCache, branches: Sequence[CachedBranch], dtype: torch.dtype, device, last_layer: int) -> Block:
    """The tokens of ``branches``, in the order of their rows, that have not run; the cache will take them."""
    counts = [len(b.ids) - b.cached for b in branches]
    rows_R = np.array([b.row for b in branches])
    width, length = max(counts), max(len(b.ids) for b in branches)
    ends = np.cumsum(counts)
    number_T = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
    ids_T = np.concatenate([np.array(b.ids[b.cached :]) for b in branches])
    position_T = number_T + np.repeat([b.cached for b in branches], counts)
    row_T = np.repeat(rows_R, counts)
    sees_BQ = np.zeros((len(cache.rows), width), dtype=np.int64)
    sees_BQ[row_T, number_T] = position_T
    ids_T, position_T, row_T, place_T, ends, rows_R, sees_BQ = (
        torch.from_numpy(x).to(device)
        for x in (ids_T, position_T, row_T, row_T * width + number_T, ends - 1, rows_R, sees_BQ)
    )
    idle = max(0, LEAST - len(branches))
    at_T = torch.nn.functional.pad(position_T, (0, idle), value=cache.slots - 1)
    ids_T, position_T, row_T = (torch.nn.functional.pad(x, (0, idle)) for x in (ids_T, position_T, row_T))
    cache.write(row_T, at_T, length)
    ends_n = torch.cat([ends, torch.arange(len(place_T), len(ids_T), device=device)])
    return Block(ids_T[None], position_T[None], place_T, seen_mask(sees_BQ, length, dtype), ends_n, rows_R, last_layer)


def seen_mask(sees_BQ: torch.Tensor, length: int, dtype: torch.dtype) -> torch.Tensor:
    """(B, 1, Q, K): queries see the first positions up to their own. As numbers, once: sdpa would make them of a
    boolean mask in every layer."""
    mask_B1QK = torch.arange(length, device=sees_BQ.device) <= sees_BQ[:, None, :, None]
    return torch.where(mask_B1QK, 0.0, torch.finfo(dtype).min).to(dtype)
