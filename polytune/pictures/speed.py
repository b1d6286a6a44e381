"""The speed of training loops, before and after, and where the time of an update goes."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.figure import Figure

from polytune.pictures.plot import COLOURS

#: metric of an update -> what it is called
PARTS = {
    "seconds/rollouts": "rollouts",
    "seconds/scoring": "scoring",
    "seconds/critic": "critic",
    "seconds/update": "passes with gradients",
}


def plot_speed(report: dict[str, Any], path: str | Path) -> None:
    """Draw a report of ``recipes/bench_training.py`` as PNG: rates of each case by CPU seconds, medians with the least
    and the most, and the share of its parts in an update's seconds."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    rates, parts = figure.subplots(1, 2)
    names, cases = zip(*report["cases"].items(), strict=True)
    trees = [tree for tree in ("old", "new") if any(tree in case for case in cases)]
    for index, tree in enumerate(trees):
        found = [case[tree]["per_cpu_second"] for case in cases if tree in case]
        offset = 0.4 * (index - (len(trees) - 1) / 2)
        places = [place + offset for place, case in enumerate(cases) if tree in case]
        medians = [rate["median"] for rate in found]
        reach = [[m - r["min"] for m, r in zip(medians, found, strict=True)],
                 [r["max"] - m for m, r in zip(medians, found, strict=True)]]  # fmt: skip
        label = f"{tree} ({report['commits'][tree][:7]})"
        bars = rates.bar(places, medians, 0.38, yerr=reach, color=COLOURS[2 * index], label=label, capsize=2)
        rates.bar_label(bars, [f"{m:,.0f}" for m in medians], padding=2, fontsize=8)
    rates.set(ylabel="steps or answers a CPU second", title="Whole training loops on one core")
    rates.legend(frameon=False)
    for place, case in enumerate(cases):
        own, bottom = case["new"], 0.0
        total = sum(own[metric]["median"] for metric in PARTS)
        for colour, (metric, title) in zip(COLOURS[1:], PARTS.items(), strict=False):
            height = own[metric]["median"] / total
            parts.bar(place, height, 0.6, bottom=bottom, color=colour, label=title if place == 0 else None)
            bottom += height
    parts.set(ylabel="share of an update's seconds", title="Where the time goes, after", ylim=(0, 1.15))
    parts.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8)
    for axes in (rates, parts):
        axes.set_xticks(range(len(names)), [fill(case["title"], 13) for case in cases], fontsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
