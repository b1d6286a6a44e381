"""What training left in a run's folder, as a report shows it: curves, signal of the groups, signs of collapse."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from polytune.evaluation.report import charts
from polytune.policy.provenance import RUN_FILE
from polytune.trainer.tree_log import TREES_FILE

STEPS = "rollout/env_steps"
#: metric -> title of its curve
CURVES = {
    "rollout/success": "success of rollouts",
    "rollout/return": "return of rollouts",
    "entropy": "entropy (nats per token)",
    "groups/distinct_signatures": "distinct signatures per group",
    "groups/distinct_winning": "distinct winning signatures per group",
    "groups/without_signal": "share of groups without signal",
    "advantages/set_scale": "size of set advantages (std)",
    "advantages/gae_scale": "size of the critic's advantages (std)",
    "critic/explained_variance": "variance that the critic explains",
    "kl": "KL to the behaviour policy",
    "duplicates/observed": "repeated attempts, share",
    "actions/invalid_rate": "invalid actions, share",
}
#: what the first and the last update are compared in
ENDS = ("rollout/success", "entropy", "groups/distinct_signatures", "groups/distinct_winning", "groups/without_signal")
#: points of all training curves together, so that the page stays small; of one curve at least; bars of one chart
MOST_POINTS, LEAST_POINTS, MOST_BARS = 15_000, 8, 100
#: shares of groups without signal from which a report warns
MUCH_WITHOUT_SIGNAL = 0.5
#: share of repeated attempts from which it does
MUCH_REPEATED = 0.5
#: of the last update
WATCHED = ("groups/distinct_share", "critic/explained_variance", "duplicates/observed", "duplicates/expected")


@dataclass
class RunFiles:
    """One run's folder: updates of its metrics, trees, settings (with ``origin``), and what could not be read."""

    name: str
    folder: Path
    seed: int | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    trees: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_run(name: str, folder: str | Path) -> RunFiles:
    """What a folder holds of a run; a Hub id, or a policy that no run of ours made, holds nothing."""
    run = RunFiles(name, Path(folder))
    if run.folder.resolve().name.startswith("checkpoint-"):
        run.folder = run.folder.resolve().parent
    run.metrics = [line for line in _lines(run, "metrics.jsonl") if STEPS in line]
    run.trees = _lines(run, TREES_FILE)
    path = run.folder / RUN_FILE
    if path.is_file():
        try:
            run.settings = dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            run.notes.append(f"{path} cannot be read ({error})")
    run.seed = run.settings.get("trainer", {}).get("seed")
    return run


def _lines(run: RunFiles, name: str) -> list[dict[str, Any]]:
    path = run.folder / name
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        run.notes.append(f"{path} cannot be read ({error})")
        return []


