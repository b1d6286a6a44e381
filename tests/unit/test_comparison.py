"""Comparisons of fabricated runs: figures, budgets, tables, what is refused before work is spent, what is kept."""

import json
import math
import random
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from polytune.app.cli import parse
from polytune.comparison import figures as comparison
from polytune.comparison import keep as comparison_keep
from polytune.comparison import methods as comparison_methods
from polytune.comparison import plot as comparison_plot
from polytune.comparison import runs as comparison_runs
from polytune.comparison import table as comparison_table
from polytune.comparison.methods import Method
from polytune.comparison.options import ComparisonConfig, parse_seeds
from polytune.comparison.perturbed import compare_perturbed
from polytune.comparison.runs import Run
from polytune.config import AdapterConfig, ObjectiveConfig, PolicyConfig, RolloutConfig, TaskConfig
from polytune.run import RunConfig
from polytune.tasks import load_task
from polytune.trainer import PolychromicConfig

ROOT = Path(__file__).resolve().parents[2]


def fabricate(run, *, skill, starts=12, samples=8, env_steps=1000, step=8, updates=4, spread=1.0, seed=0, old=False):
    """A finished run's folder without any training; ``skill``: the logit of success at a start state of mean level."""
    level, luck = random.Random(1), random.Random(f"{run.name} {seed}")
    difficulty = [level.gauss(0, spread) for _ in range(starts)]
    (run.folder / "evaluation").mkdir(parents=True)
    lines = []
    for attempt in (-1, *range(samples)):
        for start in range(starts):
            success = luck.random() < 1 / (1 + math.exp(-skill - difficulty[start]))
            line = {
                "policy": run.policy_name, "start_seed": start, "attempt": attempt, "greedy": attempt < 0,
                "success": success, "return": 0.75 * success, "turns": 10, "stop_reason": "success",
                "signature": [luck.randrange(5)], "invalid_actions": 0, "logprob": -4.0, "actions": "",
            }  # fmt: skip
            if old:
                del line["logprob"]
            lines.append(json.dumps(line) + "\n")
    run.records.write_text("".join(lines))
    if run.method is not None:
        rows = [
            {
                "step": step * u // updates, "rollout/env_steps": env_steps * u / updates,
                "rollout/success": 1 / (1 + math.exp(-skill * u / updates + luck.gauss(0, 0.2))),
                "rollout/return": 0.7 / (1 + math.exp(-skill * u / updates + luck.gauss(0, 0.2))),
                "entropy": 1.5 - u / updates + luck.gauss(0, 0.1), "groups/distinct_signatures": 3 + luck.random(),
                "groups/without_signal": 0.5 + 0.1 * luck.random(), "advantages/set_scale_raw": 0.25,
            }
            for u in range(1, updates + 1)
        ]  # fmt: skip
        (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        comparison_runs.write_note(run, train_seconds=60.0)
    return comparison.read_figures(run)


def method(name):
    return Method(name, Path(f"{name}.yaml"), {}, {})


def fabricated(folder, skills, *, seeds=(0, 1, 2), changes=None, **options):
    """(pretrained, {method: figures of each seed}); ``changes``: (method, seed) -> options of that run."""
    pretrained = fabricate(Run(folder / "pretrained"), skill=-0.5, **options)
    runs = {
        name: [
            fabricate(
                Run(folder / name / f"seed_{seed}", method(name), seed),
                skill=skill,
                **options | (changes or {}).get((name, seed), {}),
            )
            for seed in seeds
        ]
        for name, skill in skills.items()
    }
    return pretrained, runs


# ---------------------------------------------------------------- perturbed start states


def perturb(figures, shift, *, name="moved"):
    """The same figures with a perturbation under which every start state's success is ``shift`` lower."""
    lower = {m: [max(0.0, v - shift) for v in own] for m, own in figures.values.items() if m != "entropy"}
    return replace(figures, perturbed={name: lower})


def test_perturbed_figures_are_compared_and_changes_are_paired(tmp_path):
    pretrained, runs = fabricated(tmp_path, {"a": 0.0, "b": 2.5}, starts=30, samples=16)
    moved = {"a": [perturb(figure, 0.5) for figure in runs["a"]], "b": [perturb(figure, 0.05) for figure in runs["b"]]}
    given = (perturb(pretrained, 0.0), moved)
    summary = comparison.compare(*given, baseline="a", level=0.95)
    assert summary == comparison.compare(pretrained, runs, baseline="a", level=0.95)
    summary["perturbed"] = compare_perturbed(*given, ["moved"], baseline="a", level=0.95)
    found = summary["perturbed"]["moved"]
    rates = {n: [[max(0.0, v - shift) for v in f.values["success"]] for f in runs[n]] for n, shift in (("a", .5), ("b", .05))}  # fmt: skip # noqa: E501
    mean = {name: sum(map(sum, own)) / (3 * 30) for name, own in rates.items()}
    plain = {name: summary["policies"][name]["success"]["estimate"] for name in runs}
    for name in runs:
        assert found["policies"][name]["success"]["estimate"] == pytest.approx(mean[name])
        change = found["changes"][name]["success"]
        assert change["estimate"] == pytest.approx(mean[name] - plain[name])
        assert change["resolved"] and change["high"] < 0
    assert found["changes"]["pretrained"]["success"]["estimate"] == 0.0
    assert found["differences"]["a"]["b"]["success"]["estimate"] == pytest.approx(mean["b"] - mean["a"])
    assert found["runs"]["a"]["1"]["success"] == pytest.approx(sum(rates["a"][1]) / 30)
    text = comparison_table.report(summary, "A title")
    table = text.split("## Under moved")[1].split("## Runs")[0]
    assert len({len(line) for line in table.split("\n\n")[1].splitlines()}) == 1  # columns of one width each
    row = {line.split("|")[1].strip(): line for line in table.split("\n\n")[1].splitlines()}
    assert comparison_table.cell(found["changes"]["a"]["success"], "+") in row["a"] and "higher" in row["b"]
    gap = found["policies"]["pretrained"]["success"]["estimate"] - mean["a"]
    assert comparison_table.number(gap, "+") in row["pretrained"]
    assert "success, moved" in comparison_table.on_screen(summary, "A title")
    comparison_plot.plot_coverage_curves(found, tmp_path / "moved.png", title="A title, moved")


def test_a_run_that_was_not_perturbed_is_named(tmp_path):
    pretrained, runs = fabricated(tmp_path, {"a": 0.0})
    with pytest.raises(ValueError, match="a seed 0 was not evaluated under moved: give the same command again"):
        compare_perturbed(perturb(pretrained, 0.1), runs, ["moved"], baseline="a", level=0.95)


def test_perturbed_records_are_read_apart_and_a_stopped_perturbation_is_left_out(tmp_path):
    run = Run(tmp_path / "a", method("a"), 0)
    plain = fabricate(run, skill=0.0)
    lines = [json.loads(line) for line in run.records.read_text().splitlines()]
    lines += [line | {"perturb": name, "success": True} for name in ("moved", "cut") for line in lines]
    run.records.write_text("".join(json.dumps(line) + "\n" for line in lines[:-1]))
    figures = comparison.read_figures(run)
    assert figures.values == plain.values and figures.perturbed.keys() == {"moved"}
    assert figures.perturbed["moved"]["success"] == [1.0] * 12


def test_perturbations_only_add_to_an_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison_runs, "fingerprint", lambda path: "abc")
    run = Run(tmp_path / "pretrained")
    run.records.parent.mkdir(parents=True)
    run.records.touch()

    def programs(*names):
        config = ComparisonConfig(perturb=list(names))
        return comparison_runs.Programs("x", ["--task", "a:B"], [], config)

    words = programs("moved", "turned").evaluation(run)
    assert words[words.index("--perturb") + 1 :][:3] == ["moved", "turned", "--policies"]
    comparison_runs.write_note(run, evaluated=[programs("moved", "turned").sampling(), "abc"])
    asked = {(): True, ("moved",): True, ("moved", "turned"): True, ("turned",): True, ("turned", "moved"): True,
             ("moved", "other"): False}  # fmt: skip
    assert {names: programs(*names).is_evaluated(run) for names in asked} == asked
    comparison_runs.write_note(run, evaluated=[programs().sampling(), "abc"])
    assert programs().is_evaluated(run) and not programs("moved").is_evaluated(run)
    comparison_runs.write_note(run, evaluated=None)
    assert not programs().is_evaluated(run)


