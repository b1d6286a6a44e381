"""What tells many policies apart on a picture."""

import pytest
from matplotlib.figure import Figure
from test_evaluation_summary import records

from polytune.comparison import plot as comparison_plot
from polytune.evaluation import summarise
from polytune.pictures import plot


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, as they are then."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda own, *args, **kw: (figures.append(own), save(own, *args, **kw)))
    return figures


@pytest.mark.parametrize("name", ["_mine", "__init__", "lr$1e-3$", r"a$\q$", r"\$5", "$", "caf\udce9"])
def test_a_name_is_shown_letter_by_letter(tmp_path, drawn, name):
    taken = records("start", {0: "wl", 1: "ll"}) + records(name, {0: "ww", 1: "ll"})
    summary = summarise(taken, ["start", name])
    plot.plot_coverage(summary, taken, tmp_path / "coverage.png", title=name)
    (text,) = [own for own in drawn[0].legends[0].get_texts() if own.get_text() != "start"]
    written, formula = text._preprocess_math(text.get_text())
    assert written.strip("\u200b") == name.replace("\udce9", r"\udce9") and not formula


def test_a_comparison_names_every_method_in_its_legend(tmp_path, drawn):
    ends = {"estimate": 0.5, "low": 0.4, "high": 0.6}
    policies = dict.fromkeys(("pretrained", "_mine", "ppo"), {"pass@1": ends, "pass@2": ends})
    summary = {"policies": policies, "differences": {"ppo": {"_mine": policies["ppo"]}}, "baseline": "ppo",
               "ks": [1, 2], "level": 0.95, "seeds": [0], "starts": "start states", "start_states": 2}  # fmt: skip
    comparison_plot.plot_coverage_curves(summary, tmp_path / "coverage.png", title="x")
    assert [text.get_text().strip("\u200b") for text in drawn[0].legends[0].get_texts()] == list(policies)


def test_a_dozen_policies_are_told_apart():
    bars = [tuple(plot.bar_style(index).items()) for index in range(24)]
    assert len(set(bars)) == 24
    own = [tuple(plot.bar_style(index, comparison_plot.COLOURS).items()) for index in range(28)]
    assert len(set(own)) == 28
    marks = {(plot.COLOURS[i % len(plot.COLOURS)], plot.MARKERS[i % len(plot.MARKERS)]) for i in range(42)}
    assert len(marks) == 42
    names = [f"m{i}" for i in range(28)]
    assert len({tuple(comparison_plot._style(name, names).items()) for name in names}) == 28
