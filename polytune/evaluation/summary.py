"""Records -> summary: success, return, pass@k with intervals, distinct signatures, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from polytune.evaluation.columns import Records
from polytune.measures.crossing import crossing, in_words
from polytune.measures.intervals import mean_interval, paired_difference_interval, resolved_sign
from polytune.measures.passk import (
    LEAST_FOR_TAUS,
    TAUS,
    cover_at,
    coverage_area,
    coverage_ks,
    pass_at_k,
    pass_at_k_interval,
)


def as_interval(values: tuple[float, float | None, float | None]) -> dict[str, float | None]:
    """(estimate, low, high) by name."""
    return dict(zip(("estimate", "low", "high"), values, strict=True))


def _entropy(samples: Records) -> float | None:
    """Nats per decision, estimated from the samples: -sum of log probabilities / decisions; None for old records."""
    if not samples.column("has logprob").all():
        return None
    return -sum(samples.column("logprob").tolist()) / _sum(samples, "turns")


def _sum(records: Records, name: str) -> int:
    return sum(records.column(name).tolist())


def per_start(records: Sequence[Mapping[str, Any]], policy: str | None = None) -> dict[int, dict[str, Any]]:
    """What one policy (None: all there are) did at each start state: counts, mean return, distinct signatures, greedy
    success. A degenerate signature (null) does not count."""
    records, table = Records.of(records), {}
    for seed, own in (records if policy is None else records.where(policy=policy)).by_start().items():
        samples, greedy = own.where(greedy=False), own.where(greedy=True)
        every, winning = (part.counts_of("signature")[1] for part in (samples, samples.where(success=True)))
        table[seed] = {
            "n": len(samples),
            "correct": _sum(samples, "success"),
            "return": sum(samples.column("return").tolist()) / len(samples),
            "distinct": len(every),
            "distinct_winning": len(winning),
            "greedy": float(greedy.column("success")[0]) if greedy else None,
            "signatures": every,
            "winning_signatures": winning,
            "entropy": _entropy(samples),
        }
    return table


def per_start_values(table: dict[int, dict[str, Any]], ks: Sequence[int]) -> dict[str, list[float]]:
    """Per-start values of every reported measure."""
    columns = {
        "success": [cell["correct"] / cell["n"] for cell in table.values()],
        "mean_return": [cell["return"] for cell in table.values()],
        **({"greedy_success": greedy} if None not in (greedy := [cell["greedy"] for cell in table.values()]) else {}),
        "distinct_signatures": [float(cell["distinct"]) for cell in table.values()],
        "distinct_winning_signatures": [float(cell["distinct_winning"]) for cell in table.values()],
    }
    for k in ks:
        columns[f"pass@{k}"] = [pass_at_k(cell["n"], cell["correct"], k) for cell in table.values()]
    columns["coverage_area"] = coverage_area(ks, np.transpose([columns[f"pass@{k}"] for k in ks])).tolist()
    if all(cell["n"] >= LEAST_FOR_TAUS for cell in table.values()):
        columns |= {f"cover@{tau}": [cover_at(c["n"], c["correct"], tau) for c in table.values()] for tau in TAUS}
    if all(cell["entropy"] is not None for cell in table.values()):
        columns["entropy"] = [cell["entropy"] for cell in table.values()]
    return columns


def measure_bounds(name: str, values: Sequence[float]) -> tuple[float, float] | None:
    """The range of a measure at one start state, given its values for all policies.

    Counts end at the largest one seen; a return lies in [0, 1] (PAPER.md, Objective) unless one lies outside.
    """
    if name.startswith("distinct"):
        return 0.0, max(1.0, *values)
    if name == "entropy":
        return None
    if name == "mean_return" and not all(0.0 <= value <= 1.0 for value in values):
        return None
    return 0.0, 1.0


def summarise(
    records: Sequence[Mapping[str, Any]],
    policies: Sequence[str],
    *,
    level: float = 0.95,
    seed: int = 0,
    ks: Sequence[int] = (),
    crossings: bool = True,
) -> dict[str, Any]:
    """The measures of each policy, and of each pair of policies the paired differences and where their curves cross.

    Args:
        ks: of pass@k, at most the samples of a start state; empty: 1, 2, 4, ... and all of them.
        crossings: also where the curves of each pair cross, which takes a while.

    Returns:
        ``{"policies": {name: {measure: {"estimate", "low", "high"}, "counts": ...}}, "differences": {name: {...}},
        "pairs": [{"first", "second", "differences", "crossing"}], "signature_coverage": {name: {measure: {k: ...}}}}``:
        ``differences`` to the first policy. An interval without ends (a single start state, an unbounded return) has
        None for low and high.

    Raises:
        ValueError: the policies were not sampled at the same start states equally often.
    """
    return summarise_each(Records.of(records).of_each(policies), level=level, seed=seed, ks=ks, crossings=crossings)


def summarise_each(
    of_each: Mapping[str, Records], *, level: float, seed: int, ks: Sequence[int] = (), crossings: bool = True
) -> dict[str, Any]:
    """The same of records by policy, whatever these call it. A measure that not all of them have (no greedy episodes,
    records older than it) is left out of all."""
    policies = list(of_each)
    tables = {policy: per_start(own) for policy, own in of_each.items()}
    samples = _samples_of_all(tables)
    ks = list(ks or coverage_ks(samples))
    if ks[-1] > samples:
        raise ValueError(f"k has {ks[-1]}, but each start state has {samples} samples: leave that k out.")
    columns = {policy: per_start_values(table, ks) for policy, table in tables.items()}
    shared = [name for name in columns[policies[0]] if all(name in own for own in columns.values())]
    columns = {policy: {name: own[name] for name in shared} for policy, own in columns.items()}
    bounds = {name: measure_bounds(name, [value for own in columns.values() for value in own[name]])
              for name in shared}  # fmt: skip
    drawn = {"level": level, "seed": seed}
    pairs = []
    for first, second in combinations(policies, 2):
        pair = {"first": first, "second": second,
                "differences": _differences(columns[first], columns[second], bounds, **drawn)}  # fmt: skip
        if crossings:
            correct = [[cell["correct"] for cell in tables[name].values()] for name in (first, second)]
            pair["crossing"] = crossing(samples, *correct, **drawn)
        pairs.append(pair)
    return {
        "policies": {
            policy: _measures(table, columns[policy], bounds, **drawn)
            | {"counts": _totals(of_each[policy], len(table), samples)}
            for policy, table in tables.items()
        },
        "differences": {pair["second"]: pair["differences"] for pair in pairs if pair["first"] == policies[0]},
        "pairs": pairs,
        "ks": ks,
        "level": level,
        "signature_coverage": {policy: _signature_coverage(table, ks, **drawn) for policy, table in tables.items()},
    }


def _samples_of_all(tables: Mapping[str, dict[int, dict[str, Any]]]) -> int:
    """Samples of each start state; ValueError for policies that were not sampled at the same ones equally often."""
    (first, base), *_ = tables.items()
    for policy, table in tables.items():
        if {s: c["n"] for s, c in table.items()} != {s: c["n"] for s, c in base.items()}:
            told = " and ".join(
                f"{name} at {len(own)} with {sum(cell['n'] for cell in own.values()):,} samples"
                for name, own in ((first, base), (policy, table))
            )
            raise ValueError(
                f"policies {first!r} and {policy!r} were not sampled at the same start states equally often: {told}."
            )
    return min(cell["n"] for cell in base.values())


def _measures(
    table: dict[int, dict[str, Any]], columns: Mapping[str, list[float]], bounds: Mapping[str, Any], **drawn: Any
) -> dict[str, Any]:
    """Each measure of one policy with its interval; ``drawn``: level, seed of the bootstrap."""
    n, correct = [cell["n"] for cell in table.values()], [cell["correct"] for cell in table.values()]
    found = {}
    for name, values in columns.items():
        if name == "success" or name.startswith("pass@"):
            k = 1 if name == "success" else int(name.removeprefix("pass@"))
            found[name] = as_interval(pass_at_k_interval(n, correct, k, **drawn))
        elif len(values) == 1 and bounds[name] is None:
            found[name] = as_interval((values[0], None, None))  # one start state says nothing about others
        else:
            found[name] = as_interval(mean_interval(values, bounds=bounds[name], **drawn))
    return found


def _totals(records: Records, starts: int, samples: int) -> dict[str, Any]:
    """What one policy's records count, greedy ones included."""
    return {
        "start_states": starts,
        "samples_per_start_state": samples,
        "episodes": len(records),
        "env_steps": _sum(records, "turns"),
        "invalid_rate": _sum(records, "invalid_actions") / _sum(records, "turns"),
    }