# ---------------------------------------------------------------- figures and the summary


def test_figures_of_a_run_by_hand(tmp_path):
    figures = fabricate(Run(tmp_path / "a", method("a"), 3), skill=0.0, starts=2, samples=4, env_steps=900, step=24)
    records = [json.loads(line) for line in figures.run.records.read_text().splitlines()]
    correct = [sum(r["success"] for r in records if r["start_seed"] == s and not r["greedy"]) for s in (0, 1)]
    assert figures.values["success"] == [c / 4 for c in correct]
    curve = [[figures.values[f"pass@{k}"][s] for k in (1, 2, 4)] for s in (0, 1)]
    assert figures.values["coverage_area"] == [pytest.approx((c[0] + 2 * c[1] + c[2]) / 4) for c in curve]
    assert figures.values["entropy"] == [pytest.approx(4.0 / 10)] * 2  # 4 nats over 10 decisions in every sample
    assert (figures.starts, figures.samples, figures.env_steps, figures.gradient_steps) == ([0, 1], 4, 900, 24)


def test_entropy_weighs_decisions():
    from polytune.evaluation.summary import per_start

    base = {"policy": "a", "start_seed": 0, "attempt": 0, "success": True, "return": 1.0, "signature": [0],
            "invalid_actions": 0}  # fmt: skip
    records = [base | {"greedy": True, "turns": 9, "logprob": -99.0},
               base | {"greedy": False, "turns": 2, "logprob": -3.0},
               base | {"greedy": False, "turns": 8, "logprob": -1.0}]  # fmt: skip
    assert per_start(records, "a")[0]["entropy"] == pytest.approx(4 / 10)
    del records[1]["logprob"]
    assert per_start(records, "a")[0]["entropy"] is None


