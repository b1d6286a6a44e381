"""The speed run on FourRooms: what an entry may set, on which levels it is judged, and which entry is the best.

The rules, in words: docs/results/speedrun.md.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from polytune.checks import require, require_one_option
from polytune.config import TaskConfig
from polytune.digests import number_from, short_digest
from polytune.lookup import find, is_path
from polytune.recipe import read_recipe
from polytune.tables import METHODS
from polytune.tasks.base import Task

TASK = TaskConfig(task="fourrooms", task_horizon=40)
TARGETS = {"success": 0.65, "pass@16": 0.97}
#: what the judge samples: levels, and attempts at each
LEVELS, SAMPLES = 1000, 16
#: cores that an entry may use
CORES = 2
#: expert episodes at most: those of `pretrain` without flags, from which the committed policy comes
MOST_DEMONSTRATIONS = 1500
#: the judge's levels have their seeds in as many numbers from here on; an entry's seeds lie below
JUDGE_SEEDS_START = JUDGE_SEEDS = 2**40
#: fields that are the board's own
FIXED = ("task", "task_horizon", "task_args", "data_dir", "seed", "output_dir", "config", "model", "model_revision")
#: methods that read what other runs have left
OTHER_RUNS = ("swarm",)


def flags_of(field: str, entries: Sequence[str]) -> list[str]:
    """``NAME=VALUE`` ... of an entry's ``field`` as flags of a program.

    Raises:
        ValueError: an entry has another form, names what the board fixes, or a user's own code.
    """
    flags: list[str] = []
    for entry in entries:
        require_one_option(field, entry)
        name, equals, value = entry.partition("=")
        name = name.replace("-", "_")  # programs take either
        require(bool(name) and bool(equals), f"{field} has {entry!r}: write NAME=VALUE, as in --{field} epochs=8.")
        require(name not in FIXED, f"{field} has {entry!r}, but {name} is the same for every entry: leave it out.")
        require(
            not is_path(value) or value.startswith("seeds:"),
            f"{field} has {entry!r}: an entry is settings of code that is in the repository; bring yours as a method.",
        )
        flags += [f"--{name}", value]
    return flags


def check_demonstrations(number: int | None, base_model: str | None) -> None:
    """Refuse more of the expert than the committed recipe has, and weights that were trained before the clock."""
    require(
        number is None or number <= MOST_DEMONSTRATIONS,
        f"num_demonstrations is {number}: an entry has {MOST_DEMONSTRATIONS:,} at most, so that the board measures "
        "training and not the expert.",
    )
    require(base_model is None, f"base_model is {base_model!r}: an entry begins with nothing, so leave it out.")


def check_training(methods: Iterable[str], seeds: Iterable[int]) -> None:
    """Refuse methods that ask the expert again or read other runs, and start states that are the judge's.

    Raises:
        ValueError: says which.
    """
    from polytune.methods.demonstrations import Demonstrations

    for name in methods:
        expert = issubclass(find("method", name, METHODS), Demonstrations)
        require(
            not expert and name not in OTHER_RUNS,
            f"methods has {name!r}, which {'asks the expert' if expert else 'reads other runs'}: an entry has its "
            f"{MOST_DEMONSTRATIONS:,} demonstrations and nothing else, so leave it out.",
        )
    top = max(seeds)
    require(
        top < JUDGE_SEEDS_START,
        f"the entry would use seed {top:,}, and those from {JUDGE_SEEDS_START:,} on are the judge's: take others.",
    )


def judge_rows(task: Task, policy: str, seen: Collection[str], levels: int = LEVELS) -> list[dict[str, Any]]:
    """The judge's start states, as rows of a split: they follow from the fingerprint of the trained ``policy``, so that
    nobody knows them before its training has ended. Levels whose hash is among ``seen``, or came before, are passed
    over."""
    seed = JUDGE_SEEDS_START + number_from(policy.encode(), 8, person=b"speedrun") % JUDGE_SEEDS
    rows, taken = [], set(seen)
    while len(rows) < levels:
        level = task.start_hash(seed)
        if level not in taken:
            rows.append({"seed": seed, "level_hash": level})
            taken.add(level)
        seed += 1
    return rows


def digest(pretrain: Sequence[str], finetune: str | None, changed: Sequence[str]) -> str:
    """What an entry is: its settings, with those of the recipe that it names."""
    recipe = None if finetune is None else read_recipe(finetune)
    return short_digest(json.dumps([sorted(pretrain), recipe, sorted(changed)], sort_keys=True).encode())


def reached(run: Mapping[str, Any]) -> bool:
    """Whether both targets are reached, by the estimates."""
    return distance(run) == 0.0


def distance(run: Mapping[str, Any]) -> float:
    """How far below its targets a run is, both distances together."""
    return sum(max(0.0, target - run["measures"][name]["estimate"]) for name, target in TARGETS.items())


def ranked(runs: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The board's order: runs that reached both targets, the fastest first; then the others, the nearest first."""
    return sorted(runs, key=lambda run: (distance(run), run["minutes"]))


def told(run: Mapping[str, Any]) -> str:
    """The line of a run."""
    cells = (
        f"{name} {own['estimate']:.3f} [{own['low']:.3f}, {own['high']:.3f}]" for name, own in run["measures"].items()
    )
    verdict = "both targets reached" if reached(run) else f"{distance(run):.3f} short of the targets"
    return (
        f"{run['entry']}, seed {run['seed']}: {run['minutes']:.1f} minutes ({run['cpu_minutes']:.1f} CPU minutes) on "
        f"{run['cores']} cores, load {run['load']:.1f} before; {', '.join(cells)}; {verdict}; commit {run['commit']}"
    )


def read_board(path: str | Path) -> dict[str, Any]:
    """The board in a file; an empty one where there is no file. ValueError for a file that holds no board."""
    if not Path(path).is_file():
        return {"runs": []}
    try:
        board = json.loads(Path(path).read_text())
        for own in ranked(board["runs"]):
            hash((own["entry"], own["seed"]))
        return board
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} holds no board ({type(error).__name__}: {error}): restore it, or keep the run in another file."
        ) from error


def enter(path: str | Path, run: Mapping[str, Any]) -> None:
    """Put a run on the board, in the place of one of the same entry and seed."""
    from polytune.running.provenance import write_json

    board = read_board(path)
    others = [own for own in board["runs"] if (own["entry"], own["seed"]) != (run["entry"], run["seed"])]
    rules = {"targets": TARGETS, "levels": LEVELS, "samples": SAMPLES, "cores": CORES}
    rules |= {"demonstrations": MOST_DEMONSTRATIONS, "horizon": TASK.task_horizon}
    write_json(Path(path), board | {"rules": rules, "runs": ranked([*others, dict(run)])})
