"""The benchmark of methods as one picture: gain in success against gain in distinct winners, a panel for each base."""

from __future__ import annotations

from collections.abc import Mapping
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


def plot_gains(worlds: Mapping[str, Any], path: str | Path, *, level: float, names: Mapping[str, str]) -> None:
    """Worlds down, bases across; every method a point with its intervals, those that are resolved with their names.
    Writes a PNG; worlds without a finished cell are left out."""
    shown = {name: own for name, own in worlds.items() if any(map(_cells, own["bases"].values()))}
    bases = list(dict.fromkeys(base for own in shown.values() for base in own["bases"]))
    if not shown:
        return
    figure = Figure(figsize=(7.2 * len(bases), 6.0 * len(shown) + 0.6), layout="constrained")
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
    labelled = []
    for name, one in sorted(cells.items(), key=lambda item: item[1]["verdict"] in RESOLVED):
        x, y = (one["differences"][m] for m in ("success", coverage))
        style = {"color": SHADES[one["verdict"]], "alpha": 0.9 if one["verdict"] in RESOLVED else 0.45}
        axes.errorbar(
            x["estimate"], y["estimate"], _reach(y), _reach(x), fmt="o", markersize=4, elinewidth=0.7, **style
        )
        labelled.append((x["estimate"], y["estimate"], name, style["color"]))
    _label(axes, labelled)
    axes.set(xlabel="gain in success", ylabel=f"gain in {coverage.replace('_', ' ')}")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _reach(interval: Mapping[str, Any]) -> list[list[float]] | None:
    """Distances to both ends; None for an interval that nobody knows."""
    if interval["low"] is None:
        return None
    return [[interval["estimate"] - interval["low"]], [interval["high"] - interval["estimate"]]]


def _label(axes: Any, points: list[tuple[float, float, str, str]]) -> None:
    """Names in a column on the right, in the order of the points' heights, each with a thin line to its point."""
    low, high = axes.get_ylim()
    count = max(len(points), 1)
    for rank, (x, y, name, colour) in enumerate(sorted(points, key=lambda point: -point[1])):
        place = (1.02, 1 - (rank + 0.5) / count)
        axes.annotate(
            name, (x, y), xytext=place, textcoords="axes fraction", fontsize=6.5, color=colour, va="center",
            annotation_clip=False, arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.35, "alpha": 0.5},
        )  # fmt: skip
    axes.set_ylim(low, high)