def test_records_without_log_probabilities_are_refused(tmp_path):
    with pytest.raises(ValueError, match="records.jsonl was written before records held log probabilities.*remove"):
        fabricate(Run(tmp_path / "a", method("a"), 0), skill=0.0, old=True)


def test_summary_pairs_by_seed_and_start_state(tmp_path):
    pretrained, runs = fabricated(tmp_path, {"a": 0.0, "b": 2.5})
    summary = comparison.compare(pretrained, runs, baseline="a", level=0.95)
    mean = {name: [sum(f.values["success"]) / 12 for f in own] for name, own in runs.items()}
    assert summary["policies"]["b"]["success"]["estimate"] == pytest.approx(sum(mean["b"]) / 3)
    gap = summary["differences"]["a"]["b"]["success"]
    assert gap["estimate"] == pytest.approx((sum(mean["b"]) - sum(mean["a"])) / 3)
    assert gap["resolved"] and 0 < gap["low"] < gap["estimate"] < gap["high"]
    assert set(summary["differences"]) == {"a", "pretrained"}
    assert set(summary["differences"]["a"]) == {"b"} and set(summary["differences"]["pretrained"]) == {"a", "b"}
    same = comparison.compare(pretrained, {"a": runs["a"], "twin": runs["a"]}, baseline="a", level=0.95)
    value = same["differences"]["a"]["twin"]["success"]
    assert value["estimate"] == 0 and not value["resolved"] and set(value["needed"].values()) == {None}
    assert value["low"] < 0 < value["high"]
    assert summary["signals"]["a"]["advantages/set_scale_raw"] == 0.25
    assert 0.5 <= summary["signals"]["a"]["groups/without_signal"] <= 0.6
    ends = [f.metrics[-1]["entropy"] for f in runs["a"]]
    assert summary["signals"]["a"]["entropy at the end"] == pytest.approx(sum(ends) / 3)
    assert summary["runs"]["b"]["2"]["success"] == pytest.approx(mean["b"][2])
    assert summary["policies"]["a"]["cost"] == {"train_seconds": 60.0, "env_steps": 1000, "gradient_steps": 8}
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize(("seeds", "starts", "samples"), [((4,), 1, 1), ((0,), 5, 2), ((0, 1), 1, 3)])
def test_the_smallest_comparisons(tmp_path, seeds, starts, samples):
    pretrained, runs = fabricated(tmp_path, {"a": 0.0, "b": 1.0}, seeds=seeds, starts=starts, samples=samples)
    summary = comparison.compare(pretrained, runs, baseline="b", level=0.9)
    text = comparison_table.report(summary, "t")
    assert f"{starts} start states x {samples} sample{'s' if samples > 1 else ''}, 90 % intervals" in text
    json.dumps(summary, allow_nan=False)
    draw(summary, runs, tmp_path)


def numbers(name, seeds, values, half=0.03):
    """Runs that a whole set of prompts measures with one number, known to +-``half`` from its own samples."""
    runs = []
    for seed, value in zip(seeds, values, strict=True):
        run = Run(Path(name), None if seed is None else method(name), seed)
        own = {"diversity": {"estimate": value, "low": value - half, "high": value + half}}
        metrics = [{"step": 4, "rollout/env_steps": 100, "entropy": 1.0}]
        shares = {"success": [1.0, 0.0], "diversity": [value]}
        runs.append(comparison.Figures(run, [0, 1], 1, shares, metrics, 1.0, own))
    return runs


def test_one_number_a_run_has_the_interval_of_its_samples_or_of_its_seeds():
    """One seed: the samples' interval, and the root of both squares for a difference. More: Student over seeds, with
    the pretrained policy's own uncertainty beside it where it is the other side."""
    start = numbers("pretrained", [None], [0.2])[0]
    one = {"a": numbers("a", [0], [0.3]), "b": numbers("b", [0], [0.4], half=0.04)}
    found = comparison.compare(start, one, baseline="a", level=0.95)
    assert found["policies"]["b"]["diversity"] == {
        "estimate": 0.4,
        "low": pytest.approx(0.36),
        "high": pytest.approx(0.44),
    }
    gap = found["differences"]["a"]["b"]["diversity"]
    assert [gap[end] for end in ("estimate", "low", "high")] == pytest.approx([0.1, 0.05, 0.15]) and gap["resolved"]

    three = {"a": numbers("a", [0, 1, 2], [0.3, 0.3, 0.3]), "b": numbers("b", [0, 1, 2], [0.39, 0.4, 0.41])}
    found = comparison.compare(start, three, baseline="a", level=0.95)
    student = 4.302653 * 0.01 / math.sqrt(3)  # t of 2 degrees of freedom
    for cell, half in (
        (found["policies"]["b"]["diversity"], student),
        (found["differences"]["a"]["b"]["diversity"], student),
        (found["differences"]["pretrained"]["b"]["diversity"], math.hypot(student, 0.03)),
    ):
        assert cell["high"] - cell["estimate"] == pytest.approx(half, rel=1e-4)


