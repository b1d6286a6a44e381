"""What programs say and where: colours for people at a terminal, progress bars, quiet mode. Loads nothing heavy."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TextIO, TypeVar

#: environment variable that quietens this process and those that it starts at the same terminal
QUIET = "POLYTUNE_QUIET"
#: seconds between two lines of progress where there is no terminal
LINE_EVERY = 30.0
Item = TypeVar("Item")
_COLOURS = {"red": "31", "yellow": "33"}


def colours_wanted(stream: TextIO) -> bool:
    """Whether to colour what goes to ``stream``: a terminal, without NO_COLOR (no-color.org), that is not dumb."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def is_quiet() -> bool:
    """Whether nothing but errors is to be said."""
    return bool(os.environ.get(QUIET))


def shows_bars() -> bool:
    """Whether somebody can see a progress bar move, and wants to."""
    return sys.stderr.isatty() and not is_quiet()


def say_error(text: str) -> None:
    """One line on stderr, whatever ``text`` has for line ends."""
    sys.stdout.flush()
    print(_marked("error", "red", text, sys.stderr), file=sys.stderr, flush=True)


def say_warning(text: str) -> None:
    """One line on stdout, in the order of what else is said there."""
    print(_marked("warning", "yellow", text, sys.stdout), flush=True)


def _marked(mark: str, colour: str, text: str, stream: TextIO) -> str:
    line = f"{mark}: {' '.join(text.split())}"
    return f"\x1b[{_COLOURS[colour]}m{line}\x1b[0m" if colours_wanted(stream) else line


#: of a program whose output nobody reads any more, as shells number the signal
READER_GONE = 141


@contextlib.contextmanager
def ends_with_its_reader() -> Iterator[None]:
    """End without a word where whoever reads stdout has gone, ``| head`` say. What stdout cannot write, half of a
    character in a folder's name or a letter that its encoding lacks, is written as its number, as on stderr."""
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and out.errors == "strict":
        out.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            if not out.closed:
                out.flush()
    except BrokenPipeError:
        if not _reader_is_gone(out):
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, out.fileno())  # the interpreter flushes once more
        os.close(nowhere)
        raise SystemExit(READER_GONE) from None


def _reader_is_gone(out: TextIO) -> bool:
    try:
        waiting = select.poll()
        waiting.register(out.fileno(), 0)
        return any(event & select.POLLERR for _, event in waiting.poll(0))
    except (OSError, ValueError):  # no file
        return False


@contextlib.contextmanager
def quietened(wanted: bool) -> Iterator[None]:
    """With ``wanted``, drop all that is printed to stdout, and show no bars; stderr stays for errors."""
    if not wanted:
        yield
        return
    with (
        _environment(dict.fromkeys((QUIET, "TQDM_DISABLE"), "1")),
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        yield


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables as given, until the end as they were."""
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


#: what datasets and the Hub's client read when they are imported; transformers reads the latter
_BARS_OFF = ("HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS")


@contextlib.contextmanager
def own_bars_only() -> Iterator[None]:
    """No bars of other packages, imported before or within: the programs' own say what takes time."""
    logging, datasets = sys.modules.get("transformers.utils.logging"), sys.modules.get("datasets")
    shown = [logging.enable_progress_bar] if logging and logging.is_progress_bar_enabled() else []
    shown += [datasets.enable_progress_bars] if datasets and not datasets.are_progress_bars_disabled() else []
    if logging:
        logging.disable_progress_bar()
    if datasets:
        datasets.disable_progress_bars()
    try:
        with _environment({name: os.environ.get(name) or "1" for name in _BARS_OFF}):
            yield
    finally:
        for show_again in shown:
            show_again()


def duration(seconds: float) -> str:
    """``48 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class Bar:
    """A progress bar on a terminal; where there is none, lines."""

    def __init__(self, unit: str, *, total: int | None = None, done: int = 0, what: str | None = None):
        from tqdm.auto import tqdm

        self._bar = tqdm(total=total, initial=done, desc=what, unit=unit, disable=not shows_bars())
        self._told = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def advance(self) -> None:
        """One more is done."""
        self._bar.update()

    def describe(self, what: str) -> None:
        """What stands before the bar from now on."""
        self._bar.set_description(what)

    def say(self, line: str) -> None:
        """A line, above the bar where there is one."""
        if self._bar.disable:
            print(line, flush=True)
        else:
            self._bar.write(line)

    def tell(self, line: str, *, now: bool = False) -> None:
        """A line where there is no bar: half a minute after the last one at the earliest, but for ``now``."""
        if self._bar.disable and (now or time.monotonic() - self._told > LINE_EVERY):
            self._told = time.monotonic()
            print(line, flush=True)


def progress(items: Iterable[Item], what: str, unit: str, total: int | None = None) -> Iterator[Item]:
    """The items, with a bar on a terminal, and with a line every half a minute where there is none."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    begun = time.monotonic()
    with Bar(unit, total=total, what=what) as bar:
        for number, item in enumerate(items, start=1):
            yield item
            bar.advance()
            rate = number / max(time.monotonic() - begun, 1e-9)
            left = "" if total is None else f" of {total:,}"
            left += f", {rate:.3g} a second" + ("" if total is None else f", {duration((total - number) / rate)} left")
            bar.tell(f"{what}: {number:,}{left} ({unit}s)")
