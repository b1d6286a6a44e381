"""The creativity of policies as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from polytune.pictures.plot import COLOURS, MARKERS, as_label, bar_style


def plot(creativity: Mapping[str, Mapping[str, Any]], path: str | Path, *, title: str, ceiling: int) -> None:
    """Shares with intervals; unseen objects found against samples drawn, with the ceiling."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    shares, covered = figure.subplots(1, 2)
    shown = ("validity", "diversity", "creativity", "memorisation")
    for index, (policy, own) in enumerate(creativity.items()):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        width = 0.8 / len(creativity)
        places = [place + width * (index - (len(creativity) - 1) / 2) for place in range(len(shown))]
        cells = [own[name] for name in shown]
        heights = [cell["estimate"] or 0.0 for cell in cells]
        shares.bar(places, heights, width * 0.92, **bar_style(index), label=as_label(policy))
        reach = [[0.0 if c[end] is None else abs(c[end] - c["estimate"]) for c in cells] for end in ("low", "high")]
        shares.errorbar(places, heights, reach, fmt="none", ecolor="#111827", elinewidth=1, capsize=2)
        curve = own["coverage"]
        estimates = [cell["estimate"] for cell in curve["unseen"]]
        covered.plot(curve["samples"], estimates, f"{marker}-", color=colour, markersize=4.5, clip_on=False)
        low, high = ([cell[end] for cell in curve["unseen"]] for end in ("low", "high"))
        covered.fill_between(curve["samples"], low, high, color=colour, alpha=0.15, linewidth=0)
    shares.set_xticks(range(len(shown)), shown)
    shares.set(ylim=(0, 1), title="One sample for each prompt")
    covered.set(xscale="log", xlabel="samples", ylabel="distinct valid objects not in training", ylim=(0, None))
    top = covered.get_ylim()[1]
    if ceiling <= 4 * top:
        covered.axhline(ceiling, color="#111827", linestyle="--", linewidth=1)
        covered.set_ylim(0, max(top, 1.08 * ceiling))
    covered.set_title(f"Coverage of the unseen, {ceiling:,} in all")
    samples = sorted({m for own in creativity.values() for m in own["coverage"]["samples"]})
    covered.set_xticks(samples, [f"{m:,}" for m in samples])
    covered.minorticks_off()
    for axes in (shares, covered):
        axes.grid(alpha=0.25, axis="y")
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = shares.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=min(len(labels), 4))
    figure.suptitle(as_label(title))
    figure.savefig(path, dpi=130)
