"""Intervals for a mean over two crossed factors: training runs (R) and problems, i.e. start states (P).

Every run meets the same problems: values (R, P), y_rp = mu + run_r + problem_p + rest_rp. Mean squares of the two-way
layout without replicates: E MS_run = P var_run + var_rest, E MS_problem = R var_problem + var_rest, E MS_rest =
var_rest. The mean's variance is var_run / R + var_problem / P + var_rest / (R P), estimated by (MS_run + MS_problem -
MS_rest) / (R P), the two-way cluster-robust variance, but by no less than either factor alone gives (MS / (R P)).
Degrees of freedom: Satterthwaite (1946, Biometrics Bulletin 2:110), (sum MS)^2 / sum(MS^2 / dof of MS).

Unbounded values take the t interval; bounded ones the score interval of `intervals.py` with that variance, which
respects the range; where few problems say anything (all values at a bound, say) the variance is drawn towards that of P
all-or-nothing problems, as there. Differences take the t interval, and where few problems tell the two apart, whatever
the interval over problems of `intervals.py` reaches beyond it.
One run leaves its problems only, one problem its runs only: `intervals.py`; unbounded numbers of runs alone take the t
interval, however many runs (10 runs, t with 3 degrees of freedom: 96 %, where their bootstrap covers 92 %).

Assumes runs and problems drawn independently from populations. That a whole run may fail where none of a few did is
not in saturated data, and not in their intervals. Coverage of 95 % intervals, 5 runs x 50 problems, 2,000 simulations
(test_crossed.py): Gaussian components 94.1 to 95.4 % (98.6 % for noise alone); pass@k of 16 samples 94.2 to 96.2 %,
their differences 94.7 to 98.7 %; saturated pass@k 99.4 % and more, too wide. Worst case found: 92.2 %, runs that differ
much (sd .5 on the logit) and pass@k near .96.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from polytune.measures.intervals import (
    MIN_INFORMATIVE,
    PRIOR_WEIGHT,
    Interval,
    check_level,
    gains_and_losses,
    informative,
    mean_interval,
    paired_difference_interval,
    student,
    t_quantile,
)

MOST_RUNS = 100_000
MOST_PROBLEMS = 1_000_000


@dataclass(frozen=True)
class MeanSquares:
    """Mean squares of the two-way layout of values (R, P), R and P at least 2."""

    runs: int
    problems: int
    run: float
    problem: float
    rest: float

    @classmethod
    def of(cls, values_R_P: np.ndarray) -> "MeanSquares":
        """Of values (R, P), one a run and start state: squares of runs, start states and what is left, over their
        degrees of freedom. Assumes two of either at least."""
        runs, problems = values_R_P.shape
        mean = values_R_P.mean()
        run_R, problem_P = values_R_P.mean(axis=1) - mean, values_R_P.mean(axis=0) - mean
        rest_R_P = values_R_P - mean - run_R[:, None] - problem_P[None, :]
        return cls(
            runs=runs,
            problems=problems,
            run=problems * float(run_R @ run_R) / (runs - 1),
            problem=runs * float(problem_P @ problem_P) / (problems - 1),
            rest=float((rest_R_P**2).sum()) / ((runs - 1) * (problems - 1)),
        )

    def expected(self, runs: int, problems: int) -> "MeanSquares":
        """What another number of runs and problems would give, with the variance components seen here, none below 0."""
        run = max(self.run - self.rest, 0.0) / self.problems
        problem = max(self.problem - self.rest, 0.0) / self.runs
        return MeanSquares(runs, problems, problems * run + self.rest, runs * problem + self.rest, self.rest)

    def variance_of_mean(self) -> tuple[float, float]:
        """(variance of the mean, its degrees of freedom), never below what one factor alone gives."""
        squares = max(self.run + self.problem - self.rest, self.run, self.problem)
        uncertainty = (
            self.run**2 / (self.runs - 1)
            + self.problem**2 / (self.problems - 1)
            + self.rest**2 / ((self.runs - 1) * (self.problems - 1))
        )
        dof = squares**2 / uncertainty if uncertainty > 0 else self.problems - 1
        return squares / (self.runs * self.problems), dof


def crossed_mean_interval(
    values_R_P: ArrayLike,
    level: float = 0.95,
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
) -> Interval:
    """(mean, low, high) for the mean over the populations of runs and problems, from values of shape (runs, problems).

    bounds: the range of a value, None for an unbounded one. Raises ValueError for another shape, non-finite values,
    values outside the bounds, a level outside (0, 1), a single unbounded value.
    """
    values = _checked(values_R_P, level)
    if 1 in values.shape:
        return _of_one_factor(values, level, bounds, seed)
    if bounds is not None:
        mean_interval(values.ravel(), level, bounds=bounds, resamples=100)  # its checks of the bounds
    mean = float(values.mean())
    variance, dof = MeanSquares.of(values).variance_of_mean()
    if bounds is None:
        half = quantile((1 + level) / 2, dof) * math.sqrt(variance)
        return mean, mean - half, mean + half
    width = bounds[1] - bounds[0]
    unit_R_P = ((values - bounds[0]) / width).clip(0.0, 1.0)
    unit, problems = float(unit_R_P.mean()), unit_R_P.shape[1]
    bernoulli = unit * (1 - unit)
    share = variance / width**2 / bernoulli if bernoulli > 0 else 1 / problems
    weight = informative(unit_R_P.mean(axis=0), np.round(unit)) ** 2
    share = max(share, (weight * share + PRIOR_WEIGHT / problems) / (weight + PRIOR_WEIGHT))
    ratio = quantile((1 + level) / 2, dof) ** 2 * share
    centre = (unit + ratio / 2) / (1 + ratio)
    half = math.sqrt(ratio * bernoulli + ratio**2 / 4) / (1 + ratio)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return mean, min(mean, bounds[0] + width * low), max(mean, bounds[0] + width * high)


def _of_one_factor(values_R_P: np.ndarray, level: float, bounds: tuple[float, float] | None, seed: int) -> Interval:
    """The interval of one run over problems, or of runs alone; unbounded numbers of runs take Student's whatever their
    number: runs are too few for a bootstrap."""
    values = values_R_P.ravel()
    if bounds is not None or len(values_R_P) == 1:
        return mean_interval(values, level, bounds=bounds, seed=seed)
    low, high = student(values, level)
    return float(values.mean()), float(low), float(high)


def crossed_difference_interval(
    difference_R_P: ArrayLike,
    level: float = 0.95,
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
) -> Interval:
    """(mean, low, high) of a paired difference from its values (runs, problems). bounds: the range of a single value.

    Pairs by run and problem (another method with the same seed), or by problem alone (one policy, taken from each
    run). Raises ValueError as `crossed_mean_interval`.
    """
    values = _checked(difference_R_P, level)
    width = math.inf if bounds is None else bounds[1] - bounds[0]
    if 1 in values.shape:
        if bounds is None:
            return _of_one_factor(values, level, None, seed)
        loss, gain = (-values.ravel()).clip(min=0), values.ravel().clip(min=0)
        return paired_difference_interval(loss, gain, level, seed, bounds=(0.0, width))
    if np.abs(values).max() > width * (1 + 1e-9):
        raise ValueError(f"a difference of {np.abs(values).max()} is wider than the bounds {bounds}")
    mean = float(values.mean())
    variance, dof = MeanSquares.of(values).variance_of_mean()
    half = quantile((1 + level) / 2, dof) * math.sqrt(variance)
    low, high = mean - half, mean + half
    if bounds is not None and _tells_little(values, bounds):
        wider = _over_problems(values, bounds, level)
        low, high = min(low, wider[0]), max(high, wider[1])
    return mean, max(low, -width), min(high, width)


@dataclass(frozen=True)
class Needed:
    """What would resolve an observed difference of this size: ``runs`` in all, on the same number of problems; or, when
    no number of runs would, ``problems`` in all, each met by ``problem_runs`` runs. All None: nothing can be said.
    """

    runs: int | None = None
    problems: int | None = None
    problem_runs: int | None = None


def needed_to_resolve(
    difference_R_P: ArrayLike, level: float = 0.95, *, bounds: tuple[float, float] | None = (0.0, 1.0)
) -> Needed:
    """The least number of runs (or else of problems) whose interval, with the components seen here, would exclude 0.

    A plan, not a promise: the difference and its components are estimates. Asked of a difference that is not resolved;
    one of exactly 0, values without any spread and a single run name nothing.
    """
    values = _checked(difference_R_P, level)
    size = abs(float(values.mean()))
    runs, problems = values.shape
    if runs == 1 or size == 0.0 or not np.ptp(values):
        return Needed()
    if problems == 1:  # one number for each run: Student's interval over runs
        deviation = float(values.std(ddof=1))
        half = lambda n: quantile((1 + level) / 2, n - 1) * deviation / math.sqrt(n)  # noqa: E731
        return Needed(runs=_least(lambda n: half(n) < size, runs + 1, MOST_RUNS))
    squares = MeanSquares.of(values)

    def resolves(num_runs: int, num_problems: int) -> bool:
        variance, dof = squares.expected(num_runs, num_problems).variance_of_mean()
        return quantile((1 + level) / 2, dof) * math.sqrt(variance) < size

    if bounds is not None and _tells_little(values, bounds):  # more problems like these, so that more tell them apart
        for times in range(2, 65):
            repeated = np.tile(values, times)
            low, high = _over_problems(repeated, bounds, level)
            apart = low > 0 or high < 0 or not _tells_little(repeated, bounds)
            if apart and resolves(runs, times * problems):
                return Needed(problems=times * problems, problem_runs=runs)
        return Needed()
    found = _least(lambda number: resolves(number, problems), runs + 1, MOST_RUNS)
    if found is not None:
        return Needed(runs=found)
    for doubling in range(8):
        more = runs * 2**doubling
        found = _least(lambda number, more=more: resolves(more, number), problems + 1, MOST_PROBLEMS)
        if found is not None:
            return Needed(problems=found, problem_runs=more)
    return Needed()


def _tells_little(difference_R_P: np.ndarray, bounds: tuple[float, float]) -> bool:
    """Whether fewer than 8 problems tell the two sides of a difference apart."""
    unit_P = difference_R_P.mean(axis=0) / (bounds[1] - bounds[0])
    return informative(unit_P, np.round(unit_P.mean())) < MIN_INFORMATIVE


def _over_problems(difference_R_P: np.ndarray, bounds: tuple[float, float], level: float) -> tuple[float, float]:
    """The interval over problems alone, for differences of few problems."""
    width = bounds[1] - bounds[0]
    low, high = gains_and_losses((difference_R_P.mean(axis=0) / width).clip(-1.0, 1.0), level)
    return low * width, high * width


def _least(holds, low: int, high: int) -> int | None:
    """The least whole number in low..high from which ``holds`` is true, found by bisection; None when none is."""
    if not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def quantile(probability: float, dof: float) -> float:
    """Student's t quantile for any dof of at least 1 (a smaller one counts as 1), interpolated in 1 / dof."""
    dof = min(max(dof, 1.0), 10_000.0)
    below = math.floor(dof)
    first, second = (t_quantile(probability, _coarse(whole)) for whole in (below, below + 1))
    share = (1 / below - 1 / dof) / (1 / below - 1 / (below + 1))
    return first + share * (second - first)


def _coarse(dof: int) -> int:
    """Beyond 200 in steps of 100, over which the quantile of .975 falls by .004 at the most."""
    return dof if dof <= 200 else dof // 100 * 100


def _checked(values_R_P: ArrayLike, level: float) -> np.ndarray:
    values = np.asarray(values_R_P, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"values must have shape (runs, problems) with at least one of each, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {values.size} values are not finite")
    check_level(level)
    return values
