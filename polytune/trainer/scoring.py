"""Scoring rows: packed, with prefixes computed once, or in chunks of like length without padding before them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from polytune.policy.packed import Packed, pack

#: rows that are scored together at least: fewer waste less on padding, more fill the cores better
SCORED_ROWS = 16
#: tokens up to which short rows are scored together, so that calls do not cost more than arithmetic
SCORED_TOKENS = 4096


def pad(rows: list[torch.Tensor], value: int = 0, side: str = "right") -> torch.Tensor:
    """Rows of unlike length as one tensor (B, L)."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)


def rows_per_chunk(length: int) -> int:
    """Rows of this length that are scored together."""
    return max(SCORED_ROWS, SCORED_TOKENS // length)


class Chunk(NamedTuple):
    """Rows that are scored together, moved to the left: padding only follows them, so causal attention needs no mask.

    ``moved_b_L``: column of the original row that each column shows (any column beyond the row's end). ``mask_b_L``: 1
    up to the row's end. ``prompts_b``: tokens of each row before its completion.
    """

    rows_b: torch.Tensor
    moved_b_L: torch.Tensor
    mask_b_L: torch.Tensor
    prompts_b: torch.Tensor

    @property
    def scored_width(self) -> int:
        """Columns on the right that hold every completion of the chunk."""
        return self.moved_b_L.size(1) - int(self.prompts_b.min())

    def completions(self, scored_b_W: torch.Tensor, width: int) -> torch.Tensor:
        """What was scored in the last ``scored_width`` columns, by completion token (b, width); 0 beyond them."""
        scored_width = scored_b_W.size(1)
        shift_b = self.prompts_b - self.prompts_b.min()
        columns_b_C = shift_b[:, None] + torch.arange(width, device=scored_b_W.device)
        found = scored_b_W.gather(1, columns_b_C.clamp(max=scored_width - 1))
        return found.masked_fill(columns_b_C >= scored_width, 0)

    def before(self, hidden_b_L_H: torch.Tensor, chosen_b_C: torch.Tensor) -> torch.Tensor:
        """Hidden states (d, H) at the token before each chosen completion token, row by row."""
        rows_d, columns_d = chosen_b_C.nonzero(as_tuple=True)
        return hidden_b_L_H[rows_d, self.prompts_b[rows_d] + columns_d - 1]

    @staticmethod
    def left(hidden_b_L_H: torch.Tensor) -> torch.Tensor:
        """Hidden states (b, L, H) of the rows, each from its first token on."""
        return hidden_b_L_H


#: tokens of rows up to which they are packed together without gradients; with them, all of a minibatch's are
PACKED_TOKENS = 16384


@dataclass(eq=False)
class PackedRows:
    """Rows that run packed, and which of their completion tokens are scored.

    rows_b: their numbers. prompts_b: tokens of each row before its completion. chosen_b_C: True at scored tokens.
    """

    rows_b: torch.Tensor
    prompts_b: torch.Tensor
    chosen_b_C: torch.Tensor
    packed: Packed

    def find(self, chosen_b_C: torch.Tensor) -> torch.Tensor:
        """Where a pass has the hidden state before each chosen completion token (d,), row by row."""
        rows_d, columns_d = chosen_b_C.nonzero(as_tuple=True)
        return self.packed.find(rows_d, self.prompts_b[rows_d] + columns_d - 1)

    def before(self, hidden_1_R_H: torch.Tensor, chosen_b_C: torch.Tensor) -> torch.Tensor:
        """Hidden states (d, H) at the token before each chosen completion token, row by row."""
        return hidden_1_R_H[0, self.find(chosen_b_C)]

    def left(self, hidden_1_R_H: torch.Tensor) -> torch.Tensor:
        """Hidden states (b, L, H) of the rows, each from its first token on; anything after the last one scored."""
        assert self.packed.reads_R is None, "not all hidden states were computed"
        return hidden_1_R_H[0, self.packed.place_b_L]


def packed_rows(
    ids_B_L: torch.Tensor,
    mask_B_L: torch.Tensor,
    chosen_B_C: torch.Tensor,
    *,
    most_tokens: int | None = PACKED_TOKENS,
    last_layer: int = -1,
    everywhere: bool = False,
) -> Iterator[PackedRows]:
    """The rows that have a chosen token, packed in their order, in parts of at most ``most_tokens`` (None: one part).

    Args:
        ids_B_L, mask_B_L: as TRL lays rows out, prompts padded on the left, completions of C tokens on the right.
        chosen_B_C: True at the completion tokens that are scored.
        last_layer: of :func:`pack`. everywhere: hidden states of all tokens are wanted, the last one's, too.
    """
    width = chosen_B_C.size(1)
    ids, mask, chosen = (x.cpu().numpy() for x in (ids_B_L, mask_B_L.bool(), chosen_B_C))
    prompts = mask[:, :-width].sum(axis=1)
    wanted = [np.flatnonzero(row) for row in chosen]
    lengths = [int(prompts[i] + columns[-1] + everywhere) if len(columns) else 0 for i, columns in enumerate(wanted)]
    parts: list[list[int]] = [[]]
    held = 0
    for i in np.flatnonzero(lengths):
        if most_tokens is not None and parts[-1] and held + lengths[i] > most_tokens:
            parts.append([])
            held = 0
        parts[-1].append(int(i))
        held += lengths[i]
    for part in parts if parts[0] else ():
        rows_b = torch.tensor(part, device=ids_B_L.device)
        yield PackedRows(
            rows_b,
            torch.from_numpy(prompts[part]).to(ids_B_L.device),
            chosen_B_C[rows_b],
            pack(
                [ids[i][mask[i]] for i in part],
                [lengths[i] for i in part],
                None if everywhere else [prompts[i] + wanted[i] - 1 for i in part],
                device=ids_B_L.device,
                last_layer=-1 if everywhere else last_layer,
            ),
        )


def length_chunks(attention_mask_B_L: torch.Tensor, width: int, rows_per_chunk: int | None) -> list[Chunk]:
    """Rows sorted by length and cut into chunks, each as long as its longest row.

    ``width``: columns of the completions. ``rows_per_chunk`` None: one chunk in the given order.
    """
    mask_B_L = attention_mask_B_L.bool()
    length, device = mask_B_L.size(1), mask_B_L.device
    positions_L = torch.arange(length, device=device)
    first_B = torch.where(mask_B_L, positions_L, length - width).amin(dim=1).clamp(max=length - width)
    end_B = torch.where(mask_B_L, positions_L + 1, 0).amax(dim=1)
    order_B = torch.arange(len(mask_B_L), device=device)
    if rows_per_chunk is not None:
        order_B = (end_B - first_B).argsort(stable=True)
    chunks = []
    for rows_b in order_B.split(rows_per_chunk or len(order_B)):
        first_b = first_B[rows_b]
        prompts_b = length - width - first_b
        longest = max(int((end_B[rows_b] - first_b).max()), int(prompts_b.min()) + 1)
        columns_b_L = first_b[:, None] + torch.arange(longest, device=device)
        mask_b_L = (columns_b_L < end_B[rows_b, None]).to(attention_mask_B_L.dtype)
        chunks.append(Chunk(rows_b, columns_b_L.clamp(max=length - 1), mask_b_L, prompts_b))
    return chunks
