"""Finds what a run names: a row of a table (`polytune.tables`), or the path of a user's own.

"package.module:name" imports the module and takes its attribute; dots after the colon reach into it. The module must be
importable where polytune runs (installed, or on PYTHONPATH). An object that is no string passes as it is.
"""

import difflib
import functools
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from polytune.tables import Entry

#: modules of users' own that paths have loaded in this process
OWN_MODULES: set[str] = set()


def agree(trainer: Any, rollout: Any, objective: Any) -> None:
    """The check of a row that contradicts nothing."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What an objective, a diversity, a credit rule, a branching rule or a scaling knows of itself beside its function,
    its first field. A bare function of a user's own has all other fields at their defaults.

    says: Markdown for the card of an export; ``{set_size}`` and the like stand for the run's objective fields.
    check(trainer, rollout, objective): ValueError for fields of the run that it contradicts, before any work; gets the
        three configs.
    name: of a user's own, its path.
    function, form: the name of the field that holds the function, and what to give, for an error.
    """

    says: str = ""
    check: Callable[[Any, Any, Any], None] = agree
    name: str = ""
    function: ClassVar[str]
    form: ClassVar[str]


R = TypeVar("R", bound=Row)


def find_row(kind: str, name: Any, table: Mapping[str, Entry], shape: type[R]) -> R:
    """The ``shape`` that `name` stands for; a function becomes one. ValueError as in `find`, or for anything else; what
    a user's own function raises becomes a ValueError that names it."""
    found = find(kind, name, table)
    if not isinstance(found, shape):
        if isinstance(found, type) or not callable(found):
            raise ValueError(f"{kind} {name!r} is {found!r}: give {shape.form}")
        found = shape(found)
    if not is_path(name):
        return found
    return replace(found, name=name, **{shape.function: said(kind, name, getattr(found, shape.function))})


def find(kind: str, name: Any, table: Mapping[str, Entry]) -> Any:
    """What `name` stands for. ValueError with near misses for an unknown name, with the cause for a bad path."""
    if not isinstance(name, str):
        return name
    path = table[name].path if name in table else name
    if ":" not in path:
        raise ValueError(f'{unknown(kind, name, table)}; one of your own is named by its path, "package.module:name"')
    module_name, _, attribute = path.partition(":")
    try:
        found = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything while it loads
        raise ValueError(
            f"{kind} {name!r}: cannot import {module_name!r}: {type(error).__name__}: {error}; install it or put its "
            f"folder on PYTHONPATH"
        ) from error
    if name not in table and module_name.partition(".")[0] != "polytune":
        OWN_MODULES.add(module_name)
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


def unknown(kind: str, name: Any, known: Iterable[str]) -> str:
    """The message for a name that is none of the known ones."""
    near = did_you_mean(str(name), known)
    return f"unknown {kind} {name!r};{near and ' '}{near} known: {', '.join(sorted(known))}"


def did_you_mean(name: str, known: Iterable[str], write: Callable[[str], str] = repr) -> str:
    """``did you mean 'a' or 'b'?``, the known names that are close to `name`; nothing where none is."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"did you mean {' or '.join(map(write, near))}?" if near else ""
