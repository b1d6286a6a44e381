"""A recipe: a YAML of fields, which may be that of another recipe with some of them changed.

    extends: ppo.yaml        # a path from this file's folder, or any path
    critic: none             # takes the place of the other recipe's value

A recipe that extends another and names no ``output_dir`` goes to ``outputs/FOLDER/NAME`` after its own place under
``recipes/`` (``outputs/NAME`` elsewhere), never into the other one's folder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from polytune.places import find_file, recipes

EXTENDS = "extends"
#: of a file, aliases written out
MOST_VALUES = 100_000


class OnceLoader(yaml.SafeLoader):
    """YAML as ``safe_load`` reads it, but a key that comes twice in a mapping, of which the last one would win, is an
    error that names it and both lines."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As yaml has it; YAMLError for a key that comes twice."""
        first: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = (key_node.tag, key_node.value), key_node.start_mark.line + 1
            if isinstance(key_node, yaml.ScalarNode) and key in first:
                raise yaml.YAMLError(
                    f"{key_node.value!r} in line {line} is in line {first[key]} already, and one of the two would be "
                    "lost: leave one of them out"
                )
            if isinstance(key_node, yaml.ScalarNode):
                first[key] = line
        return super().construct_mapping(node, deep)


def read_recipe(path: str | Path, within: Path | None = None) -> dict[str, Any]:
    """The fields of a recipe as a flat mapping, those of the recipes that it extends included; ``within``: of these
    only such as lie in that folder, one after the other.

    Raises:
        ValueError: a file is missing, is not YAML, is no mapping of names to values, or extends itself.
    """
    return _read(find_file(path), (), within)


def _read(path: Path, readers: Sequence[Path], within: Path | None = None) -> dict[str, Any]:
    """``readers``: the recipes that extend this one, the first one first."""
    by = f" (extended by {readers[-1]})" if readers else ""
    if not path.is_file():
        near = [name for name in recipes() if readers and Path(name).parts[-2:] == path.parts[-2:]]
        raise ValueError(f"config {str(path)!r}{by} does not exist{f'; did you mean {near[0]}?' if near else '.'}")
    try:
        own = yaml.load(path.read_text(), OnceLoader)
        _check_size(own, set(), {})
    except RecursionError as error:
        raise ValueError(f"config {path}{by} is nested too deeply to be read.") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:  # of a date, a number, a tag
        raise ValueError(f"config {path}{by} is not valid YAML: {_told(error)}") from error
    if not isinstance(own, dict) or not all(isinstance(key, str) for key in own):
        raise ValueError(f"config {path}{by} must be a mapping of field names to values, got {type(own).__name__}.")
    if EXTENDS not in own:
        return own
    name = own.pop(EXTENDS)
    if not isinstance(name, str):
        raise ValueError(f"config {path} extends {name!r}: give the path of one YAML file.")
    other = _extended(path, name)
    if within is not None and not other.resolve().is_relative_to(within.resolve()):
        return own
    chain = [*readers, path]
    if other.resolve() in [reader.resolve() for reader in chain]:
        raise ValueError(f"config {path} extends {name}, which extends it in turn: leave one of them out.")
    settings = _read(other, chain, within)
    if "output_dir" in settings and "output_dir" not in own:
        own["output_dir"] = own_folder(path)
    return settings | own


def _extended(path: Path, name: str) -> Path:
    """The recipe that the one at ``path`` extends."""
    return path.parent / name if (path.parent / name).is_file() else find_file(name)


def _told(error: Exception) -> str:
    """What is wrong with a YAML, in one line: its line and column, without what yaml calls a text that has no name."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark, told = error.problem_mark, str(error.problem)
        within = f" {error.context}" if error.context else ""
        fix = " (fields stand below each other; a text with ': ' in it needs quotes)" if "mapping" in told else ""
        return f"line {mark.line + 1}, column {mark.column + 1}: {told}{within}{fix}"
    return re.sub(r'\s*in "<unicode string>",', ",", str(error)).replace("\n", " ")


def file_of(path: str | Path, field: str) -> Path:
    """Of a recipe and those that it extends, the file whose value of ``field`` counts."""
    path = find_file(path)
    own = yaml.load(path.read_text(), OnceLoader)
    return path if field in own or EXTENDS not in own else file_of(_extended(path, own[EXTENDS]), field)


def _check_size(value: Any, above: set[int], known: dict[int, int]) -> int:
    """How many values it is made of, aliases written out (``known``: of those counted before); ValueError for one that
    holds itself, or grows too large in a message. ``above``: the values around it."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) in above:
        raise ValueError("an alias stands within its own anchor: write the value out")
    if id(value) not in known:
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_check_size(part, above | {id(value)}, known) for part in parts)
        if known[id(value)] > MOST_VALUES:
            raise ValueError(f"its aliases make up more than {MOST_VALUES:,} values: write out those that are meant")
    return known[id(value)]


def own_folder(path: Path) -> str:
    """``outputs/FOLDER/NAME`` of ``recipes/FOLDER/NAME.yaml``, ``outputs/NAME`` of another file."""
    parts = path.resolve().with_suffix("").parts
    under = [i for i, part in enumerate(parts) if part in ("recipes", "_recipes")]
    return str(Path("outputs", *(parts[under[-1] + 1 :] if under else parts[-1:])))
