"""Checks and readings of the values that options take: each raises ``ValueError`` with the field, the value, the fix.
Imports nothing but the standard library and the names of rows."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any

from polytune.tables import Entry

#: of numpy's generator, which transformers seeds along with the others
MAX_SEED = 2**32 - 1


def require(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)


def require_integer(name: str, value: object, minimum: int) -> None:
    """Raise ``ValueError`` unless ``value`` is an integer of at least ``minimum``."""
    require(
        isinstance(value, int) and not isinstance(value, bool) and value >= minimum,
        f"{name} must be an integer of at least {minimum}, got {value!r}: change {name} in the YAML or with --{name}.",
    )


def require_number(
    name: str, value: object, minimum: float, maximum: float = math.inf, *, where: str | None = None
) -> None:
    """Raise ``ValueError`` unless ``value`` is a finite number in [minimum, maximum]; ``where``: how to change it."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    bounds = f"of at least {minimum:g}" if maximum == math.inf else f"from {minimum:g} to {maximum:g}"
    require(
        number and minimum <= value <= maximum,
        f"{name} must be a number {bounds}, got {value!r}: {where or f'change {name} in the YAML or with --{name}'}.",
    )


def require_seed(name: str, value: object) -> None:
    """Raise ``ValueError`` unless ``value`` is a seed that numpy takes, too: an integer from 0 to 2^32 - 1."""
    require_integer(name, value, 0)
    require(
        value <= MAX_SEED,  # type: ignore[operator]
        f"{name} must be at most 2^32 - 1 = {MAX_SEED}, got {value!r}: random generators take no larger seed.",
    )


def require_finite(config: Any) -> None:
    """Raise ``ValueError`` for an infinite number or a NaN in any field of a dataclass, inherited ones and those within
    lists and mappings included. Every configuration begins its checks with it."""
    for own in fields(config):
        value = getattr(config, own.name, None)
        require(
            all(math.isfinite(number) for number in _floats(value)),
            f"{own.name} is {value!r}, which is no finite number: change {own.name} in the YAML or with --{own.name}.",
        )


def _floats(value: object) -> list[float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [number for part in value for number in _floats(part)]
    return [value] if isinstance(value, float) else []


def require_choice(name: str, value: object, choices: tuple[str | None, ...]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``; None among them: it may stay unset."""
    known = ", ".join(choice for choice in choices if choice is not None)
    require(value in choices, f"{name} must be one of {known}, got {value!r}.")


def require_row(name: str, value: object, table: Mapping[str, Entry]) -> None:
    """Raise ``ValueError`` unless ``value`` is a row of ``table`` or has the form of a user's own path."""
    require(
        value in table or (isinstance(value, str) and ":" in value),
        f"{name} must be one of {', '.join(table)}, or your own as package.module:name, got {value!r}.",
    )


def require_once(name: str, values: list[Any]) -> None:
    """Raise ``ValueError`` if a value comes twice."""
    twice = sorted(value for value, count in Counter(values).items() if count > 1)
    require(not twice, f"{name} has {', '.join(map(repr, twice))} more than once: name each one once.")


def parse_num_sets(value: str | int) -> str | int:
    """``num_sets`` as training takes it: ``"all"`` or an integer of at least 2 (YAML and flags give text).

    One set is its own baseline, so its advantages would all be 0.
    """
    if value == "all":
        return "all"
    text = str(value)
    require(
        text.isdigit() and int(text) >= 2,
        f"num_sets must be 'all' or an integer of at least 2, got {value!r}: 'all' scores every set.",
    )
    return int(text)


def require_one_option(source: str, entry: str) -> None:
    """Raise ``ValueError`` for a text whose words are all NAME=VALUE: the second would be part of the first one's."""
    words = entry.split()
    require(
        len(words) < 2 or not all(re.match(r"[A-Za-z_][\w.]*=", word) for word in words),
        f"{source} has {entry!r}, which are {len(words)} options in one text: write each apart, --{source} "
        f"{' '.join(words)}, in a YAML {source}: [{', '.join(words)}].",
    )


def parse_options(
    entries: list[str], *, source: str = "task_args", prefix: str = "", texts: Collection[str] = ()
) -> dict[str, Any]:
    """``NAME=VALUE`` ... -> {name: value}; numbers, true and false as YAML has them, anything else is text.

    ``source``, ``prefix``: the field that holds the entries, and what stands before each name there, for the messages.
    ``texts``: the names whose values are text whatever they look like.
    """
    options: dict[str, Any] = {}
    for entry in map(str, entries):
        name, equals, text = entry.partition("=")
        require_one_option(source, prefix + entry)
        require(
            bool(equals) and name.isidentifier() and name not in options,
            f"{source} has {prefix + entry!r}: write {prefix}NAME=VALUE, each name once"
            + (", as in --task_args size=tiny lines=500." if source == "task_args" else "."),
        )
        options[name] = text
        if name in texts:
            continue
        options[name] = {"true": True, "false": False}.get(text.lower(), text)
        for read in (float, int):
            with suppress(ValueError):
                options[name] = read(text)
        require(
            all(map(math.isfinite, _floats(options[name]))),
            f"{source} has {prefix + entry!r}, which is no finite number: give another value.",
        )
    return options


def parse_method_args(methods: list[str], entries: list[str]) -> dict[str, dict[str, Any]]:
    """``METHOD.NAME=VALUE`` ... -> {method: {name: value}} of the methods that are named, as ``task_args`` are read."""
    texts: dict[str, list[str]] = {}
    for entry in map(str, entries):
        require_one_option("method_args", entry)
        key, equals, value = entry.partition("=")
        method, dot, name = key.rpartition(".")
        require(
            bool(dot and equals),
            f"method_args has {entry!r}: write METHOD.NAME=VALUE, as in --method_args ucb.coef=0.1.",
        )
        require(
            method in methods,
            f"method_args has {entry!r}, but methods ({', '.join(methods) or 'none'}) has no {method!r}: name it "
            "there, or leave the option out.",
        )
        texts.setdefault(method, []).append(f"{name}={value}")
    return {method: parse_options(own, source="method_args", prefix=f"{method}.") for method, own in texts.items()}
