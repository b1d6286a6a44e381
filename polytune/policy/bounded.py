"""Work of others' code, chat templates, that must end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Within it TimeoutError after so many seconds of a core. Loops and huge numbers are interrupted, one allocation of
    memory is not. A thread that is not the main one gets no signals, so there nothing is bounded."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: Any) -> None:
        raise TimeoutError(f"it takes more than {seconds:g} seconds of a core")

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
