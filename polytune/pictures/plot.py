"""The coverage plot: pass@k against k with bands, and success per start state; perturbed policies beside, dashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from polytune.evaluation.summary import counted, per_start

COLOURS = ("#6b7280", "#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#0e7490")
#: one more than the colours, so that the seventh policy is no twin of the first
MARKERS = "osD^vPX"
#: of bars, once the colours come again
HATCHES = ("", "//", "..", "xx")
#: of perturbations
DASHES = ("--", ":", "-.")


def as_label(text: str) -> str:
    """``text`` as a picture shows it letter by letter: no formula between two $, in a legend also with a _ in front,
    and half a character as its number."""
    text = text.encode(errors="backslashreplace").decode()
    return ("\u200b" if text.startswith("_") else "") + text.replace("$", r"\$")  # \u200b has no width


def bar_style(index: int, colours: Sequence[str] = COLOURS) -> dict[str, str]:
    """Colour and hatch of bar number ``index``; its edge is white, which draws the hatch."""
    return {
        "color": colours[index % len(colours)],
        "hatch": HATCHES[index // len(colours) % len(HATCHES)],
        "edgecolor": "white",
        "linewidth": 0,
    }


def plot_coverage(summary: dict[str, Any], records: Sequence[Mapping], path: str | Path, *, title: str) -> None:
    """Draw the figure and write it as PNG. ``records``: those of the start states as they are."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    coverage, success = figure.subplots(1, 2)
    ks, num_policies = summary["ks"], len(summary["policies"])
    for index, (policy, measures) in enumerate(summary["policies"].items()):
        style = {"color": COLOURS[index % len(COLOURS)], "label": as_label(policy)}
        marker = MARKERS[index % len(MARKERS)]
        # policies stand side by side at each k, so that none hides another
        aside = 1.05 ** (index - (num_policies - 1) / 2)
        _curve(coverage, measures, ks, aside, f"{marker}-", **style)
        for dashes, (perturb, own) in zip(cycle(DASHES), summary.get("perturbed", {}).items(), strict=False):
            named = style | {"label": as_label(f"{policy}, {perturb}"), "alpha": 0.75, "mfc": "white"}
            _curve(coverage, own["policies"][policy], ks, aside * 1.02, f"{marker}{dashes}", **named)
        rates = sorted((c["correct"] / c["n"] for c in per_start(records, policy).values()), reverse=True)
        places = range(1, len(rates) + 1)
        success.plot(places, rates, f"{marker}-", linewidth=1, markersize=3.5, clip_on=False, **style)
    samples = min(c["n"] for c in per_start(records, next(iter(summary["policies"]))).values())
    coverage.set(xscale="log", xlabel="samples k", ylabel="pass@k", ylim=(0, 1))
    over = "start states" if len(rates) > 1 else "the start state's samples"
    coverage.set_title(f"Coverage, {100 * summary['level']:.4g} % intervals over {over}")
    coverage.set_xticks(ks, [str(k) for k in ks])
    coverage.set_xlim(ks[0] / 1.25, ks[-1] * 1.25)
    coverage.minorticks_off()
    success.set(xlabel="start states, ranked for each policy, best first", ylabel="share of samples", ylim=(0, 1))
    success.set_title(f"Success at each start state, {counted(samples, 'sample')}")
    success.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axes in (coverage, success):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = coverage.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=min(len(labels), 4))
    figure.suptitle(as_label(title))
    figure.savefig(path, dpi=130)


def _curve(axes: Any, measures: dict[str, Any], ks: Sequence[int], aside: float, line: str, **style: Any) -> None:
    """pass@k of one policy with its intervals; ``aside``: the factor by which it stands beside its k."""
    cells = [measures[f"pass@{k}"] for k in ks]
    estimates = [c["estimate"] for c in cells]
    reach = [[c["estimate"] - c["low"] for c in cells], [c["high"] - c["estimate"] for c in cells]]
    places = [k * aside for k in ks]
    axes.errorbar(places, estimates, reach, fmt=line, markersize=4.5, elinewidth=1, capsize=2.5, clip_on=False, **style)
