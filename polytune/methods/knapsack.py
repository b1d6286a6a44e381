"""Knapsack RL (arXiv 2509.25849): attempts go to the start states where one more is worth most.

    value(N, p) = (1 - p^N - (1 - p)^N) p (1 - p)^2,   p: share of a start state's last attempts that succeeded
maximises sum_i value(N_i, p_i) with sum_i N_i as it was and low <= N_i <= high: each start state that is due gets its
own number of seed trajectories. value is concave in N (its second difference is -(p^N (1-p)^2 + (1-p)^N p^2) p
(1-p)^2), so to give one attempt after another to where it adds most is exact, and no dynamic programme is needed; the
tests compare it with brute force. That is our derivation. What nothing is worth goes to start states that never
succeeded.

Source: notes on the paper: formula, bounds 2 and 128, p of the previous epoch. Here those that are due together share
their budget, in each process its own, and one that was never met keeps the run's ``num_seeds``. Assumes independent
attempts, so trees without roots. Degenerate cases: one start state, or no p known: nothing moves; p = 1 gets ``low``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from typing import Any, ClassVar

import torch

from polytune.checks import require
from polytune.meanings import Metric
from polytune.methods.base import Method, Update
from polytune.methods.options import require_option
from polytune.methods.solved import Known, note, pack_known, success_rate, unpack_known, whole_trees
from polytune.rollout import Start


@dataclass
class Knapsack(Method):
    low: int = 2
    high: int = 128
    logs: ClassVar[dict[str, Metric]] = {
        "knapsack/most": Metric(
            "largest number of attempts that a start state got", "attempts", "between num_seeds and high"
        ),
    }

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = getattr(self, name)
            require_option(name, value, 1)
        require(self.low <= self.high, f"low is {self.low} and high {self.high}: raise high.")
        self.known: Known = {}

    def says(self) -> str:
        return (
            f"**Knapsack budgets** (arXiv 2509.25849): {self.low} to {self.high} attempts at a start state, "
            "as its success rate made them worth."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        most = max(objective.set_sizes) if objective.set_scope in ("seeds", "both") else 1
        require(self.low >= most, f"method 'knapsack' gives a start state down to low = {self.low} attempts, and a set "
                f"takes {most} of them: raise knapsack.low.")  # fmt: skip
        require(rollout.num_seeds >= self.low, f"method 'knapsack' gives each start state low = {self.low} attempts at "
                f"least, but num_seeds is {rollout.num_seeds}: raise num_seeds or lower knapsack.low.")  # fmt: skip

    def starts(self, due: Sequence[Start], run_seed: int) -> list[Start]:
        told = [start for start in due if start.start_state in self.known]
        rates = [self.known[start.start_state][0] for start in told]
        numbers = iter(allot(rates, sum(start.num_seeds for start in told), self.low, self.high))
        return [s._replace(num_seeds=next(numbers)) if s.start_state in self.known else s for s in due]

    def learn(self, update: Update) -> None:
        found = [(tree.start_state, (success_rate(tree.seeds),)) for tree in whole_trees(update)]
        self.known = note(self.known, update, found)
        sizes = update.gather([len(tree.seeds) for tree in update.trees])
        update.record("knapsack/most", max(sizes))

    def state(self) -> dict[str, torch.Tensor]:
        return pack_known(self.known, 1)

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.known = unpack_known(state)


def value(number: int, p: float) -> float:
    """What ``number`` attempts are worth at success rate p."""
    return (1 - p**number - (1 - p) ** number) * p * (1 - p) ** 2


def allot(rates: Sequence[float], budget: int, low: int, high: int) -> list[int]:
    """A number for each rate, ``budget`` in all, or as many as ``high`` allows; ``low`` each is within it."""
    numbers, left = [low] * len(rates), min(budget, high * len(rates)) - low * len(rates)

    def entry(i: int) -> tuple[float, float, int, int]:
        gain = value(numbers[i] + 1, rates[i]) - value(numbers[i], rates[i]) if numbers[i] < high else float("-inf")
        return -gain, rates[i], numbers[i], i  # nothing to gain: the lowest rate, evenly

    heap = [entry(i) for i in range(len(rates))]
    heapify(heap)
    for _ in range(left):
        i = heap[0][-1]
        numbers[i] += 1
        heapreplace(heap, entry(i))
    return numbers
