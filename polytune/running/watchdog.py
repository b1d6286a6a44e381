"""The watchdog: a run that stands still says where.

The trainer names what it does (``with stage("rollouts"):``); a thread reads the stages and the run's counters. When
neither has moved for ``hang_timeout`` seconds it prints the stage and the stacks of all threads, and again after twice,
four times ... as long. It ends nothing: one process may be slow for good reasons. Processes that wait for one that
hangs end by ``ddp_timeout``. ``kill -USR1`` prints the stacks at any time.
"""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Hashable, Iterator

from polytune.running.checkpoints import newest

#: the attribute of an error that says its stage
STAGE = "polytune_stage"

_stages: list[str] = []
_entries = 0
_spent: dict[str, float] = {}
_since = time.perf_counter()
_read: Callable[[], Hashable] = tuple


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """What the main thread does from here on; entering and leaving it is progress. Also a decorator."""
    global _entries
    _book()
    _stages.append(name)
    _entries += 1
    try:
        yield
    except BaseException as error:
        if not hasattr(error, STAGE):
            setattr(error, STAGE, where())
        raise
    finally:
        _book()
        _stages.pop()
        _entries += 1


def where() -> str:
    """The stage that this process is in, and those around it."""
    return " > ".join(_stages) or "starting"


def stage_of(error: BaseException) -> str | None:
    """The stage in which an error came up, or what caused it; None: in none."""
    cause = None if error.__cause__ is None else stage_of(error.__cause__)
    return cause or getattr(error, STAGE, None)


def _book() -> None:
    """What has passed goes to the innermost stage."""
    global _since
    now = time.perf_counter()
    if _stages:
        _spent[_stages[-1]] = _spent.get(_stages[-1], 0.0) + now - _since
    _since = now


def seconds_by_stage() -> dict[str, float]:
    """Seconds that this process has spent in each stage, without the stages within it."""
    _book()
    return dict(_spent)


def read_progress(read: Callable[[], Hashable]) -> None:
    """``read`` returns counters that move as long as the run does; the watchdog calls it every few seconds."""
    global _read
    _read = read


class Watched:
    """Mixin before a transformers ``Trainer``: names the stages of a run, and gives the watchdog its counters."""

    def train(self, *args, **kwargs):
        """The parent's, as a stage."""
        read_progress(self._progress)
        with stage("training"):
            return super().train(*args, **kwargs)

    @stage("update")
    def training_step(self, *args, **kwargs):
        """The parent's, as a stage."""
        return super().training_step(*args, **kwargs)

    @stage("saving a checkpoint")
    def _save_checkpoint(self, model, trial) -> None:
        super()._save_checkpoint(model, trial)

    @stage("saving the policy")
    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The parent's, as a stage."""
        super().save_model(output_dir, _internal_call)

    def _progress(self) -> tuple[str, ...]:
        """Read by another thread at any moment of a run."""
        counters = getattr(self, "_counters", None)
        tokens = getattr(getattr(self, "generator", None), "counters", None)
        return (
            f"update {self.state.global_step // self.args.steps_per_update + 1} of {self.args.num_updates}",
            f"minibatch {self._step}",
            f"{0 if counters is None else counters.env_steps} environment steps of these rollouts",
            f"{0 if tokens is None else tokens.sampled} tokens sampled",
        )


class Watchdog:
    """Watches this process in a daemon thread.

    Args:
        timeout: seconds without progress until it speaks.
        who: this process, as the message names it.
        output_dir: of the run, whose newest checkpoint the message names.
    """

    def __init__(self, timeout: float, who: str, output_dir: str):
        self.timeout, self.who, self.output_dir = timeout, who, output_dir
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and what it has ordered."""
        self._stop.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        seen, since, due = None, time.monotonic(), self.timeout
        while not self._stop.wait(min(5.0, self.timeout / 10)):
            # a call that keeps the interpreter's lock stops this thread, too: then the stacks come without it
            faulthandler.dump_traceback_later(self.timeout + 60, file=sys.__stderr__)
            now, found = time.monotonic(), (_entries, _read())
            if found != seen:
                seen, since, due = found, now, self.timeout
            elif now - since >= due:
                self._report(now - since, found[1])
                due *= 2

    def _report(self, seconds: float, counters: Hashable) -> None:
        with tempfile.TemporaryFile() as file:  # one block, however many processes write to this terminal
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            stacks = file.read().decode(errors="replace")
        print(
            f"watchdog: no progress for {seconds:.0f} s in stage {where()!r} of {self.who} "
            f"({', '.join(map(str, counters)) or 'before the first update'}). "
            f"{newest(self.output_dir)} Nothing is ended; the stacks of all threads (hang_timeout {self.timeout:g}):\n"
            f"{stacks}watchdog: end of the stacks of {self.who}; the next after {2 * seconds:.0f} s.",
            file=sys.stderr,
            flush=True,
        )


def stacks_on_demand() -> None:
    """``kill -USR1 PID`` prints the stacks of all threads; the run goes on."""
    faulthandler.register(signal.SIGUSR1, file=sys.__stderr__, all_threads=True)
