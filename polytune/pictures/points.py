"""What groups of vines can teach at each point of a trajectory (`polytune/app/branch_points.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

SHOWN = ("variance", "live", "advantage", "distinct")


def plot_points(points: Sequence[Mapping[str, float]], titles: Mapping[str, str], path: Path) -> None:
    """One panel a measure of :data:`SHOWN` against the share of the turns at which the vines start."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(SHOWN), figsize=(3.4 * len(SHOWN), 3), layout="constrained")
    for axes, name in zip(panels, SHOWN, strict=True):
        axes.plot([point["at"] for point in points], [point[name] for point in points], "o-", color="#0072b2")
        axes.set(title=titles[name], xlabel="vines start after this share of the turns", ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