def training_charts(by_method: Mapping[str, Sequence[RunFiles]], names: Sequence[str]) -> list[charts.Spec]:
    """A chart of each metric that at least one run logged; ``names``: all policies, which fix the colours."""
    found = []
    logged = [metric for metric in CURVES if any(metric in line for own in by_method.values() for r in own
                                                 for line in r.metrics)]  # fmt: skip
    several = any(len(runs) > 1 for runs in by_method.values())
    curves = sum(len(runs) + 1 if len(runs) > 1 else 1 for runs in by_method.values())
    most = max(LEAST_POINTS, MOST_POINTS // max(1, curves * len(logged)))
    for metric in logged:
        rows = [row for name, runs in by_method.items() for row in _curve_rows(name, runs, metric, most)]
        if rows:
            found.append(charts.training_curve(CURVES[metric], rows, names, several=several))
    return found


def _curve_rows(name: str, runs: Sequence[RunFiles], metric: str, most: int) -> charts.Rows:
    """At most ``most`` points of each seed, and of their mean update by update (as far as every run got)."""
    logged = [(run.seed, [line for line in run.metrics if _is_number(line.get(metric))]) for run in runs]
    curves = [curve for _, curve in logged if curve]
    rows = []
    for seed, curve in logged if len(curves) > 1 else []:
        rows += [_point(name, seed, curve[i][STEPS], curve[i][metric]) for i in _thinned(len(curve), most)]
    for i in _thinned(min(map(len, curves), default=0), most):
        lines = [curve[i] for curve in curves]
        steps, value = fmean(line[STEPS] for line in lines), fmean(line[metric] for line in lines)
        rows.append({**_point(name, None, steps, value), "update": i + 1})
    return rows


def _thinned(length: int, most: int) -> list[int]:
    """At most ``most`` indices below ``length``, evenly spaced, the first and the last among them."""
    return sorted({round(i * (length - 1) / max(1, min(length, most) - 1)) for i in range(min(length, most))})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _point(name: str, seed: int | None, steps: float, value: float) -> dict[str, Any]:
    return {"policy": name, "seed": seed, "steps": round(steps), "value": float(f"{value:.4g}")}


def signal_charts(by_method: Mapping[str, Sequence[RunFiles]]) -> list[charts.Spec]:
    """For each method with groups that taught nothing: why, over its updates, a mean over seeds."""
    found = []
    for name, runs in by_method.items():
        updates = min((len(run.metrics) for run in runs), default=0)
        rows = [
            {"update": update + 1, "cause": cause, "share": round(fmean(own), 4)}
            for update in _thinned(updates, MOST_BARS)
            for metric, cause in charts.CAUSES
            if (own := [line[metric] for run in runs if _is_number((line := run.metrics[update]).get(metric))])
        ]
        if any(row["share"] for row in rows):
            found.append(charts.signal_causes(name, rows))
    return found


def first_and_last(by_method: Mapping[str, Sequence[RunFiles]]) -> list[dict[str, Any]]:
    """For each method ``{"policy", metric: (first update, last update)}`` of :data:`ENDS`, means over seeds."""
    found = []
    for name, runs in by_method.items():
        runs = [run for run in runs if run.metrics]
        if not runs:
            continue
        row: dict[str, Any] = {"policy": name}
        for metric in ENDS:
            ends = [(numbers[0], numbers[-1]) for r in runs if (numbers := _numbers(r, metric))]
            row[metric] = (fmean(a for a, _ in ends), fmean(b for _, b in ends)) if ends else None
        found.append(row)
    return found


def warnings(by_method: Mapping[str, Sequence[RunFiles]]) -> list[str]:
    """What training should not have done, in words: collapse, groups that teach nothing, a critic that explains
    nothing, attempts that repeat each other."""
    told = []
    for name, runs in by_method.items():
        for run in (run for run in runs if run.metrics):
            who = name if len(runs) == 1 else f"{name}, seed {run.seed}"
            limit = run.settings.get("objective", {}).get("collapse_share", 0.1)
            last = {metric: values[-1] for metric in WATCHED if (values := _numbers(run, metric))}
            silent = _numbers(run, "groups/without_signal")
            if last.get("groups/distinct_share", limit) < limit:
                told.append(
                    f"{who} collapsed: at the end the members of a group add {last['groups/distinct_share']:.2f} of "
                    f"the signatures that they could add to the first (collapse_share is {limit})."
                )
            if silent and fmean(silent) > MUCH_WITHOUT_SIGNAL:
                told.append(f"{who}: {fmean(silent):.0%} of its groups taught nothing, their sets all scored alike.")
            if last.get("critic/explained_variance", 1.0) <= 0:
                explained = last["critic/explained_variance"]
                told.append(f"{who}: at the end its critic explains nothing of the returns ({explained:.2f}).")
            if last.get("duplicates/observed", 0.0) > MUCH_REPEATED:
                told.append(
                    f"{who}: at the end {last['duplicates/observed']:.0%} of the attempts at one state repeat another "
                    f"one word for word ({last.get('duplicates/expected', 0.0):.0%} are expected from their "
                    "probabilities)."
                )
    return told


def _numbers(run: RunFiles, metric: str) -> list[float]:
    """The values of a metric, updates that have none left out."""
    return [line[metric] for line in run.metrics if _is_number(line.get(metric))]
