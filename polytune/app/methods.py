"""List the published methods that a run can name: hooks, paper, what each does; with names, all that is known of them.

    python -m polytune.app.methods                  # all of them, a line each
    python -m polytune.app.methods clip_cov spear   # formula, source, assumption, options

Read from the sources: nothing is imported, so it answers at once.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Sequence
from pathlib import Path

from polytune.app.cli import run
from polytune.errors import UsageError
from polytune.helptext import tool_parser, width
from polytune.lookup import unknown
from polytune.places import PACKAGE
from polytune.tables import METHODS
from polytune.terminal import is_quiet

BASE = "polytune.methods.base"
RECIPES_TOLD = "PPO, GRPO, RLOO, MaxRL, Poly-PPO and others are recipes: --config recipes/fourrooms/grpo.yaml, say."


def main(argv: Sequence[str]) -> None:
    options = build_parser().parse_args(list(argv))
    if is_quiet():
        raise UsageError("there is nothing to say quietly: leave --quiet out")
    for name in options.names:
        if name not in METHODS:
            raise UsageError(unknown("method", name, METHODS))
    print("\n\n".join(map(whole, options.names)) if options.names else listing(), flush=True)


def build_parser() -> argparse.ArgumentParser:
    """What the program takes."""
    parser = tool_parser("methods", "[NAME ...]", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a row of METHODS")
    return parser


def listing() -> str:
    """A line for each method: name, hooks, paper, what it does."""
    rows = [("method", "hooks", "arXiv", "")]
    rows += [(name, " ".join(hooks(name)), paper(name), entry.told) for name, entry in METHODS.items()]
    first, second, third = (max(len(row[i]) for row in rows) for i in range(3))
    lines = [f"{a:{first}}  {b:{second}}  {c:{third}}  {d}".rstrip() for a, b, c, d in rows]
    return "\n".join(
        [*lines, "", "A run takes them as --methods NAME ... --method_args NAME.OPTION=VALUE ...", RECIPES_TOLD]
    )


def whole(name: str) -> str:
    """All that its file says of a method, and its options."""
    told = (ast.get_docstring(_source(METHODS[name].path)[0]) or "").strip()
    options = "\n".join(f"    {name}.{option}={default}" for option, default in _options(METHODS[name].path).items())
    lines = [name, "=" * min(len(name), width()), told, "", f"hooks: {', '.join(hooks(name))}"]
    return "\n".join([*lines, "options:", options] if options else [*lines, "no options"])


def hooks(name: str) -> list[str]:
    """The hooks that a method writes, in the order of an update."""
    own = _written(METHODS[name].path)
    known = [node.name for node in _source(f"{BASE}:Method")[1].body if isinstance(node, ast.FunctionDef)]
    quiet = {"has", "says", "check", "state", "restore", "revisit", "sets_reference", "pays_failures"}
    return [hook for hook in known if hook in own and hook not in quiet]


def paper(name: str) -> str:
    """The first arXiv number that its file names; nothing where it names none."""
    found = re.search(r"arXiv (\d{4}\.\d{5})", ast.get_docstring(_source(METHODS[name].path)[0]) or "")
    return found[1] if found else ""


def _source(path: str) -> tuple[ast.Module, ast.ClassDef]:
    """The module of "package.module:Class" and the class, as syntax."""
    module, _, name = path.partition(":")
    file = PACKAGE.parent / Path(*module.split(".")).with_suffix(".py")
    tree = ast.parse(file.read_text())
    [found] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return tree, found


def _written(path: str) -> set[str]:
    """Functions of a class, and of those that it derives from, but for Method itself."""
    tree, found = _source(path)
    own = {node.name for node in found.body if isinstance(node, ast.FunctionDef)}
    return own.union(*(_written(base) for base in _bases(path, tree, found)))


def _options(path: str) -> dict[str, str]:
    """Fields of a class, and of those that it derives from, with their defaults."""
    tree, found = _source(path)
    options = {name: default for base in _bases(path, tree, found) for name, default in _options(base).items()}
    fields = [node for node in found.body if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.dump(node)]
    return options | {node.target.id: ast.unparse(node.value) if node.value else "" for node in fields}


def _bases(path: str, tree: ast.Module, found: ast.ClassDef) -> list[str]:
    """Paths of the classes that it derives from, within the room."""
    origins = {
        alias.name: f"{node.module}:{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    bases = [base.id for base in found.bases if isinstance(base, ast.Name) and base.id != "Method"]
    return [origins.get(base, f"{path.partition(':')[0]}:{base}") for base in bases]


if __name__ == "__main__":
    run(main)
