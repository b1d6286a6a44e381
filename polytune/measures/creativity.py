"""Creativity: how many different valid objects a policy names, and how many that its training set did not show.

Over T generations for T prompts (CREATIVITY.md; arXiv 2504.15266): validity = share that is valid; seen = share whose
object the training set shows; diversity = distinct valid / T; creativity = distinct valid and unseen / T, on canonical
forms (the headline) and on raw strings (as the original code counts); memorisation = seen / valid. A raw string counts
as unseen when its object is. Both diversity and creativity depend on T, and creativity ends at the ceiling, the number
of unseen objects / T.

Intervals of shares: `intervals.py`. Of distinct counts: estimate +- z times the standard deviation that a bootstrap
from an estimated population has (Chao et al. 2014, Ecological Monographs 84:45), in closed form instead of by drawing:
var D = sum m (1 - m) - T (sum p m)^2 with m = exp(-T p), the chance to miss an object of probability p. A bootstrap of
the generations themselves would be biased, since a resample repeats objects that the sample named once. The population
keeps the objects found, with less weight than they have in the sample, and gives the rest to as many unfound ones as
Chao's estimator expects (f1 found once, f2 twice: f1 (f1 - 1) / (2 (f2 + 1))). Where nothing was found just once, the
high end adds what T draws could still bring if the unfound had the most weight that n draws without them leave it,
-log((1 - level) / 2) / n. No end lies beyond T or the number of objects. Assumes independent generations. Coverage of
95 % intervals in simulations: test_creativity_metrics.py. Memorisation without a valid answer is not defined: None.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from polytune.measures.intervals import check_level, mean_interval
from polytune.tasks.creativity.structure import Answer, Structure

#: measures of T generations, in the order of tables
MEASURES = (
    "validity",
    "seen",
    "memorisation",
    "diversity",
    "creativity",
    "raw_diversity",
    "raw_creativity",
)


@dataclass(frozen=True)
class Counts:
    """How often each object, or each string, was named: those that the training set shows, and the others."""

    generations: int
    seen: Mapping[Hashable, int]
    unseen: Mapping[Hashable, int]

    def named(self, kind: str) -> list[int]:
        """How often each object was named: all ``valid`` ones, or the ``unseen``."""
        return [*self.seen.values(), *self.unseen.values()] if kind == "valid" else list(self.unseen.values())

    @property
    def valid(self) -> int:
        """Generations that are valid, seen in training or not."""
        return sum(self.seen.values()) + sum(self.unseen.values())


def count(structure: Structure, completions: Sequence[str], *, raw: bool = False) -> Counts:
    """Counts of canonical forms; of strings with ``raw``."""
    answers: dict[str, Answer | None] = {text: structure.grade(text) for text in set(completions)}
    seen: Counter[Hashable] = Counter()
    unseen: Counter[Hashable] = Counter()
    for text in completions:
        answer = answers[text]
        if answer is not None:
            (seen if answer.seen else unseen)[text if raw else answer.canonical] += 1
    return Counts(len(completions), seen, unseen)


def measure(
    structure: Structure, completions: Sequence[str], *, level: float = 0.95, seed: int = 0
) -> dict[str, dict[str, float | None] | int | float]:
    """The measures of T completions, one for each prompt, with intervals; exact counts and the ceiling beside them.

    Raises:
        ValueError: no completion, or a level outside (0, 1).
    """
    if not completions:
        raise ValueError("there are no completions to score: give at least one")
    check_level(level)
    objects, strings = count(structure, completions), count(structure, completions, raw=True)
    total = len(completions)
    seen_of_valid = [1.0] * sum(objects.seen.values()) + [0.0] * sum(objects.unseen.values())
    found: dict[str, Any] = {
        "validity": _share([1.0] * objects.valid + [0.0] * (total - objects.valid), level, seed),
        "seen": _share([1.0] * sum(objects.seen.values()) + [0.0] * (total - sum(objects.seen.values())), level, seed),
        "memorisation": _share(seen_of_valid, level, seed) if seen_of_valid else _interval(None, None, None),
    }
    for prefix, counts in (("", objects), ("raw_", strings)):
        for name, kind in (("diversity", "valid"), ("creativity", "unseen")):
            ends = distinct_interval(counts, kind, total, level, None if prefix else structure)
            found[prefix + name] = _interval(*(end / total for end in ends))
    found["ceiling"] = min(structure.ceiling / total, 1.0)
    found["counts"] = {
        "generations": total,
        "valid": objects.valid,
        "distinct_valid": len(objects.seen) + len(objects.unseen),
        "distinct_unseen": len(objects.unseen),
        "distinct_valid_strings": len(strings.seen) + len(strings.unseen),
        "distinct_unseen_strings": len(strings.unseen),
        "objects": structure.number_of_objects,
        "objects_in_training": len(structure.seen),
        "unseen_objects": structure.ceiling,
    }
    return found


def coverage(
    structure: Structure, completions: Sequence[str], *, level: float = 0.95, first: int = 1024
) -> dict[str, list[Any]]:
    """Distinct objects found against samples drawn: ``first``, twice as many, ... up to all completions.

    The expected number of distinct ones among m of M samples, sum over objects of 1 - C(M - x, m) / C(M, m), x being
    how often an object was named (rarefaction; exact, without choosing any m of them). Keys: ``samples``, ``valid``,
    ``unseen`` (lists of {"estimate", "low", "high"}), ``unseen_share`` (of all unseen objects).
    """
    total = len(completions)
    samples = [m for m in (first * 2**power for power in range(64)) if m < total]
    samples.append(total)
    counts = count(structure, completions)
    found: dict[str, list[Any]] = {"samples": samples, "valid": [], "unseen": [], "unseen_share": []}
    for m in samples:
        for kind in ("valid", "unseen"):
            found[kind].append(_interval(*distinct_interval(counts, kind, m, level, structure)))
        share = found["unseen"][-1]["estimate"] / structure.ceiling if structure.ceiling else 0.0
        found["unseen_share"].append(share)
    return found


def distinct_interval(
    counts: Counts, kind: str, draws: int, level: float, structure: Structure | None = None
) -> tuple[float, float, float]:
    """(estimate, low, high) of the number of distinct objects in ``draws`` generations: all ``valid`` ones, or the
    ``unseen``. ``structure`` bounds it by how many objects there are; strings have no such bound."""
    objects = math.inf if structure is None else structure.number_of_objects if kind == "valid" else structure.ceiling
    most, named = min(float(draws), objects), counts.named(kind)
    estimate = min(rarefied(named, counts.generations, draws), most)
    half = NormalDist().inv_cdf((1 + level) / 2) * distinct_spread(counts, draws)[kind]
    high = estimate + half
    if 1 not in named:
        high = max(high, estimate - math.log((1 - level) / 2) * draws / counts.generations)
    return estimate, max(0.0, estimate - half), min(high, most)


def rarefied(named: Sequence[int], total: int, m: int) -> float:
    """Expected distinct objects among m of ``total`` samples in which they were named so often."""

    def missed(times: int) -> float:
        if times > total - m:
            return 0.0
        logs = (math.lgamma(a + 1) for a in (total - times, total - m, total - times - m, total))
        first, second, third, fourth = logs
        return math.exp(first + second - third - fourth)

    return sum(number * (1.0 - missed(times)) for times, number in Counter(named).items())


def distinct_spread(counts: Counts, draws: int) -> dict[str, float]:
    """Standard deviations of the numbers of distinct ``valid`` and ``unseen`` objects in ``draws`` generations."""
    kinds = {}
    for name in ("seen", "unseen"):
        named = np.array(list(getattr(counts, name).values()), dtype=np.float64)
        kinds[name] = estimated_population(named, counts.generations)

    def deviation(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
        weights, times = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        missed = np.exp(-draws * weights)
        variance = float((times * missed * (1 - missed)).sum() - draws * (times * weights * missed).sum() ** 2)
        return math.sqrt(max(variance, 0.0))

    return {"valid": deviation([*kinds.values()]), "unseen": deviation([kinds["unseen"]])}


def estimated_population(named: np.ndarray, generations: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the objects found, and of those that the sample is expected to have missed; how many objects
    have each. Together they have the share of generations that named any.

    named: how often each object was named, all above 0.
    """
    times = np.ones(len(named))
    if not len(named):
        return np.zeros(0), times
    once, twice, n = float((named == 1).sum()), float((named == 2).sum()), float(generations)
    missing = math.ceil((n - 1) / n * once * (once - 1) / (2 * (twice + 1)))
    share = named / n
    if not missing:
        return share, times
    unfound = once / n * (((n - 1) * once) / ((n - 1) * once + 2 * max(twice, 1.0)))
    fading = share * (1 - share) ** n
    kept = (share - unfound / fading.sum() * fading).clip(min=0.0)
    return np.append(kept, (share.sum() - kept.sum()) / missing), np.append(times, float(missing))


def _share(values: Sequence[float], level: float, seed: int) -> dict[str, float | None]:
    return _interval(*mean_interval(values, level, seed=seed))


def _interval(estimate: float | None, low: float | None, high: float | None) -> dict[str, float | None]:
    return {"estimate": estimate, "low": low, "high": high}
