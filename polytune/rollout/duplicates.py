"""Duplicate attempts: as many as the logprobs let expect, or a sampler that repeats itself?

The attempts of a group (siblings from one state) are independent samples. Taken in order, attempt j repeats an earlier
one with probability q_j = sum of p(tau) over the distinct earlier ones, and p(tau) = exp(sum of its logprobs) is known.
So the number of repeats D has mean mu = sum q_j, and by Chernoff's bound a count of d or more has probability at most
exp(d - mu - d log(d / mu)) for d > mu. A bound under 1e-9 is no chance: branches share their random numbers (one fixed
seed for every attempt), or the sampler is sharper than its logprobs say. Worlds that are random themselves only make
repeats rarer. Degenerate case: a deterministic policy repeats itself with certainty, and is expected to.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from polytune.rollout.tree import Trajectory

#: chance below which repeats are no accident
ALARM = 1e-9


@dataclass
class Duplicates:
    """Attempts that had an earlier sibling, how many of them repeated one, and how many were expected to."""

    attempts: int = 0
    observed: int = 0
    expected: float = 0.0

    @property
    def chance(self) -> float:
        """Bound on the probability of so many repeats; 1 where there are no more than expected."""
        if self.observed <= self.expected:
            return 1.0
        if self.expected == 0.0:
            return 0.0
        excess = self.observed - self.expected
        return math.exp(excess - self.observed * math.log(self.observed / self.expected))

    @property
    def alarm(self) -> bool:
        """Whether chance hardly explains so many."""
        return self.chance < ALARM

    def __str__(self) -> str:
        return (
            f"{self.observed:.0f} of {self.attempts:.0f} attempts repeat an earlier one word for word, where logprobs "
            f"expect {self.expected:.2g} (chance below {max(self.chance, 1e-300):.0e})"
        )


def count_duplicates(groups: Iterable[Sequence[Trajectory]]) -> Duplicates:
    """Repeats within each group of independent attempts from one state."""
    return count_repeats(
        [
            (
                tuple((turn.action_ids, turn.feedback_ids) for turn in trajectory.turns),
                sum(logprob for turn in trajectory.turns for logprob in turn.logprobs),
            )
            for trajectory in group
        ]
        for group in groups
    )


def count_repeats(groups: Iterable[Sequence[tuple[Hashable, float]]]) -> Duplicates:
    """The same for attempts given as (what was said, its log probability)."""
    found = Duplicates()
    for group in groups:
        seen: dict[Hashable, float] = {}
        for said, logprob in group:
            if seen:
                found.attempts += 1
                found.observed += said in seen
                found.expected += min(1.0, sum(seen.values()))
            seen[said] = math.exp(logprob)
    return found
