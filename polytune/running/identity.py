"""What a run's numbers depend on beside its fields, by content: rows, start states, code of a user's own, weights.

A path in a YAML names a file, not what it holds. So a run's record keeps a digest of each such thing, and whoever goes
on with the run is told which of them has changed.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from polytune.digests import file_digest, short_digest
from polytune.lookup import OWN_MODULES
from polytune.places import PACKAGE
from polytune.tasks.base import Task

#: in a fingerprint, before what came to it later
LATER = "+"
#: what the start states of a run or an evaluation are noted as; of before, no note names them
STARTS = "start states"


def digest_of_starts(starts: Sequence[int]) -> str:
    """How many start states there are, and a digest of their seeds in order."""
    return f"{len(starts)} with digest {short_digest(','.join(map(str, starts)).encode())}"


def contents(task: Task, starts: Sequence[int] | None = None, **weights: str) -> dict[str, str]:
    """Name -> digest, of the task's data, of the modules that paths like "package.module:name" have loaded so far in
    this process, of ``starts``, seeds in order, and ``weights``, fingerprints by name."""
    data = task.content()
    found = {} if data is None else {f"data of task {task.name!r}": data}
    found |= {} if starts is None else {STARTS: digest_of_starts(starts)}
    found |= {f"code of {name!r}": digest for name in sorted(OWN_MODULES) if (digest := _code(name))}
    return found | {f"weights of {name}": told for name, told in weights.items()}


def _code(name: str) -> str | None:
    """Of a module, and of those beside it or below whose names it uses, theirs too; None for what has no source."""
    own = _file(sys.modules.get(name))
    if own is None:
        return None
    files, due = {own}, [sys.modules[name]]
    while due:
        for used in _used_by(due.pop()):
            path = _file(used)
            if path is not None and path not in files and _is_beside(path, own):
                files.add(path)
                due.append(used)
    told = [f"{path.relative_to(own.parent)} {file_digest(path)}" for path in sorted(files)]
    return short_digest("\n".join(told).encode())


def _used_by(module: ModuleType) -> Iterable[ModuleType | None]:
    """The modules that the names of a module stand for, or come from."""
    for value in list(vars(module).values()):
        yield value if isinstance(value, ModuleType) else sys.modules.get(str(getattr(value, "__module__", None)))


def _file(module: ModuleType | None) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file and file.endswith(".py") and Path(file).is_file() else None


def _is_beside(path: Path, own: Path) -> bool:
    """Whether a file belongs to the same person's code: in the same folder or below, and nothing that is installed."""
    return path.is_relative_to(own.parent) and not any(path.is_relative_to(folder) for folder in _installed())


def _installed() -> Iterable[Path]:
    yield PACKAGE
    for name in ("stdlib", "platstdlib", "purelib", "platlib"):
        yield Path(sysconfig.get_path(name)).resolve()


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What is not as it was, in words; what only one of them names, a field of the run names otherwise, too."""
    return [
        f"{name} changed" for name, had in before.items() if name in now and not same_weights(had, now[name], before)
    ]


def same_weights(had: str | None, now: str, content: Mapping[str, str]) -> bool:
    """Whether a policy has the fingerprint that was noted. A note of before start states were noted, whose ``content``
    names none, has a fingerprint's first part alone."""
    return had == now or (STARTS not in content and had == now.partition(LATER)[0])
