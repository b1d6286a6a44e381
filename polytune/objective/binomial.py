"""Ratios of binomial coefficients, exact until the last rounding.

For a set G of n members drawn uniformly from a group of N, and a pool of q of the N members, given that i is in G and
that i (and j) belong to the pool:
    alone[q] = P(G inside the pool | i in G)            = C(q-1, n-1) / C(N-1, n-1)
    pair[q]  = P(j in G and G inside the pool | i in G) = C(q-2, n-2) / C(N-1, n-1)
    whole[q] = P(G inside the pool), without condition  = C(q, n) / C(N, n)
Python integers carry the coefficients, so nothing overflows at N = 512, n = 64, and each ratio is rounded once.
Degenerate cases: a pool smaller than the set gives 0; n = 1 gives pair = 0 (a set of one has no second member).
"""

import functools
import math
from typing import NamedTuple

import torch


class PoolTables(NamedTuple):
    """Probabilities by pool size q = 0..N, each float64 of shape (N + 1,)."""

    alone: torch.Tensor
    pair: torch.Tensor
    whole: torch.Tensor


def comb(total: int, chosen: int) -> int:
    """C(total, chosen), and 0 where either is negative."""
    return math.comb(total, chosen) if total >= 0 and chosen >= 0 else 0


@functools.lru_cache(maxsize=64)
def pool_tables(num_members: int, set_size: int) -> PoolTables:
    """Tables for sets of `set_size` out of `num_members` (cached; do not write to them)."""
    with_member, all_sets = comb(num_members - 1, set_size - 1), comb(num_members, set_size)
    sizes = range(num_members + 1)
    return PoolTables(
        alone=torch.tensor([comb(q - 1, set_size - 1) / with_member for q in sizes], dtype=torch.float64),
        pair=torch.tensor([comb(q - 2, set_size - 2) / with_member for q in sizes], dtype=torch.float64),
        whole=torch.tensor([comb(q, set_size) / all_sets for q in sizes], dtype=torch.float64),
    )
