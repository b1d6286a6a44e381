"""pass@k: the chance that at least one of k independent samples of a problem succeeds.

pass@k = 1 - C(n - c, k) / C(n, k) for c successes among n samples (Chen et al. 2021, arXiv 2107.03374, equation 1),
unbiased for 1 - (1 - p)^k. Assumes independent samples from the start state: never vines, which share a prefix.
Degenerate cases: c > n - k gives 1, c = 0 gives 0, k = 1 gives c / n.
"""

import math
import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from polytune.measures.intervals import Interval, check_level, mean_interval


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased pass@k of one problem from whole numbers; the ratio is rounded once.

    Raises ValueError for a non-integer or negative argument, k < 1, k > num_samples, num_correct > num_samples.

    >>> pass_at_k(num_samples=4, num_correct=1, k=2)
    0.5
    >>> [pass_at_k(16, 3, k) for k in (1, 14)]  # with 13 failures, 14 samples hold a success
    [0.1875, 1.0]
    """
    n, c, k = (_whole(name, v) for name, v in (("num_samples", num_samples), ("num_correct", num_correct), ("k", k)))
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if k > n:
        raise ValueError(f"pass@{k} needs at least {k} samples, got {n}: draw more samples or lower k")
    if c > n:
        raise ValueError(f"{c} correct of {n} samples")
    draws = math.comb(n, k)
    return (draws - math.comb(n - c, k)) / draws


def pass_at_k_interval(
    num_samples: ArrayLike,
    num_correct: ArrayLike,
    k: int,
    level: float = 0.95,
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> Interval:
    """(estimate, low, high) of the mean pass@k over the population that the problems were drawn from.

    num_correct: whole numbers (problems,); num_samples: one number or (problems,). Problems weigh the same.
    Two levels, problems and samples, but only problems are resampled, each with its own unbiased estimate
    (`intervals.py` says how). That variance is the sum of both levels. Resampling samples too would count the lower
    one twice, and would bias pass@k for large k: a bootstrap copy of a problem with c = 1 has c = 0 in 37 % of
    draws, and pass@k is not linear in c. The interval is too wide, not too narrow, as a statement about these very
    problems. A single problem leaves its samples only: the exact binomial interval of p (Clopper and Pearson 1934),
    carried through 1 - (1 - p)^k, which rises with p; it speaks about that problem alone.
    Raises ValueError as `pass_at_k` and `mean_interval`, and for shapes that differ.

    >>> [round(x, 3) for x in pass_at_k_interval(16, [0, 1, 3, 16, 8, 2, 0, 5, 16, 1], 4)]  # ten problems, 16 samples
    [0.534, 0.272, 0.779]
    """
    correct_P = np.atleast_1d(np.asarray(num_correct))
    samples_P = np.asarray(num_samples)
    if correct_P.ndim != 1 or samples_P.shape not in ((), correct_P.shape):
        raise ValueError(f"num_correct has shape {correct_P.shape}, num_samples {samples_P.shape}: give (problems,)")
    pairs = list(zip(np.broadcast_to(samples_P, correct_P.shape).tolist(), correct_P.tolist(), strict=True))
    known = {pair: pass_at_k(*pair, k) for pair in set(pairs)}
    values_P = np.array([known[pair] for pair in pairs])
    if len(pairs) != 1:
        return mean_interval(values_P, level, seed=seed, resamples=resamples)
    check_level(level)
    estimate = float(values_P[0])
    low, high = (1 - (1 - p) ** k for p in _binomial_interval(*pairs[0], level))
    return estimate, min(low, estimate), max(high, estimate)


#: the shares of cover@tau that are reported, and the fewest samples that can tell them apart
TAUS, LEAST_FOR_TAUS = (0.2, 0.5, 0.8), 5


def cover_at(num_samples: int, num_correct: int, tau: float) -> float:
    """cover@tau of one problem: 1 when at least a share ``tau`` of its samples is correct, else 0 (arXiv 2510.08325).

    Its mean over problems says how many are solved reliably, where pass@k for large k says how many are solved at all,
    lucky guesses included: pass@k is a mean of cover@tau over tau that weighs small ones. Assumes independent samples.
    The share of n samples stands for the true one, so a problem whose share is near tau may fall on either side.
    Degenerate case: tau 1 asks for every sample. Raises ValueError as `pass_at_k`, and for tau outside (0, 1].
    """
    n, c = (_whole(name, v) for name, v in (("num_samples", num_samples), ("num_correct", num_correct)))
    if not 0 < tau <= 1:
        raise ValueError(f"tau must be above 0 and at most 1, got {tau}")
    if not c <= n or n < 1:
        raise ValueError(f"{c} correct of {n} samples")
    return float(c >= tau * n * (1 - 1e-12))


def coverage_ks(n: int) -> list[int]:
    """The k of a coverage curve: 1, 2, 4, ... and n itself. ValueError for n < 1.

    >>> coverage_ks(12)
    [1, 2, 4, 8, 12]
    """
    last = _whole("n", n)
    if last < 1:
        raise ValueError(f"n must be at least 1, got {last}")
    return [2**power for power in range((last - 1).bit_length())] + [last]


def coverage_area(ks: ArrayLike, values: ArrayLike) -> Any:
    """Area under the coverage curve: the mean of pass@k over log2 k from the first to the last k, trapezoid rule.

    values: (..., ks). In [0, 1] as pass@k is; a single k gives its own value. ValueError for ks that do not rise.

    >>> round(float(coverage_area([1, 2, 4], [0.2, 0.4, 0.8])), 3)  # trapezoids of height .3 and .6
    0.45
    """
    logs_K, values_K = np.log2(np.asarray(ks, dtype=np.float64)), np.asarray(values, dtype=np.float64)
    steps = np.diff(logs_K)
    if logs_K.ndim != 1 or values_K.shape[-1] != len(logs_K) or not (steps > 0).all():
        raise ValueError(f"ks must rise and match the last axis of values, got ks {ks} and shape {values_K.shape}")
    if len(logs_K) == 1:
        return values_K[..., 0]
    heights = (values_K[..., 1:] + values_K[..., :-1]) / 2
    return (heights * steps).sum(axis=-1) / (logs_K[-1] - logs_K[0])


def _whole(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from error
    if number < 0 or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number of at least 0, got {value!r}")
    return number


def _binomial_interval(n: int, c: int, level: float) -> tuple[float, float]:
    """Clopper and Pearson's interval of p after c successes among n: quantiles of beta distributions."""
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = 0.0 if c == 0 else float(betaincinv(c, n - c + 1, tail))
    high = 1.0 if c == n else float(betaincinv(c + 1, n - c, 1 - tail))
    return low, high
