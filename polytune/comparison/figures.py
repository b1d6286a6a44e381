"""What a comparison found: figures of every run, the check of its budgets, intervals, paired differences.

Values of a method lie in arrays (R, P): training seeds x start states. Intervals: `crossed.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from polytune.checks import require
from polytune.comparison.methods import PRETRAINED, RUN_TOLERANCE
from polytune.comparison.runs import Run, read_note
from polytune.evaluation.columns import Records
from polytune.evaluation.creativity import of_records
from polytune.evaluation.records import read_records
from polytune.evaluation.summary import measure_bounds, per_start, per_start_values
from polytune.measures.creativity import MEASURES
from polytune.measures.crossed import crossed_difference_interval, crossed_mean_interval, needed_to_resolve
from polytune.measures.intervals import resolved_sign
from polytune.measures.passk import coverage_ks
from polytune.tasks import Task
from polytune.tasks.creativity.tasks import CreativityTask

#: measures per prompt that a creativity task keeps, and those that need more than one sample of each prompt
KEPT = ("greedy_success", "entropy")
COVERED = ("distinct_signatures", "distinct_winning_signatures", "coverage_area")
#: what a run took
COSTS = ("train_seconds", "env_steps", "gradient_steps")


@dataclass
class Figures:
    """One run, evaluated: per start state its measures, and what its training cost and logged."""

    run: Run
    starts: list[int]
    samples: int
    #: per start state; one number for what a whole set of prompts measures (creativity)
    values: dict[str, list[float]]
    metrics: list[dict[str, Any]]
    train_seconds: float
    #: intervals of such numbers from this run alone
    own_intervals: dict[str, dict[str, float]] = field(default_factory=dict)
    #: the values under each perturbation of the start states
    perturbed: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    @property
    def env_steps(self) -> int:
        """Environment steps that the run's training took; 0 without metrics."""
        return int(self.metrics[-1]["rollout/env_steps"]) if self.metrics else 0

    @property
    def gradient_steps(self) -> int:
        """Its optimiser steps; 0 without metrics."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The updates of a run from its ``metrics.jsonl``.

    Raises:
        ValueError: the file is missing, damaged or without rollouts.
    """
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        records = [line for line in lines if "rollout/env_steps" in line]
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): remove {path.parent} and run the same command again."
        ) from error
    if not records:
        raise ValueError(f"{path} holds no update: remove {path.parent} and run the same command again.")
    return records


def read_figures(
    run: Run, task: Task | None = None, *, level: float = 0.95, starts: Sequence[int] | None = None
) -> Figures:
    """What a finished run left in its folder; ``task`` grades the answers of a creativity task.

    Raises:
        ValueError: records of an older version, or of other start states than ``starts``, or a damaged file.
    """
    everything = read_records(run.records)
    records = everything.where(perturb=None)
    if not records.column("has logprob").all():
        raise ValueError(
            f"{run.records} was written before records held log probabilities, which entropy needs: remove "
            f"{run.records.parent} and run the same command again."
        )
    own = records.where(policy=run.policy_name)
    table = per_start(own)
    require(
        starts is None or list(table) == sorted(starts),
        f"{run.records} has attempts at {len(table):,} start states from seed {min(table, default=None)} on, which are "
        f"not the {len(starts or ()):,} asked for: give the split that it was run with, or remove {run.folder} "
        "(and what keep_runs has of it) to run it anew.",
    )
    samples = min(cell["n"] for cell in table.values())
    values, intervals = per_start_values(table, coverage_ks(samples)), {}
    if isinstance(task, CreativityTask):
        intervals = creativity_intervals(of_records(task, own, level=level))
        single = {name: [interval["estimate"]] for name, interval in intervals.items()}
        kept = (*KEPT, *(COVERED if samples > 1 else ()))
        kept_values = {
            name: value for name, value in values.items() if name in kept or (samples > 1 and name.startswith("pass@"))
        }
        values = {"success": values["success"], **single, **kept_values}
    return Figures(
        run=run,
        starts=list(table),
        samples=samples,
        values=values,
        metrics=[] if run.method is None else read_metrics(run.folder / "metrics.jsonl"),
        train_seconds=read_note(run)["train_seconds"],
        own_intervals=intervals,
        perturbed=_perturbed_values(everything, run, {start: cell["n"] for start, cell in table.items()}),
    )