def test_students_intervals_end_where_values_do():
    start = numbers("pretrained", [None], [0.9])[0]
    runs = {"a": numbers("a", [0, 1, 2], [1.0, 1.0, 0.1]), "b": numbers("b", [0, 1, 2], [0.0, 0.0, 0.1])}
    found = comparison.compare(start, runs, baseline="a", level=0.95)
    assert found["policies"]["a"]["diversity"]["high"] == 1 and found["policies"]["b"]["diversity"]["low"] == 0
    assert found["differences"]["a"]["b"]["diversity"]["low"] == -1


def test_lopsided_intervals_of_single_runs_stay_possible():
    """A share near 1 from few answers against one from many: no difference beyond 1, none resolved that is not."""
    start = numbers("pretrained", [None], [0.5])[0]
    few, many = numbers("few", [0], [1.0]), numbers("many", [0], [0.624])
    few[0].own_intervals["diversity"] |= {"low": 0.589, "high": 1.0}
    many[0].own_intervals["diversity"] |= {"low": 0.580, "high": 0.666}
    found = comparison.compare(start, {"many": many, "few": few}, baseline="many", level=0.95)
    gap = found["differences"]["many"]["few"]["diversity"]
    assert gap["low"] == pytest.approx(0.376 - math.hypot(0.411, 0.042)) and gap["high"] == pytest.approx(0.376 + 0.044)
    assert not gap["resolved"] and gap["high"] <= 1


def test_a_measure_that_a_run_has_not_is_left_out(tmp_path):
    start, runs = numbers("pretrained", [None], [0.2])[0], {"a": numbers("a", [0], [0.3])}
    start.values["memorisation"], start.own_intervals["memorisation"] = (
        [0.9],
        {"estimate": 0.9, "low": 0.8, "high": 1.0},
    )
    found = comparison.compare(start, runs, baseline="a", level=0.95)
    assert all("memorisation" not in own for own in found["policies"].values())


def test_tables_name_what_the_task_starts_from(tmp_path):
    start, runs = numbers("pretrained", [None], [0.2])[0], {"a": numbers("a", [0], [0.3])}
    found = comparison.compare(start, runs, baseline="a", level=0.95, starts="prompts")
    assert "2 prompts x 1 sample," in comparison_table.headline(found)


def test_unlike_evaluations_are_refused(tmp_path):
    pretrained, runs = fabricated(tmp_path, {"a": 0.0}, changes={("a", 1): {"samples": 4}})
    with pytest.raises(ValueError, match="a seed 1 and pretrained were not sampled equally often"):
        comparison.compare(pretrained, runs, baseline="a", level=0.95)
    with pytest.raises(ValueError, match="unlike seeds"):
        comparison.compare(pretrained, {"a": runs["a"][:1], "b": runs["a"][2:]}, baseline="a", level=0.95)


@pytest.mark.parametrize("content", ["", '{"step": 4}\n', '{"step": 4, "roll'])
def test_metrics_that_say_nothing_are_refused(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(ValueError, match=f"metrics.jsonl .*remove {tmp_path}"):
        comparison.read_metrics(tmp_path / "metrics.jsonl")


# ---------------------------------------------------------------- budgets


def test_equal_budgets_pass(tmp_path):
    for steps in (1010, 1029, 972):  # a run may miss its budget by a tree, as long as methods agree
        changes = {("b", 1): {"env_steps": steps}}
        _, runs = fabricated(tmp_path / str(steps), {"a": 0.0, "b": 0.0}, changes=changes)
        comparison.check_budgets([f for own in runs.values() for f in own])


def test_one_seed_may_miss_its_budget_by_a_tree(tmp_path):
    """A method's mean over few seeds is as far from its budget as single runs are."""
    _, runs = fabricated(tmp_path, {"a": 0.0, "b": 0.0}, changes={("b", 0): {"env_steps": 1040}})
    comparison.check_budgets([own[0] for own in runs.values()])
    with pytest.raises(ValueError, match="no table"):
        _, runs = fabricated(tmp_path / "more", {"a": 0.0, "b": 0.0}, changes={("b", 0): {"env_steps": 1060}})
        comparison.check_budgets([own[0] for own in runs.values()])


def test_runs_of_one_method_that_cost_unlike_are_refused(tmp_path):
    changes = {("b", 0): {"env_steps": 1040}, ("b", 1): {"env_steps": 960}}
    _, runs = fabricated(tmp_path, {"a": 0.0, "b": 0.0}, changes=changes)
    with pytest.raises(ValueError, match=r"differ by 8.3 %, 5 % is allowed \(b seed 0 took 1,040, b seed 1 960"):
        comparison.check_budgets([f for own in runs.values() for f in own])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"env_steps": 1054}, ["environment steps differ by 1.8 %", "b, over its seeds, took 1,018, a, over its seeds, "
                               "1,000", "1.67 % is allowed", "a 1,000, b 1,000 to 1,054", "max_env_steps"]),
        ({"env_steps": 2}, ["b, over its seeds, 667", "a 1,000, b 2 to 1,000"]),
        ({"step": 16}, ["gradient steps differ (a 8, b 8 to 16)", "num_updates"]),
    ],
)  # fmt: skip
def test_unequal_budgets_are_refused(tmp_path, change, words):
    _, runs = fabricated(tmp_path, {"a": 0.0, "b": 0.0}, changes={("b", 1): change})
    with pytest.raises(ValueError) as error:
        comparison.check_budgets([f for own in runs.values() for f in own])
    for word in ["no table", *words]:
        assert word in str(error.value), str(error.value)


