"""What training left in a run's folder, as a report shows it: curves, signal of the groups, signs of collapse."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from polytune.places import at_home
from polytune.policy.run_file import RUN_FILE
from polytune.report import charts
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
    "advantages/set_scale_raw": "size of set advantages before scaling (std)",
    "advantages/gae_scale_raw": "size of the critic's advantages before scaling (std)",
    "critic/explained_variance": "variance that the critic explains",
    "kl": "KL to the behaviour policy",
    "duplicates/observed": "repeated attempts, share",
    "actions/invalid_rate": "invalid actions, share",
    "speed/env_steps_per_second": "environment steps a second, of the whole loop",
    "seconds/rollouts": "seconds of an update's rollouts",
    "seconds/update": "seconds of its passes with gradients",
}
#: metric -> title, of what the first and the last update are compared in
ENDS = {
    "rollout/success": "success of rollouts",
    "entropy": "entropy",
    "groups/distinct_signatures": "distinct signatures per group",
    "groups/distinct_winning": "distinct winning signatures per group",
    "groups/without_signal": "groups without signal",
}
#: points of all training curves together, so that the page stays small; of one curve at least; bars of one chart
MOST_POINTS, LEAST_POINTS, MOST_BARS = 15_000, 8, 100
#: shares of groups without signal from which a report warns
MUCH_WITHOUT_SIGNAL = 0.5
#: share of repeated attempts from which it does, if it has doubled; share of the entropy that is left
MUCH_REPEATED, LOST_ENTROPY = 0.5, 0.5
#: updates that are the end of a run
AT_THE_END = 3


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

    @property
    def label(self) -> str:
        """The run's name, with its seed where that is known."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"


def read_run(name: str, folder: str | Path | None) -> RunFiles:
    """What a folder holds of a run, of a ``checkpoint-N`` up to there; a Hub id, a policy that no run of ours made, and
    None, an unknown one, hold nothing. What is damaged is left out from there on, and noted."""
    run, last = _with_metrics(name, folder)
    run.trees = [line for line in _lines(run, TREES_FILE) if _until(line, last)]
    path = run.folder / RUN_FILE
    if path.is_file():
        try:
            found = json.loads(path.read_text())
            run.settings = {part: fields for part, fields in found.items() if isinstance(fields, dict)}
        except (ValueError, AttributeError) as error:
            run.notes.append(f"{path} cannot be read ({error})")
    run.seed = run.settings.get("trainer", {}).get("seed")
    return run


def budget_of(folder: str | Path | None) -> int | None:
    """Environment steps that the policy of a folder was trained on; None where no run of ours tells."""
    run, _ = _with_metrics("", folder)
    return int(run.metrics[-1][STEPS]) if run.metrics else None


def _with_metrics(name: str, folder: str | Path | None) -> tuple[RunFiles, int | None]:
    """A run with its metrics alone, and of a checkpoint the step that it ends at."""
    run, last = RunFiles(name, Path(at_home(str(folder or os.devnull)))), None
    whole = run.folder.resolve()
    if (step := whole.name.removeprefix("checkpoint-")) != whole.name and step.isdecimal():  # or somebody's own name
        run.folder, last = whole.parent, int(step)
    lines = _lines(run, "metrics.jsonl")
    run.metrics = [line for line in lines if _is_number(line.get(STEPS)) and _until(line, last)]
    return run, last


def _until(line: Mapping[str, Any], last: int | None) -> bool:
    return last is None or (_is_number(line.get("step")) and line["step"] <= last)


def _lines(run: RunFiles, name: str) -> list[dict[str, Any]]:
    """The records of a JSONL file, up to one that is damaged or that a kill cut short; NaN is None."""
    path, found = run.folder / name, []
    for number, text in enumerate(path.read_text().splitlines() if path.is_file() else [], start=1):
        try:
            line = json.loads(text, parse_constant=lambda _: None)
        except ValueError:
            line = None
        if not isinstance(line, dict):
            run.notes.append(f"{path} is damaged from line {number} on, which is left out")
            break
        found.append(line)
    return found


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
    """For each method ``{"policy", metric: (first update, last update)}`` of :data:`ENDS`, means over those seeds that
    have both; None for what no seed has."""
    found = []
    for name, runs in by_method.items():
        runs = [run for run in runs if run.metrics]
        if not runs:
            continue
        row: dict[str, Any] = {"policy": name}
        for metric in ENDS:
            pairs = [(r.metrics[0].get(metric), r.metrics[-1].get(metric)) for r in runs]
            ends = [pair for pair in pairs if all(map(_is_number, pair))]
            row[metric] = (fmean(a for a, _ in ends), fmean(b for _, b in ends)) if ends else None
        found.append(row)
    return found


def warnings(by_method: Mapping[str, Sequence[RunFiles]]) -> list[str]:
    """What training should not have done, in words: siblings that become alike, entropy that is lost, groups without
    signal, a critic that explains nothing, attempts that come to repeat each other."""
    told = []
    for name, runs in by_method.items():
        for run in (run for run in runs if run.metrics):
            who = name if len(runs) == 1 else f"{name}, seed {run.seed}"
            told += [f"{who}: {line}" for line in _warnings_of(run)]
    return told


def _warnings_of(run: RunFiles) -> list[str]:
    told = []
    limit = run.settings.get("objective", {}).get("collapse_share", 0.1)
    before, share = _ends(run, "groups/distinct_share")
    if share is not None and share < limit:
        how = f"down from {before:.2f}" if before >= limit else "alike from the beginning"
        told.append(
            f"collapsed: of the signatures that a group's members could add to the first, {share:.2f} are left at the "
            f"end ({how}; collapse_share is {limit})."
        )
    before, entropy = _ends(run, "entropy")
    if entropy is not None and entropy < LOST_ENTROPY * before:
        told.append(f"entropy fell from {before:.3f} to {entropy:.3f} nats per token.")
    silent = _numbers(run, "groups/without_signal")
    if silent and fmean(silent) > MUCH_WITHOUT_SIGNAL:
        told.append(f"{fmean(silent):.0%} of its groups gave no set advantage, their sets all scored alike.")
    _, explained = _ends(run, "critic/explained_variance")
    if explained is not None and explained <= 0:
        told.append(f"at the end its critic explains nothing of the returns ({explained:.2f}).")
    before, repeated = _ends(run, "duplicates/observed")
    if repeated is not None and repeated > max(MUCH_REPEATED, 2 * before):
        told.append(
            f"{repeated:.0%} of the attempts at one state repeat another one word for word at the end, {before:.0%} "
            "did at the beginning."
        )
    return told


def without_groups(by_method: Mapping[str, Sequence[RunFiles]]) -> list[str]:
    """Methods whose runs formed no groups, so that nothing is known of how alike siblings were."""
    return [
        name
        for name, runs in by_method.items()
        if any(run.metrics for run in runs) and not any(_numbers(run, "groups/distinct_share") for run in runs)
    ]


def _ends(run: RunFiles, metric: str) -> tuple[float | None, float | None]:
    """A metric in the first and, meaned, in the last :data:`AT_THE_END` updates; None where one of them has none."""
    first, last = run.metrics[:1], run.metrics[-AT_THE_END:]
    values = [[line.get(metric) for line in lines] for lines in (first, last)]
    if not all(_is_number(value) for own in values for value in own):
        return None, None
    return values[0][0], fmean(values[1])


def _numbers(run: RunFiles, metric: str) -> list[float]:
    """The values of a metric, updates that have none left out."""
    return [line[metric] for line in run.metrics if _is_number(line.get(metric))]
