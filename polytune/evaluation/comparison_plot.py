"""A comparison's plots: coverage curves with bands, training curves with a thin line per seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from polytune.evaluation.comparison import Figures
from polytune.evaluation.comparison_runs import PRETRAINED

#: Okabe and Ito's palette, which colour-blind readers tell apart, without its yellow; black is the pretrained policy
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D")
MARKERS = "osD^vPX"
DASHES = ("-", "--", "-.", ":")
TRAINING = (
    ("rollout/success", "success of rollouts", (0, 1)),
    ("rollout/return", "return of rollouts", (0, 1)),
    ("entropy", "entropy (nats per token)", (0, None)),
    ("groups/distinct_signatures", "distinct signatures per group", (0, None)),
    ("groups/without_signal", "share of groups without signal", (0, 1)),
)


def _style(index: int) -> dict[str, Any]:
    """Colour first, then dashes when the colours are used up."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}


def plot_coverage_curves(summary: dict[str, Any], path: str | Path, *, title: str) -> None:
    """pass@k against k: one line per method, its band over seeds and start states; the pretrained policy dashed."""
    figure = Figure(figsize=(7.5, 5.2), layout="constrained")
    axes, ks = figure.subplots(), summary["ks"]
    methods = [name for name in summary["policies"] if name != PRETRAINED]
    lowest = 1.0
    for index, name in enumerate([PRETRAINED, *methods]):
        cells = [summary["policies"][name][f"pass@{k}"] for k in ks]
        style = {"color": "black", "linestyle": (0, (5, 3))} if name == PRETRAINED else _style(index - 1)
        marker = "" if name == PRETRAINED else MARKERS[(index - 1) % len(MARKERS)]
        axes.fill_between(ks, [c["low"] for c in cells], [c["high"] for c in cells], color=style["color"], alpha=0.1,
                          linewidth=0)  # fmt: skip
        axes.plot(ks, [c["estimate"] for c in cells], marker=marker, markersize=5, linewidth=1.8, label=name,
                  clip_on=False, zorder=3, **style)  # fmt: skip
        lowest = min(lowest, *(c["low"] for c in cells))
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    floor = max(0.0, np.floor(10 * lowest) / 10)
    axes.set(xlabel="samples k", ylabel="pass@k", ylim=(floor, 1.0), xlim=(ks[0] / 1.08, ks[-1] * 1.08))
    over = f"{100 * summary['level']:.4g} % bands over {len(summary['seeds'])} seeds and "
    axes.set_title(f"{title}\n{over}{summary['start_states']} start states", fontsize=10)
    _tidy(axes)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=140)


def plot_training(by_method: Mapping[str, Sequence[Figures]], path: str | Path, *, title: str) -> None:
    """Metrics against environment steps: the mean over seeds, and each seed as a thin line."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    grid = figure.subplots(2, 3)
    for axes, (metric, label, (low, high)) in zip(grid.flat, TRAINING, strict=False):
        drawn = False
        for index, (name, own) in enumerate(by_method.items()):
            curves = [
                np.array([(r["rollout/env_steps"], r[metric]) for r in f.metrics if r.get(metric) is not None])
                for f in own
            ]
            curves = [curve for curve in curves if len(curve)]
            if not curves:
                continue
            drawn = True
            if len(curves) > 1:
                for curve in curves:
                    axes.plot(*curve.T, linewidth=0.6, alpha=0.4, **_style(index))
            length = min(map(len, curves))
            mean = np.mean([curve[:length] for curve in curves], axis=0)
            axes.plot(*mean.T, linewidth=2, marker="o" if length == 1 else "", label=name, **_style(index))
        axes.set(ylabel=label, xlabel="environment steps", xlim=(0, None), ylim=(low, high))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
        if not drawn:
            axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", va="center", color="gray")
        _tidy(axes)
    last = grid.flat[-1]
    last.axis("off")
    handles = {
        label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    last.legend(handles.values(), handles.keys(), frameon=False, loc="center", fontsize=11,
                title="mean over seeds (thin: each seed)")  # fmt: skip
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def _tidy(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
