"""Expert episodes as text, recorded on all cores. The rows depend on the task and the seeds alone."""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from polytune.errors import ToldError
from polytune.tasks import load_task
from polytune.tasks.base import Episode, ExpertError, Task
from polytune.tasks.own import place_of

FEW = 200
"""Up to so many episodes are recorded in this process: starting others would take longer."""


class WorkerLostError(RuntimeError):
    """A process that records episodes ended in the middle of it."""


class FaultyExpertError(ToldError, RuntimeError):
    """A task or its expert raised an error, or said what is no action, in a demonstration."""


@contextlib.contextmanager
def _naming(task: Task, seed: int, turns: Sequence[Any]) -> Iterator[None]:
    """Whatever a user's code raises becomes a FaultyExpertError that says where; that there is no expert stays."""
    try:
        yield
    except (NotImplementedError, FaultyExpertError):
        raise
    except Exception as error:
        raise FaultyExpertError(
            f"task {task.name!r} raised {type(error).__name__} in turn {len(turns)} of the demonstration from start "
            f"state {seed}: {error} ({place_of(error)})"
        ) from error


def _asked(task: Task, episode: Episode, seed: int) -> str:
    """The expert's action."""
    action = task.expert(episode)
    if not isinstance(action, str) or task.parse_action(action) is None:
        raise FaultyExpertError(
            f"the expert of task {task.name!r} says {action!r} in turn {episode.turn} of start state {seed}, which is "
            f"no action: {', '.join(task.actions)}"
        )
    return action


def act_out(task: Task, seed: int) -> dict[str, Any]:
    """One expert episode from the start state of `seed`.

    Returns: {"start_seed", "level_hash", "observations" (one before each action), "actions", "success", "turns",
    "gave_up" (why, if the expert raised ExpertError)}. The expert may take `task.expert_turns`, the horizon if None;
    its first `task.horizon` turns are recorded.
    Raises FaultyExpertError for what task or expert raise beside that.
    """
    horizon, patient = task.horizon, copy.copy(task)
    patient.horizon = max(horizon, task.expert_turns or horizon)
    observations, actions, gave_up = [], [], None
    with _naming(task, seed, actions):
        episode = patient.start(seed)
        while not episode.done and gave_up is None:
            observations.append(episode.observation())
            try:
                actions.append(_asked(task, episode, seed))
            except ExpertError as error:
                gave_up = str(error)
            else:
                episode.step(actions[-1])
        level = task.start_hash(seed)
    return {
        "start_seed": seed,
        "level_hash": level,
        "observations": observations[:horizon],
        "actions": actions[:horizon],
        "success": episode.stop_reason == "success",
        "turns": episode.turn,
        "gave_up": gave_up,
    }


def act_out_all(
    name: str, options: Mapping[str, Any], seeds: Sequence[int], workers: int | None = None
) -> Iterator[dict[str, Any]]:
    """`act_out` for every seed of the task `load_task(name, **options)`, in the order of `seeds`.

    `workers`: processes; None: one for each core that this process may use, and none for `FEW` episodes.
    Raises WorkerLostError when one of them is killed; the others end, too.
    """
    workers = workers or (len(os.sched_getaffinity(0)) if len(seeds) > FEW else 1)
    if workers == 1:
        task = load_task(name, **options)
        for seed in seeds:
            yield act_out(task, seed)
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in an unknown state
    with ProcessPoolExecutor(workers, context, _begin, (name, dict(options), os.getpid())) as pool:
        try:
            yield from pool.map(_act_out_here, seeds, chunksize=8)
        except BrokenProcessPool as error:
            raise WorkerLostError(
                f"one of the {workers} processes that record episodes of {name!r} was killed or could not start (out "
                "of memory, most likely): run the same command again, with fewer processes where it offers that"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_task: Task | None = None


def _begin(name: str, options: dict[str, Any], parent: int) -> None:
    global _task
    _task = load_task(name, **options)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A killed parent cannot end its workers, so each watches for it."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _act_out_here(seed: int) -> dict[str, Any]:
    try:
        return act_out(_task, seed)
    except NotImplementedError as error:  # whose traceback would be the pool's
        raise FaultyExpertError(str(error)) from error


def summary(rows: Iterable[Mapping[str, Any]], horizon: int) -> dict[str, Any]:
    """What the expert did: episodes, successes, successes within the horizon, turns of the successes, give-ups."""
    rows = list(rows)
    turns = sorted(row["turns"] for row in rows if row["success"])
    return {
        "episodes": len(rows),
        "successes": len(turns),
        "successes_within_horizon": sum(number <= horizon for number in turns),
        "horizon": horizon,
        "gave_up": sum(row["gave_up"] is not None for row in rows),
        "turns_mean": sum(turns) / len(turns) if turns else None,
        "turns_percentiles": {share: turns[min(len(turns) - 1, len(turns) * share // 100)] for share in (50, 80, 95)}
        if turns
        else {},
    }
