"""Sampling a policy for evaluation: every attempt becomes one line of ``records.jsonl``, in a fixed order.

The order (policy, greedy or sampled, start state, attempt) and every sample's seed are fixed, so a run that was killed
continues after its last whole line and ends with the same file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from polytune.policy import Generator, Renderer
from polytune.rollout import RolloutCounters, Start, Trajectory, sample_episodes
from polytune.tasks.base import Task

#: greedy attempts are numbered from here, apart from every sampled attempt
GREEDY_ATTEMPT = -1


class Attempt(NamedTuple):
    """One attempt to be made: attempt 0..n-1 are samples, :data:`GREEDY_ATTEMPT` is the greedy episode."""

    policy: str
    start_seed: int
    attempt: int


def plan(policies: Sequence[str], seeds: Sequence[int], n: int) -> list[Attempt]:
    """All attempts of an evaluation in the order of their records."""
    return [
        Attempt(policy, seed, attempt)
        for policy in policies
        for attempts in ([GREEDY_ATTEMPT], range(n))
        for seed in seeds
        for attempt in attempts
    ]


def as_record(attempt: Attempt, trajectory: Trajectory, renderer: Renderer) -> dict[str, Any]:
    """One line of ``records.jsonl``; a set-valued signature is written as a sorted list."""
    signature = trajectory.signature
    if isinstance(signature, frozenset | set):
        signature = sorted(signature, key=repr)
    return {
        "policy": attempt.policy,
        "start_seed": attempt.start_seed,
        "attempt": attempt.attempt,
        "greedy": attempt.attempt == GREEDY_ATTEMPT,
        "success": trajectory.success,
        "return": trajectory.discounted_return(),
        "turns": len(trajectory.turns),
        "stop_reason": trajectory.stop_reason,
        "signature": signature,
        "invalid_actions": trajectory.invalid_actions,
        "actions": " ".join(renderer.action_text(turn.action_ids) for turn in trajectory.turns),
    }


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The whole lines of a records file; a last line that a kill cut short is left out.

    Raises:
        ValueError: a line in the middle is not JSON, or lacks a field.
    """
    records = []
    lines = Path(path).read_text().split("\n") if Path(path).exists() else []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is not whole
        try:
            record = json.loads(line)
            records.append(record)
            missing = {"policy", "start_seed", "attempt", "greedy", "success", "return"} - record.keys()
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"{path} line {number} is not a JSON record: {error}. Remove the file to begin anew."
            ) from error
        if missing:
            raise ValueError(f"{path} line {number} lacks {', '.join(sorted(missing))}. Remove the file to begin anew.")
    return records


def continue_records(path: str | Path, attempts: Sequence[Attempt]) -> int:
    """Number of attempts whose records are there already; cuts an unfinished last line off the file.

    Raises:
        ValueError: the records are those of another evaluation.
    """
    records = read_records(path)
    for record, attempt in zip(records, attempts, strict=False):
        if Attempt(record["policy"], record["start_seed"], record["attempt"]) != attempt:
            raise ValueError(f"{path} holds the records of another evaluation: choose another output_dir.")
    if len(records) > len(attempts):
        raise ValueError(f"{path} holds {len(records)} records, this evaluation makes {len(attempts)}: choose another "
                         "output_dir.")  # fmt: skip
    if Path(path).exists():
        Path(path).write_text("".join(json.dumps(record) + "\n" for record in records))
    return len(records)


def sample_records(
    task: Task,
    renderer: Renderer,
    generator: Generator,
    attempts: Sequence[Attempt],
    *,
    run_seed: int,
    max_branches: int,
    counters: RolloutCounters,
    on_episode: Callable[[], None],
) -> Iterator[list[dict[str, Any]]]:
    """Make the attempts, ``max_branches`` at a time; yields each cohort's records in order."""
    for offset in range(0, len(attempts), max_branches):
        cohort = attempts[offset : offset + max_branches]
        trajectories = sample_episodes(
            task,
            renderer,
            generator,
            [Start(attempt.start_seed, attempt.attempt) for attempt in cohort],
            run_seed=run_seed,
            max_branches=max_branches,
            counters=counters,
            on_episode=lambda index, trajectory: on_episode(),
        )
        yield [as_record(a, t, renderer) for a, t in zip(cohort, trajectories, strict=True)]
