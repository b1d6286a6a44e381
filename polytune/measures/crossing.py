"""Where two coverage curves cross: up to which k the one policy has the higher pass@k, and from which k on the other.

Paired over problems, D(k) = mean of pass@k of the second - pass@k of the first, both unbiased, for every k up to n
(a grid of :data:`MOST_KS`, evenly spaced in log k, beyond that many). The interval of the crossing inverts the paired
intervals of D (`intervals.py`): between the first and the last k at which D is resolved it holds every k whose
interval contains 0, and ends at the nearest k where D is resolved with its first sign and with the other. The crossing
of the two populations is left out where the interval at that k misses 0, in a share of at most 1 - level of all
evaluations. Without both signs there is no crossing to report, only how many more samples would resolve the curves'
ends: intervals shrink with the square root of the number of problems.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from polytune.measures.intervals import paired_difference_interval, resolved_sign

#: k at which a difference is looked at
MOST_KS = 128


def pass_at_ks(num_samples: int, num_correct: Sequence[int], ks: Sequence[int]) -> np.ndarray:
    """pass@k of each problem, shape (problems, ks): `passk.pass_at_k` for many k at once.

    1 - C(n - c, k) / C(n, k) = 1 - product over i < k of (n - c - i) / (n - i), which is 0 from k > n - c on.
    """
    n, correct_P = num_samples, np.asarray(num_correct, dtype=np.int64)
    steps_K = np.arange(max(ks))
    factors_P_K = np.clip(n - correct_P[:, None] - steps_K, 0, None) / (n - steps_K)
    return 1.0 - np.cumprod(factors_P_K, axis=1)[:, np.asarray(ks) - 1]


def grid(most: int) -> list[int]:
    """1..``most``, or :data:`MOST_KS` of them evenly spaced in log k."""
    if most <= MOST_KS:
        return list(range(1, most + 1))
    return sorted({round(k) for k in np.geomspace(1, most, MOST_KS)})


def crossing(
    num_samples: int, first: Sequence[int], second: Sequence[int], *, level: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """The crossing of two policies' coverage curves.

    Args:
        num_samples: samples of each problem, the same for both.
        first, second: successes, shape (problems,), of the same problems in the same order.

    Returns:
        ``verdict``: ``crosses``, ``crosses more than once`` (D is resolved with both signs, and changes once, or more
        often), ``first above`` or ``second above`` (resolved at k = 1 and at k = n, nowhere with the other sign), or
        ``not resolved``. ``low``, ``high``: the interval of the crossing, of all of them if there are more;
        ``estimate``: where D changes its sign for the last time, linear between whole k, None where it does not.
        ``resolved``: first and last k at which D is resolved, and its signs there, None where it is nowhere. ``early``,
        ``late``: D at k = 1 and k = n with its interval. ``more_start_states``: how many more, of the same number of
        samples, would resolve both ends, differences staying as they are; None where they are, or nothing differs.
    """
    ks = grid(num_samples)
    values = [pass_at_ks(num_samples, correct, ks) for correct in (first, second)]
    ends = [
        dict(zip(("estimate", "low", "high"), paired_difference_interval(a, b, level, seed), strict=True))
        for a, b in zip(values[0].T, values[1].T, strict=True)
    ]
    difference_K = (values[1] - values[0]).mean(axis=0)
    signs = [resolved_sign(end["low"], end["high"]) for end in ends]
    resolved = [i for i, sign in enumerate(signs) if sign]
    found: dict[str, Any] = {
        "verdict": "not resolved", "k": [ks[0], ks[-1]], "low": None, "high": None,
        "estimate": _last_change(ks, difference_K),
        "resolved": [[ks[i], signs[i]] for i in (resolved[0], resolved[-1])] if resolved else None,
        "early": ends[0], "late": ends[-1], "more_start_states": None,
    }  # fmt: skip
    changes = sum(signs[i] != signs[j] for i, j in pairwise(resolved))
    if changes:
        start, end = resolved[0], resolved[-1]
        while signs[start + 1] == signs[start]:
            start += 1
        while signs[end - 1] == signs[end]:
            end -= 1
        found |= {"verdict": "crosses" if changes == 1 else "crosses more than once", "low": ks[start], "high": ks[end]}
        found["estimate"] = _last_change(ks[start : end + 1], difference_K[start : end + 1])
    elif len(ks) > 1 and signs[0] and signs[-1]:
        found["verdict"] = "second above" if signs[0] == 1 else "first above"
    else:
        found["more_start_states"] = _missing(len(first), [ends[0], ends[-1]])
    return found


def _last_change(ks: Sequence[int], difference_K: np.ndarray) -> float | None:
    """Where the difference takes its last sign, linear from the last k that has another one."""
    nonzero = [i for i, value in enumerate(difference_K) if value != 0]
    changes = [(i, j) for i, j in pairwise(nonzero) if difference_K[i] * difference_K[j] < 0]
    if not changes:
        return None
    i, j = changes[-1]
    return float(ks[i] + (ks[j] - ks[i]) * difference_K[i] / (difference_K[i] - difference_K[j]))


def _missing(problems: int, ends: Sequence[Mapping[str, float]]) -> int | None:
    """More problems that resolve every end, if differences stay and intervals shrink with the square root of them."""
    needed = []
    for end in ends:
        if resolved_sign(end["low"], end["high"]) == 0:
            if end["estimate"] == 0:
                return None
            reach = end["estimate"] - end["low"] if end["estimate"] > 0 else end["high"] - end["estimate"]
            needed.append(problems * (reach / end["estimate"]) ** 2)
    return max(1, math.ceil(max(needed)) + 1 - problems) if needed else None


def in_words(found: Mapping[str, Any], first: str, second: str, num_samples: int, starts: str = "start states") -> str:
    """One line: the crossing, that there is none, or what would resolve it."""
    most, names = found["k"][1], {-1: first, 1: second}
    if most == 1:
        return f"{first} and {second}: one sample of each leaves no curve, raise n"
    if found["verdict"].startswith("crosses"):
        (start, before), (end, after) = found["resolved"]
        if found["verdict"] == "crosses more than once":
            where = f"between k = {found['low']} and {found['high']}"
            return f"the curves of {first} and {second} cross more than once {where}"
        return (
            f"{names[after]} overtakes {names[before]} at k = {found['estimate']:.3g} [{found['low']}, "
            f"{found['high']}]: {names[before]} has the higher pass@k from k = {start} on, {names[after]} to k = {end}"
        )
    if found["verdict"] != "not resolved":
        above, below = (first, second) if found["verdict"] == "first above" else (second, first)
        return f"{above} is above {below} at k = 1 and at k = {most} (resolved): no crossing seen up to there"
    more = found["more_start_states"]
    seen = "none seen" if found["estimate"] is None else f"one seen at k = {found['estimate']:.3g}"
    if found["resolved"] is not None:
        (start, sign), (end, _) = found["resolved"]
        seen += f", {names[sign]} above from k = {start} to {end}"
    if more is None:
        return f"{first} and {second}: crossing not resolved ({seen}), nor how many samples would resolve it"
    return (
        f"{first} and {second}: crossing not resolved ({seen}); about {more * num_samples:,} more samples of each "
        f"needed ({more:,} {starts} x {num_samples}), if differences stay as they are"
    )
