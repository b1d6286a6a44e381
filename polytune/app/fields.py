"""Arguments of a command line from the fields of dataclasses, those of PolychromicConfig without its import.

TRL and transformers, whose fields it inherits, take seconds to load. So its arguments are kept in fields.json, which is
believed only while the class' own fields and the packages are those that it was made from. `python -m
polytune.app.fields` makes it anew. Texts of inherited fields are kept only where ``--help`` shows them.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import hashlib
import importlib
import json
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from polytune.helptext import own_fields
from polytune.places import PACKAGE

#: the only class whose arguments are kept
TRAINER = "polytune.trainer.config:PolychromicConfig"
FIELDS_FILE = Path(__file__).with_name("fields.json")
SOURCE = PACKAGE / "trainer" / "config.py"
PACKAGES = ("torch", "transformers", "trl")
TRUE, FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")


@dataclass(frozen=True)
class Argument:
    """One field as argparse takes it; ``kind``: str, int, float, bool, choice, or "module:name" of what reads it."""

    name: str
    kind: str
    default: Any = None
    nargs: str | None = None
    const: Any = None
    choices: list | None = None
    required: bool = False
    help: str | None = None
    #: whether --no_NAME switches it off
    negated: bool = False
    #: whether it may stay without a value, which an empty one in a YAML stands for
    optional: bool = False


@dataclass(frozen=True)
class Part:
    """What a command line knows of a dataclass; ``shown``: the fields that ``--help`` shows, ``load``: the class."""

    heading: str
    arguments: list[Argument]
    shown: list[str]
    load: Callable[[], type]

    def build(self, namespace: argparse.Namespace) -> Any:
        """An instance with its values in ``namespace``; raises what the class raises."""
        return self.load()(**{argument.name: getattr(namespace, argument.name) for argument in self.arguments})


def part_of(cls: type | str, *, whole: bool = False) -> Part:
    """The part of a dataclass, or of the one at "module:Class", which is loaded only where it must be.

    whole: with the texts of all inherited fields.
    """
    if not isinstance(cls, str):
        return _read(cls)
    kept = None if whole or cls != TRAINER else _kept()
    if kept is None:
        return _read(_imported(cls))
    arguments = [Argument(**argument) for argument in kept["arguments"]]
    return Part(kept["heading"], arguments, kept["shown"], partial(_imported, cls))


def add_arguments(parser: argparse.ArgumentParser, part: Part) -> None:
    """``--a_field``, ``--a-field`` and, for what is on by default, ``--no_a_field``."""
    for own in part.arguments:
        options: dict[str, Any] = {"type": _reader(own), "help": own.help}
        options |= {"default": own.default} if own.default is not None else {}
        options |= {name: value for name in ("nargs", "const", "choices") if (value := getattr(own, name)) is not None}
        options |= {"required": True} if own.required else {}
        parser.add_argument(*_spellings(own.name), **options)
        if own.negated:
            off = _spellings(f"no_{own.name}")
            parser.add_argument(*off, action="store_false", dest=own.name, default=False, help=own.help)


def made_from() -> dict[str, str]:
    """What fields.json depends on: versions, without what names a build (+cpu), and the class' fields as written."""
    versions = {name: version(name).partition("+")[0] for name in PACKAGES}
    declared = SOURCE.read_text().partition("class PolychromicConfig(")[2].partition("    def ")[0]
    return versions | {SOURCE.name: hashlib.sha256(declared.encode()).hexdigest()[:16]}


def kept_text() -> str:
    """What fields.json should hold; loads TRL."""
    part = part_of(TRAINER, whole=True)
    defaults = {field.name: field.default for field in dataclasses.fields(Argument)}
    arguments = []
    for argument in part.arguments:
        values = {name: value for name, value in vars(argument).items() if name == "name" or value != defaults[name]}
        if argument.name not in part.shown:
            values.pop("help", None)
        arguments.append(values)
    head = {"made_from": made_from(), "heading": part.heading, "shown": part.shown}
    lines = ",\n".join(json.dumps(values) for values in arguments)
    return f'{json.dumps(head)[:-1]}, "arguments": [\n{lines}\n]}}\n'