def _differences(
    first: Mapping[str, list[float]], second: Mapping[str, list[float]], bounds: Mapping[str, Any], **drawn: Any
) -> dict[str, Any]:
    """second - first of each measure, paired by start state."""
    found = {}
    for name, values in first.items():
        own = second[name]
        if len(values) == 1 and bounds[name] is None:
            found[name] = as_interval((own[0] - values[0], None, None))
        else:
            found[name] = as_interval(paired_difference_interval(values, own, bounds=bounds[name], **drawn))
    return found


def _signature_coverage(table: dict[int, dict[str, Any]], ks: Sequence[int], **drawn: Any) -> dict[str, Any]:
    """Distinct signatures, and winning ones, among k samples of a start state: an interval for each k."""
    return {
        name: {
            k: as_interval(mean_interval(values, bounds=(0.0, max(1.0, *values)), **drawn))
            for k, values in _signatures_at(table, name, ks).items()
        }
        for name in ("signatures", "winning_signatures")
    }


def _signatures_at(table: dict[int, dict[str, Any]], name: str, ks: Sequence[int]) -> dict[int, list[float]]:
    """Expected number of distinct signatures among k of a start state's n samples, by rarefaction (Hurlbert 1971,
    Ecology 52:577): each signature is among them as pass@k is 1, with its count in place of the successes."""
    return {k: [sum(pass_at_k(cell["n"], count, k) for count in cell[name]) for cell in table.values()] for k in ks}


