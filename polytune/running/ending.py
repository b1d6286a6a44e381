"""How a program ends that is told to end, and what it holds until then.

Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt, once; what has not ended ``PATIENCE`` seconds later is left as it
is, which harms nothing: a kill at any moment does not. A folder has one program at a time. Its lock is the system's
(flock), which goes with the process that holds it, however that ends: there are no stale ones, whatever the file says.
"""

from __future__ import annotations

import errno
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from polytune.terminal import say_warning

LOCK_FILE = ".lock"
#: seconds that a program has to end by itself
PATIENCE = 4.0
#: file systems that have no locks
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
CONTINUES = "the same command continues where it was."

_held: list[tuple[int, Path | None]] = []
_says: Callable[[], str] | None = None
_parts = 0  # programs that run as parts of this one
_told: list[int] = []


def lock(folder: Path, *, what: str, name: str = LOCK_FILE) -> int:
    """A descriptor that holds a folder, which is made, until it is closed.

    Raises:
        ValueError: another program, or programs that one left behind, are at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        by = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise ValueError(
            f"{folder} is in use by {what}{f' ({by})' if by else ''}: wait for that to end, end it, or choose another "
            "output_dir."
        ) from None
    except (ImportError, OSError) as error:  # not on Windows
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            os.close(descriptor)
            raise
        say_warning(f"{folder} lies where nothing can be locked ({error}): give it to one program at a time.")
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} of {platform.node()}\n".encode(), 0)
    return descriptor


def hold(folder: str | Path, says: Callable[[], str] | None = None, *, name: str = LOCK_FILE) -> None:
    """Hold a folder until :func:`let_go`, which removes one that had to be made and has nothing in it; ``says``: what a
    program that ends in between leaves, in a sentence; what a part of another program leaves is for that one to say.

    Raises:
        ValueError: another one holds it.
    """
    global _says
    new = not Path(folder).exists()
    _held.append((lock(Path(folder), what="another program", name=name), Path(folder) / name if new else None))
    if not _parts:
        _says = says


@contextmanager
def as_a_part() -> Iterator[None]:
    """A program that runs within another one: what it holds is let go when it ends, and no more."""
    global _parts
    before, _parts = len(_held), _parts + 1
    try:
        yield
    finally:
        _parts -= 1
        _let_go(before)


def let_go() -> None:
    """Whoever wants the folders may have them."""
    global _says
    _let_go(0)
    _says = None


def _let_go(before: int) -> None:
    """Of what is held, all but the first ``before``."""
    while len(_held) > before:
        descriptor, own = _held.pop()
        if own is not None and own.parent.is_dir() and os.listdir(own.parent) == [own.name]:
            own.unlink()
            own.parent.rmdir()
        os.close(descriptor)


def what_is_left() -> str:
    """What a program that ends now leaves, for its last line."""
    return CONTINUES if _says is None else _says()


@contextmanager
def ends_when_told() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, the first of them; one that is ignored (nohup) stays so."""
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    if _interrupt in before.values() or threading.current_thread() is not threading.main_thread():
        yield
        return
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        yield
        _told.clear()
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if _told else handler)  # what ends is not disturbed once more


def _interrupt(number, frame):
    if _told:
        return
    _told.append(number)
    last_words = f"interrupted; {what_is_left()}"
    if _imports(frame):
        let_go()
        _leave(last_words)
    timer = threading.Timer(PATIENCE, _leave, (last_words,))
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported: a compiled one may end the whole process over an exception, with a page of
    its own ("terminate called after throwing an instance of ...")."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _leave(last_words: str) -> None:
    """What was told to end is still there, or cannot end by an exception: the main thread waits for something, one was
    swallowed, a module is being imported."""
    if _told:
        print(last_words, file=sys.stderr, flush=True)
        os._exit(130)
