"""``--help`` that can be read at 80 columns: examples stay commands when they are broken, one name for a field."""

from __future__ import annotations

import argparse
import dataclasses
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from polytune.errors import UsageError
from polytune.places import runnable

NARROWEST, WIDEST = 60, 100


def width() -> int:
    """Columns of a help text."""
    return min(max(shutil.get_terminal_size().columns - 1, NARROWEST), WIDEST)


def reflow(doc: str, columns: int) -> str:
    """Paragraphs of a docstring wrapped; lines that are indented are commands, broken where a shell goes on."""
    blocks = []
    for block in re.split(r"\n\s*\n", re.sub(r" *\\\n\s*", " ", doc).strip("\n")):
        lines: list[str] = []
        for line in block.splitlines():
            if line.startswith("    "):
                lines += _command(line.strip(), columns)
            elif lines and not lines[-1].startswith(" "):
                lines[-1] += f" {line.strip()}"
            else:
                lines.append(line.strip())
        blocks.append("\n".join(line if line.startswith(" ") else textwrap.fill(line, columns) for line in lines))
    return "\n\n".join(blocks)


def _command(line: str, columns: int) -> list[str]:
    """A command within the columns: its comment goes above it, and flags that do not fit go on the next line."""
    if len(line) + 4 <= columns:
        return [f"    {line}"]
    command, _, comment = line.partition("  #")
    together = f"    {command.strip()}  # {comment.strip()}"
    if comment and len(together) <= columns:
        return [together]
    lines = [f"    # {comment.strip()}"] if comment else []
    current = "   "
    for part in re.split(r" (?=--)", command.strip()):
        if len(current) + len(part) + 3 > columns and current.strip():
            lines.append(f"{current} \\")
            current = f"        {part}"
        else:
            current += f" {part}"
    return [*lines, current]


class Formatter(argparse.HelpFormatter):
    """argparse's; the changes: texts are reflowed by :func:`reflow`, and a field is shown by one name, ``--a_field``
    (``--a-field`` is taken as well), with a word for its kind of value."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=26, width=width())

    def _fill_text(self, text: str, columns: int, indent: str) -> str:
        return textwrap.indent(reflow(text, columns - len(indent)), indent)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        names = one_name(action.option_strings)
        if not names or action.nargs == 0:
            return ", ".join(names) or super()._format_action_invocation(action)
        value = action.metavar or _kind(action)
        value = f"{value} ..." if action.nargs in ("+", "*") else f"[{value}]" if action.nargs == "?" else value
        return f"{', '.join(names)} {value}"


def one_name(names: Sequence[str]) -> list[str]:
    """Without the second spelling ``--a-field`` of ``--a_field``."""
    return [name for name in names if "-" not in name[2:] or f"--{name[2:].replace('-', '_')}" not in names]


def program(name: str, otherwise: str) -> str:
    """What to call a program: by its door, when it was entered through that."""
    return f"polytune {name}" if _doors else otherwise


def tool_parser(name: str, usage: str, description: str) -> argparse.ArgumentParser:
    """The parser of a program with a command line of its own; what it refuses is a UsageError."""

    def refuse(message: str) -> NoReturn:
        raise UsageError(f"{message}; --help lists the options")

    parser = argparse.ArgumentParser(
        prog=program(name, f"python -m polytune.app.{name.replace('-', '_')}"),
        usage=f"%(prog)s {usage}",
        description=description,
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    parser.error = refuse  # type: ignore[method-assign]
    return parser


def enter(name: str) -> None:
    """A door of the ``polytune`` command was entered."""
    _doors.append(name)


_doors: list[str] = []


def _kind(action: argparse.Action) -> str:
    if action.choices:
        return "|".join(map(str, action.choices))
    return {int: "N", float: "X"}.get(action.type, "BOOL" if action.nargs == "?" else "VALUE")


def help_text(prog: str, usage: str, description: str, groups: Iterable[tuple[str, Sequence[argparse.Action]]]) -> str:
    """A whole help text; ``groups``: headings and the fields under them."""
    formatter = Formatter(prog)
    formatter.add_usage(usage, [], [])
    formatter.add_text(description)
    for heading, actions in groups:
        formatter.start_section(textwrap.fill(heading, width() - 1))
        formatter.add_arguments(actions)
        formatter.end_section()
    return formatter.format_help()


def program_help(
    parser: argparse.ArgumentParser,
    parts: Iterable[tuple[str, Sequence[str]]],
    settings: Mapping[str, Any],
) -> str:
    """The help of a program: its options and fields with their defaults.

    Args:
        parser: knows the options and fields.
        parts: headings, and the names of the fields under them.
        settings: the YAML's, which are the defaults where it has them.
    """
    actions = {
        action.dest: action
        for action in parser._actions
        if not any(option.startswith("--no_") for option in action.option_strings)
    }
    groups = [("options", [actions[name] for name in ("help", "help_all", "quiet", "config")])]
    groups += [(heading, [actions[name] for name in names]) for heading, names in parts]
    for name, action in actions.items():
        default = settings.get(name, action.default)
        text = one_per_cent(action.help).replace("%", "%%") if action.help != argparse.SUPPRESS else ""
        action.help = text + ("" if default in (None, "", [], False, argparse.SUPPRESS) else f" [{_as_text(default)}]")
    name = Path(sys.argv[0]).stem
    prog = program(name, f"{name}.py")
    return help_text(
        prog, f"{prog} [--config FILE.yaml] [--FIELD VALUE ...]", runnable(parser.description or ""), groups
    )


def one_per_cent(told: str | None) -> str:
    """A help text as it is read: inherited ones write a per cent sign twice, as argparse wants it."""
    return (told or "").replace("%%", "%")


def own_fields(cls: type) -> set[str]:
    """The fields that a class adds or gives another default, and a few that everybody needs."""
    inherited = {f.name for base in cls.__mro__[1:] if dataclasses.is_dataclass(base) for f in dataclasses.fields(base)}
    own = set(cls.__dict__.get("__annotations__", {})) | ({f.name for f in dataclasses.fields(cls)} - inherited)
    return own | {"per_device_train_batch_size", "steps_per_generation", "gradient_accumulation_steps", "epsilon",
                  "temperature", "seed"}  # fmt: skip


def _as_text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value).replace("%", "%%")
