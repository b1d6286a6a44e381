"""The benchmark of methods as one picture: gain in success against gain in distinct winners, a panel for each base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from polytune.pictures.plot import COLOURS

#: verdict -> colour
SHADES = {
    "gains": COLOURS[3],
    "harms": COLOURS[1],
    "trades": COLOURS[4],
    "not resolved": COLOURS[0],
    "changes nothing": "#c4c7cc",
}
RESOLVED = ("gains", "harms", "trades")
#: names in a panel at most
NAMED = 18


def plot_gains(worlds: Mapping[str, Any], path: str | Path, *, level: float, names: Mapping[str, str]) -> None:
    """Worlds down, bases across; every method a point, those that matter most with name and intervals. Writes a PNG;
    worlds without a finished cell are left out."""
    shown = {name: own for name, own in worlds.items() if any(map(_cells, own["bases"].values()))}
    bases = list(dict.fromkeys(base for own in shown.values() for base in own["bases"]))
    if not shown:
        return
    figure = Figure(figsize=(7.0 * len(bases), 4.8 * len(shown) + 0.6), layout="constrained")
    panels = figure.subplots(len(shown), len(bases), squeeze=False)
    for row, (world, own) in zip(panels, shown.items(), strict=True):
        for axes, base in zip(row, bases, strict=True):
            _panel(axes, _cells(own["bases"][base]), own["coverage"])
            axes.set_title(f"{world}, over {names.get(base, base)}")
    marks = [panels[0][0].plot([], [], "o", color=colour, label=word)[0] for word, colour in SHADES.items()]
    figure.legend(handles=marks, frameon=False, loc="outside lower center", ncols=len(marks))
    figure.suptitle(f"What each method adds to its base ({100 * level:.4g} % intervals over seeds)")
    figure.savefig(path, dpi=110)


def _cells(own: Mapping[str, Any]) -> dict[str, Any]:
    """The finished cells of a base."""
    return {name: one for name, one in own["methods"].items() if "differences" in one}


def _panel(axes: Any, cells: Mapping[str, Any], coverage: str) -> None:
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel="gain in success", ylabel=f"gain in {coverage.replace('_', ' ')}")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    points = {name: [one["differences"][m] for m in ("success", coverage)] for name, one in cells.items()}
    if not points:
        axes.text(0.5, 0.55, "no run yet", transform=axes.transAxes, ha="center")
        return
    spans = [_span([point[axis] for point in points.values()]) for axis in (0, 1)]
    named = _named(cells, points, spans)
    for name, (x, y) in points.items():
        style = {"color": SHADES[cells[name]["verdict"]], "alpha": 0.95 if name in named else 0.35}
        reach = (_reach(y), _reach(x)) if name in named else (None, None)
        axes.errorbar(x["estimate"], y["estimate"], *reach, fmt="o", markersize=4.5, elinewidth=0.7, **style)
    axes.set(xlim=spans[0], ylim=spans[1])  # long intervals are cut at the frame
    _label(axes, [(*(end["estimate"] for end in points[name]), name, SHADES[cells[name]["verdict"]]) for name in named])
    if others := len(points) - len(named):
        axes.text(
            0.01, 0.01, f"{others} others lie closer to 0", transform=axes.transAxes, fontsize=8, color=COLOURS[0]
        )


def _span(ends: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The range of the estimates, 0 among them, with a margin."""
    values = [0.0, *(end["estimate"] for end in ends)]
    margin = 0.15 * (max(values) - min(values)) or 1.0
    return min(values) - margin, max(values) + margin


def _named(cells: Mapping[str, Any], points: Mapping[str, Any], spans: Sequence[tuple[float, float]]) -> list[str]:
    """The methods that get a name: those that something is resolved of, then those that lie farthest from 0."""

    def distance(name: str) -> float:
        return sum((end["estimate"] / (high - low)) ** 2 for end, (low, high) in zip(points[name], spans, strict=True))

    moved = [name for name in points if distance(name) > 0]
    return sorted(moved, key=lambda name: (cells[name]["verdict"] not in RESOLVED, -distance(name)))[:NAMED]


def _reach(interval: Mapping[str, Any]) -> list[list[float]] | None:
    """Distances to both ends; None for an interval that nobody knows."""
    if interval["low"] is None:
        return None
    return [[interval["estimate"] - interval["low"]], [interval["high"] - interval["estimate"]]]


def _label(axes: Any, points: list[tuple[float, float, str, str]]) -> None:
    """Names in a column on the right, in the order of the points' heights, each with a thin line to its point."""
    for rank, (x, y, name, colour) in enumerate(sorted(points, key=lambda point: -point[1])):
        place = (1.03, 1 - (rank + 0.5) / len(points))
        arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6, "relpos": (0, 0.5)}
        text = {"fontsize": 9, "color": colour, "va": "center", "annotation_clip": False}
        axes.annotate(name, (x, y), xytext=place, textcoords="axes fraction", arrowprops=arrow, **text)
