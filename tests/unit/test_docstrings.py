"""Everything public says what it is, mathematics says its shapes, and the examples in docstrings are true.

Public is every function and class at the top of a module, every method and property of such a class, whose name has no
underscore before it, and what ``__all__`` of a room names. A method that overrides one has that one's docstring. The
one row of a table that a module holds (a method, say) is told of by the module; so is the ``main`` of a program.
"""

import doctest
import functools
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from polytune import tables
from polytune.places import PACKAGE

MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.relative_to(PACKAGE).parts[0] not in ("_recipes", "_data")
)
TABLES = [table for name, table in vars(tables).items() if name.isupper()]
ROWS = {entry.path for table in TABLES for entry in table.values()}
#: rooms of mathematics
MATHEMATICS = ("polytune.objective", "polytune.measures")
#: (P, N), (B,), () ...: a shape in words
SHAPE = re.compile(r"\((?:[A-Za-z0-9]\w*(?:, ?(?:[A-Za-z0-9]\w*|\.\.\.))*,?|\.\.\.)\)")
#: a name that ends in its shape, as CONTRIBUTING.md has it
SHAPED = re.compile(r"_[A-Zbnd0-9](_[A-Za-z0-9])*$")


@functools.cache
def public_of(module):
    """(name, object) of all that is public in a module, and was written there."""
    found = []
    for name, value in vars(importlib.import_module(module)).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module:
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            found.append((name, value))
        if inspect.isclass(value):
            own = {key: member for key, member in vars(value).items() if not key.startswith("_")}
            found += [
                (f"{name}.{key}", member)
                for key, member in own.items()
                if isinstance(member, (property, classmethod, staticmethod))
                or (inspect.isfunction(member) and member.__module__ == module and member.__name__ != "<lambda>")
            ]
    return found


def told(module, name, value):
    """The docstring of an object, what it overrides included; what dataclasses and tuples make up is none."""
    if f"{module}:{name}" in ROWS or (module.startswith("polytune.app") and name == "main"):
        return inspect.getdoc(value) or importlib.import_module(module).__doc__
    owner, _, member = name.partition(".")
    if member:
        cls = getattr(importlib.import_module(module), owner)
        texts = [inspect.getdoc(vars(base)[member]) for base in cls.__mro__ if member in vars(base)]
        return next(filter(None, texts), None)
    text = value.__doc__
    made_up = inspect.isclass(value) and (text or "").startswith(f"{name}(")
    return None if made_up else text


@pytest.mark.parametrize("module", MODULES)
def test_public_names_have_docstrings(module):
    assert importlib.import_module(module).__doc__ or not public_of(module), f"{module} has no docstring"
    silent = [name for name, value in public_of(module) if not told(module, name, value)]
    assert not silent, f"{module}: say of {', '.join(silent)} what it is"


@pytest.mark.parametrize("module", MODULES)
def test_what_a_room_offers_is_there_and_is_public(module):
    loaded = importlib.import_module(module)
    for name in getattr(loaded, "__all__", ()):
        value = getattr(loaded, name)
        assert not name.startswith("_")
        if inspect.isfunction(value) or inspect.isclass(value):
            assert (value.__module__, name) in {(value.__module__, own) for own, _ in public_of(value.__module__)}


def arrays_without_shape(function):
    """Parameters, and "what it returns", that are arrays of which neither name nor docstring says the shape."""
    text, silent = inspect.getdoc(function) or "", []
    for name, parameter in inspect.signature(function).parameters.items():
        if is_array(parameter.annotation) and not (SHAPED.search(name) or re.search(rf"``?{name}``?|{name}:", text)):
            silent.append(name)
    if is_array(inspect.signature(function).return_annotation) and not SHAPE.search(text):
        silent.append("what it returns")
    return silent


def is_array(annotation):
    return annotation in (torch.Tensor, np.ndarray, "torch.Tensor", "np.ndarray", "Tensor", "NDArray")


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith(MATHEMATICS)])
def test_mathematics_says_its_shapes(module):
    functions = [(name, value) for name, value in public_of(module) if inspect.isfunction(value)]
    silent = {name: found for name, value in functions if (found := arrays_without_shape(value))}
    assert not silent, f"{module}: say the shapes of {silent}"


def test_examples_in_docstrings_are_true():
    files = {module: Path(importlib.import_module(module).__file__) for module in MODULES}
    with_examples = [module for module, file in files.items() if ">>>" in file.read_text()]
    found = {module: doctest.testmod(importlib.import_module(module)) for module in with_examples}
    assert not {module: result.failed for module, result in found.items() if result.failed}
    assert sum(result.attempted for result in found.values()) >= 10
