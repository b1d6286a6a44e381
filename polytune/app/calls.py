"""The three programs as functions of Python: their fields are keyword arguments, what they write is the same.

    from polytune import evaluate, finetune, pretrain

A class or a function is given as it is, a world of one's own as ``task``, a reward as ``objective``: it is named by its
module and its name, as on a command line, so it must lie in a file that can be imported. Everything else is what the
flag takes; a list is several words, None leaves a field as it is. ``config`` names a recipe.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from polytune.terminal import own_bars_only


def pretrain(*, output_dir: str | Path, **fields: Any) -> Path:
    """Clone the task's expert into a small policy, as ``polytune pretrain`` does.

    Args:
        output_dir: where the policy is saved; a call that finds it finished trains nothing.
        fields: fields of ``polytune pretrain --help``.

    Returns:
        ``output_dir``, which `finetune` takes as ``model``.

    Raises:
        ValueError: a field is unknown or wrong, or the task cannot be built; the message names it and the fix.
    """
    return _called("pretrain", output_dir, fields)


def finetune(*, output_dir: str | Path, **fields: Any) -> Path:
    """Fine-tune a policy in this process, as ``polytune finetune`` does; several processes need ``accelerate launch``.

    Args:
        output_dir: where the policy, its checkpoints and metrics.jsonl are saved; a call that was stopped goes on.
        fields: fields of ``polytune finetune --help``; without ``config`` those of recipes/fourrooms/quickstart.yaml.

    Returns:
        ``output_dir``, which `evaluate` takes among its ``policies``.

    Raises:
        ValueError: as of `pretrain`.
        RuntimeError: the run cannot go on; the message says why.
    """
    return _called("finetune", output_dir, fields)


def evaluate(*, output_dir: str | Path, **fields: Any) -> dict[str, Any]:
    """Sample policies and measure success, pass@k and diversity, as ``polytune evaluate`` does.

    Args:
        output_dir: where records.jsonl, summary.json and coverage.png are written.
        fields: fields of ``polytune evaluate --help``; ``policies`` is a list of folders, or of ``NAME=FOLDER``.

    Returns:
        What summary.json holds: ``["policies"][NAME]["success"]`` is an estimate in [0, 1] with ``low`` and ``high``.

    Raises:
        ValueError: as of `pretrain`.
    """
    return json.loads((_called("evaluate", output_dir, fields) / "summary.json").read_text())


def _called(program: str, output_dir: str | Path, fields: Mapping[str, Any]) -> Path:
    """Run the program's ``main`` with the fields as flags."""
    words = [word for name, value in fields.items() if value is not None for word in _flag(name, value)]
    call_here(program, [*words, "--output_dir", str(output_dir)])
    return Path(output_dir)


def call_here(program: str, words: Sequence[str]) -> None:
    """Run a program's ``main`` in this process, one of several perhaps; nobody watches the process after it."""
    from polytune.running import processes

    main: Callable[[list[str]], None] = import_module(f"polytune.app.{program}").main
    failure: str | None = "it ended in mid-run"
    try:
        with own_bars_only():
            main(list(words))
        failure = None
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
        raise
    finally:
        processes.release(failure)


def _flag(name: str, value: Any) -> list[str]:
    """A field as the words of a command line."""
    if isinstance(value, Mapping):
        return [f"--{name}", *(f"{key}={_word(name, own)}" for key, own in value.items())]
    if isinstance(value, list | tuple):
        return [f"--{name}", *(_word(name, own) for own in value)]
    return [f"--{name}", _word(name, value)]


def _word(name: str, value: Any) -> str:
    """One word: a class or a function by its path, anything else as its text.

    Raises:
        ValueError: it lies in no file that a checkpoint could name, or within another function.
    """
    if not callable(value):
        return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    path = f"{value.__module__}:{value.__qualname__}"
    if value.__module__ == "__main__" or "<" in path:
        raise ValueError(
            f"{name} is {path}, which another program cannot import: put it at the top of a file of its own, "
            f"my_{name}.py say, and import it from there."
        )
    return path
