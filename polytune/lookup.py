"""Finds an objective, a diversity measure or a judge by name: a row of a table, or the path of a user's own.

"package.module:name" imports the module and takes its attribute; dots after the colon reach into it. The module must be
importable where polytune runs (installed, or on PYTHONPATH). An object that is no string passes as it is.
"""

import difflib
import functools
import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def find(kind: str, name: Any, table: Mapping[str, Any]) -> Any:
    """What `name` stands for. ValueError with near misses for an unknown name, with the cause for a bad path."""
    if not isinstance(name, str):
        return name
    if name in table:
        return table[name]
    if ":" not in name:
        raise ValueError(f'{unknown(kind, name, table)}; one of your own is named by its path, "package.module:name"')
    module_name, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything while it loads
        raise ValueError(
            f"{kind} {name!r}: cannot import {module_name!r}: {type(error).__name__}: {error}; install it or put its "
            f"folder on PYTHONPATH"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = did_you_mean(part, dir(found))
            raise ValueError(f"{kind} {name!r}: {module_name!r} has no {attribute!r}{near and '; '}{near}")
        found = getattr(found, part)
    return found


def is_path(name: Any) -> bool:
    """Whether `name` is the path of a user's own object."""
    return isinstance(name, str) and ":" in name


def said(kind: str, name: Any, function: Callable) -> Callable:
    """A user's `function`; whatever it raises becomes a ValueError that says which one it was."""
    if not is_path(name):
        return function

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:  # a user's code may raise anything
            raise ValueError(f"{kind} {name!r} raised {type(error).__name__}: {error}") from error

    return call


def named(kind: str, name: Any, table: Mapping[str, Any]) -> Any:
    """The row `name` of `table`; ValueError that lists near misses and the known names otherwise."""
    if not isinstance(name, str) or name not in table:
        raise ValueError(unknown(kind, name, table))
    return table[name]


def unknown(kind: str, name: Any, known: Iterable[str]) -> str:
    """The message for a name that is none of the known ones."""
    near = did_you_mean(str(name), known)
    return f"unknown {kind} {name!r};{near and ' '}{near} known: {', '.join(sorted(known))}"


def did_you_mean(name: str, known: Iterable[str], write: Callable[[str], str] = repr) -> str:
    """``did you mean 'a' or 'b'?``, the known names that are close to `name`; nothing where none is."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"did you mean {' or '.join(map(write, near))}?" if near else ""
