"""The benchmark's result: one JSON, one picture, and tables between two marks of a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polytune.comparison.benchmark import DISTINCT
from polytune.comparison.benchmark_cells import GAINS, HARMS, OPEN, SAME, SUCCESS, TRADES
from polytune.comparison.keep import portable
from polytune.comparison.methods import PRETRAINED
from polytune.comparison.table import cell, markdown, number
from polytune.pictures.gains import plot_gains
from polytune.running.provenance import origin, write_json, write_text

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
NAMES = {"grpo": "GRPO", "poly_epo": "Poly-EPO", PRETRAINED: "start policy"}
#: names that a list tells before it counts them
FEW = 12
ORDER = {word: place for place, word in enumerate((GAINS, TRADES, OPEN, SAME, HARMS))}


def read_kept(path: str | Path) -> dict[str, Any]:
    """The result so far, with ``worlds`` and ``runs`` by world; empty where there is none.

    Raises:
        ValueError: the file is there and cannot be read.
    """
    if not Path(path).is_file():
        return {"worlds": {}, "runs": {}}
    try:
        found = json.loads(Path(path).read_text())
        return {"worlds": dict(found["worlds"]), "runs": dict(found["runs"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): restore it, or remove it to begin anew.") from error


def write_all(kept: Mapping[str, Any], keep: str, page: str, level: float, command: Sequence[str]) -> None:
    """The JSON, the picture beside it, and the page's tables."""
    told = {"title": "The methods of the field, each alone over two bases", "level": level, **origin(command)}
    write_json(Path(keep), portable({**told, **kept}))
    plot_gains(kept["worlds"], Path(keep).with_suffix(".png"), level=level, names=NAMES)
    worlds, of_world = kept["worlds"], {name: page_of(Path(page), name) for name in kept["worlds"]}
    links = "All differences: " + ", ".join(f"[{name}]({path.name})" for name, path in of_world.items()) + "."
    parts = [reading(worlds), *(world_part(name, world, level) for name, world in worlds.items()), links]
    write_page(Path(page), "\n\n".join(parts))
    for name, path in of_world.items():
        title = f"# Methods side by side: {name}\n[What was run, and how to read it]({Path(page).name}).\n\n"
        write_page(path, world_tables(name, worlds[name]), title)


def page_of(page: Path, world: str) -> Path:
    """Where the differences of one world stand, beside the page of all."""
    return page.with_name(f"{page.stem}-{world.replace('_', '-')}{page.suffix}")


