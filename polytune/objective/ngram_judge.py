"""Clusters texts by shared token n-grams: similarity |A & B| / |A | B| of their sets of n-grams (Broder 1997), linked
where it reaches a threshold; linked chains are one cluster (single linkage, by union-find).

Tokens are runs of word characters and single other signs, lower-cased. Assumes that the same strategy uses the same
words; needs no model and no download, and takes O(texts^2) comparisons.
Degenerate cases: a text with fewer than n tokens (an empty one too) has no n-gram and gets None; threshold 1 merges
equal n-gram sets only; a long chain of small changes ends up as one cluster.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class NGramJudge:
    """A `SignatureJudge` on n-grams of `n` tokens and a similarity `threshold` in (0, 1]."""

    n: int = 3
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.n, int) or isinstance(self.n, bool) or self.n < 1:
            raise ValueError(f"n must be an integer of at least 1, got {self.n!r}")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], got {self.threshold!r}")

    def __call__(self, texts: Sequence[str]) -> list[int | None]:
        """Cluster ids, numbered from 0 in order of appearance; None for a text of fewer than n tokens."""
        grams = [self._ngrams(text) for text in texts]
        different = list(dict.fromkeys(g for g in grams if g))
        parent = list(range(len(different)))

        def root(i: int) -> int:
            while parent[i] != i:
                parent[i] = parent[parent[i]]
                i = parent[i]
            return i

        for i, first in enumerate(different):
            for j in range(i):
                shared = len(first & different[j])
                if shared and shared >= self.threshold * (len(first) + len(different[j]) - shared):
                    parent[root(i)] = root(j)
        number: dict[int, int] = {}
        cluster = {g: number.setdefault(root(i), len(number)) for i, g in enumerate(different)}
        return [cluster[g] if g else None for g in grams]

    def _ngrams(self, text: str) -> frozenset[tuple[str, ...]]:
        tokens = TOKEN.findall(text.lower())
        return frozenset(tuple(tokens[i : i + self.n]) for i in range(len(tokens) - self.n + 1))