def as_table(summary: dict[str, Any]) -> str:
    """The summary as aligned text: a column per policy, then the paired differences to the first one."""
    names = [name for name in next(iter(summary["policies"].values())) if name not in ("counts", "seconds")]
    columns = [(policy, measures) for policy, measures in summary["policies"].items()]
    first = columns[0][0]
    columns += [(f"{policy} - {first}", measures) for policy, measures in summary["differences"].items()]
    rows = [["", *(title for title, _ in columns)]]
    for name in names:
        cells = []
        for title, measures in columns:
            sign = "+" if title not in summary["policies"] else ""
            cells.append(as_text(measures[name], sign))
        rows.append([name, *cells])
    rates = [f"{own['counts']['invalid_rate']:.3f}" for own in summary["policies"].values()]
    rows.append(["invalid actions", *rates, *("" for _ in summary["differences"])])
    return aligned(rows)


def signature_table(summary: dict[str, Any]) -> str:
    """Distinct signatures among k samples of a start state: what widens, or does not, as more are drawn."""
    rows = [["distinct signatures among k samples", *(f"k = {k}" for k in summary["ks"])]]
    for policy, own in summary["signature_coverage"].items():
        for name, label in (("signatures", "all"), ("winning_signatures", "winning")):
            rows.append([f"{policy}, {label}", *(f"{own[name][k]['estimate']:.2f}" for k in summary["ks"])])
    return aligned(rows)


def counted(number: int, noun: str) -> str:
    """``1 sample``, ``1,024 samples``, ``0 samples``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first being the header, in columns of one width each."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def as_text(value: dict[str, float | None], sign: str = "+") -> str:
    """``estimate [low, high]``, a dash for what is not known."""
    if value["estimate"] is None:
        return "-"
    low, high = ("-" if end is None else f"{end:{sign}.3f}" for end in (value["low"], value["high"]))
    return f"{value['estimate']:{sign}.3f} [{low}, {high}]"


def verdict(summary: dict[str, Any], starts: str = "start states") -> list[str]:
    """What was gained, in words: two lines for each pair of policies, saying what the intervals resolve, and where the
    coverage curves cross."""
    lines = []
    for pair in summary["pairs"]:
        parts = []
        last = summary["ks"][-1]  # pass@1 is the success
        for name in ("success", *([f"pass@{last}"] if last > 1 else []), "distinct_winning_signatures"):
            value = pair["differences"][name]
            word = {1: "higher", -1: "lower", 0: "not resolved"}[resolved_sign(value["low"], value["high"])]
            parts.append(f"{name} {as_text(value)} ({word})")
        lines.append(f"{pair['second']} against {pair['first']}: " + "; ".join(parts))
        samples = summary["policies"][pair["first"]]["counts"]["samples_per_start_state"]
        lines.append(in_words(pair["crossing"], pair["first"], pair["second"], samples, starts))
    return lines
