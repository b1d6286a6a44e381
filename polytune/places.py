"""Where polytune's own files and programs lie: in a checkout as in an installed package.

`polytune/_recipes` and `polytune/_data` are links to the repository's folders `recipes` and `data` in a checkout, and
folders with the same YAML files and splits in an installed package.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polytune.privacy import private

PACKAGE = Path(__file__).resolve().parent
RECIPES = (PACKAGE / "_recipes").resolve()
DATA = (PACKAGE / "_data").resolve()
#: whether recipes/NAME.py are there to be launched
IN_CHECKOUT = RECIPES.parent != PACKAGE


def at_home(value: Any) -> Any:
    """A text that begins with ``~``, or has one right after ``NAME=``, with the home folder in its place, also within
    lists: a shell replaces neither ``--field=~/x`` nor ``NAME=~/x``, a YAML has none. Anything else as it is."""
    if isinstance(value, list):
        return [at_home(own) for own in value]
    if not isinstance(value, str) or "~" not in value:
        return value
    name, equals, path = value.partition("=")
    if equals and path.startswith("~") and re.fullmatch(r"[\w.+-]+", name):
        return f"{name}={os.path.expanduser(path)}"
    return os.path.expanduser(value)


def find_file(path: str | Path) -> Path:
    """``path`` itself where it exists; otherwise polytune's own file of that name, ``recipes/...`` or ``data/...``;
    ``path`` again where there is none."""
    path = Path(at_home(str(path)))
    folder = {"recipes": RECIPES, "data": DATA}.get(path.parts[0]) if path.parts else None
    if folder is None or path.exists():
        return path
    own = folder.joinpath(*path.parts[1:])
    return own if own.is_file() else path


def recipe_name(path: str | Path) -> str:
    """``recipes/...`` for one of polytune's own recipes, which :func:`find_file` finds; any other path as it is."""
    path = Path(path)
    return str("recipes" / path.relative_to(RECIPES)) if path.is_relative_to(RECIPES) else str(path)


def recipes() -> list[str]:
    """The names of polytune's own recipes; accelerate's files among them are none."""
    return [recipe_name(path) for path in sorted(RECIPES.rglob("*.yaml")) if path.parent.name != "accelerate"]


def recipe_called(name: str) -> str | None:
    """The recipe of a run that bears a published method's name, however that is written (GRPO, Poly-PPO): one of
    recipes/fourrooms, else of recipes/methods; None where there is none."""
    stem = name.lower().replace("-", "_")
    paths = [RECIPES / folder / f"{stem}.yaml" for folder in ("fourrooms", "methods")]
    if "/" in stem or stem.endswith(("pretrain", "compare")):
        return None
    return next((recipe_name(path) for path in paths if path.is_file()), None)


def start(program: str) -> list[str]:
    """The first words of a command that starts a program of ``polytune.app`` from any folder. ``-P``: modules of that
    folder hide none that the program imports."""
    return [sys.executable, "-P", "-m", f"polytune.app.{program}"]


def command(program: str, arguments: Sequence[str]) -> list[str]:
    """What a user gives to ``python`` to run a program again from the same folder, nothing private in it."""
    launcher = [f"recipes/{program}.py"] if Path("recipes").resolve() == RECIPES else ["-m", f"polytune.app.{program}"]
    return private([*launcher, *arguments])


def runnable(text: str) -> str:
    """``text`` with the launchers ``recipes/NAME.py`` that it names; without a checkout, with what works there."""
    if IN_CHECKOUT:
        return text
    text = re.sub(r"(python |accelerate launch [^\n`]*?)recipes/(\w+)\.py", r"\1-m polytune.app.\2", text)
    return re.sub(r"recipes/(\w+)\.py", r"polytune.app.\1", text)
