"""Where two coverage curves cross: up to which k the one policy has the higher pass@k, and from which k on the other.

Paired over problems, D(k) = mean of pass@k of the second - pass@k of the first, both unbiased, for every k up to n
(a grid of :data:`MOST_KS`, evenly spaced in log k, beyond that many). The interval of the crossing inverts the paired
interval of D (`intervals.py`): it holds every k whose interval contains 0, between a k where D is resolved with its
first sign and one where it is resolved with the other. So it misses the crossing of the two populations no more often
than the interval at that k misses 0, at most 1 - level. What is not resolved on both sides has no crossing to report,
only how many more samples would resolve it: intervals shrink with the square root of the number of problems.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polytune.evaluation.intervals import paired_difference_interval

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
        ``verdict``: ``crosses`` (resolved on both sides), ``first above`` or ``second above`` (resolved at k = 1 and at
        k = n with one sign), or ``not resolved``. ``estimate``: where D changes its sign for the last time,
        interpolated between whole k, None where it does not; ``low``, ``high``: the interval, None where it is not
        resolved; ``early``, ``late``: D at k = 1 and k = n with its interval; ``more_start_states``: how many more, of
        the same number of samples, would resolve what is not, differences staying as they are; None where nothing is
        missing, or nothing differs.
    """
    ks = grid(num_samples)
    values = [pass_at_ks(num_samples, correct, ks) for correct in (first, second)]
    difference_K = (values[1] - values[0]).mean(axis=0)
    ends = [
        dict(zip(("estimate", "low", "high"), paired_difference_interval(a, b, level, seed), strict=True))
        for a, b in zip(values[0].T, values[1].T, strict=True)
    ]
    early, late = ends[0], ends[-1]
    found: dict[str, Any] = {"k": [ks[0], ks[-1]], "early": early, "late": late, "low": None, "high": None}
    found["estimate"] = _last_change(ks, difference_K)
    signs = [_sign(end) for end in ends]
    found["verdict"] = "not resolved"
    if len(ks) > 1 and signs[0] * signs[-1] == -1:
        found["verdict"] = "crosses"
        turned = next(i for i, sign in enumerate(signs) if sign == signs[-1])
        last = max(i for i, sign in enumerate(signs[:turned]) if sign == signs[0])
        found |= {"low": ks[last], "high": ks[turned]}
        if not ks[last] <= (found["estimate"] or 0) <= ks[turned]:  # curves that meet more than once
            found["estimate"] = _last_change(ks[last : turned + 1], difference_K[last : turned + 1])
    elif len(ks) > 1 and signs[0] * signs[-1] == 1:
        found["verdict"] = "second above" if signs[0] == 1 else "first above"
    found["more_start_states"] = _missing(len(first), [early, late]) if found["verdict"] == "not resolved" else None
    return found


def _sign(value: Mapping[str, float]) -> int:
    return 1 if value["low"] > 0 else -1 if value["high"] < 0 else 0


def _last_change(ks: Sequence[int], difference_K: np.ndarray) -> float | None:
    """Where the difference takes its last sign, linear between neighbouring k."""
    changes = [i for i in range(1, len(ks)) if difference_K[i - 1] * difference_K[i] < 0]
    if not changes:
        return None
    i = changes[-1]
    share = difference_K[i - 1] / (difference_K[i - 1] - difference_K[i])
    return float(ks[i - 1] + share * (ks[i] - ks[i - 1]))


def _missing(problems: int, ends: Sequence[Mapping[str, float]]) -> int | None:
    """More problems that resolve every end, if differences stay and intervals shrink with the square root of them."""
    needed = []
    for end in ends:
        if _sign(end) == 0:
            if end["estimate"] == 0:
                return None
            reach = end["estimate"] - end["low"] if end["estimate"] > 0 else end["high"] - end["estimate"]
            needed.append(problems * (reach / end["estimate"]) ** 2)
    return max(1, math.ceil(max(needed)) + 1 - problems) if needed else None


def in_words(found: Mapping[str, Any], first: str, second: str, num_samples: int, starts: str = "start states") -> str:
    """One line: the crossing, that there is none, or what would resolve it."""
    most = found["k"][1]
    if most == 1:
        return f"{first} and {second}: one sample of each leaves no curve, raise n"
    if found["verdict"] == "crosses":
        before, after = (first, second) if found["late"]["estimate"] > 0 else (second, first)
        return (
            f"{after} overtakes {before} at k = {found['estimate']:.3g} [{found['low']}, {found['high']}]: {before} "
            f"has the higher pass@k before, {after} from there to k = {most}"
        )
    if found["verdict"] != "not resolved":
        above, below = (first, second) if found["verdict"] == "first above" else (second, first)
        return f"{above} is above {below} at k = 1 and at k = {most} (resolved): no crossing up to there"
    more = found["more_start_states"]
    seen = "no crossing seen" if found["estimate"] is None else f"seen at k = {found['estimate']:.3g}"
    if more is None:
        return f"{first} and {second}: crossing not resolved ({seen}), nor how many samples would resolve it"
    return (
        f"{first} and {second}: crossing not resolved ({seen}); about {more * num_samples:,} more samples of each "
        f"needed ({more:,} {starts} x {num_samples}), if differences stay as they are"
    )
