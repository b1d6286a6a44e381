"""The report of a reproduction: published figures beside ours, perturbations, pass@k, and what holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polytune.comparison.methods import PRETRAINED
from polytune.comparison.published import METHOD_TITLES, SOURCE, Published
from polytune.comparison.reproduce import VERDICTS, counts
from polytune.comparison.table import cell, headline, markdown, number

#: from one k to the other the paper's Poly-PPO still rises, and nothing else does (curves, no figures)
RISE = (20, 80)
#: differences that are smaller in the paper, which has 3 seeds and no intervals, are marked in lists of orderings
NEAR_TIE = 0.01
MEASURES = {"success": "success", "mean_return": "mean return"}


def percent(value: float | None, sign: str = "") -> str:
    """A share in percent, one digit after the point; a dash for None."""
    return "-" if value is None else f"{100 * value:{sign}.1f}"


def title_of(policy: str) -> str:
    """What a report calls a policy."""
    return METHOD_TITLES.get(policy, policy)


def table_1(summary: Mapping[str, Any], published: Published) -> str:
    """Mean return and success of each policy, the paper's and ours, and the gain in success over the pretrained one."""
    rows = [["", "mean return, paper", "ours", "success %, paper", "ours", "gain over pretrained, paper", "ours"]]
    for policy, own in summary["policies"].items():
        theirs, gain = published.success.get(policy), summary["differences"][PRETRAINED].get(policy)
        trained = policy != PRETRAINED
        their_gain = theirs - published.success[PRETRAINED] if trained and theirs is not None else None
        rows.append([
            title_of(policy), number(published.mean_return.get(policy)), cell(own["mean_return"]),
            percent(theirs), cell(own["success"], write=percent), percent(their_gain, "+"),
            cell(gain["success"], "+", percent) if trained else "-",
        ])  # fmt: skip
    return markdown(rows)


def perturbed_table(summary: Mapping[str, Any], published: Published, name: str) -> str:
    """Success under one perturbation, the paper's and ours, and what the perturbation changes."""
    perturbed, table = summary["perturbed"][name], published.perturbed.get(name, {})
    rows = [["", "success %, paper", "ours", "change, paper", "ours"]]
    for policy, own in perturbed["policies"].items():
        theirs = table.get(policy)
        change = None if theirs is None else theirs - published.success[policy]
        ours = cell(perturbed["changes"][policy]["success"], "+", percent)
        now = cell(own["success"], write=percent)
        rows.append([title_of(policy), percent(theirs), now, percent(change, "+"), ours])
    return markdown(rows)


def coverage_table(summary: Mapping[str, Any]) -> str:
    """pass@k of each policy in percent."""
    rows = [["", *(f"pass@{k}" for k in summary["ks"])]]
    for policy, own in summary["policies"].items():
        rows.append([title_of(policy), *(cell(own[f"pass@{k}"], write=percent) for k in summary["ks"])])
    return markdown(rows)


def coverage_differences(summary: Mapping[str, Any], other: str) -> str:
    """Paired differences of pass@k to ``other`` in percentage points; ``*``: resolved."""
    rows = [["", *(f"pass@{k}" for k in summary["ks"])]]
    for policy, own in summary["differences"][other].items():
        differences = [own[f"pass@{k}"] for k in summary["ks"]]
        cells = [cell(one, "+", percent) + (" *" if one["resolved"] else "") for one in differences]
        rows.append([title_of(policy), *cells])
    return markdown(rows)


def coverage_claim(ks: Sequence[int]) -> str:
    """What the paper says of pass@k, and whether samples for it were drawn."""
    first, last = RISE
    claim = f"The paper has curves only: Poly-PPO's rises to k = {last}, the others are flat from about {first} on."
    if ks[-1] < last:
        return f"{claim} Not tested here: k ends at {ks[-1]}."
    return f"{claim} Compare the columns from k = {first} on."


def ordering_lines(found: Sequence[Mapping[str, Any]], word: str) -> list[str]:
    """The orderings of one verdict, a line each; figures in percentage points, returns in their own unit."""
    lines = []
    for one in found:
        if one["verdict"] == word:
            write = percent if one["measure"] == "success" else number
            where = MEASURES[one["measure"]] + (f" under {one['perturb']}" if one["perturb"] else "")
            lines.append(
                f"- {where}: {title_of(one['better'])} > {title_of(one['worse'])} "
                f"(paper {write(one['published'], '+')}{', nearly a tie' if one['published'] < NEAR_TIE else ''}, "
                f"ours {cell(one['ours'], '+', write)})"
            )
    return lines


def verdicts(found: Sequence[Mapping[str, Any]], level: float) -> str:
    """Every ordering of the paper under its verdict."""
    total = counts(found)
    told = ", ".join(f"{total[word]} {'hold' if word == 'holds' else word}" for word in VERDICTS)
    parts = [
        f"Of the paper's {len(found)} ordered pairs {told}, by {100 * level:.4g} % intervals of paired differences. "
        f"Each is judged by itself: were there no differences at all, about {(1 - level) * len(found):.2g} would be "
        "resolved by chance; and pairs share policies and samples, so they hold or fail together."
    ]
    for word in VERDICTS:
        lines = ordering_lines(found, word) or ["none"]
        parts.append(f"**{word}**\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def report(content: Mapping[str, Any], published: Published) -> str:
    """The whole report as Markdown; ``content``: what is kept as JSON."""
    summary = content["comparison"]
    pretraining = content["pretraining"]
    met = "reached" if pretraining["success"] >= pretraining["target"] else "NOT reached"
    parts = [
        f"# {published.title}, scale {content['scale']}, beside {SOURCE}",
        f"`{content['command']}`, {content['date']}",
        f"{headline(summary)}. Horizon {content['horizon']}, {content['env_steps']:,.0f} environment steps a run. Ours "
        f"is a text policy cloned to {percent(pretraining['success'])} % on held-out levels (target "
        f"{percent(pretraining['target'])} %: {met}), theirs is not, nor is known how long it trained: orderings and "
        "gains compare, levels do not.",
        *(
            ["**This scale shows that everything runs; what it finds says nothing about the methods.**"]
            if content["scale"] == "tiny"
            else []
        ),
        "## Mean return and success",
        table_1(summary, published),
    ]
    for name in summary.get("perturbed", {}):
        parts += [f"## Success under {name}", perturbed_table(summary, published, name)]
    parts += [
        "## pass@k, in percent",
        coverage_claim(summary["ks"]),
        coverage_table(summary),
        f"Differences to {title_of(summary['baseline'])}, in percentage points, * resolved:",
        coverage_differences(summary, summary["baseline"]),
        "![pass@k and paired differences](comparison/coverage.png)",
    ]
    parts += ["## What holds", verdicts(content["orderings"], summary["level"])]
    return "\n\n".join(parts) + "\n"
