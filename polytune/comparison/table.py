"""A comparison as text: aligned Markdown tables, read on a terminal as they are in table.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from polytune.comparison.methods import PRETRAINED
from polytune.evaluation.summary import counted
from polytune.markdown import cell as in_table

#: a measure's title where its name is not clear by itself
TITLES = {
    "mean_return": "mean return",
    "greedy_success": "greedy success",
    "distinct_signatures": "distinct signatures",
    "distinct_winning_signatures": "distinct winning signatures",
    "coverage_area": "area under the coverage curve",
    "entropy": "entropy (nats per decision)",
    "seen": "seen in training",
    "raw_diversity": "diversity, raw strings",
    "raw_creativity": "creativity, raw strings",
    "greedy_diversity": "greedy diversity",
    "greedy_creativity": "greedy creativity",
    "distinct_valid": "distinct valid answers",
    "distinct_unseen": "distinct unseen answers",
    "train_seconds": "training seconds",
    "env_steps": "environment steps",
    "gradient_steps": "gradient steps",
}


def measures_of(summary: dict[str, Any]) -> list[str]:
    """Measures in the order of the tables; pass@1 is the success rate, so it is named once."""
    names = [m for m in next(iter(summary["policies"].values())) if m not in ("cost", "pass@1")]
    first = ["success", "mean_return", *(f"pass@{k}" for k in summary["ks"][1:]), "coverage_area"]
    return [name for name in first if name in names] + [name for name in names if name not in first]


def title_of(measure: str, summary: dict[str, Any]) -> str:
    """What a table calls a measure; the success of an answer is its validity."""
    if measure == "success" and "creativity" in measures_of(summary):
        return "validity"
    return TITLES.get(measure, measure)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first being the header, as an aligned Markdown table."""
    rows = [[in_table(text.replace("<", "&lt;")) for text in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def number(value: float | None, sign: str = "") -> str:
    """Three digits after the point below 1, two below 100, none above; a dash for an end that is not known."""
    if value is None:
        return "-"
    size = round(abs(value), 3)
    value = value if size else 0.0  # no minus before a zero
    text = f"{value:{sign}.{3 if size < 1 else 2 if size < 100 else 0}f}"
    return text.replace("0.", ".", 1) if size < 1 else text


def cell(value: Mapping[str, Any] | None, sign: str = "", write: Callable[..., str] = number) -> str:
    """``estimate [low, high]``; a dash for None."""
    if value is None:
        return "-"
    return f"{write(value['estimate'], sign)} [{write(value['low'], sign)}, {write(value['high'], sign)}]"


def main_table(summary: dict[str, Any]) -> str:
    """Measures down, policies across; costs below."""
    policies = summary["policies"]
    rows = [["", *policies]]
    for measure in measures_of(summary):
        rows.append([title_of(measure, summary), *(cell(own[measure]) for own in policies.values())])
    for cost in ("train_seconds", "env_steps", "gradient_steps"):
        costs = [own.get("cost", {}).get(cost) for own in policies.values()]
        rows.append([TITLES[cost], *("-" if c is None else f"{c:,.0f}" for c in costs)])
    return markdown(rows)


def verdict(value: dict[str, Any], starts: str = "start states") -> str:
    """``higher``, ``lower``, or ``not resolved`` with what would resolve a difference of this size."""
    if value["resolved"]:
        return "higher" if value["estimate"] > 0 else "lower"
    needed = value["needed"]
    if value["estimate"] == 0:
        return "not resolved (no difference seen)"
    if needed["seeds"] is not None:
        return f"not resolved ({needed['seeds']:,} seeds would)"
    if needed["start_states"] is not None:
        return (
            f"not resolved (no seeds alone would; {needed['start_states']:,} {starts} x {needed['at_seeds']} "
            "seeds, or more samples)"
        )
    return f"not resolved (how many seeds or {starts} would is not known)"


def difference_table(summary: dict[str, Any], other: str) -> str:
    """One row for each method and measure."""
    rows = [["", "measure", f"difference to {other}", f"{100 * summary['level']:.4g} % interval", ""]]
    for name, differences in summary["differences"][other].items():
        for index, measure in enumerate(measures_of(summary)):
            value = differences[measure]
            ends = f"[{number(value['low'], '+')}, {number(value['high'], '+')}]"
            title = title_of(measure, summary)
            told = verdict(value, summary["starts"])
            rows.append([name if index == 0 else "", title, number(value["estimate"], "+"), ends, told])
    return markdown(rows)


def signal_table(summary: dict[str, Any]) -> str:
    """What the groups of each method gave: means over updates and seeds."""
    names = list(dict.fromkeys(name for own in summary["signals"].values() for name in own))
    names = [name for name in names if name != "entropy at the end"] + ["entropy at the end"]
    rows = [["", *summary["signals"]]]
    for name in names:
        rows.append([name, *(number(own.get(name)) for own in summary["signals"].values())])
    return markdown(rows)


def seed_table(summary: dict[str, Any]) -> str:
    """Success, pass@k and costs of every run."""
    known = ["success", *(f"pass@{k}" for k in summary["ks"][1:]), "coverage_area", "distinct_winning_signatures"]
    known += ["diversity", "creativity", "distinct_valid", "distinct_unseen"]
    shown = [name for name in known if name in measures_of(summary)]
    rows = [["run", *(title_of(m, summary) for m in shown), "environment steps", "gradient steps"]]
    for name, runs in summary["runs"].items():
        for seed, own in runs.items():
            figures = [number(own[m]) for m in shown]
            rows.append([f"{name} seed {seed}", *figures, f"{own['env_steps']:,}", f"{own['gradient_steps']:,}"])
    return markdown(rows)


def perturbed_table(summary: dict[str, Any], name: str, measure: str = "success") -> str:
    """One measure of every policy: unperturbed, perturbed, the change, and the difference to the baseline under it."""
    perturbed, baseline = summary["perturbed"][name], summary["baseline"]
    rows = [["", measure, f"{measure}, {name}", "change", f"difference to {baseline}, {name}", ""]]
    for policy, own in perturbed["policies"].items():
        gap = perturbed["differences"][baseline].get(policy)
        if policy == PRETRAINED and baseline in perturbed["differences"][PRETRAINED]:
            found = perturbed["differences"][PRETRAINED][baseline][measure]
            ends = {"estimate": "estimate", "low": "high", "high": "low"}
            gap = {measure: found | {e: None if found[o] is None else -found[o] for e, o in ends.items()}}
        change = perturbed["changes"][policy][measure]
        told = "" if gap is None else verdict(gap[measure], summary["starts"])
        cells = [cell(summary["policies"][policy][measure]), cell(own[measure]), cell(change, "+")]
        rows.append([policy, *cells, "" if gap is None else cell(gap[measure], "+"), told])
    return markdown(rows)


def perturbed_tables(summary: dict[str, Any]) -> list[str]:
    """Success and the last pass@k under each perturbation, as Markdown; nothing without any."""
    parts = []
    for name in summary.get("perturbed", {}):
        last = summary["ks"][-1]
        parts += [f"## Under {name}", perturbed_table(summary, name)]
        if last > 1:
            parts.append(perturbed_table(summary, name, f"pass@{last}"))
    return parts


def headline(summary: dict[str, Any]) -> str:
    """One line over a table: seeds, start states, samples, what the intervals cover."""
    seeds = summary["seeds"]
    starts, samples = summary["starts"], counted(summary["samples_per_start_state"], "sample")
    over = f"seeds and {starts} (pretrained: over {starts})" if len(seeds) > 1 else f"{starts} alone: seeds differ, too"
    return (
        f"{counted(len(seeds), 'seed')} ({', '.join(map(str, seeds))}), "
        f"{summary['start_states']:,} {starts} x {samples}, {100 * summary['level']:.4g} % intervals over {over}"
    )


def report(summary: dict[str, Any], title: str) -> str:
    """The whole comparison as Markdown."""
    parts = [f"# {title}", headline(summary), main_table(summary)]
    for other, differences in summary["differences"].items():
        if differences:
            parts += [f"## Paired differences to {other}", difference_table(summary, other)]
    parts += ["## Signal of the groups (means over updates and seeds)", signal_table(summary)]
    return "\n\n".join([*parts, *perturbed_tables(summary), "## Runs", seed_table(summary)]) + "\n"


def on_screen(summary: dict[str, Any], title: str) -> str:
    """What a terminal shows: the tables without those of every run and of the differences to the pretrained policy."""
    parts = [title, headline(summary), main_table(summary)]
    if summary["differences"][summary["baseline"]]:
        parts.append(difference_table(summary, summary["baseline"]))
    return "\n\n".join([*parts, *perturbed_tables(summary), signal_table(summary)])