# ---------------------------------------------------------------- tables and plots


def test_table_names_every_measure_once(tmp_path):
    pretrained, runs = fabricated(tmp_path, {"a": 0.0, "b": 2.5})
    summary = comparison.compare(pretrained, runs, baseline="a", level=0.95)
    assert comparison_table.measures_of(summary) == [
        "success", "mean_return", "pass@2", "pass@4", "pass@8", "coverage_area", "greedy_success",
        "distinct_signatures", "distinct_winning_signatures", "cover@0.2", "cover@0.5", "cover@0.8", "entropy",
    ]  # fmt: skip
    text = comparison_table.report(summary, "fourrooms")
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")
    assert re.search(r"\| environment steps +\| - +\| 1,000 +\| 1,000 +\|", text)
    assert re.search(r"\| b +\| success +\| \+\.\d{3} +\| \[\+\.\d{3}, \+\.\d{3}\] +\| higher", text)
    assert "b seed 2" in text and "groups/without_signal" in text and "nan" not in text
    shown = comparison_table.on_screen(summary, "fourrooms")
    assert "b seed 2" not in shown and "difference to a" in shown


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"estimate": 0.1, "resolved": True}, "higher"),
        ({"estimate": -0.1, "resolved": True}, "lower"),
        ({"estimate": 0.1, "needed": (17, None, None)}, "not resolved (17 seeds would)"),
        ({"estimate": 0.1, "needed": (None, 1200, 10)},
         "not resolved (no seeds alone would; 1,200 start states x 10 seeds, or more samples)"),
        ({"estimate": 0.1, "needed": (None, None, None)},
         "not resolved (how many seeds or start states would is not known)"),
        ({"estimate": 0.0, "needed": (None, None, None)}, "not resolved (no difference seen)"),
    ],
)  # fmt: skip
def test_verdicts(value, expected):
    if "needed" in value:
        needed = dict(zip(("seeds", "start_states", "at_seeds"), value["needed"], strict=True))
        value = value | {"resolved": False, "needed": needed}
    assert comparison_table.verdict(value) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, ".123"), (-0.5, "-.500"), (0.9999, "1.00"), (0.0, ".000"), (2.345, "2.35"), (123.4, "123"), (None, "-")],
)
def test_numbers(value, text):
    assert comparison_table.number(value) == text


def draw(summary, runs, folder):
    comparison_plot.plot_coverage_curves(summary, folder / "coverage.png", title="t")
    comparison_plot.plot_training(runs, folder / "training.png", title="t", level=0.95)
    for name in ("coverage.png", "training.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG") and (folder / name).stat().st_size > 10_000


def test_a_training_curve_is_a_mean_over_seeds_of_running_means():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    seeds = [np.array([[1.0, 0.0], [2.0, 1.0]]), np.array([[1.0, 2.0], [2.0, 3.0], [3.0, 9.0]])]
    line = comparison_plot._learning_curve(axes, seeds, 0.95, {"color": "red"})
    assert line.get_xydata().tolist() == [[1, 1], [2, 2]]
    band = axes.collections[0].get_paths()[0].get_extents()
    assert [band.ymin, band.ymax] == pytest.approx([1 - 12.706, 2 + 12.706], abs=1e-3)
    steps = np.arange(24.0)
    line = comparison_plot._learning_curve(axes, [np.stack([steps, steps**2], 1)], 0.95, {"color": "blue"})
    assert line.get_xydata()[0].tolist() == [0.5, 0.5] and len(line.get_xydata()) == 23 and len(axes.collections) == 1