def _perturbed_values(records: Records, run: Run, samples: Mapping[int, int]) -> dict[str, dict[str, list[float]]]:
    """Per start state the measures under each perturbation that was sampled to the end (a stopped one is continued)."""
    found = {}
    for name in records.perturbations():
        own = records.where(policy=run.policy_name, perturb=name)
        if {start: len(at) for start, at in own.where(greedy=False).by_start().items()} == samples:
            found[name] = per_start_values(per_start(own), coverage_ks(min(samples.values())))
    return found


def creativity_intervals(found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The intervals of one policy's creativity (`evaluation.creativity.of_records`) by the names that tables have."""
    intervals = {name: found[name] for name in MEASURES if name != "validity" and found[name]["low"] is not None}
    intervals |= {f"greedy_{name}": found["greedy"][name] for name in ("diversity", "creativity")}
    prompts = found["counts"]["generations"]
    for share, distinct in (("diversity", "distinct_valid"), ("creativity", "distinct_unseen")):
        intervals[distinct] = {end: prompts * value for end, value in intervals[share].items()}
    return intervals


def check_budgets(figures: Sequence[Figures], tolerance: float = 0.01) -> None:
    """Refuse methods that did not cost the same: environment steps, meaned over seeds, within ``tolerance`` (or,
    with few seeds, :data:`RUN_TOLERANCE` / seeds), of single runs within :data:`RUN_TOLERANCE`, gradient steps exactly.

    Raises:
        ValueError: names the methods and runs, their figures and the fix.
    """
    steps: dict[str, list[int]] = {}
    for figure in figures:
        steps.setdefault(figure.run.method.name, []).append(figure.env_steps)
    of_methods = {f"{name}, over its seeds," if len(own) > 1 else name: fmean(own) for name, own in steps.items()}
    of_runs = {figure.run.name: figure.env_steps for figure in figures}
    few = max(tolerance, RUN_TOLERANCE / min(map(len, steps.values())))
    for found, allowed in ((of_methods, few), (of_runs, RUN_TOLERANCE)):
        least, most = min(found, key=found.get), max(found, key=found.get)
        if found[most] > found[least] * (1 + allowed):
            excess = 100 * (found[most] / max(found[least], 1) - 1)
            raise ValueError(
                f"no table: environment steps differ by {excess:.1f} %, {100 * allowed:.3g} % is allowed ({most} "
                f"took {found[most]:,.0f}, {least} {found[least]:,.0f}; "
                f"{_ranges([(f.run.method.name, f.env_steps) for f in figures])}). Give all methods one max_env_steps "
                "that each of them spends (--set max_env_steps=...), with rollouts large enough to reach max_env_steps "
                "/ num_updates in every update, and run into another output_dir; or allow more with --budget_tolerance."
            )
    if len({f.gradient_steps for f in figures}) > 1:
        raise ValueError(
            f"no table: gradient steps differ ({_ranges([(f.run.method.name, f.gradient_steps) for f in figures])}). "
            "Give all methods the same num_updates, steps_per_generation, num_iterations and "
            "gradient_accumulation_steps (--set ...), with max_env_steps that lasts for all updates, and run into "
            "another output_dir."
        )


def _ranges(pairs: Sequence[tuple[str, int]]) -> str:
    """``ppo 1,000 to 1,200, grpo 1,000``."""
    numbers: dict[str, list[int]] = {}
    for name, number in pairs:
        numbers.setdefault(name, []).append(number)
    return ", ".join(
        f"{name} {min(own):,}" + (f" to {max(own):,}" if max(own) > min(own) else "") for name, own in numbers.items()
    )


def compare(
    pretrained: Figures,
    methods: Mapping[str, Sequence[Figures]],
    *,
    baseline: str,
    level: float,
    seed: int = 0,
    starts: str = "start states",
) -> dict[str, Any]:
    """Measures of each policy with intervals over training seeds and start states, paired differences, signals.

    Args:
        methods: the evaluated runs of each method, the same seeds in the same order.
        baseline: the method that the others are taken from.
        seed: of the bootstrap, which serves where there is one run only.
        starts: what tables call the start states.

    Raises:
        ValueError: runs were not evaluated on the same start states equally often, or have unlike seeds.
    """
    seeds = _check_alike(pretrained, methods, baseline)
    cells = _Cells(pretrained, methods, level, seed)
    return {
        "baseline": baseline,
        "seeds": seeds,
        "starts": starts,
        "start_states": len(pretrained.starts),
        "samples_per_start_state": pretrained.samples,
        "level": level,
        "ks": coverage_ks(pretrained.samples),
        "policies": {PRETRAINED: cells.of_policy(PRETRAINED)}
        | {name: cells.of_policy(name) | {"cost": _cost(own)} for name, own in methods.items()},
        "differences": {
            other: {name: cells.to_other(name, other) for name in methods if name != other}
            for other in (baseline, PRETRAINED)
        },
        "signals": {name: signals(own) for name, own in methods.items()},
        "runs": {name: {str(f.run.seed): run_row(f) for f in own} for name, own in methods.items()},
    }


class _Cells:
    """Cells of a comparison: the measures of a policy, and its differences to another one."""

    def __init__(self, pretrained: Figures, methods: Mapping[str, Sequence[Figures]], level: float, seed: int):
        self.level, self.seed = level, seed
        every = [pretrained, *(figure for own in methods.values() for figure in own)]
        self.measures = [m for m in pretrained.values if all(m in figure.values for figure in every)]
        self.values = {PRETRAINED: stack([pretrained])} | {name: stack(own) for name, own in methods.items()}
        # a number for a whole set of prompts varies with the seed: its interval is Student's over seeds, cut to its
        # range
        whole = {m for m in self.measures if len(pretrained.values[m]) == 1 < len(pretrained.starts)}
        self.most = {m: len(pretrained.starts) if m.startswith("distinct") else 1.0 for m in whole}
        self.bounds = {
            m: None if m in whole else measure_bounds(m, [v for f in every for v in f.values[m]]) for m in self.measures
        }
        self.alone = {PRETRAINED: pretrained.own_intervals} | {
            name: own[0].own_intervals for name, own in methods.items() if len(own) == 1
        }  # of one run, a number for a whole set of prompts has the interval of its samples

    def of_policy(self, name: str) -> dict[str, Any]:
        found = {}
        for m in self.measures:
            own = self.alone.get(name, {}).get(m)
            cell = _mean(self.values[name][m], self.level, self.bounds[m], self.seed, own)
            found[m] = _cut(cell, 0.0, self.most.get(m))
        return found

    def to_other(self, name: str, other: str) -> dict[str, Any]:
        found = {}
        for m in self.measures:
            sides = [self.alone.get(side, {}).get(m) for side in (name, other)]
            gaps = self.values[name][m] - self.values[other][m]
            cell = difference(gaps, self.level, self.bounds[m], self.seed, sides)
            found[m] = _cut(cell, -self.most.get(m, 0.0), self.most.get(m))
        return found


def _check_alike(pretrained: Figures, methods: Mapping[str, Sequence[Figures]], baseline: str) -> list[int]:
    """The seeds of every method; ValueError for unlike seeds, start states or numbers of samples."""
    for figure in (pretrained, *(figure for own in methods.values() for figure in own)):
        if (figure.starts, figure.samples) != (pretrained.starts, pretrained.samples):
            raise ValueError(
                f"{figure.run.name} and {pretrained.run.name} were not sampled equally often at the same start states: "
                f"remove {figure.run.folder}/evaluation and run the same command again."
            )
    seeds = [figure.run.seed for figure in methods[baseline]]
    if any([figure.run.seed for figure in own] != seeds for own in methods.values()):
        raise ValueError("differences are paired by seed, but the methods have unlike seeds")
    return seeds


def _cost(figures: Sequence[Figures]) -> dict[str, float]:
    """What a run of a method took, a mean over its seeds."""
    return {name: fmean(getattr(figure, name) for figure in figures) for name in COSTS}


def _cut(cell: dict[str, Any], lowest: float, highest: float | None) -> dict[str, Any]:
    """No end of an interval lies where no value can; without a ``highest`` the interval knows its range."""
    if highest is None or cell["low"] is None:
        return cell
    return cell | {"low": max(cell["low"], lowest), "high": min(cell["high"], highest)}


def stack(figures: Sequence[Figures]) -> dict[str, np.ndarray]:
    """Values (R, P) of each measure."""
    return {measure: np.array([f.values[measure] for f in figures]) for measure in figures[0].values}


def _mean(
    values_R_P: np.ndarray,
    level: float,
    bounds: tuple[float, float] | None,
    seed: int,
    own: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The mean with its interval; ``own``: that of a single run, where its samples give one."""
    if own is not None:
        return dict(own)
    if values_R_P.size == 1 and bounds is None:
        return {"estimate": float(values_R_P.item()), "low": None, "high": None}
    return _as_dict(crossed_mean_interval(values_R_P, level, bounds=bounds, seed=seed))


def difference(
    values_R_P: np.ndarray,
    level: float,
    bounds: tuple[float, float] | None,
    seed: int,
    sides: Sequence[Mapping[str, float] | None] = (None, None),
) -> dict[str, Any]:
    """The difference, whether its interval excludes 0, and if not, what would resolve it.

    ``sides``: the own interval of a side that is one run, measured by a single number; of the others None.
    """
    single = values_R_P.size == 1 and bounds is None
    known = [side for side in sides if side is not None]
    if single and len(known) < 2:
        found = {"estimate": float(values_R_P.item()), "low": None, "high": None}
    elif single:
        found = _of_independent(*sides)
    else:
        found = _as_dict(crossed_difference_interval(values_R_P, level, bounds=bounds, seed=seed))
        if known:  # the pretrained policy: one run, the same beside every seed
            found = _of_independent({end: value + known[0]["estimate"] for end, value in found.items()}, known[0])
    found["resolved"] = resolved_sign(found["low"], found["high"]) != 0
    if not found["resolved"]:
        needed = needed_to_resolve(values_R_P, level, bounds=bounds)
        found["needed"] = {"seeds": needed.runs, "start_states": needed.problems, "at_seeds": needed.problem_runs}
    return found


def _of_independent(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """The interval of first - second from theirs, which may be lopsided: each end takes the two distances that move the
    difference its way, as the root of the sum of their squares (Zou and Donner 2008, Statistics in Medicine 27:1693).
    """
    below = math.hypot(first["estimate"] - first["low"], second["high"] - second["estimate"])
    above = math.hypot(first["high"] - first["estimate"], second["estimate"] - second["low"])
    estimate = first["estimate"] - second["estimate"]
    return {"estimate": estimate, "low": estimate - below, "high": estimate + above}


def _as_dict(interval: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("estimate", "low", "high"), map(float, interval), strict=True))


def signals(figures: Sequence[Figures]) -> dict[str, float]:
    """What explains a loser: group metrics and advantage scales, means over updates and seeds; entropy at the end."""
    names = sorted(
        {
            name
            for figure in figures
            for record in figure.metrics
            for name in record
            if name.startswith("groups/") or (name.startswith("advantages/") and "_scale_" in name)
        }
    )
    found = {}
    for name in names:
        values = [record[name] for figure in figures for record in figure.metrics if record.get(name) is not None]
        if values:
            found[name] = fmean(values)
    ends = [figure.metrics[-1]["entropy"] for figure in figures if "entropy" in figure.metrics[-1]]
    return found | ({"entropy at the end": fmean(ends)} if ends else {})


def run_row(figure: Figures) -> dict[str, float]:
    """One run's own figures."""
    return {
        **{measure: fmean(values) for measure, values in figure.values.items()},
        "train_seconds": round(figure.train_seconds, 1),
        "env_steps": figure.env_steps,
        "gradient_steps": figure.gradient_steps,
        "updates": len(figure.metrics),
    }
