"""Sampling a policy for evaluation: every attempt becomes one line of ``records.jsonl``, in a fixed order.

The order (perturbation, policy, greedy or sampled, start state, attempt) and every sample's seed are fixed. What was
sampled without perturbations is the beginning of what is sampled with them, and is continued. A run that was killed
continues after its last whole cohort, the attempts that run as one batch: then every batch is what it would have been,
and the file ends bit for bit the same, rounding in the last place included.
"""

from __future__ import annotations

import bz2
import hashlib
import json
import math
import os
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from polytune.evaluation.columns import Columns, Records
from polytune.policy import Generator, Renderer
from polytune.rollout import Start, Trajectory, sample_episodes, signature_as_json
from polytune.rollout.duplicates import Duplicates, count_duplicates, count_repeats
from polytune.running.provenance import check_written
from polytune.tasks.base import Task

#: what every record has; ``logprob``, the sum over the sampled tokens, ``perturb``, the perturbation of the start state
#: (null: none), and ``said``, a digest of all its tokens, came later, and old files do without
FIELDS = frozenset(
    {"policy", "start_seed", "attempt", "greedy", "success", "return", "turns", "signature", "invalid_actions"}
)
#: of an evaluation: its folder may be that of the run whose policy it measures
LOCK_FILE = ".evaluation.lock"
#: what the name of a records file ends in whose text is packed
PACKED = ".bz2"
#: greedy attempts are numbered from here, apart from every sampled attempt
GREEDY_ATTEMPT = -1


class Attempt(NamedTuple):
    """One attempt to be made: attempt 0..n-1 are samples, :data:`GREEDY_ATTEMPT` is the greedy episode."""

    policy: str
    start_seed: int
    attempt: int
    perturb: str | None = None

    @property
    def part(self) -> tuple[str, str | None]:
        """What its record is counted to: policy and perturbation."""
        return self.policy, self.perturb


def with_recorded(path: str | Path, perturbations: Sequence[str]) -> list[str]:
    """The perturbations of an evaluation: those that its records have already, in their order, then the others asked
    for. A records file only grows, so those it began with stay."""
    had = dict.fromkeys(record["perturb"] for record, _ in each_record(path) if record.get("perturb") is not None)
    return [*had, *(name for name in perturbations if name not in had)]


def plan(
    policies: Sequence[str], seeds: Sequence[int], n: int, perturbations: Sequence[str] = (), *, greedy: bool = True
) -> list[Attempt]:
    """All attempts of an evaluation in the order of their records: unperturbed, then under each perturbation."""
    return [
        Attempt(policy, seed, attempt, perturb)
        for perturb in (None, *perturbations)
        for policy in policies
        for attempts in ([GREEDY_ATTEMPT] if greedy else [], range(n))
        for seed in seeds
        for attempt in attempts
    ]


def cohorts(attempts: Sequence[Attempt], max_branches: int) -> list[list[Attempt]]:
    """The attempts in batches of at most ``max_branches``, each of one policy, one perturbation, and either greedy or
    sampled."""
    batches: list[list[Attempt]] = []
    for attempt in attempts:
        last = batches[-1][-1] if batches else None
        alike = last is not None and last.part == attempt.part and (last.attempt < 0) == (attempt.attempt < 0)
        if not alike or len(batches[-1]) == max_branches:
            batches.append([])
        batches[-1].append(attempt)
    return batches


def as_record(attempt: Attempt, trajectory: Trajectory, renderer: Renderer) -> dict[str, Any]:
    """One line of ``records.jsonl``."""
    return {
        "policy": attempt.policy,
        "perturb": attempt.perturb,
        "start_seed": attempt.start_seed,
        "attempt": attempt.attempt,
        "greedy": attempt.attempt == GREEDY_ATTEMPT,
        "success": trajectory.success,
        "return": trajectory.discounted_return(),
        "turns": len(trajectory.turns),
        "stop_reason": trajectory.stop_reason,
        "signature": signature_as_json(trajectory.signature),
        "invalid_actions": trajectory.invalid_actions,
        "logprob": round(math.fsum(logprob for turn in trajectory.turns for logprob in turn.logprobs), 3),
        "said": _digest(trajectory),
        "actions": _as_said([renderer.action_text(turn.action_ids) for turn in trajectory.turns]),
    }


def _as_said(actions: Sequence[str]) -> str | list[str]:
    """Words in a line, one a turn; what one turn says as it is, and as a list what cannot be told apart in a line."""
    apart = len(actions) > 1 and any(len(action.split()) != 1 for action in actions)
    return list(actions) if apart else " ".join(actions)


