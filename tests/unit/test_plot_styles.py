"""What tells many policies apart on a picture."""

from polytune.comparison import plot as comparison_plot
from polytune.pictures import plot


def test_a_dozen_policies_are_told_apart():
    bars = [tuple(plot.bar_style(index).items()) for index in range(24)]
    assert len(set(bars)) == 24
    own = [tuple(plot.bar_style(index, comparison_plot.COLOURS).items()) for index in range(28)]
    assert len(set(own)) == 28
    marks = {(plot.COLOURS[i % len(plot.COLOURS)], plot.MARKERS[i % len(plot.MARKERS)]) for i in range(42)}
    assert len(marks) == 42
    names = [f"m{i}" for i in range(28)]
    assert len({tuple(comparison_plot._style(name, names).items()) for name in names}) == 28
