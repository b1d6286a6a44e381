"""A comparison's plots: coverage curves and training curves, both with bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from polytune.comparison.figures import Figures
from polytune.comparison.methods import PRETRAINED
from polytune.evaluation.summary import counted
from polytune.measures.intervals import student
from polytune.pictures.plot import as_label, bar_style

#: Okabe and Ito's palette, which colour-blind readers tell apart, without its yellow; black is the pretrained policy
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D")
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", ":")
TRAINING = (
    ("rollout/success", "success of rollouts"),
    ("rollout/return", "return of rollouts"),
    ("entropy", "entropy of rollouts (nats per token)"),
    ("groups/distinct_signatures", "distinct signatures per group"),
    ("groups/without_signal", "share of groups without signal"),
)
#: a training curve is averaged over one of so many parts of its updates: an update sees few of the start states
SPANS = 12


def _style(name: str, names: Sequence[str]) -> dict[str, Any]:
    """A method's colour is its place among the methods; dashes tell those apart that are more than the colours."""
    if name == PRETRAINED:
        return {"color": "black", "linestyle": (0, (5, 3))}
    index = list(names).index(name)
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}


def plot_coverage_curves(summary: dict[str, Any], path: str | Path, *, title: str) -> None:
    """pass@k against k with bands (the pretrained policy dashed), and each method's paired difference to one."""
    figure = Figure(figsize=(12.5, 5.6), layout="constrained")
    curves, gaps = figure.subplots(1, 2)
    ks, baseline = summary["ks"], summary["baseline"]
    methods = [name for name in summary["policies"] if name != PRETRAINED]
    for name in [PRETRAINED, *methods]:
        low, middle, high = _pass_at_k(summary["policies"][name], ks)
        style = _style(name, methods)
        marker = "" if name == PRETRAINED else MARKERS[methods.index(name) % len(MARKERS)]
        curves.fill_between(ks, low, high, color=style["color"], alpha=0.08, linewidth=0)
        curves.plot(
            ks, middle, marker=marker, markersize=5, linewidth=1.8, label=as_label(name), clip_on=False, **style
        )
    others = [name for name in methods if name != baseline]
    gaps.axhline(0, color=_style(baseline, methods)["color"], linewidth=1.8)
    for index, name in enumerate(others):
        low, middle, high = _pass_at_k(summary["differences"][baseline][name], ks)
        beside = [k * 1.045 ** (index - (len(others) - 1) / 2) for k in ks]  # side by side, so that none hides another
        marker = MARKERS[methods.index(name) % len(MARKERS)]
        gaps.errorbar(beside, middle, [middle - low, high - middle], marker=marker, markersize=5, elinewidth=1.1,
                      capsize=2.5, linewidth=1.0, **_style(name, methods))  # fmt: skip
    if not others:
        gaps.text(0.5, 0.6, "one method only", transform=gaps.transAxes, ha="center", color="gray")
    for axes in (curves, gaps):
        axes.set_xscale("log", base=2)
        axes.set_xticks(ks, [str(k) for k in ks])
        axes.minorticks_off()
        axes.set(xlabel="samples k", xlim=(ks[0] / 1.25, ks[-1] * 1.25))
        _tidy(axes)
    floor = min(curves.get_ylim()[0], 0.9)
    curves.set(ylabel="pass@k", ylim=(max(0.0, floor), 1.0))
    gaps.set(ylabel=f"pass@k minus that of {baseline}")
    level = f"{100 * summary['level']:.4g} %"
    curves.set_title(f"Coverage, {level} bands", fontsize=11)
    gaps.set_title(f"Paired difference to {baseline}, {level} intervals", fontsize=11)
    handles, labels = curves.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=min(len(labels), 6))
    figure.suptitle(as_label(f"{title}: {_seeds_and_starts(summary)}"))
    figure.savefig(path, dpi=130)


def _pass_at_k(measures: dict[str, Any], ks: Sequence[int]) -> np.ndarray:
    """Low ends, estimates and high ends over k."""
    return np.array([[measures[f"pass@{k}"][end] for k in ks] for end in ("low", "estimate", "high")])