def said_by_turn(actions: str | Sequence[str]) -> list[str]:
    """The actions of a record, one a turn; of an old record with an action of several words there are too many."""
    return actions.split(" ") if isinstance(actions, str) else list(actions)


def _digest(trajectory: Trajectory) -> str:
    """What was said and heard, token by token: equal for attempts that repeat each other, and for no others."""
    said = tuple((turn.action_ids, turn.feedback_ids) for turn in trajectory.turns)
    return hashlib.blake2b(repr(said).encode(), digest_size=8).hexdigest()


def read_records(path: str | Path) -> Records:
    """The whole lines of a records file, packed (``.bz2``) or not; a last line that a kill cut short is left out. No
    file: no records.

    Raises:
        ValueError: a line in the middle is not JSON, lacks a field, or has a value that no record has; a packed file is
            damaged; a file has other content than its evaluation noted beside it; an attempt comes twice.
    """
    if not Path(path).exists():
        return Records.of([])
    file = _opened(Path(path))

    def whole(place: int) -> dict[str, Any]:
        file.seek(place)
        return json.loads(file.readline())

    columns, place = Columns(whole), 0
    weakref.finalize(columns, file.close)
    for number, (record, end) in enumerate(_each(path, file), start=1):
        try:
            columns.append(record, place)
        except ValueError as error:
            raise ValueError(f"{path} line {number}: {error}. Remove the file to begin anew.") from error
        place = end
    _check_once(path, columns)
    return Records(columns)


def _check_once(path: str | Path, columns: Columns) -> None:
    """ValueError for an attempt that stands in two lines, which would count twice."""
    if not columns.numbers["part"]:
        return
    keys = [np.frombuffer(own := columns.numbers[name], own.typecode) for name in ("attempt", "start_seed", "part")]
    order = np.lexsort(keys)  # of equal ones, the first line first
    again = np.flatnonzero(np.all([key[order][1:] == key[order][:-1] for key in keys], axis=0))
    if len(again):
        first, second = min(((int(order[at]), int(order[at + 1])) for at in again), key=lambda lines: lines[1])
        record = columns.whole(columns.numbers["place"][second])
        raise ValueError(
            f"{path} line {second + 1}: policy {record['policy']!r} has attempt {record['attempt']} at start state "
            f"{record['start_seed']} in line {first + 1} already: leave one of them out, or evaluate again."
        )


def each_record(path: str | Path) -> Iterator[tuple[dict[str, Any], int]]:
    """The whole lines of a records file one by one, each with the bytes up to its end; their fields' values are as they
    may be. Raises as :func:`read_records`."""
    if Path(path).exists():
        with _opened(Path(path)) as file:
            yield from _each(path, file)


def _each(path: str | Path, file: BinaryIO) -> Iterator[tuple[dict[str, Any], int]]:
    end = 0
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):
            return
        end += len(line)
        try:
            record = json.loads(line)
            missing = FIELDS - record.keys()
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path} line {number} is not a JSON record: {error}. Remove the file to begin anew."
            ) from error
        if missing:
            raise ValueError(f"{path} line {number} lacks {', '.join(sorted(missing))}. Remove the file to begin anew.")
        yield record, end


def _opened(path: Path) -> BinaryIO:
    """The file, or where it is packed a nameless one with its content."""
    if path.suffix != PACKED:
        plain = path.open("rb")
        try:
            check_written(plain)
        except ValueError:
            plain.close()
            raise
        return plain
    file = tempfile.TemporaryFile()  # noqa: SIM115 (whoever reads it closes it)
    try:
        with bz2.open(path) as packed:
            shutil.copyfileobj(packed, file, 2**20)
    except (OSError, EOFError) as error:
        file.close()
        raise _not_unpacked(path, error) from error
    file.seek(0)
    return file


def read_packed(path: Path) -> bytes:
    """A file's content, unpacked where its name ends in ``.bz2``; ValueError where that cannot be done."""
    if path.suffix != PACKED:
        return path.read_bytes()
    try:
        with bz2.open(path) as packed:  # an empty file is damaged, too, which bz2.decompress takes for nothing
            return packed.read()
    except (OSError, EOFError) as error:
        raise _not_unpacked(path, error) from error