def write_page(path: Path, text: str, title: str = "") -> None:
    """Put ``text`` between the marks of a page, which keeps what is written around them; a new one has ``title``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before, begin, rest = (path.read_text() if path.is_file() else title).partition(BEGIN)
    after = rest.partition(END)[2] if begin else "\n"
    write_text(path, f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def reading(worlds: Mapping[str, Any]) -> str:
    """Who gains and who harms, by base: a row for each method that something is resolved of."""
    parts = ["## What is resolved"]
    for base in _bases(worlds):
        found: dict[str, dict[str, str]] = {}
        for world, own in worlds.items():
            for name, one in own["bases"].get(base, {}).get("methods", {}).items():
                if one.get("verdict", OPEN) not in (OPEN, SAME):
                    found.setdefault(name, {})[world] = _signs(one, own["coverage"])
        rows = [["method", *worlds]]
        rows += [[name, *(own.get(world, "") for world in worlds)] for name, own in sorted(found.items())]
        told = markdown(rows) if found else "Nothing yet."
        parts += [f"Over {NAMES.get(base, base)}:", told]
    return "\n\n".join(parts)


def _signs(one: Mapping[str, Any], coverage: str) -> str:
    """``gains: coverage +.31``: the verdict with the differences that are resolved."""
    words = [
        f"{title} {number(own['estimate'], '+')}"
        for measure, title in ((SUCCESS, "success"), (coverage, "winners"))
        if (own := one["differences"][measure])["resolved"]
    ]
    return f"{one['verdict']}: {', '.join(words)}"


def _bases(worlds: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(base for own in worlds.values() for base in own["bases"]))


def world_part(name: str, world: Mapping[str, Any], level: float) -> str:
    """What was run in one world, and what the bases did."""
    seeds, samples = len(world["seeds"]), world["samples"]
    how = "computed from the policy's probabilities" if world["exact"] else f"{samples} samples of each start state"
    told = (
        f"{seeds} seeds, {world['env_steps']:,} environment steps and {world['gradient_steps']:,} gradient steps a "
        f"run, learning rate {world['learning_rate']:g}; {how}; {100 * level:.4g} % intervals over seeds."
    )
    return "\n\n".join([f"## {name}", told, "Not run yet." if world[PRETRAINED] is None else base_table(world)])


def world_tables(name: str, world: Mapping[str, Any]) -> str:
    """The differences of all methods in one world, by base."""
    parts = [] if world[PRETRAINED] is not None else ["Not run yet."]
    for base, own in world["bases"].items() if world[PRETRAINED] is not None else ():
        parts += [f"## {name}, over {NAMES.get(base, base)}", method_table(world, own)]
        parts += [text for text in (refused_table(own), missing_line(own)) if text]
    return "\n\n".join(parts)


def _titles(world: Mapping[str, Any]) -> dict[str, str]:
    """Measures of a table: title by name."""
    samples = world["samples"]
    entropy = "nats an episode" if world["exact"] else "nats a decision"
    valid = world["coverage"] == DISTINCT
    found = f"distinct valid answers in {world['start_states']:,}" if valid else f"distinct winners in {samples}"
    pass_at_k = {f"pass@{samples}": f"pass@{samples}"} if samples > 1 else {}
    return {SUCCESS: "success", **pass_at_k, world["coverage"]: found, "entropy": f"entropy, {entropy}"}


def base_table(world: Mapping[str, Any]) -> str:
    """The start policy and the bases themselves."""
    titles = _titles(world)
    rows = [["", *titles.values(), "CPU seconds"]]
    start = world[PRETRAINED] or {}
    rows.append([NAMES[PRETRAINED], *(number(start.get(m)) for m in titles), "-"])
    for base, own in world["bases"].items():
        cells = [cell(own.get("measures", {}).get(m)) for m in titles]
        rows.append([NAMES.get(base, base), *cells, number(own.get("cost", {}).get("cpu_seconds"))])
    return markdown(rows)


def method_table(world: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Differences of each method to its base, those that gain first, then by distinct winners."""
    titles = _titles(world)
    done = {name: one for name, one in own["methods"].items() if "differences" in one}

    def place(name: str) -> tuple:
        return ORDER[done[name]["verdict"]], -done[name]["differences"][world["coverage"]]["estimate"]

    rows = [["method", *titles.values(), "CPU seconds, x", "seeds", ""]]
    for name in sorted(done, key=place):
        one = done[name]
        cells = [cell(one["differences"].get(m), "+") for m in titles]
        short = {"budget": "another budget", "failed": "a seed failed"}
        notes = "; ".join([one["verdict"], *(told for why, told in short.items() if why in one)])
        rows.append([name, *cells, number(one["seconds_ratio"]), str(len(one["seeds"])), notes])
    return markdown(rows) if len(rows) > 1 else "No run yet."


def refused_table(own: Mapping[str, Any]) -> str:
    """Methods that do not apply, in their own words, those that failed, and those that cost something else."""
    rows = [["does not apply, or failed", "why"]]
    for why, told in (("refused", ""), ("failed", " (failed)"), ("budget", " (budget)")):
        rows += [[f"{name}{told}", _escaped(one[why])] for name, one in own["methods"].items() if why in one]
    return markdown(rows) if len(rows) > 1 else ""


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def missing_line(own: Mapping[str, Any]) -> str:
    """What is still to be run, by seeds."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, one in own["methods"].items():
        if one.get("missing") and "refused" not in one and "failed" not in one:
            groups.setdefault(tuple(one["missing"]), []).append(name)
    parts = []
    for seeds, names in groups.items():
        whose = ", ".join(names) if len(names) <= FEW else f"{len(names)} methods"
        parts.append(f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} of {whose}")
    told = [f"Runs that are missing: {'; '.join(parts)}."] if parts else []
    if left := [name for name, one in own["methods"].items() if "left_out" in one]:
        told.append(
            f"Not run here, for on the other worlds they gained nothing, or not without a loss: {', '.join(left)}."
        )
    return " ".join(told)
