"""The coverage plot: pass@k against k with bands, and success per start state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from polytune.evaluation.summary import per_start

COLOURS = ("#6b7280", "#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#0e7490")


def plot_coverage(summary: dict[str, Any], records: Sequence[dict[str, Any]], path: str | Path, *, title: str) -> None:
    """Draw the figure and write it as PNG."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    coverage, success = figure.subplots(1, 2)
    ks = summary["ks"]
    for colour, (policy, measures) in zip(_cycle(len(summary["policies"])), summary["policies"].items(), strict=True):
        cells = [measures[f"pass@{k}"] for k in ks]
        coverage.fill_between(
            ks, [c["low"] for c in cells], [c["high"] for c in cells], color=colour, alpha=0.18, linewidth=0
        )
        coverage.plot(ks, [c["estimate"] for c in cells], "o-", color=colour, label=policy, markersize=4)
        rates = sorted((c["correct"] / c["n"] for c in per_start(records, policy).values()), reverse=True)
        success.plot(range(1, len(rates) + 1), rates, "-", drawstyle="steps-mid", color=colour, label=policy)
    coverage.set(
        xscale="log", xlabel="k", ylabel="pass@k", ylim=(0, 1.02), title=f"Coverage, {summary['level']:.0%} intervals"
    )
    coverage.set_xticks(ks, [str(k) for k in ks])
    coverage.minorticks_off()
    success.set(
        xlabel="start states, best first", ylabel="success", ylim=(-0.02, 1.02), title="Success per start state"
    )
    for axes in (coverage, success):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    coverage.legend(frameon=False, loc="lower right")
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