def _kept() -> dict[str, Any] | None:
    """fields.json, unless it is of other packages or of another source."""
    kept = json.loads(FIELDS_FILE.read_text()) if FIELDS_FILE.is_file() else {}
    return kept if kept.get("made_from") == made_from() else None


def _imported(path: str) -> type:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _read(cls: type) -> Part:
    hints = typing.get_type_hints(cls)
    arguments = [_argument(field, hints[field.name]) for field in dataclasses.fields(cls) if field.init]
    shown = own_fields(cls)
    heading = (cls.__doc__ or "").split("\n")[0].replace("`", "").rstrip(".")
    return Part(heading, arguments, [a.name for a in arguments if a.name in shown], lambda: cls)


def _argument(field: dataclasses.Field, hint: Any) -> Argument:
    """A field's metadata (help, choices, nargs, const), and what follows from its type."""
    value, told = _value_type(hint, field.name), dict(field.metadata)
    if "choices" in told:
        told["choices"] = list(told["choices"])
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    if typing.get_origin(value) is typing.Literal or (isinstance(value, type) and issubclass(value, enum.Enum)):
        named = typing.get_args(value) or [member.value for member in value]
        told |= {"kind": "choice", "choices": list(named)}
    elif value is bool or value == bool | None:
        told["kind"] = "bool"
        default = False if default is MISSING and value is bool else default
        if value is bool or default not in (None, MISSING):
            told |= {"nargs": "?", "const": True, "negated": default is True}
    elif typing.get_origin(value) is list:
        told |= {"kind": _kind(typing.get_args(value)[0]), "nargs": "+"}
        if field.default is not MISSING:  # a text where a list is meant: the class knows what None stands for
            default = None
    else:
        told["kind"] = _kind(value)
    told["optional"] = type(None) in typing.get_args(hint) or field.default is None
    if default is MISSING:
        return Argument(field.name, required=True, **told)
    return Argument(field.name, default=default, **told)


def _value_type(hint: Any, name: str) -> Any:
    """The type of a value, of a union of types that of a word on the command line.

    Raises:
        TypeError: a union of which neither is text, nor one of two None.
    """
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint
    first, second, *_ = members = typing.get_args(hint)
    if str not in members and (len(members) != 2 or type(None) not in members):
        raise TypeError(f"{name} is {hint}: a command line can tell only X | None and unions with str.")
    if type(None) not in members:
        return first if second is str else second
    if bool in members:
        return hint
    return first if second is type(None) else second


def _kind(value: Any) -> str:
    if value in (str, int, float):
        return value.__name__
    value = typing.get_origin(value) or value
    return f"{value.__module__}:{value.__qualname__}"


def _reader(own: Argument) -> Callable[[str], Any]:
    """What makes a value of a word."""
    if own.kind == "choice":
        by_word = {str(choice): choice for choice in own.choices or ()}
        return lambda word: by_word.get(word, word)
    plain = {"str": str, "int": int, "float": float, "bool": _truth}
    return plain[own.kind] if own.kind in plain else _imported_reader(own.kind)


def _imported_reader(path: str) -> Callable[[str], Any]:
    """A type of another package, which is loaded when a word is given for it."""

    def read(word: str) -> Any:
        return _imported(path)(word)

    read.__name__ = path.rpartition(":")[2]  # argparse names it in its error
    return read


def _truth(word: str) -> bool:
    if word.lower() not in (*TRUE, *FALSE):
        raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false: give one of {', '.join(TRUE + FALSE)}.")
    return word.lower() in TRUE


def _spellings(name: str) -> Sequence[str]:
    return [f"--{name}"] if "_" not in name else [f"--{name}", f"--{name.replace('_', '-')}"]


if __name__ == "__main__":
    FIELDS_FILE.write_text(kept_text())
