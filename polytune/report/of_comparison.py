"""The report of a comparison (`recipes/compare.py`): methods x seeds from one pretrained policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from polytune.comparison.figures import Figures
from polytune.comparison.methods import PRETRAINED
from polytune.comparison.table import headline, measures_of, title_of, verdict
from polytune.evaluation.columns import Records
from polytune.evaluation.records import read_records
from polytune.evaluation.summary import per_start
from polytune.report import charts, parts
from polytune.report.of_evaluation import MOST_COLUMNS, named_most
from polytune.report.page import Page, folded, grid, table
from polytune.report.runs import read_run
from polytune.tasks import Task
from polytune.tasks.creativity.tasks import CreativityTask


def build(
    task: Task, summary: Mapping[str, Any], pretrained: Figures, by_method: Mapping[str, Sequence[Figures]]
) -> Page:
    """The page of a comparison.

    Args:
        summary: what is kept of it (summary.json), with title, command and versions.
        pretrained, by_method: the evaluated runs behind it; maps show each method's first seed.
    """
    names = list(summary["policies"])
    creative = isinstance(task, CreativityTask)
    runs = {name: [_run_of(figure) for figure in own] for name, own in by_method.items()}
    page = Page(summary["title"], headline(dict(summary)))
    _overview(page, summary, creative)
    _coverage(page, task, summary, {PRETRAINED: [pretrained], **by_method})
    of_each = _first_seeds(pretrained, by_method)
    if creative:
        _creativity(page, task, summary)
    whose = f" of each method's seed {summary['seeds'][0]}" if len(summary["seeds"]) > 1 else ""
    named_most(page, task, of_each, whose=whose)
    _tables(page, summary)
    tables = {name: per_start(own) for name, own in of_each.items()}
    notes = parts.maps(page, task, tables, of_each, whose=whose)
    parts.training(page, runs, names)
    flat = [run for own in zip(*runs.values(), strict=True) for run in own]  # the first seed of every method first
    notes += parts.vines(page, flat)
    parts.origin(page, summary, flat, notes)
    return page


def _run_of(figure: Figures) -> Any:
    run = read_run(figure.run.method.name, figure.run.folder)
    run.seed = figure.run.seed
    return run


def _first_seeds(pretrained: Figures, by_method: Mapping[str, Sequence[Figures]]) -> dict[str, Records]:
    """Unperturbed records of the pretrained policy and of each method's first seed, by the method's name."""
    runs = {PRETRAINED: pretrained.run, **{name: own[0].run for name, own in by_method.items()}}
    return {name: read_records(run.records).where(policy=run.policy_name, perturb=None) for name, run in runs.items()}


def _overview(page: Page, summary: Mapping[str, Any], creative: bool) -> None:
    last = f"pass@{summary['ks'][-1]}"
    shown = ["success", *(["diversity", "creativity"] if creative else [last, "distinct_winning_signatures"])]
    shown = [m for m in dict.fromkeys(shown) if m in measures_of(dict(summary)) and m != "pass@1"]
    section = page.section("overview", "In short")
    figures = {
        name: [(title_of(m, dict(summary)), parts.interval(own[m])) for m in shown]
        for name, own in summary["policies"].items()
    }
    section.parts.append(parts.cards(figures))
    rows: list[list[Any]] = [["", *(title_of(m, dict(summary)) for m in shown)]]
    for other, gaps in sorted(summary["differences"].items(), key=lambda item: item[0] != PRETRAINED):
        rows += [[f"{name} − {other}", *(parts.gap(own[m]) for m in shown)] for name, own in gaps.items()]
    section.parts.append(table(rows, caption="paired differences; coloured ones are resolved"))


def _coverage(page: Page, task: Task, summary: Mapping[str, Any], figures: Mapping[str, Sequence[Figures]]) -> None:
    ks, policies, baseline = summary["ks"], summary["policies"], summary["baseline"]
    several = len(summary["seeds"]) > 1
    over = f"{summary['starts']} and seeds" if several else summary["starts"]
    section = page.section("coverage", "Coverage", parts.coverage_lead(over, summary["level"], ks[-1]))
    made = []
    if ks[-1] > 1 and all(f"pass@{k}" in own for own in policies.values() for k in ks[1:]):
        curves = {name: {k: own["success" if k == 1 else f"pass@{k}"] for k in ks} for name, own in policies.items()}
        made.append(page.chart(charts.curves_over_k("pass@k", curves, "pass@k"), width="half"))
        gaps = {name: {k: own["success" if k == 1 else f"pass@{k}"] for k in ks}
                for name, own in summary["differences"][baseline].items()}  # fmt: skip
        if gaps:
            spec = charts.differences_over_k(f"Paired difference to {baseline}", gaps, list(policies))
            made.append(page.chart(spec, width="half"))
    starts = figures[PRETRAINED][0].starts
    if 1 < len(starts) <= MOST_COLUMNS:
        shares = {
            name: [round(fmean(values), 4) for values in zip(*(f.values["success"] for f in own), strict=True)]
            for name, own in figures.items()
        }
        made.append(page.chart(charts.success_by_start(shares, starts, task.starts), width="full"))
    if made:
        section.parts.append(grid(made))


def _creativity(page: Page, task: CreativityTask, summary: Mapping[str, Any]) -> None:
    section = page.section("creativity", "Creativity", parts.CREATIVITY_LEAD)
    ceiling = task.structure.ceiling / summary["start_states"]
    made = []
    for measure, label in (("success", "validity"), ("diversity", "diversity"), ("creativity", "creativity")):
        cells = {name: own[measure] for name, own in summary["policies"].items()}
        made.append(page.chart(charts.bars(label, cells, "share", rule=ceiling if measure == "creativity" else None)))
    section.parts.append(grid(made))


def _tables(page: Page, summary: Mapping[str, Any]) -> None:
    section = page.section(
        "tables",
        "All measures",
        f"Estimate and {100 * summary['level']:.4g} % interval. Coloured differences exclude 0; grey: not resolved.",
    )
    titles = {m: title_of(m, dict(summary)) for m in measures_of(dict(summary))}
    rows = parts.as_rows(summary["policies"], titles)
    for cost, title in (("train_seconds", "training seconds"), ("env_steps", "environment steps"),
                        ("gradient_steps", "gradient steps")):  # fmt: skip
        spent = [own.get("cost", {}).get(cost) for own in summary["policies"].values()]
        rows.append([title, *("–" if value is None else f"{value:,.0f}" for value in spent)])
    section.parts.append(table(rows))
    for other, gaps in summary["differences"].items():
        if gaps:
            body: list[list[Any]] = [["", *gaps]]
            for m, title in titles.items():
                body.append([title, *(parts.gap(own[m]) for own in gaps.values())])
            needed: list[list[Any]] = [["not resolved", *gaps]]
            for m, title in titles.items():
                told = [verdict(own[m], summary["starts"]) for own in gaps.values()]
                if any(word not in ("higher", "lower") for word in told):
                    needed.append([title, *told])
            more = [folded("What would resolve the others", [table(needed)])] if len(needed) > 1 else []
            section.parts.append(folded(f"Paired differences to {other}", [table(body), *more]))
    section.parts.append(folded("Every run", [_every_run(summary, titles)]))
    _perturbed(page, summary, titles)


def _every_run(summary: Mapping[str, Any], titles: Mapping[str, str]) -> Any:
    rows: list[list[Any]] = [["run", *titles.values(), "environment steps", "gradient steps", "training seconds"]]
    for name, own in summary["runs"].items():
        for seed, values in own.items():
            measured = (parts.number(values.get(m)) for m in titles)
            costs = (f"{values[cost]:,.0f}" for cost in ("env_steps", "gradient_steps", "train_seconds"))
            rows.append([f"{name}, seed {seed}", *measured, *costs])
    return table(rows)


def _perturbed(page: Page, summary: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    section = page.section("perturbed", "Perturbed starts", parts.PERTURBED_LEAD)
    last, baseline = f"pass@{summary['ks'][-1]}", summary["baseline"]
    for name, own in summary.get("perturbed", {}).items():
        for m in dict.fromkeys(m for m in ("success", last, "distinct_winning_signatures") if m in titles):
            rows: list[list[Any]] = [["", titles[m], f"{titles[m]}, {name}", "change", f"against {baseline}, {name}"]]
            for policy, moved in own["policies"].items():
                against = own["differences"][baseline].get(policy)
                rows.append([
                    policy, parts.interval(summary["policies"][policy][m]), parts.interval(moved[m]),
                    parts.gap(own["changes"][policy][m]), "–" if against is None else parts.gap(against[m]),
                ])  # fmt: skip
            section.parts.append(table(rows, caption=f"{name}: {titles[m]}"))
