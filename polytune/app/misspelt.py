"""What to say of a command line or a YAML that is wrong: the word, the file that it stands in, what is meant."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polytune.app.fields import Part
from polytune.errors import UsageError
from polytune.lookup import did_you_mean
from polytune.recipe import file_of
from polytune.tasks import TASKS

#: fields of earlier versions -> what stands in their place
MOVED = {"ucb_coef": "methods: [ucb] with method_args: [ucb.coef=VALUE]"}

#: fields of training that users of peft look for everywhere
ADAPTER_FLAGS = ("use_peft", "load_in_4bit", "lora_r", "lora_alpha", "lora_target_modules", "lora_modules_to_save")

#: what argparse calls a reader of words -> what it reads
READ = {"int": "an integer", "float": "a number", "dict": "a mapping"}

#: fields that take a policy, the one that a program is most likely to mean first
POLICY_FIELDS = ("policies", "model", "policy")


def near_misses(name: str, known: Sequence[str]) -> str:
    """``; did you mean a or b?`` for close names, what stands in the place of an earlier field, or how to list all."""
    if name in ADAPTER_FLAGS and "use_peft" not in known:
        return (
            ", which recipes/finetune.py and recipes/pretrain.py take to train an adapter: here one is recognised by "
            "its adapter_config.json and loaded with its base, so give its folder and leave the flag out."
        )
    if name in MOVED:
        return f", which is now {MOVED[name]}."
    return f"; {did_you_mean(name, known, write=str) or '--help lists the known ones.'}"


def as_flags(key: str, value: Any) -> list[str]:
    """A field of a YAML as the words of a command line."""
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    if isinstance(value, dict):
        return [f"--{key}", json.dumps(value)]
    return [f"--{key}", str(value)]


def refuse_empty(parts: Sequence[Part], settings: Mapping[str, Any], config: str | Path) -> None:
    """UsageError for a field of a YAML that has no value, and whose class does not say what that would stand for."""
    needs = {own.name for part in parts for own in part.arguments if not own.optional}
    for name, value in settings.items():
        if (value is None and name in needs) or (isinstance(value, list) and None in value):
            raise UsageError(
                f"config {file_of(config, name)} has no value for {name}: give it one, or leave the line out."
            )


def refuse_lists(parser: argparse.ArgumentParser, settings: Mapping[str, Any], config: Any) -> None:
    """Refuse a list in a YAML for a field that takes one value.

    Raises:
        UsageError: names the file, the field and the list.
    """
    single = {action.dest for action in parser._actions if action.nargs not in ("+", "*")}
    for name, value in settings.items():
        if isinstance(value, list) and len(value) != 1 and name in single:
            raise UsageError(f"config {file_of(config, name)}: {name} takes one value, got the list {value!r}.")


def wrong_value(
    error: argparse.ArgumentError, parser: argparse.ArgumentParser, settings: Mapping[str, Any], config: Any
) -> str:
    """A value of the wrong kind, by the field's name as a YAML spells it, and the YAML where it is that one's."""
    names = (error.argument_name or "").split("/")
    field = next((action.dest for action in parser._actions if names[0] in action.option_strings), names[0])
    told = re.fullmatch(r"invalid (\w+) value: (.*)", error.message, re.DOTALL)
    value = settings.get(field)
    ours = field in settings and any(repr(word) in error.message for word in as_flags("", value)[1:])
    file = f"config {file_of(config, field)}: " if ours else ""
    if told is None:
        return f"{file}field {field}: {error.message}"
    shown = repr(value) if ours and not isinstance(value, list) else told[2]
    return f"{file}{field} must be {READ.get(told[1], told[1])}, got {shown}."


def place_of_word(word: str, known: Sequence[str]) -> str:
    """What to say of a word that follows no flag, by what it looks like and what the program takes."""
    if word.endswith((".yaml", ".yml")):
        return f"; did you mean --config {word}?"
    flag = next((name for name in POLICY_FIELDS if name in known), None)
    if flag and ("/" in word or os.path.exists(word)):
        return f"; did you mean --{flag} {word}?"
    if word in TASKS and "task" in known:
        return f"; did you mean --task {word}?"
    return ": a value stands behind the flag of its field; --help lists the known ones."
