"""Finds what a run names: a row of a table (`polytune.tables`), or the path of a user's own.

"package.module:name" imports the module and takes its attribute; dots after the colon reach into it. The module lies in
the working directory, or is importable where polytune runs (installed, or on PYTHONPATH). One in the working directory
is found whatever else has its name (``evaluate.py``, ``code.py``, ``test.py``), and hides nothing from the program: it
is then loaded under a name of its own. An object that is no string passes as it is.
"""

import difflib
import functools
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar

from polytune.places import recipe_called
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
        module, dot, attribute = path.rpartition(".")
        own = f"{module}:{attribute}" if dot else "package.module:name"
        raise ValueError(f'{unknown(kind, name, table)}; one of your own is named by its path, "{own}"')
    module_name, _, attribute = path.partition(":")
    try:
        found = module = import_own(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{kind} {name!r}: cannot import {module_name!r}: ModuleNotFoundError: {error}; it is neither "
            f"in {os.getcwd()} nor installed: change into its folder, install it or put its folder on PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:  # a user's module may raise anything while it loads
        raise ValueError(
            f"{kind} {name!r}: cannot import {module_name!r}: {type(error).__name__}: {error}{_place(error)}"
        ) from error
    if name not in table and module_name.partition(".")[0] != "polytune":
        OWN_MODULES.add(module.__name__)
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = did_you_mean(part, dir(found))
            where = getattr(module, "__file__", None)
            raise ValueError(
                f"{kind} {name!r}: {module_name!r} has no {attribute!r}{near and '; '}{near}"
                f" (it is {where or 'built into Python'})"
            )
        found = getattr(found, part)
    return found


def import_own(name: str) -> ModuleType:
    """The module called ``name``, the working directory's before any other; raises what the import raises.

    A file or package there that has the name of another module (of Python, of an installed package, of a program of
    ours) goes into ``sys.modules`` as ``own_NAME``, so that nobody else who imports NAME gets it.
    """
    top, dot, rest = name.partition(".")
    here = None if top == "polytune" else _in_working_directory(top)
    if here is None:
        return importlib.import_module(name)
    loaded = sys.modules.get(top)
    if loaded is not None and _same_file(getattr(loaded, "__file__", None), here.origin):
        return importlib.import_module(name)
    alias = f"own_{top}" if loaded is not None or top in sys.stdlib_module_names or _elsewhere(top) else top
    known = sys.modules.get(alias)
    if known is None or not _same_file(getattr(known, "__file__", None), here.origin):
        _load(alias, str(here.origin))
    return importlib.import_module(f"{alias}{dot}{rest}")


def _in_working_directory(top: str) -> ModuleSpec | None:
    importlib.invalidate_caches()
    spec = PathFinder.find_spec(top, [os.getcwd()])
    return spec if spec is not None and spec.has_location else None  # else a folder without __init__.py


def _elsewhere(top: str) -> bool:
    """Whether a program that imports ``top`` means another module than the working directory's."""
    others = [folder for folder in sys.path if Path(folder or ".").resolve() != Path.cwd()]
    spec = PathFinder.find_spec(top, others)
    return spec is not None and spec.has_location


def _load(name: str, file: str) -> None:
    """Run a file as the module ``name``; nothing of it stays where that fails."""
    inside = [os.path.dirname(file)] if os.path.basename(file) == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=inside)
    assert spec is not None and spec.loader is not None, file
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _same_file(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and os.path.realpath(one) == os.path.realpath(other)


def _place(error: BaseException) -> str:
    """`` (FILE, line N)``, where a user's code raised ``error``; nothing for what says so itself, or came elsewhere."""
    frames, files = error.__traceback__, []
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        files += [f" ({file}, line {frames.tb_lineno})"] if "importlib" not in file and file != __file__ else []
        frames = frames.tb_next
    return "" if isinstance(error, SyntaxError) or not files else files[0]


def _own_line(function: Callable, error: BaseException) -> str:
    """`` (FILE, line N)``: the last line of the file of ``function`` that was on the way to ``error``."""
    frames = traceback.extract_tb(error.__traceback__)
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    own = [frame for frame in frames if frame.filename == file]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


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
            told = f"{kind} {name!r} raised {type(error).__name__}: {error}{_own_line(function, error)}"
            raise ValueError(told) from error

    return call


def unknown(kind: str, name: Any, known: Iterable[str]) -> str:
    """The message for a name that is none of the known ones; a method that is a recipe of its own is told as one."""
    known = sorted(known)
    if kind == "method" and (recipe := recipe_called(str(name))):
        return f"unknown method {name!r}: it is a recipe, a run of its own: polytune finetune --config {recipe}"
    if not known:
        return f"unknown {kind} {name!r}; none is built in"
    near = did_you_mean(str(name), known)
    return f"unknown {kind} {name!r};{near and ' '}{near} known: {', '.join(known)}"


def did_you_mean(name: str, known: Iterable[str], write: Callable[[str], str] = repr) -> str:
    """``did you mean 'a' or 'b'?``, the known names that are close to `name`; nothing where none is.

    >>> did_you_mean("polycromic", ["polychromic", "mean"])
    "did you mean 'polychromic'?"
    """
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"did you mean {' or '.join(map(write, near))}?" if near else ""