def test_plots_of_many_methods(tmp_path):
    pretrained, runs = fabricated(tmp_path, {f"m{i}": 0.2 * i for i in range(9)}, seeds=(0, 1), starts=4, samples=2)
    draw(comparison.compare(pretrained, runs, baseline="m1", level=0.95), runs, tmp_path)
    styles = [tuple(comparison_plot._style(name, list(runs)).values()) for name in runs]
    assert len(set(styles)) == 9


def test_plot_of_one_method_that_logs_no_groups(tmp_path):
    pretrained, runs = fabricated(tmp_path, {"ppo": 0.2}, seeds=(0,), starts=4, samples=2)
    for record in runs["ppo"][0].metrics:
        del record["groups/without_signal"]
    draw(comparison.compare(pretrained, runs, baseline="ppo", level=0.95), runs, tmp_path)


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("entries", "seeds"),
    [(["5"], [0, 1, 2, 3, 4]), (["1"], [0]), (["3", "1"], [3, 1]), (["3-5"], [3, 4, 5]), (["7-7"], [7])],
)
def test_seeds(entries, seeds):
    assert parse_seeds(entries) == seeds


@pytest.mark.parametrize(
    ("entries", "message"),
    [(["0"], "names no seed"), (["1", "2", "1"], "1 more than once"), (["1-3", "2"], "2 more than once"),
     (["-1"], "'-1'"), (["two"], "'two'"), (["5-3"], "'5-3'"), (["1.5"], "'1.5'"), ([], "names no seed")],
)  # fmt: skip
def test_bad_seeds(entries, message):
    with pytest.raises(ValueError, match=message):
        ComparisonConfig(seeds=entries)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"n": 0}, "n must be"), ({"level": 95}, "level must lie"), ({"workers": 0}, "workers must be"),
     ({"keep": "a.txt"}, "keep must name a .json file")],
)  # fmt: skip
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        ComparisonConfig(**fields)


def test_names_of_methods():
    found = comparison_methods.named_methods(["recipes/a.yaml", "lr-2=b/a.yaml", "dir/p.q.yml"])
    assert found == {"a": Path("recipes/a.yaml"), "lr-2": Path("b/a.yaml"), "p.q": Path("dir/p.q.yml")}


@pytest.mark.parametrize(
    ("entries", "message"),
    [([], "methods is empty"), (["x/a.yaml", "y/a.yaml"], "names 'a' twice .x/a.yaml and y/a.yaml.*NAME=y/a.yaml"),
     (["pretrained=a.yaml"], "'pretrained'"), (["a/b=c.yaml"], "cannot name a folder"), (["..=c.yaml"], "cannot name"),
     (["a="], "write NAME=FILE.yaml")],
)  # fmt: skip
def test_bad_names_of_methods(entries, message):
    with pytest.raises(ValueError, match=message):
        comparison_methods.named_methods(entries)


def test_runs_are_interleaved_by_seed(tmp_path):
    methods = [method("a"), method("b")]
    runs = comparison_runs.plan_runs(methods, [4, 2], tmp_path)
    assert [run.name for run in runs] == ["pretrained", "a seed 4", "b seed 4", "a seed 2", "b seed 2"]
    assert runs[2].folder == tmp_path / "b" / "seed_4" and runs[2].policy_name == "b_s4"


def test_flags_of_the_programs(tmp_path):
    task = TaskConfig(task="a:B", task_horizon=9, num_start_states=3)
    policy = PolicyConfig(model="outputs/none", cpu_threads=1, show_instructions=True)
    shared = comparison_methods.shared_flags(task, policy)
    again = parse((TaskConfig, PolicyConfig), shared, description="")
    assert again == (task, replace(policy, model=PolicyConfig().model))
    config = ComparisonConfig(n=7, evaluation_seed=3)
    programs = comparison_runs.Programs("outputs/none", shared, ["--num_updates", "2"], config)
    run = Run(tmp_path / "a" / "seed_5", method("a"), 5)
    words = " ".join(programs.training(run))
    begin = "-P -m polytune.app.finetune --config a.yaml --task a:B --task_horizon 9"
    assert f"{begin} {' '.join(shared[4:])} --num_updates 2 --model " in words
    assert words.endswith(f"--seed 5 --output_dir {run.folder}")
    words = " ".join(programs.evaluation(run))
    assert f"--n 7 --seed 3 --policies a_s5={run.folder} " in words
    assert "--num_updates" not in words and "--model" not in words
    assert "--policies pretrained=outputs/none" in " ".join(programs.evaluation(Run(tmp_path / "pretrained")))


def of_yaml(folder, monkeypatch, methods, words=()):
    """Methods of YAML files with these fields, read and checked as a comparison does."""
    monkeypatch.chdir(folder)
    files = [f"{name}.yaml" for name in methods]
    for file, own in zip(files, methods.values(), strict=True):
        Path(file).write_text("\n".join([f"extends: {ROOT}/recipes/fourrooms/grpo.yaml", *own]))
    parts = parse((TaskConfig, PolicyConfig, ComparisonConfig), ["--methods", *files, *words], description="")
    compared = comparison_methods.read_methods(parse, parts[2], parts[0], parts[1])
    comparison_methods.check_methods(compared, parts[2], parts[0], parts[1])
    return compared