def plot_creativity(summary: dict[str, Any], path: str | Path, *, title: str) -> None:
    """Validity, diversity and creativity of each policy with intervals, a dot for each seed; the pretrained policy's
    level as a dashed line."""
    figure = Figure(figsize=(12.5, 4.8), layout="constrained")
    shown = ("success", "diversity", "creativity")
    methods = [name for name in summary["policies"] if name != PRETRAINED]
    plots = figure.subplots(1, 3)
    for axes, measure in zip(plots, shown, strict=True):
        start = summary["policies"][PRETRAINED][measure]["estimate"]
        axes.axhline(start, color="black", linestyle=(0, (5, 3)), linewidth=1.2, label=PRETRAINED)
        for place, name in enumerate(methods):
            cell = summary["policies"][name][measure]
            axes.bar(place, cell["estimate"], 0.7, alpha=0.75, **bar_style(place, COLOURS))
            if cell["low"] is not None:
                reach = [[cell["estimate"] - cell["low"]], [cell["high"] - cell["estimate"]]]
                axes.errorbar([place], [cell["estimate"]], reach, color="#111827", elinewidth=1.2, capsize=3)
            own = [run[measure] for run in summary["runs"][name].values()]
            spread = np.linspace(-0.18, 0.18, len(own)) if len(own) > 1 else [0.0]
            axes.plot(place + np.array(spread), own, "o", markersize=3.5, color="#111827", alpha=0.7)
        slanted = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if len(methods) > 4 else {}
        axes.set_xticks(range(len(methods)), methods, **slanted)
        axes.set_title({"success": "validity"}.get(measure, measure), fontsize=11)
        axes.set_ylim(0, None)
        _tidy(axes)
    figure.legend(*plots[0].get_legend_handles_labels(), frameon=False, loc="outside lower center")
    figure.suptitle(as_label(f"{title}: {_seeds_and_starts(summary)}"))
    figure.savefig(path, dpi=130)


def plot_training(by_method: Mapping[str, Sequence[Figures]], path: str | Path, *, title: str, level: float) -> None:
    """Metrics against environment steps: the mean over seeds of each one's running mean (:data:`SPANS`), with a band of
    Student's intervals over seeds (``level``); a method's only seed without a band, its updates a thin line."""
    figure = Figure(figsize=(12.5, 7), layout="constrained")
    grid = figure.subplots(2, 3)
    handles: dict[str, Any] = {}
    for axes, (metric, label) in zip(grid.flat, TRAINING, strict=False):
        for name, own in by_method.items():
            points = [
                [(r["rollout/env_steps"], r[metric]) for r in f.metrics if r.get(metric) is not None] for f in own
            ]
            curves = [np.array(curve) for curve in points if curve]
            if curves:
                handles[name] = _learning_curve(axes, curves, level, _style(name, list(by_method)))
        if not axes.lines:
            axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", va="center", color="gray")
        axes.set_title(label, fontsize=11)
        axes.set(xlabel="environment steps", xlim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
        _tidy(axes)
    grid.flat[-1].axis("off")
    told = f"mean over seeds of running means\n(bands: {100 * level:.4g} % intervals over seeds)"
    names = [as_label(name) for name in handles]
    grid.flat[-1].legend(handles.values(), names, frameon=False, loc="center", fontsize=11, title=told)
    figure.suptitle(as_label(title))
    figure.savefig(path, dpi=130)


def _learning_curve(axes: Any, curves: Sequence[np.ndarray], level: float, style: Mapping[str, Any]) -> Any:
    """The line of one method; ``curves``: (updates, 2) of each seed, steps and values."""
    length = min(map(len, curves))
    smooth_R_U_2 = np.array([running_mean(curve[:length], max(1, round(length / SPANS))) for curve in curves])
    mean_U_2 = smooth_R_U_2.mean(axis=0)
    if len(curves) == 1:
        axes.plot(*curves[0].T, linewidth=0.6, alpha=0.4, **style)
    else:
        band = student(smooth_R_U_2[:, :, 1], level)
        axes.fill_between(mean_U_2[:, 0], *band, color=style["color"], alpha=0.1, linewidth=0)
    return axes.plot(*mean_U_2.T, linewidth=2, marker="o" if length == 1 else "", **style)[0]


def running_mean(values_U_D: np.ndarray, span: int) -> np.ndarray:
    """Means over ``span`` neighbouring rows, one for each place where so many are: (U - span + 1, D)."""
    return np.lib.stride_tricks.sliding_window_view(values_U_D, span, axis=0).mean(axis=-1)


def _seeds_and_starts(summary: dict[str, Any]) -> str:
    return f"{counted(len(summary['seeds']), 'seed')} x {summary['start_states']:,} {summary['starts']}"


def _tidy(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
