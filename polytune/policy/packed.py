"""Rows whose shared prefixes are computed once: the tokens of a forest of rows, side by side in one sequence.

Rows that begin with the same tokens (vines and their seed trajectory, answers to one prompt, nested rollout states)
have the same hidden states there, because attention is causal. So the tokens of all rows are laid out once each, one
*segment* for each row: what the row does not share with the row that it leaves. Everything in a decoder but attention
works on tokens alone, so it runs on the packed sequence without padding and without prefixes computed twice; attention
runs segment by segment, over the keys and values of the row's whole way. This is exact, at the first token of a branch,
too, and its gradients are those of the rows one by one, because the prefix's keys and values stay in the graph.

Dense masks over such a sequence cost the square of all tokens; here each segment costs its own length times its row's.

Only some hidden states are read (those from which an action token was sampled). Where the model's last layer is one
that we know, its attention, its feed-forward part and the final norm run at these positions alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

#: a row leaves another one only where they share at least this share of its tokens: shorter prefixes cost more calls
#: than tokens
LEAST_SHARED = 0.05
#: rows of at most this many tokens attend together, padded: many short calls cost more than their arithmetic
SHORT = 128
#: padded queries of the rows that attend together, at most, as a multiple of their own
MOST_PADDED = 1.3


class Attends(Protocol):
    """Tokens side by side in one sequence that know what each of them sees."""

    ids_1_T: torch.Tensor
    positions_1_T: torch.Tensor
    reads_R: torch.Tensor | None

    def attend(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float | None,
        dropout: float,
    ) -> tuple[torch.Tensor, None]:
        """The attention of one layer: outputs (1, Q, heads, d) of queries (1, heads, Q, d)."""


class Segment(NamedTuple):
    """Tokens [begin, end) of row ``row``; those before it are the first ``begin`` of the way that ``parent``, the
    number of another segment, ends; -1: there are none."""

    row: int
    begin: int
    end: int
    parent: int


def find_segments(rows: Sequence[np.ndarray], lengths: Sequence[int]) -> tuple[list[Segment], list[int], int]:
    """What has to be computed of rows of token ids.

    Args:
        rows: token ids, one array each.
        lengths: tokens of each row that are wanted.

    Returns:
        the segments, the one in which each row ends (-1: nothing of it is wanted), and the number of distinct tokens.
        A row that is a prefix of another, or its equal, needs no segment of its own.
    """
    # big-endian bytes sort as their numbers do
    order = sorted((i for i, n in enumerate(lengths) if n), key=lambda i: rows[i][: lengths[i]].astype(">u4").tobytes())
    segments: list[Segment] = []
    last_of = [-1] * len(rows)
    way: list[int] = []  # segments that lead to the end of the row before
    before: np.ndarray | None = None
    distinct = 0
    for i in order:
        row = rows[i][: lengths[i]]
        shared = 0 if before is None else _common(before, row)
        distinct += len(row) - shared
        if shared < max(1, LEAST_SHARED * len(row)):
            way, shared = [], 0
        while way and segments[way[-1]].begin >= shared:
            way.pop()
        if shared == len(row):  # equal to the row before: rows are sorted, so no longer one comes first
            last_of[i] = way[-1]
        else:
            segments.append(Segment(i, shared, len(row), way[-1] if way else -1))
            way.append(len(segments) - 1)
            last_of[i] = way[-1]
        before = row
    return segments, last_of, distinct


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """Tokens that two rows begin with alike."""
    length = min(len(one), len(other))
    differs = (one[:length] != other[:length]).nonzero()[0]
    return int(differs[0]) if len(differs) else length


@dataclass(eq=False)
class Attending:
    """Segments that attend in one call.

    queries: how many they have, one segment after the other.
    mask: True where a query sees a key, (Q, K) or (g, 1, Q, K); None: all causal, from the first token on.
    way: of one segment that attends alone, the pieces of its keys: (number of a segment in the packed order, how many
        of its tokens).
    keys_g_K, valid_g_Q: of several, packed positions of their keys, and which of their padded queries are any.
    """

    queries: int
    mask: torch.Tensor | None
    way: list[tuple[int, int]] = field(default_factory=list)
    keys_g_K: torch.Tensor | None = None
    valid_g_Q: torch.Tensor | None = None
    _bias: torch.Tensor | None = None

    def bias(self, query: torch.Tensor) -> torch.Tensor | None:
        """The mask for these queries; on CPUs as numbers, once, where each call would make them of it again."""
        if self.mask is None or query.device.type != "cpu":
            return self.mask
        if self._bias is None or self._bias.dtype != query.dtype:
            self._bias = torch.zeros_like(self.mask, dtype=query.dtype).masked_fill(~self.mask, -torch.inf)
        return self._bias


@dataclass(eq=False)
class Packed:
    """A forest of b rows as one sequence of T tokens.

    ids_1_T, positions_1_T: token ids, and where each token stands in its row.
    place_b_L: packed position of each token of each row, 0 beyond those that are computed.
    sizes: tokens of the segments, in the packed order.
    everywhere: how all tokens attend, in the packed order.
    distinct: tokens that no two rows share, the least that a pass could compute.
    reads_R, at_reads: packed positions that are read, in order, and how they alone attend, in layer ``last_layer``;
        None: all are.
    """

    ids_1_T: torch.Tensor
    positions_1_T: torch.Tensor
    place_b_L: torch.Tensor
    sizes: list[int]
    everywhere: list[Attending]
    distinct: int
    reads_R: torch.Tensor | None = None
    at_reads: list[Attending] | None = None
    last_layer: int = -1
    _read_of_T: torch.Tensor | None = None

    def find(self, rows_n: torch.Tensor, columns_n: torch.Tensor) -> torch.Tensor:
        """Numbers (n,) of the hidden states of tokens of rows among those that a pass gives."""
        at_n = self.place_b_L[rows_n, columns_n]
        return at_n if self._read_of_T is None else self._read_of_T[at_n]

    def read(self, hidden_1_R_H: torch.Tensor, rows_n: torch.Tensor, columns_n: torch.Tensor) -> torch.Tensor:
        """Hidden states (n, H) at tokens of rows, from those that a pass gave."""
        return hidden_1_R_H[0, self.find(rows_n, columns_n)]

    def attend(
        self, module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None,
        dropout: float,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        """Outputs (1, T, heads, d) of queries (1, heads, T, d); in the layer that skips what nobody reads, 0 off the
        reads."""
        if query.size(1) != key.size(1):
            key, value = (x.repeat_interleave(query.size(1) // x.size(1), dim=1) for x in (key, value))
        groups, chosen_R = self.everywhere, None
        if self.at_reads is not None and module.layer_idx == self.last_layer:
            groups, chosen_R = self.at_reads, self.reads_R
            query = query[:, :, chosen_R]
        keys, values = key.split(self.sizes, dim=2), value.split(self.sizes, dim=2)
        outputs = []
        for group, part in zip(groups, query.split([group.queries for group in groups], dim=2), strict=True):
            how = {
                "attn_mask": group.bias(part),
                "is_causal": group.mask is None,
                "scale": scaling,
                "dropout_p": dropout,
            }
            if group.valid_g_Q is None:
                way = [_along(x, group.way) for x in (keys, values)]
                found = scaled_dot_product_attention(part, *way, **how)
                outputs.append(found[0].transpose(0, 1))
            else:
                valid_g_Q, (g, keys_K) = group.valid_g_Q, group.keys_g_K.shape
                padded = part.new_zeros(*valid_g_Q.shape, part.size(1), part.size(3))
                padded = padded.masked_scatter(valid_g_Q[:, :, None, None], part[0].transpose(0, 1))
                ways = [
                    x[0][:, group.keys_g_K.flatten()].unflatten(1, (g, keys_K)).transpose(0, 1) for x in (key, value)
                ]
                found = scaled_dot_product_attention(padded.transpose(1, 2), *ways, **how)
                outputs.append(found.transpose(1, 2)[valid_g_Q])
        out = torch.cat(outputs)
        if chosen_R is not None:
            out = out.new_zeros(key.size(2), *out.shape[1:]).index_copy(0, chosen_R, out)
        return out[None], None


class _Layout:
    """Segments in packed order: those that attend together stand together."""

    def __init__(self, segments: Sequence[Segment]):
        self.segments = segments
        ways: list[list[tuple[int, int]]] = []
        for number, (_, begin, end, parent) in enumerate(segments):
            above = [] if parent < 0 else ways[parent]
            ways.append([*((s, min(upto, begin)) for s, upto in above if segments[s].begin < begin), (number, end)])
        self.ways = ways
        short = sorted((s for s, segment in enumerate(segments) if segment.end <= SHORT), key=lambda s: segments[s].end)
        self.batches = [*_batches(short, segments), *([s] for s in range(len(segments)) if segments[s].end > SHORT)]
        order = [s for batch in self.batches for s in batch]
        self.sizes = [segments[s].end - segments[s].begin for s in order]
        self.start = dict(zip(order, [0, *accumulate(self.sizes)], strict=False))
        self.rank = {s: number for number, s in enumerate(order)}
        self.order = order
        self.positions = np.concatenate([np.arange(segments[s].begin, segments[s].end) for s in order])

    def places(self, segment: int) -> np.ndarray:
        """Packed positions of all tokens up to the segment's end."""
        return np.concatenate(
            [np.arange(upto - self.segments[s].begin) + self.start[s] for s, upto in self.ways[segment]]
        )

    def own(self, segment: int) -> np.ndarray:
        """Packed positions of its own tokens."""
        return np.arange(self.sizes[self.rank[segment]]) + self.start[segment]

    def attending(self, batch: list[int], queries: list[np.ndarray], device) -> Attending:
        """``queries``: packed positions of each segment's."""
        count, ends = sum(map(len, queries)), [self.segments[s].end for s in batch]
        if ends[0] > SHORT:
            [s], [queries_n] = batch, queries
            way = [(self.rank[a], upto - self.segments[a].begin) for a, upto in self.ways[s]]
            if len(way) == 1 and count == ends[0]:
                return Attending(count, None, way)
            mask = np.arange(ends[0]) <= self.positions[queries_n][:, None]
            return Attending(count, torch.from_numpy(mask).to(device), way)
        widths = np.array(list(map(len, queries)))
        keys_g_K = np.zeros((len(batch), max(ends)), dtype=np.int64)
        last_g_Q = np.zeros((len(batch), widths.max()), dtype=np.int64)  # padded queries see the first key
        for g, (s, queries_n) in enumerate(zip(batch, queries, strict=True)):
            keys_g_K[g, : ends[g]] = self.places(s)
            last_g_Q[g, : len(queries_n)] = self.positions[queries_n]
        valid_g_Q = np.arange(widths.max()) < widths[:, None]
        if widths.tolist() == ends:  # whole rows, padding only follows them
            keys, valid = (torch.from_numpy(x).to(device) for x in (keys_g_K, valid_g_Q))
            return Attending(count, None, [], keys, valid)
        mask = np.arange(max(ends)) <= last_g_Q[:, None, :, None]
        mask, keys, valid = (torch.from_numpy(x).to(device) for x in (mask, keys_g_K, valid_g_Q))
        return Attending(count, mask, [], keys, valid)


