"""Which start state is rolled out when: each gets its turn, however many trees an update has room for.

The order is fixed for the whole run: shuffled passes over the start states, each visit with its attempt number, which
is that of its pass. A cursor stands at the first visit that is still due and moves by the trees that were grown. So
what was grown is a beginning of the order, the attempts of any two start states differ by at most 1 at every moment,
and no pair of start state and attempt comes twice. The cursor is saved with each checkpoint: a resumed run meets the
same ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from datasets import Dataset

from polytune.checks import require_once
from polytune.rollout import Start


class StartSchedule:
    """The start states of a run in order, and how far the run has come.

    Args:
        start_states: at least one, each once.
        run_seed: shuffles the passes.

    Raises:
        ValueError: one comes twice, so that both its visits in a pass would be the same attempt, sample for sample.
    """

    def __init__(self, start_states: Sequence[int], run_seed: int):
        require_once("start_states", list(start_states))
        self.start_states = list(start_states)
        self.cursor = 0  # visits that have been taken, over all processes
        self._seed, self._generator = run_seed, torch.Generator().manual_seed(run_seed)
        self._pass, self._order = -1, torch.empty(0)  # the pass that is at hand, and its order

    def visit(self, position: int) -> Start:
        """The start state and attempt at a position of the order, counted from 0."""
        number, index = divmod(position, len(self.start_states))
        if number < self._pass:  # back to the first
            self._pass, self._generator = -1, torch.Generator().manual_seed(self._seed)
        while self._pass < number:
            self._order = torch.randperm(len(self.start_states), generator=self._generator)
            self._pass += 1
        return Start(self.start_states[int(self._order[index])], number)

    def take(self, count: int, process: int = 0, processes: int = 1) -> list[Start]:
        """The next ``count`` visits, of which each process gets its own; every process must take the same ``count``.

        The visit at position i goes to process i mod ``processes``. So their shares of an update differ by one visit at
        most, and an update that fits the processes together fits each of them.
        """
        positions = range(self.cursor, self.cursor + count)
        self.cursor += count
        return [self.visit(i) for i in positions if i % processes == process]

    @property
    def met(self) -> int:
        """Distinct start states that have been taken."""
        return min(self.cursor, len(self.start_states))

    @property
    def passes(self) -> float:
        """Mean attempts at a start state so far."""
        return self.cursor / len(self.start_states)


def blank_prompts(number: int) -> Dataset:
    """What TRL counts as its dataset: one row for each tree that a run has room for. Trees do not come from it."""
    return Dataset.from_dict({"prompt": [""] * number})
