"""What the runs of the benchmark say: of each world, base and method the paired differences to the base over seeds.

Intervals are Student's over training seeds (a number of a run is exact, or a mean over start states that all runs
share). Seeds pair a run with the base's of the same seed. Degenerate case: one seed has no interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from polytune.comparison.benchmark import World, short
from polytune.comparison.figures import Figures, check_budgets, difference
from polytune.comparison.methods import PRETRAINED, Method
from polytune.comparison.run_store import BASE_ALONE, RunStore
from polytune.comparison.runs import Run

SUCCESS = "success"
#: what a cell may say of its method
GAINS, HARMS, TRADES, OPEN, SAME = "gains", "harms", "trades", "not resolved", "changes nothing"


def world_summary(world: World, store: RunStore, level: float, only: Mapping[str, set[str]] | None) -> dict[str, Any]:
    """The cells of a world, by base and method, with the policy that all runs begin with and the bases themselves."""
    trainer = world.bases[0].settings["trainer"]
    start = world.start_line(store) or {}
    return {
        "task": world.task.name,
        "exact": world.exact,
        "coverage": world.coverage,
        "policy": world.pretrained,
        "seeds": world.seeds,
        "samples": world.config.n,
        "start_states": len(world.starts),
        "env_steps": trainer.max_env_steps,
        "gradient_steps": trainer.max_steps,
        "learning_rate": trainer.learning_rate,
        PRETRAINED: start.get("values"),
        "bases": {base.name: _of_base(world, store, base.name, level, only) for base in world.bases},
    }


def _of_base(world: World, store: RunStore, base: str, level: float, only: Any) -> dict[str, Any]:
    alone = _lines(world, store, base, BASE_ALONE)
    found = {"missing": _missing(world, alone), "seeds": [line["seed"] for line in alone], **_means(alone, level)}
    names = [name for own, name in world.laid if own == base and name != BASE_ALONE]
    return found | {"methods": {name: cell(world, store, base, name, level, only) for name in names}}


def cell(world: World, store: RunStore, base: str, name: str, level: float, only: Any = None) -> dict[str, Any]:
    """What is known of one method over one base: that it is refused, failed or not to be run, or its numbers, and the
    seeds that are missing."""
    if isinstance(told := world.laid[base, name], str):
        return {"refused": told}
    if only is not None and name not in only.get(base, ()):
        return {"left_out": True}
    ends = {
        why: f"{line[why]} (seed {line['seed']})" if why == "failed" else line[why]
        for line in _all_lines(world, store, base, name)
        for why in ("refused", "failed")
        if why in line
    }
    own, alone = _lines(world, store, base, name), _lines(world, store, base, BASE_ALONE)
    if ends and not own:
        return ends
    missing = _missing(world, own)
    shared = {line["seed"] for line in own} & {line["seed"] for line in alone}
    own, alone = ([line for line in lines if line["seed"] in shared] for lines in (own, alone))
    if not shared:
        return {"missing": missing}
    found = {**ends, "missing": missing, "seeds": sorted(shared), **_means(own, level)}
    if told := _budget_line(world, base, name, own, alone):
        found["budget"] = told
    found["differences"] = differences(own, alone, level)
    found["seconds_ratio"] = short(_seconds(own) / _seconds(alone))
    same = all(a["values"] == b["values"] for a, b in zip(own, alone, strict=True))
    return found | {"verdict": SAME if same else verdict(found["differences"], world.coverage)}


def _all_lines(world: World, store: RunStore, base: str, name: str) -> list[dict[str, Any]]:
    found = (world.line(store, base, name, seed) for seed in world.seeds)
    return [line for line in found if line is not None]


def _lines(world: World, store: RunStore, base: str, name: str) -> list[dict[str, Any]]:
    return [line for line in _all_lines(world, store, base, name) if "values" in line]


def _missing(world: World, lines: Sequence[Mapping[str, Any]]) -> list[int]:
    return sorted({*world.seeds} - {line["seed"] for line in lines})


def _interval(values: Sequence[float], level: float, bounds: tuple[float, float] | None = None) -> dict[str, Any]:
    """Mean with Student's interval, no end beyond ``bounds``, and whether it excludes 0."""
    found = difference(np.array(values)[:, None], level, None, 0)
    if bounds is not None and found["low"] is not None:
        found |= {"low": max(found["low"], bounds[0]), "high": min(found["high"], bounds[1])}
    ends = {end: None if found[end] is None else short(found[end]) for end in ("estimate", "low", "high")}
    return ends | {"resolved": found["resolved"]}


def _range(measure: str) -> tuple[float, float] | None:
    return (0.0, 1.0) if measure == SUCCESS or measure.startswith("pass@") else None


def _means(lines: Sequence[Mapping[str, Any]], level: float) -> dict[str, Any]:
    """Measures and costs over the seeds."""
    if not lines:
        return {}
    values = {m: _interval([line["values"][m] for line in lines], level, _range(m)) for m in _measures(lines)}
    for own in values.values():
        own.pop("resolved")
    costs = {name: short(fmean(line[name] for line in lines)) for name in ("env_steps", "gradient_steps")}
    return {"measures": values, "cost": costs | {"cpu_seconds": short(_seconds(lines))}}


def _measures(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those that every run has, in the order of the first."""
    return [m for m in lines[0]["values"] if all(m in line["values"] for line in lines)]


def _seconds(lines: Sequence[Mapping[str, Any]]) -> float:
    return fmean(line["cpu_seconds"] for line in lines)


def differences(
    own: Sequence[Mapping[str, Any]], alone: Sequence[Mapping[str, Any]], level: float
) -> dict[str, dict[str, Any]]:
    """Measure -> own minus alone, paired by seed, with its interval; both in the order of their seeds. Measures that
    some run does not have (of answers none of which is valid) are left out."""
    return {
        m: _interval([a["values"][m] - b["values"][m] for a, b in zip(own, alone, strict=True)], level)
        for m in _measures([*own, *alone])
    }


def verdict(found: Mapping[str, Mapping[str, Any]], coverage: str) -> str:
    """In a word: ``gains`` in success or the measure ``coverage`` and loses none, ``harms``, ``trades`` one for the
    other."""
    signs = {np.sign(found[m]["estimate"]) for m in (SUCCESS, coverage) if found[m]["resolved"]}
    return TRADES if signs == {1.0, -1.0} else GAINS if 1.0 in signs else HARMS if -1.0 in signs else OPEN


def _budget_line(world: World, base: str, name: str, own: Sequence[Any], alone: Sequence[Any]) -> str | None:
    """What is wrong where method and base did not cost the same, as a comparison would refuse it."""
    try:
        check_budgets([*_figures(world, base, BASE_ALONE, alone), *_figures(world, base, name, own)])
    except ValueError as error:
        return str(error).removeprefix("no table: ").partition(". Give all")[0]
    return None


def _figures(world: World, base: str, name: str, lines: Sequence[Mapping[str, Any]]) -> list[Figures]:
    method: Method = world.laid[base, name]
    return [
        Figures(
            Run(Path(), method, line["seed"]), list(world.starts), world.config.n, {},
            [{"rollout/env_steps": line["env_steps"], "step": line["gradient_steps"]}], line["cpu_seconds"],
        )
        for line in lines
    ]  # fmt: skip


def winners(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, set[str]]:
    """Base -> the methods that gained something over it, in some world, and lost nothing there."""
    found: dict[str, set[str]] = {}
    for summary in summaries.values():
        for base, own in summary["bases"].items():
            gaining = {name for name, one in own["methods"].items() if one.get("verdict") == GAINS}
            found[base] = found.get(base, set()) | gaining
    return found