def _not_unpacked(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be unpacked ({error}): restore it, or remove its folder.")


def continue_records(path: str | Path, batches: Sequence[Sequence[Attempt]]) -> int:
    """Number of cohorts whose records are there already; cuts what follows the last whole one off the file.

    Raises:
        ValueError: the records are those of another evaluation.
    """
    attempts = [attempt for batch in batches for attempt in batch]
    greedy, ends = attempts[0].attempt == GREEDY_ATTEMPT, [0, *accumulate(map(len, batches))]
    lines = done = whole = 0
    for lines, (record, end) in enumerate(each_record(path), start=1):
        if lines == 1 and record["greedy"] != greedy:
            has = "has no" if greedy else "begins with"
            raise ValueError(f"{path} {has} greedy episodes: give --greedy {str(not greedy).lower()} to continue it, "
                             "or another output_dir.")  # fmt: skip
        if lines > len(attempts):
            continue
        if Attempt(*(record.get(name) for name in Attempt._fields)) != attempts[lines - 1]:
            raise ValueError(f"{path} holds the records of another evaluation: choose another output_dir.")
        if lines == ends[done + 1]:
            done, whole = done + 1, end
    if lines > len(attempts):
        raise ValueError(f"{path} holds {lines} records, this evaluation makes {len(attempts)}: choose another "
                         "output_dir.")  # fmt: skip
    if Path(path).exists():
        os.truncate(path, whole)
    return done


def take_over(aside: Path, path: str | Path, policies: Collection[str], planned: Sequence[Attempt]) -> dict[str, float]:
    """Begin a records file with the records of ``policies`` in another one of the same settings, as long as they are
    those that are planned first; the other file goes where nothing else was in it.

    Returns:
        of each policy, the share of its records that were taken.
    """
    had, taken, missed = Counter(), Counter(), False
    attempts = iter(planned)
    with aside.open("rb") as file, Path(path).open("xb") as new:
        for record, _ in each_record(aside):
            line, policy = file.readline(), record["policy"]
            had[policy] += 1
            if policy not in policies or missed:
                continue
            missed = next(attempts, None) != Attempt(*(record.get(name) for name in Attempt._fields))
            if not missed:
                new.write(line)
                taken[policy] += 1
    if taken.total() == had.total():
        aside.unlink()
    return {policy: taken[policy] / had[policy] for policy in had}


def sample_records(
    task: Task,
    renderer: Renderer,
    generator: Generator,
    cohort: Sequence[Attempt],
    *,
    run_seed: int,
    on_episode: Callable[[], object],
    vectors: Callable[[Sequence[Attempt], Sequence[Trajectory]], list[list[float]]] | None = None,
) -> list[dict[str, Any]]:
    """Make the attempts of one cohort in one batch; their records in order.

    Args:
        vectors: of attempts, one each; unset: records have none.

    Raises:
        ValueError: attempts repeat each other more often than their logprobs allow.
    """
    trajectories = sample_episodes(
        task,
        renderer,
        generator,
        [Start(attempt.start_seed, attempt.attempt) for attempt in cohort],
        run_seed=run_seed,
        max_branches=len(cohort),
        on_episode=lambda index, trajectory: on_episode(),
    )
    groups: dict[tuple, list[Trajectory]] = {}
    for attempt, trajectory in zip(cohort, trajectories, strict=True):
        if attempt.attempt != GREEDY_ATTEMPT:
            groups.setdefault((attempt.part, attempt.start_seed), []).append(trajectory)
    _refuse(count_duplicates(groups.values()), cohort[0].policy)
    records = [as_record(a, t, renderer) for a, t in zip(cohort, trajectories, strict=True)]
    if vectors is not None:
        for record, vector in zip(records, vectors(cohort, trajectories), strict=True):
            record["vector"] = vector
    return records


def check_repeats(records: Records) -> None:
    """Refuse samples of a start state that repeat each other more often than their logprobs allow
    (``rollout/duplicates.py``); records that do not tell (``said``, ``logprob``) are taken as they are.

    Raises:
        ValueError: the policy and the figures.
    """
    told = (records.column("said") != 0) & (records.column("has logprob") != 0)
    telling = records.taken(told).where(greedy=False)
    for policy, own in telling.of_each(telling.policies()).items():
        groups = (
            list(zip(at.column("said").tolist(), at.column("logprob").tolist(), strict=True))
            for _, perturb in own.parts()
            for at in own.where(perturb=perturb).by_start(first=True).values()
        )
        _refuse(count_repeats(groups), policy)


def _refuse(found: Duplicates, policy: str) -> None:
    if found.alarm:
        raise ValueError(
            f"policy {policy!r}: {found}: its samples are not independent (one seed for every attempt?), or sharper "
            "than their logprobs say (a truncated distribution, another temperature?), and their pass@k means nothing."
        )