ONE_WORLD = [("split", "seeds:0-9", "seeds:10-19"), ("data_dir", "a", "b"), ("model_revision", "main", "v2")]


@pytest.mark.parametrize(("name", "one", "other"), ONE_WORLD)
def test_methods_play_on_the_same_start_states_and_policy(tmp_path, monkeypatch, name, one, other):
    """A YAML's own split, say, holds for its training alone: evaluations would take another one."""
    with pytest.raises(ValueError, match=rf"a.yaml sets {name} to '{one}', and the comparison .* \(--{name} {one}\)"):
        of_yaml(tmp_path, monkeypatch, {"a": [f"{name}: {one}"], "b": [f"{name}: {other}"]})
    with pytest.raises(ValueError, match=rf"b.yaml sets {name} to '{other}'"):
        of_yaml(tmp_path, monkeypatch, {"a": [], "b": [f"{name}: {other}"]})
    given = of_yaml(tmp_path, monkeypatch, {"a": [f"{name}: {one}"], "b": []}, [f"--{name}", other])
    parts = [{**vars(found.settings["task"]), **vars(found.settings["policy"])} for found in given]
    assert [part[name] for part in parts] == [other, other]  # the comparison's goes to all


def test_a_split_that_training_takes_anyway_may_stand_in_a_yaml(tmp_path, monkeypatch):
    of_yaml(tmp_path, monkeypatch, {"a": ["split: train"], "b": []})


def test_fields_that_a_comparison_may_leave_unset_are_held_against_each_yaml():
    unset = {f.name for part in (TaskConfig, PolicyConfig) for f in fields(part)
             if f.name not in ("task_args", "cpu_threads") and f.default is None}  # fmt: skip
    assert unset <= set(comparison_methods.SAME_GAME) | set(comparison_methods.ONE_FOR_ALL)


@pytest.mark.parametrize(
    "entry",
    ["num_updates", "=3", "seed=3", "output_dir=x", "task=doors", "model=x", "config=x.yaml", "task-horizon=4"],
)
def test_overrides_that_are_no_overrides(entry):
    with pytest.raises(ValueError, match=f"set has '{entry}'"):
        comparison_methods.override_flags(["learning_rate=1e-4", entry])


def test_a_file_that_cannot_be_kept_is_refused_at_once(tmp_path):
    comparison_keep.check_folder(None)
    comparison_keep.check_folder(str(tmp_path / "a/b/c.json"))
    assert (tmp_path / "a/b").is_dir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file/c.json", tmp_path / "a", "/proc/none/c.json"):
        with pytest.raises(ValueError, match="nothing can be written there"):
            comparison_keep.check_folder(str(path))


def test_budgets_are_held_against_the_task():
    """What no batch can spend is refused; what a large tree may miss by over 5 % is said."""
    world = load_task("fourrooms", horizon=40)
    rollout = RolloutConfig(num_seeds=8, num_rollout_states=0, num_vines=0)
    objective = ObjectiveConfig(set_scope="seeds")
    for budget, notes in ((None, 0), (60_000, 0), (6_000, 1)):
        trainer = PolychromicConfig(
            output_dir="none", num_generations=8, per_device_train_batch_size=56, steps_per_generation=4,
            num_updates=12, max_env_steps=budget, use_cpu=True,
        )  # fmt: skip
        job = RunConfig(TaskConfig(), PolicyConfig(), AdapterConfig(), rollout, objective, trainer)
        found = replace(method("a"), settings=job.settings)
        assert len(comparison_methods.check_task(found, world, [0])) == notes
    trainer.max_env_steps = 12 * 28 * 8 * 40 + 1
    with pytest.raises(ValueError, match=r"method a \(a.yaml\): max_env_steps is 107521, but 12 updates of 28 trees"):
        comparison_methods.check_task(found, world, [0])


def test_paths_of_this_machine_are_not_kept(tmp_path):
    found = comparison_keep.portable(
        {
            "command": f"python compare.py --model {tmp_path}/pre --methods a={tmp_path}/x/a.yaml /usr/b/c.yaml",
            "list": [str(tmp_path / "out"), "recipes/fourrooms/ppo.yaml", "seeds:0-4", 1.5, None, "a / b", "1/2"],
        },
        tmp_path,
    )
    assert found == {
        "command": "python compare.py --model pre --methods a=x/a.yaml c.yaml",
        "list": ["out", "recipes/fourrooms/ppo.yaml", "seeds:0-4", 1.5, None, "a / b", "1/2"],
    }


