"""The reference, made from the code: fields of programs, figures of metrics.jsonl, Python API, command line."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from prose import as_markdown, cell, code, first_sentence, joined, table, text

from polytune.app import console
from polytune.app.cli import parts_of
from polytune.app.fields import Argument, Part
from polytune.helptext import one_per_cent
from polytune.lookup import find
from polytune.meanings import PARTS, Metric
from polytune.tables import METHODS

#: rooms whose ``__all__`` is the Python API, and what each is for
ROOMS = {
    "objective": "scores of sets, advantages, diversity, credit",
    "measures": "pass@k, intervals, paired differences",
    "rollout": "trees of vines",
    "tasks": "worlds and datasets",
    "policy": "text policies and what samples them",
    "methods": "hooks of a method",
    "trainer": "the trainer and its configuration",
    "evaluation": "summaries of records",
}
#: lines of a page at most; a longer one of the API is two
MOST_LINES = 300
#: characters of a line of a signature
WIDTH = 96
#: fields of a run that are named in a word or two by everybody, before those of TRL and transformers
INHERITED = "what TRL and transformers bring along"


@cache
def program(name: str) -> tuple[Any, list[Part]]:
    """The module of a program, and the parts of its command line with the texts of all fields."""
    module = importlib.import_module(f"polytune.app.{name}")
    return module, parts_of(module.main)


@cache
def fields() -> dict[str, Argument]:
    """Every field of training, by name."""
    return {argument.name: argument for part in program("finetune")[1] for argument in part.arguments}


def pages() -> Iterator[tuple[str, str]]:
    """(path, Markdown) of every page of the reference, its index left out."""
    yield "reference/command-line.md", command_line()
    for name in console.DOORS:
        yield f"reference/fields-{name}.md", fields_page(name)
    yield "reference/fields-inherited.md", inherited_page()
    yield "reference/metrics.md", metrics_page()
    for room in ROOMS:
        yield from api_pages(room)


def command_line() -> str:
    """Every command with what it does and the words of its help."""
    told = "Every command, with what it says of itself. First what `polytune` alone prints."
    parts = ["# Command line", told, _fenced(console.overview(), "text")]
    for name, told in console.DOORS.items():
        doc = inspect.getdoc(program(name)[0]) or ""
        parts += [f"## {name}", f"{cell(told)}. [Its fields](fields-{name}.md).", as_markdown(doc)]
    for name, told in console.TOOLS.items():
        module = importlib.import_module(f"polytune.app.{name.replace('-', '_')}")
        parser = module.build_parser()
        rows = [
            (", ".join(map(code, action.option_strings)) or code(action.dest), cell(action.help or ""))
            for action in parser._actions
        ]
        parts += [
            f"## {name}",
            f"{cell(told)}.",
            as_markdown(inspect.getdoc(module) or ""),
            table(("option", ""), rows),
        ]
    return joined(*parts)


def fields_page(name: str) -> str:
    """Every field of a program with its default, part by part."""
    module, parts = program(name)
    doc = first_sentence(inspect.getdoc(module) or "")
    blocks = [
        f"# Fields of {name}",
        cell(doc),
        f"Given as `--field VALUE`, or in a YAML: `polytune {name} --config FILE.yaml`.",
    ]
    for part in parts:
        shown = [argument for argument in part.arguments if argument.name in part.shown]
        blocks += [f"## {cell(part.heading)}", field_table(shown)]
        if len(shown) < len(part.arguments):
            blocks.append(f"And [{INHERITED}](fields-inherited.md).")
    return joined(*blocks)


def inherited_page() -> str:
    """Fields of training that TRL and transformers declare."""
    [part] = [part for part in program("finetune")[1] if len(part.shown) < len(part.arguments)]
    rest = [argument for argument in part.arguments if argument.name not in part.shown]
    told = (
        "Fields of `finetune` that TRL's GRPOConfig and transformers' TrainingArguments declare, in their words. Those "
        "that contradict what polytune does are refused when a run begins."
    )
    return joined("# Inherited fields", told, field_table(rest))


def field_table(arguments: Sequence[Argument]) -> str:
    """name, default and help of fields."""
    rows = []
    for own in arguments:
        default = "required" if own.required else "" if own.default in (None, "", []) else code(default_of(own))
        told = cell(one_per_cent(own.help))
        if own.choices and own.kind == "choice":
            told += f" One of {', '.join(map(code, own.choices))}."
        rows.append((code(own.name), default, told))
    return table(("field", "default", "what it is"), rows)


def default_of(own: Argument) -> str:
    """As one writes it on a command line."""
    value = own.default
    value = getattr(value, "value", value)
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def metrics_page() -> str:
    """Every figure of metrics.jsonl."""
    told = (
        "`metrics.jsonl` in a run's folder has one line for each update. A range is what runs of this repository that "
        "learnt have shown, no promise for another task. Figures of methods stand on "
        "[their pages](../methods/index.md), too."
    )
    blocks = ["# Figures of metrics.jsonl", told]
    for title, metrics in PARTS.items():
        blocks += [f"## {title}", metric_table(metrics)]
    own = {}
    for name in METHODS:
        own |= find("method", name, METHODS).logs
    return joined(*blocks, "## Methods", metric_table(own))


def metric_table(metrics: dict[str, Metric]) -> str:
    """Names with meaning, unit, healthy range and what to do outside."""
    rows = [
        (code(name), cell(own.meaning), cell(own.unit), cell(own.healthy), cell(own.otherwise))
        for name, own in metrics.items()
    ]
    return table(("figure", "what it is", "unit", "healthy", "otherwise"), rows)


def api_pages(room: str) -> Iterator[tuple[str, str]]:
    """(path, Markdown) of what a room offers: a page, or one of its functions and one of the rest."""
    module = importlib.import_module(f"polytune.{room}")
    names = sorted(module.__all__, key=lambda name: (name.isupper(), name.lower()))
    whole, path = api_page(room, names), f"reference/api-{room}"
    if whole.count("\n") <= MOST_LINES:
        yield f"{path}.md", whole
        return
    functions = [name for name in names if inspect.isfunction(getattr(module, name))]
    yield f"{path}.md", api_page(room, functions, ": functions")
    yield (
        f"{path}-classes.md",
        api_page(room, [name for name in names if name not in functions], ": classes and tables"),
    )


def api_page(room: str, names: Sequence[str], more: str = "") -> str:
    """Signature and docstring of these names of a room; ``more``: what its title says of them."""
    module = importlib.import_module(f"polytune.{room}")
    blocks = [f"# polytune.{room}{more}", as_markdown(inspect.getdoc(module) or "")]
    for name in names:
        blocks += [f"## {name}", *_described(name, getattr(module, name))]
    return joined(*blocks)


def _described(name: str, value: Any) -> Iterator[str]:
    if not (inspect.isfunction(value) or inspect.isclass(value)):
        if isinstance(value, dict):
            yield f"A table with the rows {', '.join(map(code, value))}."
        else:
            yield code(value)
        return
    yield _fenced("\n".join(textwrap.wrap(f"{name}{_signature(value)}", WIDTH, subsequent_indent="    ")), "python")
    own = None if inspect.isclass(value) and (value.__doc__ or "").startswith(f"{name}(") else inspect.getdoc(value)
    yield as_markdown(own or "", defines=True)
    if inspect.isclass(value):
        if dataclasses.is_dataclass(value):
            declared = [field.name for field in dataclasses.fields(value) if not field.name.startswith("_")]
            yield f"Fields: {', '.join(map(code, declared))}." if len(declared) < 30 else ""
        for key, member in vars(value).items():
            member = getattr(member, "fget", getattr(member, "__func__", member))
            if not key.startswith("_") and inspect.isfunction(member) and member.__module__ == value.__module__:
                if member.__name__ != "<lambda>":
                    told = " ".join((inspect.getdoc(member) or "as what it overrides").split())
                    yield f"- `{key}{_signature(member)}`: {text(told)}"


def _signature(value: Any) -> str:
    try:
        told = str(inspect.signature(value)).replace("'", "")
    except ValueError:
        return "(...)"
    return told if len(told) < 600 else "(...)"


def _fenced(words: str, language: str) -> str:
    return f"```{language}\n{words}\n```"
