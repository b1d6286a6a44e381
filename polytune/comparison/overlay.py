"""A method laid over a base: the fields that it adds, in the place of those of the base's recipe.

What a method adds are the own fields of its recipe, and of recipes in recipes/methods/ that this one extends, or, of a
row of METHODS without a recipe there, its name alone, with the options at their defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from polytune.checks import require
from polytune.lookup import unknown
from polytune.places import RECIPES, find_file
from polytune.recipe import EXTENDS, read_recipe
from polytune.tables import METHODS

METHOD_RECIPES = RECIPES / "methods"


def overlays(entries: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Name -> fields that it lays over a base, in the order of ``entries``: names of recipes of recipes/methods/, rows
    of METHODS without such a recipe, or YAML files. Without any: each of these recipes, then each of these rows.

    Raises:
        ValueError: an entry is neither, or two have one name.
    """
    found: dict[str, dict[str, Any]] = {}
    for entry in entries or _every():
        own = METHOD_RECIPES / f"{entry}.yaml"
        path = str(own) if own.is_file() else entry
        row = entry in METHODS and path == entry
        require(row or find_file(path).is_file(), f"methods has {entry!r}, which is no file, and {_near(entry)}")
        name = entry if row else Path(path).stem
        require(name not in found, f"methods names {name!r} twice: give each method once.")
        found[name] = {"methods": [entry]} if row else read_recipe(path, within=METHOD_RECIPES)
        found[name].pop("output_dir", None)  # the run's own
    return found


def _near(entry: str) -> str:
    return unknown("method", entry, METHODS) + "."


def _every() -> list[str]:
    files = [str(path) for path in sorted(METHOD_RECIPES.glob("*.yaml"))]
    named = {name for path in files for name in read_recipe(path, within=METHOD_RECIPES).get("methods", [])}
    return [*files, *(name for name in METHODS if name not in named)]


def lay(fields: dict[str, Any], base: Path, path: Path) -> Path:
    """Write the recipe of ``fields`` over the recipe ``base`` to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({EXTENDS: str(base.resolve()), **fields}, sort_keys=False))
    return path
