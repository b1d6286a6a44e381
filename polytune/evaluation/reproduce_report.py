"""The report of a reproduction: published figures beside ours, perturbations, pass@k, and what holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polytune.evaluation.comparison_runs import PRETRAINED
from polytune.evaluation.comparison_table import headline, markdown
from polytune.evaluation.published import METHOD_TITLES, SOURCE, Published
from polytune.evaluation.reproduce import VERDICTS, counts

COVERAGE = "The paper has curves only: Poly-PPO's rise to k = 80, the others are flat from about 20 on."
MEASURES = {"success": "success", "mean_return": "mean return"}


def percent(value: float | None, sign: str = "") -> str:
    """A share in percent, one digit after the point; a dash for None."""
    return "-" if value is None else f"{100 * value:{sign}.1f}"


def share(value: float | None, sign: str = "") -> str:
    """A share with three digits; a dash for None."""
    return "-" if value is None else f"{value:{sign}.3f}".replace("0.", ".", 1)


def cell(value: Mapping[str, Any] | None, write=percent, sign: str = "") -> str:
    """``estimate [low, high]``."""
    if value is None:
        return "-"
    return f"{write(value['estimate'], sign)} [{write(value['low'], sign)}, {write(value['high'], sign)}]"


def title_of(policy: str) -> str:
    return METHOD_TITLES.get(policy, policy)


def table_1(summary: Mapping[str, Any], published: Published) -> str:
    """Mean return and success of each policy, the paper's and ours, and the gain in success over the pretrained one."""
    rows = [["", "mean return, paper", "ours", "success %, paper", "ours", "gain over pretrained, paper", "ours"]]
    for policy, own in summary["policies"].items():
        theirs, gain = published.success.get(policy), summary["differences"][PRETRAINED].get(policy)
        trained = policy != PRETRAINED
        their_gain = theirs - published.success[PRETRAINED] if trained and theirs is not None else None
        rows.append([
            title_of(policy), share(published.mean_return.get(policy)), cell(own["mean_return"], share),
            percent(theirs), cell(own["success"]), percent(their_gain, "+"),
            cell(gain["success"], percent, "+") if trained else "-",
        ])  # fmt: skip
    return markdown(rows)


def perturbed_table(summary: Mapping[str, Any], published: Published, name: str) -> str:
    """Success under one perturbation, the paper's and ours, and what the perturbation changes."""
    perturbed, table = summary["perturbed"][name], published.perturbed.get(name, {})
    rows = [["", "success %, paper", "ours", "change, paper", "ours"]]
    for policy, own in perturbed["policies"].items():
        theirs = table.get(policy)
        change = None if theirs is None else theirs - published.success[policy]
        ours = cell(perturbed["changes"][policy]["success"], percent, "+")
        rows.append([title_of(policy), percent(theirs), cell(own["success"]), percent(change, "+"), ours])
    return markdown(rows)


def coverage_table(summary: Mapping[str, Any]) -> str:
    """pass@k of each policy in percent."""
    rows = [["", *(f"pass@{k}" for k in summary["ks"])]]
    for policy, own in summary["policies"].items():
        rows.append([title_of(policy), *(cell(own[f"pass@{k}"]) for k in summary["ks"])])
    return markdown(rows)


def ordering_lines(found: Sequence[Mapping[str, Any]], word: str) -> list[str]:
    """The orderings of one verdict, a line each; figures in percentage points, returns in their own unit."""
    lines = []
    for one in found:
        if one["verdict"] == word:
            write = percent if one["measure"] == "success" else share
            where = MEASURES[one["measure"]] + (f" under {one['perturb']}" if one["perturb"] else "")
            lines.append(
                f"- {where}: {title_of(one['better'])} > {title_of(one['worse'])} "
                f"(paper {write(one['published'], '+')}, ours {cell(one['ours'], write, '+')})"
            )
    return lines


def verdicts(found: Sequence[Mapping[str, Any]], level: float) -> str:
    """Every ordering of the paper under its verdict."""
    number = counts(found)
    told = ", ".join(f"{number[word]} {'hold' if word == 'holds' else word}" for word in VERDICTS)
    parts = [
        f"Of the paper's {len(found)} ordered pairs {told}, by {100 * level:.4g} % intervals of paired differences."
    ]
    for word in VERDICTS:
        lines = ordering_lines(found, word) or ["none"]
        parts.append(f"**{word}**\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def report(content: Mapping[str, Any], published: Published) -> str:
    """The whole report as Markdown; ``content``: what is kept as JSON."""
    summary = content["comparison"]
    pretraining = content["pretraining"]
    parts = [
        f"# {published.title}, scale {content['scale']}, beside {SOURCE}",
        f"`{content['command']}`, {content['date']}",
        f"{headline(summary)}. Horizon {content['horizon']}, {content['env_steps']:,.0f} environment steps a run. Ours "
        f"is a text policy cloned to {percent(pretraining['success'])} % on held-out levels, theirs is not, nor is "
        "known how long it trained: orderings and gains compare, levels do not.",
        "## Mean return and success",
        table_1(summary, published),
    ]
    for name in summary.get("perturbed", {}):
        parts += [f"## Success under {name}", perturbed_table(summary, published, name)]
    parts += [
        "## pass@k, in percent",
        COVERAGE,
        coverage_table(summary),
        "![pass@k and paired differences](comparison/coverage.png)",
    ]
    parts += ["## What holds", verdicts(content["orderings"], summary["level"])]
    return "\n\n".join(parts) + "\n"
