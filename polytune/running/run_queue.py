"""A queue of jobs, each a few programs one after another, on a number of processes at a time.

A job that fails does not end the others. SIGINT, SIGTERM and SIGHUP end the programs that run, then the queue. A folder
has one queue at a time: the programs hold its lock, so that those of a queue that was killed are not doubled.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from polytune.running.ending import ends_when_told, lock
from polytune.terminal import QUIET

#: seconds between two looks at a program, and between two notes of the time it has taken
GLANCE, NOTE = 0.2, 10.0
#: seconds that a program has to end after SIGTERM: fewer than the queue itself has
GRACE = 3.0


class JobFailed(RuntimeError):
    """A program ended with another status than 0; the message says which."""

    def __init__(self, what: str, log: Path, status: int):
        super().__init__(f"{what} ended with {f'signal {-status}' if status < 0 else f'status {status}'}")
        self.log = log


@dataclass
class Outcome:
    """What became of a job: ``error`` is None when it is done."""

    name: str
    seconds: float
    error: Exception | None = None

    @property
    def log(self) -> Path | None:
        """The file with what a failed program said; None of one that went well."""
        return getattr(self.error, "log", None)


def last_lines(path: Path, count: int = 8) -> list[str]:
    """The last lines of a log that say something."""
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return [line.rstrip() for line in lines if line.strip()][-count:]


class Launcher:
    """Starts programs and ends them all when told to."""

    def __init__(self, lock: int):
        self._lock, self._guard, self._stopping = lock, threading.Lock(), False
        self._running: set[subprocess.Popen] = set()

    def call(self, command: Sequence[str], log: Path, *, on_time: Callable[[float], object] = lambda s: None) -> None:
        """Run a program to its end, its output appended to ``log``; ``on_time`` is told the seconds of this sitting.

        Raises:
            JobFailed: its status was not 0.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        begun = noted = time.monotonic()
        loud = {name: value for name, value in os.environ.items() if name != QUIET}  # the log is a file like others
        with log.open("ab") as file:
            with self._guard:
                if self._stopping:
                    raise JobFailed(_program(command), log, -signal.SIGTERM)
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=loud | {"PYTHONUNBUFFERED": "1"},
                    start_new_session=True,  # a key press at the terminal reaches the queue alone, which ends them
                    pass_fds=(self._lock,),
                )
                self._running.add(process)
            try:
                while process.poll() is None:
                    time.sleep(GLANCE)
                    if time.monotonic() - noted > NOTE:
                        noted = time.monotonic()
                        on_time(noted - begun)
                on_time(time.monotonic() - begun)
            finally:
                _end(process, signal.SIGKILL)  # still there only when on_time raised
                with self._guard:
                    self._running.discard(process)
        if process.returncode:
            raise JobFailed(_program(command), log, process.returncode)

    def stop(self) -> None:
        """End every program, with its own children, and start no other."""
        with self._guard:
            self._stopping = True
            running = list(self._running)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in running:
                _end(process, number)
            deadline = time.monotonic() + GRACE
            while any(process.poll() is None for process in running) and time.monotonic() < deadline:
                time.sleep(GLANCE / 4)


def _program(command: Sequence[str]) -> str:
    """What runs: the module or file that is given to Python."""
    return next((Path(word).name for word in command[1:] if not word.startswith("-")), command[0])


def _end(process: subprocess.Popen, number: int) -> None:
    """Signal a program and its children, unless it has ended."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def run_attached(command: Sequence[str]) -> int:
    """Run a program in this terminal to its end and return its status. What tells this process to end ends it as well,
    and is passed on (KeyboardInterrupt) when it has ended: it may have runs of its own to end."""
    process = subprocess.Popen(command)
    told: list[int] = []

    def pass_on(number, frame):
        told.append(number)
        process.terminate()

    def passed_on_by_the_terminal(number, frame):
        told.append(number)
        if told.count(number) > 1:  # or it was not, being sent to this process alone
            process.terminate()

    wanted = {signal.SIGINT: passed_on_by_the_terminal, signal.SIGTERM: pass_on, signal.SIGHUP: pass_on}
    before = {number: signal.getsignal(number) for number in wanted}
    for number, handler in wanted.items():
        if before[number] != signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if told:
        raise KeyboardInterrupt
    return status


def run_jobs(
    jobs: dict[str, Callable[[Launcher], object]],
    *,
    workers: int,
    folder: Path,
    on_outcome: Callable[[Outcome], object],
) -> dict[str, Outcome]:
    """Run jobs in order, ``workers`` at a time; what became of each, by name.

    A job that raises an Exception has failed; the rest go on. KeyboardInterrupt ends them all and is passed on.
    """
    outcomes: dict[str, Outcome] = {}

    def timed(name: str) -> Outcome:
        begun = time.monotonic()
        try:
            jobs[name](launcher)
        except Exception as error:  # whatever one job runs into must not end the others; it is told at the end
            return Outcome(name, time.monotonic() - begun, error)
        return Outcome(name, time.monotonic() - begun)

    descriptor = lock(folder, what="another comparison, or by runs that it left behind")
    with os.fdopen(descriptor), ends_when_told():
        launcher = Launcher(descriptor)
        pool = ThreadPoolExecutor(workers)
        try:
            futures = [pool.submit(timed, name) for name in jobs]
            pending = set(futures)
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=futures.index):  # a set has no order of its own
                    outcome = future.result()
                    outcomes[outcome.name] = outcome
                    on_outcome(outcome)
        finally:
            launcher.stop()  # nothing runs any more unless the queue was interrupted
            pool.shutdown(wait=True, cancel_futures=True)
    return outcomes
