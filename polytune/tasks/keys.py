"""Single key presses of a terminal: what the bytes mean, which key says which action, and reading them."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

ARROWS = {"A": "up", "B": "down", "C": "right-arrow", "D": "left-arrow"}
ARROW_ACTIONS = {"up": "forward", "left-arrow": "left", "right-arrow": "right"}
"""Arrow -> the action it says, in tasks that have it."""

COMMANDS = {"u": "undo", "q": "quit", "?": "help"}
"""Keys that are no actions. Spelled out, they are the words of a line."""

_ESCAPE = re.compile(r"\x1b(?:\[[0-9;]*([A-Za-z~])|O([A-Za-z]))")
_UNFINISHED = re.compile(r"\x1b(?:\[[0-9;]*|O)?\Z")


def decode_keys(text: str) -> tuple[list[str], str]:
    """The keys that a terminal sent as `text`, and the beginning of an escape sequence that has not arrived whole.

    A printable character is its own name, in lower case; arrows are up, down, left-arrow, right-arrow; the end of input
    (Ctrl-D) and Ctrl-C are "q"; anything else (function keys, the mouse, Return) is "".
    """
    keys, at = [], 0
    while at < len(text):
        if text[at] == "\x1b":
            if _UNFINISHED.match(text, at):
                break
            sequence = _ESCAPE.match(text, at)
            final = (sequence[1] or sequence[2]) if sequence else ""
            keys.append(ARROWS.get(final, ""))
            at = sequence.end() if sequence else at + 1
            continue
        keys.append("q" if text[at] in "\x03\x04" else text[at].lower() if text[at].isprintable() else "")
        at += 1
    return keys, text[at:]


def key_of_action(actions: Sequence[str]) -> dict[str, str]:
    """Key -> action: the first letter of each action that no other action and no command has; actions that find none
    of their letters free take digits."""
    keys: dict[str, str] = {}
    for action in actions:
        letters = [*action.lower(), *"123456789"]
        free = next((key for key in letters if key.isalnum() and key not in COMMANDS and key not in keys), None)
        if free is not None:
            keys[free] = action
    return keys


def said_by_key(key: str, keys: Mapping[str, str]) -> str | None:
    """The action or command that a key press says, None if it says nothing."""
    if key in COMMANDS:
        return COMMANDS[key]
    arrow = ARROW_ACTIONS.get(key)
    return arrow if arrow in keys.values() else keys.get(key)


def said_by_line(line: str, keys: Mapping[str, str], actions: Sequence[str] = ()) -> str | None:
    """The action or command that a line says, spelled out or by its key; None for anything else. `actions`: those
    that have no key, too; one that is called like a command is the action."""
    word = line.strip()
    if word in actions or word in keys.values() or word in COMMANDS.values():
        return word
    return said_by_key(word, keys) if len(word) == 1 else None


@contextmanager
def single_keys() -> Iterator[None]:
    """Within it, the terminal hands over each key at once and does not show it. Being told to end counts as Ctrl-C, so
    that the terminal is left as it was."""
    import termios
    import tty

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = termios.tcgetattr(sys.stdin)
    handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def read_keys() -> Iterator[str]:
    """The names of the keys pressed, until the terminal is closed. A lone Escape says nothing."""
    rest = ""
    while True:
        if rest and not select.select([sys.stdin], [], [], 0.05)[0]:
            rest = ""
        sent = os.read(sys.stdin.fileno(), 1024)
        if not sent:
            return
        names, rest = decode_keys(rest + sent.decode("utf-8", "replace"))
        yield from names