def pack(
    rows: Sequence[np.ndarray],
    lengths: Sequence[int],
    reads: Sequence[np.ndarray] | None = None,
    *,
    device: torch.device | str = "cpu",
    last_layer: int = -1,
) -> Packed:
    """Lay out rows of token ids.

    Args:
        rows: token ids, one array each.
        lengths: the first tokens of each row that are computed; at least one row has some.
        reads: positions in each row whose hidden states are wanted, at least one in all; None: all are.
        last_layer: number of the layer that may skip what nobody reads; -1: none may.
    """
    segments, last_of, distinct = find_segments(rows, lengths)
    layout = _Layout(segments)
    place_b_L = np.zeros((len(rows), max(lengths)), dtype=np.int64)
    for i, (segment, length) in enumerate(zip(last_of, lengths, strict=True)):
        if length:
            place_b_L[i, :length] = layout.places(segment)[:length]
    ids = np.concatenate([rows[segments[s].row][segments[s].begin : segments[s].end] for s in layout.order])
    packed = Packed(
        *(torch.from_numpy(x.astype(np.int64)).to(device)[None] for x in (ids, layout.positions)),
        torch.from_numpy(place_b_L).to(device),
        layout.sizes,
        [layout.attending(batch, list(map(layout.own, batch)), device) for batch in layout.batches],
        distinct,
    )
    if reads is not None and last_layer >= 0:
        found = np.unique(np.concatenate([place_b_L[i, columns] for i, columns in enumerate(reads)]))
        packed.at_reads = []
        for batch in layout.batches:
            owns = [(s, np.intersect1d(found, layout.own(s), assume_unique=True)) for s in batch]
            if owns := [(s, own) for s, own in owns if len(own)]:
                packed.at_reads.append(layout.attending(*map(list, zip(*owns, strict=True)), device))
        packed.reads_R, packed.last_layer = torch.from_numpy(found).to(device), last_layer
        packed._read_of_T = torch.zeros(len(ids), dtype=torch.long, device=device)
        packed._read_of_T[packed.reads_R] = torch.arange(len(found), device=device)
    return packed


def _batches(short: list[int], segments: Sequence[Segment]) -> Iterator[list[int]]:
    """Short segments, sorted by length, that attend together without much padding."""
    batch: list[int] = []
    own = widest = 0
    for s in short:
        length = segments[s].end - segments[s].begin
        if batch and max(widest, length) * (len(batch) + 1) > MOST_PADDED * (own + length):
            yield batch
            batch, own, widest = [], 0, 0
        batch.append(s)
        own, widest = own + length, max(widest, length)
    if batch:
        yield batch


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed: Attends | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """transformers' ``sdpa``; with ``packed``, each row's queries (1, heads, T, d) see the keys of their own way.

    Returns (1, T, heads, d).
    """
    if packed is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    return packed.attend(module, query, key, value, scaling, dropout)


def _along(parts: Sequence[torch.Tensor], way: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Keys or values (1, heads, K, d) of a way, from those of each segment."""
    pieces = [parts[s] if upto == parts[s].size(2) else parts[s][:, :, :upto] for s, upto in way]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


AttentionInterface.register("sdpa", attend)
