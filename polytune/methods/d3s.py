"""D3S (arXiv 2509.22115): of each group the attempts whose advantages vary most, of those the tokens that matter most.

    attempts: the subset of m = ceil(keep N) members with the largest Var(A): a highest and m - a lowest, best a
    tokens:   the share ``keep_tokens`` of all own tokens kept so far with the largest |A_t| H_t
Both shares grow in a line to 1 over the share ``until`` of the run: what is left out gets advantage 0. A subset of
largest variance is one of the m + 1 such splits (an exchange argument; the tests compare it with all subsets), so a
group costs O(N m). An attempt's advantage is the mean over its own tokens.

Source: the abstract; the shares are not established, so options. Taken of the run's own advantages, those of sets too,
since extremes of the raw reward need not be of interest. Assumes whole attempts from one state. Degenerate cases:
groups that tie keep their first members, with advantages of 0; shares of 1 change nothing.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Method, Seen, Update
from polytune.methods.options import require_option
from polytune.methods.turns import padded


@dataclass
class D3S(Method):
    rewrites: ClassVar[bool] = True
    keep: float = 0.5
    keep_tokens: float = 0.5
    until: float = 1.0
    logs: ClassVar[dict[str, Metric]] = {
        "d3s/kept": Metric("share of own tokens that keep their advantage", "share", "grows to 1 over the share until"),
    }

    def __post_init__(self) -> None:
        for name in ("keep", "keep_tokens", "until"):
            require_option(name, getattr(self, name), 0.0, 1.0, above=name != "until")

    def says(self) -> str:
        return (
            f"**D3S** (arXiv 2509.22115): from a share {self.keep:g} of each group's attempts, those of the largest "
            f"variance, and {self.keep_tokens:g} of their tokens on, the rest was left out, less and less of it."
        )

    def probe(self, seen: Seen) -> dict[str, torch.Tensor]:
        return {"d3s/entropy": seen.entropies()}

    def share(self, first: float, progress: float) -> float:
        """What is kept at this progress."""
        return 1.0 if progress >= self.until else first + (1 - first) * progress / self.until

    def advantage(self, update: Update, advantages_B_C: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        own_B_C = update.own_B_C
        means_B = (advantages_B_C * own_B_C).double().sum(dim=1) / own_B_C.sum(dim=1).clamp(min=1)
        kept_B_C = own_B_C.clone()
        for rows in update.groups_G_N:
            count = math.ceil(self.share(self.keep, update.progress) * len(rows))
            chosen = most_varied(means_B[rows].tolist(), count)
            kept_B_C[[row for i, row in enumerate(rows) if i not in chosen]] = False
        entropy_B_C = padded(update.probed["d3s/entropy"], advantages_B_C)
        worth_d = (advantages_B_C.abs() * entropy_B_C)[kept_B_C]
        (tokens,) = update.sum([float(len(worth_d))])
        count = math.ceil(self.share(self.keep_tokens, update.progress) * tokens)
        highest = sorted(update.gather(worth_d.sort(descending=True).values[:count].tolist()), reverse=True)[:count]
        kept_B_C &= advantages_B_C.abs() * entropy_B_C >= min(highest, default=0.0)
        kept, own = update.sum([float(kept_B_C.sum()), float(own_B_C.sum())])
        update.record("d3s/kept", kept / max(own, 1.0))
        return torch.where(kept_B_C, advantages_B_C, 0.0)


def most_varied(numbers: list[float], count: int) -> set[int]:
    """Places of the ``count`` numbers with the largest variance."""
    order = sorted(range(len(numbers)), key=numbers.__getitem__, reverse=True)

    def spread(high: int) -> float:
        chosen = [numbers[i] for i in (*order[:high], *order[len(order) - (count - high) :])]
        mean = sum(chosen) / count
        return sum((number - mean) ** 2 for number in chosen)

    high = max(range(count + 1), key=spread)
    return {*order[:high], *order[len(order) - (count - high) :]}