def test_notes_survive_damage(tmp_path):
    run = Run(tmp_path / "a", method("a"), 0)
    empty = comparison_runs.read_note(run)
    comparison_runs.write_note(run, trained="abc")
    comparison_runs.write_note(run, train_seconds=3.0)
    assert comparison_runs.read_note(run) == empty | {"trained": "abc", "train_seconds": 3.0}
    (run.folder / comparison_runs.NOTE_FILE).write_text('{"trained": "a')
    assert comparison_runs.read_note(run) == empty


@pytest.mark.parametrize("name", ["compare.yaml", "compare_smoke.yaml"])
def test_the_yaml_files_are_comparisons(name, call_compare, capsys):
    """Everything up to the pretrained policy, which a fresh checkout lacks, is accepted."""
    with pytest.raises(SystemExit) as exit:
        call_compare("--config", ROOT / "recipes/fourrooms" / name, "--model", "outputs/nowhere")
    assert exit.value.code == 1 and "checkpoint 'outputs/nowhere' does not exist" in capsys.readouterr().err


@pytest.fixture
def call_compare(monkeypatch, tmp_path):
    """recipes/compare.py in this process, in the repository's folder."""
    import importlib.util

    from polytune.app.cli import run

    monkeypatch.chdir(ROOT)
    spec = importlib.util.spec_from_file_location("recipe_compare", ROOT / "recipes/compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *flags: run(module.main, [str(flag) for flag in flags])


YAML = {
    "good": "num_seeds: 2\nnum_rollout_states: 0\nnum_vines: 0\nnum_generations: 2\nset_scope: none\n"
    "per_device_train_batch_size: 2\nsteps_per_generation: 2\nnum_updates: 2\n",
}
YAML["longer"] = YAML["good"].replace("num_updates: 2", "num_updates: 3")
YAML["budget"] = YAML["good"] + "max_env_steps: 1000\n"
YAML["typo"] = YAML["good"] + "lerning_rate: 1.0e-3\n"
YAML["clash"] = YAML["good"].replace("num_generations: 2", "num_generations: 4")
YAML["game"] = YAML["good"] + "show_instructions: true\n"
YAML["short"] = YAML["good"] + "num_start_states: 2\n"


@pytest.mark.parametrize(
    ("files", "flags", "words"),
    [
        (["good"], ["--baseline", "ppo"], ["baseline is 'ppo'", "none of the methods good"]),
        (["good", "longer"], [], ["differ in gradient steps", "good 8, longer 12", "--set num_updates"]),
        (["good", "budget"], [], ["differ in max_env_steps: good None, budget 1000"]),
        (["good", "typo"], [], ["method typo", "unknown key 'lerning_rate'", "did you mean learning_rate"]),
        (["clash"], [], ["method clash", "num_generations"]),
        (["game"], [], ["show_instructions to True, the comparison to None", "--show_instructions"]),
        (["short"], [], ["num_start_states to 2, the comparison to None", "--num_start_states 2"]),
        (["nowhere"], [], ["method nowhere", "does not exist"]),
        (["good", "good"], [], ["names 'good' twice"]),
        (["good"], ["--seeds", "1", "1"], ["seeds names 1 more than once"]),
        (["good"], ["--set", "lerning_rate=1"], ["method good", "lerning_rate", "did you mean"]),
        (["good"], ["--set", "seed=1"], ["every run has a folder and a seed of its own"]),
        (["good"], ["--model", "outputs/nowhere"], ["checkpoint 'outputs/nowhere' does not exist"]),
        (["good"], ["--task", "fiverooms"], ["unknown task 'fiverooms'"]),
        (["good"], ["--split", "seeds:3"], ["bad seed range"]),
        (["good"], ["--perturb", "attic"], ["task 'fourrooms' has no perturbation 'attic'", "start_room"]),
        (["good"], ["--perturb", "start_room", "--task_args", "perturb=start_room"], ["in one place"]),
        (["good"], ["--worker", "2"], ["'--worker'", "did you mean"]),
    ],
)
def test_mistakes_are_one_line_before_any_work(files, flags, words, tmp_path, call_compare, capsys, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("a run was started")

    monkeypatch.setattr("polytune.running.run_queue.run_jobs", forbidden)
    paths = [tmp_path / f"{name}.yaml" for name in files]
    for path in paths:
        if path.stem in YAML:
            path.write_text(YAML[path.stem])
    with pytest.raises(SystemExit) as exit:
        call_compare("--methods", *paths, "--output_dir", tmp_path / "out", *flags)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert exit.value.code in (1, 2) and len(lines) == 1 and lines[0].startswith("error: "), lines
    for word in words:
        assert word in lines[0], lines[0]
    assert not (tmp_path / "out").exists()


def test_help_shows_launch_commands_and_fields(call_compare, capsys):
    with pytest.raises(SystemExit) as exit:
        call_compare("--help")
    text = capsys.readouterr().out
    assert exit.value.code == 0 and "python recipes/compare.py" in text
    for field in ("--methods", "--seeds", "--baseline", "--set", "--keep", "--workers", "--num_start_states"):
        assert field in text
