"""The report of one evaluation (`recipes/evaluate.py --report`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from polytune.comparison.table import TITLES
from polytune.evaluation.columns import Records
from polytune.evaluation.creativity import TITLES as CREATIVITY_TITLES
from polytune.evaluation.summary import counted, per_start
from polytune.measures.creativity import MEASURES
from polytune.measures.crossing import in_words
from polytune.report import charts, parts
from polytune.report.page import Page, folded, grid, paragraphs, table
from polytune.report.runs import read_run
from polytune.tasks import Task
from polytune.tasks.creativity.tasks import CreativityTask

#: start states of which each has a column of its own in the chart of successes
MOST_COLUMNS = 200
#: pairs of policies whose crossings are listed unfolded
MOST_PAIRS = 6
#: objects that a policy names most often
MOST_NAMED = 8


def build(task: Task, records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], *, title: str) -> Page:
    """The page of an evaluation.

    Args:
        records: unperturbed ones of every policy.
        summary: as written to summary.json, with ``policy_paths`` where they are known.
    """
    names = list(summary["policies"])
    of_each = Records.of(records).of_each(names)
    tables = {name: per_start(own) for name, own in of_each.items()}
    creative = isinstance(task, CreativityTask)
    runs = [read_run(name, summary.get("policy_paths", {}).get(name)) for name in names]
    trained = {run.name: [run] for run in runs}
    page = Page(title, f"{', '.join(names)}; {100 * summary['level']:.4g} % intervals over {task.starts}")
    _overview(page, task, summary, creative)
    _coverage(page, task, summary, tables)
    if creative:
        creativity(page, summary["creativity"], summary["ks"])
    named_most(page, task, of_each)
    _tables(page, summary, creative)
    notes = parts.maps(page, task, tables, of_each)
    parts.training(page, trained, names)
    notes += parts.vines(page, runs)
    parts.origin(page, summary, runs, notes)
    return page


def _overview(page: Page, task: Task, summary: Mapping[str, Any], creative: bool) -> None:
    last = summary["ks"][-1]
    section = page.section("overview", "In short")
    figures = {}
    for name, own in summary["policies"].items():
        if creative:
            found = summary["creativity"][name]
            shown = [(key, parts.interval(found[key])) for key in ("validity", "diversity", "creativity")]
        else:
            shown = [("success", parts.interval(own["success"]))]
            shown += [(f"pass@{last}", parts.interval(own[f"pass@{last}"]))] if last > 1 else []
            shown.append(("distinct winning signatures", parts.interval(own["distinct_winning_signatures"])))
        figures[name] = shown
    section.parts.append(parts.cards(figures))
    if summary.get("cautions"):
        section.parts.append(paragraphs(summary["cautions"]))
    if summary["pairs"]:
        names = ["success", *([f"pass@{last}"] if last > 1 else [])]
        names += [] if creative else ["distinct_winning_signatures"]
        rows = [["", *(_title(m, creative) for m in names)]]
        for pair in summary["pairs"]:
            gaps = (parts.gap(pair["differences"][m]) for m in names)
            rows.append([f"{pair['second']} − {pair['first']}", *gaps])
        section.parts.append(table(rows, caption="paired differences; coloured ones are resolved"))
        if not creative:
            lines = paragraphs(_crossings(summary, task.starts))
            few = len(summary["pairs"]) <= MOST_PAIRS
            section.parts.append(lines if few else folded("Where the curves of each pair cross", [lines]))


def _crossings(summary: Mapping[str, Any], starts: str) -> list[str]:
    """Where the curves of each pair of policies cross, in words."""
    counts = next(iter(summary["policies"].values()))["counts"]
    samples = counts["samples_per_start_state"]
    return [in_words(pair["crossing"], pair["first"], pair["second"], samples, starts) for pair in summary["pairs"]]


def _title(measure: str, creative: bool) -> str:
    return "validity, all samples" if creative and measure == "success" else TITLES.get(measure, measure)


def _coverage(page: Page, task: Task, summary: Mapping[str, Any], tables: Mapping[str, Any]) -> None:
    ks, policies = summary["ks"], summary["policies"]
    names = list(policies)
    lead = parts.coverage_lead(task.starts, summary["level"], ks[-1])
    section = page.section("coverage", "Coverage", lead)
    made = []
    if ks[-1] > 1:
        curves = {name: {k: own[f"pass@{k}"] for k in ks} for name, own in policies.items()}
        made.append(page.chart(charts.curves_over_k("pass@k", curves, "pass@k"), width="half"))
        if len(names) > 1:
            gaps = {name: {k: own[f"pass@{k}"] for k in ks} for name, own in summary["differences"].items()}
            spec = charts.differences_over_k(f"Paired difference to {names[0]}", gaps, names)
            made.append(page.chart(spec, width="half"))
        for kind, label in (
            ("signatures", "distinct signatures"),
            ("winning_signatures", "distinct winning signatures"),
        ):
            found = {name: {int(k): cell for k, cell in own[kind].items()}
                     for name, own in summary["signature_coverage"].items()}  # fmt: skip
            if any(cell["estimate"] for own in found.values() for cell in own.values()):
                made.append(page.chart(charts.curves_over_k(f"{label} among k samples", found, label, share=False)))
    starts = list(tables[names[0]])
    if 1 < len(starts) <= MOST_COLUMNS:
        shares = {
            name: [round(cell["correct"] / cell["n"], 4) for cell in own.values()] for name, own in tables.items()
        }
        made.append(page.chart(charts.success_by_start(shares, starts, task.starts), width="full"))
    if made:
        section.parts.append(grid(made))


def _tables(page: Page, summary: Mapping[str, Any], creative: bool) -> None:
    section = page.section(
        "tables",
        "All measures",
        f"Estimate and {100 * summary['level']:.4g} % interval. Coloured differences exclude 0; grey: not resolved.",
    )
    policies = summary["policies"]
    measures = [m for m in next(iter(policies.values())) if m not in ("counts", "seconds", "pass@1")]
    titles = {m: _title(m, creative) for m in measures}
    first = next(iter(policies))
    rows = parts.as_rows(policies, titles)
    rows[0] += [f"{name} − {first}" for name in summary["differences"]]
    for row, m in zip(rows[1:], titles, strict=True):
        row += [parts.gap(own[m]) for own in summary["differences"].values()]
    section.parts.append(table(rows))
    others = [pair for pair in summary["pairs"] if pair["first"] != first]
    if others:
        gaps: list[list[Any]] = [["", *(f"{pair['second']} − {pair['first']}" for pair in others)]]
        gaps += [[title, *(parts.gap(pair["differences"][m]) for pair in others)] for m, title in titles.items()]
        section.parts.append(folded("Paired differences of the other pairs", [table(gaps)]))
    counts = [["", *policies]]
    for name in next(iter(policies.values()))["counts"]:
        values = (own["counts"][name] for own in policies.values())
        counts.append([name.replace("_", " "), *(f"{v:.4f}" if isinstance(v, float) else f"{v:,}" for v in values)])
    section.parts.append(folded("Exact counts", [table(counts)]))
    _perturbed(page, summary, titles)


def _perturbed(page: Page, summary: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    section = page.section("perturbed", "Perturbed starts", parts.PERTURBED_LEAD)
    for name, own in summary.get("perturbed", {}).items():
        last = summary["ks"][-1]
        shown = ["success", *([f"pass@{last}"] if last > 1 else []), "distinct_winning_signatures"]
        rows: list[list[Any]] = [
            ["", *(f"{titles.get(m, m)}{under}" for m in shown for under in ("", f", {name}", ", change"))]
        ]
        for policy, moved in own["policies"].items():
            row: list[Any] = [policy]
            for m in shown:
                plain, change = summary["policies"][policy][m], own["changes"][policy][m]
                row += [parts.interval(plain), parts.interval(moved[m]), parts.gap(change)]
            rows.append(row)
        section.parts.append(table(rows, caption=name))


def creativity(page: Page, found: Mapping[str, Mapping[str, Any]], ks: Sequence[int]) -> None:
    """Validity, diversity and creativity of each policy, what more samples find, the whole table."""
    first = next(iter(found.values()))
    ceiling = first["counts"]["generations"] * first["ceiling"]
    section = page.section("creativity", "Creativity", parts.CREATIVITY_LEAD)
    made = [
        page.chart(charts.bars(name, {policy: own[name] for policy, own in found.items()}, "share",
                               rule=first["ceiling"] if name == "creativity" else None))
        for name in ("validity", "diversity", "creativity")
    ]  # fmt: skip
    rows = [
        {"policy": policy, "samples": samples, **{end: round(cell[end], 2) for end in ("estimate", "low", "high")}}
        for policy, own in found.items()
        for samples, cell in zip(own["coverage"]["samples"], own["coverage"]["unseen"], strict=True)
    ]
    if len(first["coverage"]["samples"]) > 1:
        title = f"Unseen objects found, of {ceiling:,.0f}"
        made.append(page.chart(charts.found_over_samples(title, rows, list(found), "distinct unseen objects", ceiling)))
    section.parts.append(grid(made))
    body: list[list[Any]] = [["", *found]]
    for name in MEASURES:
        body.append([CREATIVITY_TITLES.get(name, name), *(parts.interval(own[name]) for own in found.values())])
    for name in ("distinct_valid", "distinct_unseen"):
        body.append([name.replace("_", " "), *(f"{own['counts'][name]:,}" for own in found.values())])
    body.append(["ceiling of creativity", *(parts.number(own["ceiling"]) for own in found.values())])
    for k in [k for k in ks if k > 1]:
        body.append([f"validity@{k}", *(parts.interval(own["validity_at_k"][str(k)]) for own in found.values())])
    for name in ("validity", "diversity", "creativity"):
        if all("greedy" in own for own in found.values()):
            body.append([f"{name}, greedy", *(parts.interval(own["greedy"][name]) for own in found.values())])
    section.parts.append(table(body))


def named_most(page: Page, task: Task, of_each: Mapping[str, Records], *, whose: str = "") -> None:
    """What each policy says most often, where there is no map to show: a collapsed one says one thing."""
    if parts.tracks.has_map(task, int(next(iter(of_each.values())).column("start_seed")[0])):
        return
    section = page.section(
        "answers",
        "What they do most",
        f"The {MOST_NAMED} successful signatures that each policy has most often{whose}.",
    )
    columns = []
    for name, records in of_each.items():
        own = records.where(greedy=False)
        won = own.where(success=True)
        valid = dict(zip(*won.counts_of("signature"), strict=True))
        rows: list[list[Any]] = [["signature", "times", "share of all"]]
        for index, count in Counter(valid).most_common(MOST_NAMED):
            label = parts.tracks.signature_label(won[index]["signature"])
            rows.append([label, f"{count:,}", f"{count / len(own):.1%}"])
        told = f"{name}: {counted(len(valid), 'signature')} in {counted(len(own), 'sample')}"
        columns.append(table(rows, caption=told))
    section.parts.append(grid(columns))
