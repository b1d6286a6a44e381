"""Levenshtein distance between sequences, over all pairs at once (Levenshtein 1966; Wagner and Fischer 1974).

    D[i, j] = min(D[i-1, j] + 1, D[i, j-1] + 1, D[i-1, j-1] + [a_i != b_j]),   normalised by max(len(a), len(b))
One row of D is computed for all pairs together: without the middle term it depends on the row before alone, and that
term is a running minimum of (value - j). So the cost in Python is one step per position, not one per cell.
Degenerate cases: equal sequences, two empty ones included, have distance 0; an empty and a non-empty one 1.
"""

from collections.abc import Hashable, Sequence

import numpy as np

CHUNK = 2048  # pairs at a time: a row of D of all of them stays in the cache


def normalised_edit_distances(sequences: Sequence[Sequence[Hashable]]) -> np.ndarray:
    """Distances in [0, 1] between N sequences, float64 (N, N), symmetric, 0 on the diagonal."""
    index: dict[tuple, int] = {}
    of_member_N = np.array([index.setdefault(tuple(sequence), len(index)) for sequence in sequences], dtype=np.int64)
    tokens: dict[Hashable, int] = {}
    rows = [[tokens.setdefault(token, len(tokens)) for token in sequence] for sequence in index]
    lengths_K = np.array([len(row) for row in rows], dtype=np.int64)
    codes_K_L = np.full((len(rows), lengths_K.max(initial=0)), -1, dtype=np.int32)
    for k, row in enumerate(rows):
        codes_K_L[k, : len(row)] = row
    first, second = np.triu_indices(len(rows), k=1)
    swap = lengths_K[first] > lengths_K[second]  # one step per position of the first: make it the shorter one
    first, second = np.where(swap, second, first), np.where(swap, first, second)
    distances_K_K = np.zeros((len(rows), len(rows)))
    for start in range(0, len(first), CHUNK):
        a, b = first[start : start + CHUNK], second[start : start + CHUNK]
        values = _edit_distances(codes_K_L[a], lengths_K[a], codes_K_L[b], lengths_K[b]) / lengths_K[b]
        distances_K_K[a, b] = distances_K_K[b, a] = values
    return distances_K_K[np.ix_(of_member_N, of_member_N)]


def _edit_distances(a_Q_L: np.ndarray, a_Q: np.ndarray, b_Q_L: np.ndarray, b_Q: np.ndarray) -> np.ndarray:
    """Distances (Q,) of Q pairs of coded sequences with lengths a_Q and b_Q; what lies beyond them is not read."""
    columns = np.arange(b_Q.max(initial=0) + 1, dtype=np.int32)
    pairs, b_Q_L = np.arange(len(b_Q)), b_Q_L[:, : len(columns) - 1]
    row_Q_L = np.repeat(columns[None], len(b_Q), axis=0)
    distances_Q = b_Q.copy()  # right for an empty a
    for i in range(1, a_Q.max(initial=0) + 1):
        best_Q_L = row_Q_L + 1
        np.minimum(best_Q_L[:, 1:], row_Q_L[:, :-1] + (a_Q_L[:, i - 1, None] != b_Q_L), out=best_Q_L[:, 1:])
        row_Q_L = np.minimum.accumulate(best_Q_L - columns, axis=1) + columns
        ends = a_Q == i
        distances_Q[ends] = row_Q_L[pairs[ends], b_Q[ends]]
    return distances_Q
