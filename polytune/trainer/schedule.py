"""Which start state is rolled out when: fixed for the whole run, so that a resumed run meets the same ones."""

from __future__ import annotations

import torch
from datasets import Dataset

from polytune.tasks.base import Task


def start_state_schedule(
    task: Task, seeds: list[int], *, updates: int, prompts_per_update: int, run_seed: int
) -> Dataset:
    """The start states of a whole run in order: shuffled passes over ``seeds``, each visit with its attempt number.

    Columns: ``prompt`` (first observation), ``start_seed``, ``attempt``. A longer run begins with the same rows.
    """
    rows: list[dict] = []
    observations: dict[int, str] = {}  # of those that the run meets: a dataset may have millions more
    generator = torch.Generator().manual_seed(run_seed)
    attempt, number = 0, updates * prompts_per_update
    while len(rows) < number:
        for index in torch.randperm(len(seeds), generator=generator)[: number - len(rows)].tolist():
            seed = seeds[index]
            if seed not in observations:
                observations[seed] = task.start(seed).observation()
            rows.append({"prompt": observations[seed], "start_seed": seed, "attempt": attempt})
        attempt += 1
    return Dataset.from_list(rows)
