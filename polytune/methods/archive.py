"""An archive of kinds: an attempt earns a bonus that falls with how often its kind has been found before.

    reward of an attempt, at its last turn, += coef (1 + N(s))^-power;   ``shown``: none for what training showed
s: its signature, with its start state where ``per_start_state``, otherwise the same from all of them. N(s): attempts
of that kind in all earlier updates of the run, over all processes. power 0: every kind that training did not show
earns coef for ever; 1/2 is the rate of a count-based bonus. ``failures`` false: successes alone earn and count; true:
a new way to fail is worth as much as a new way to succeed, kept apart from it. With ``where_unsolved`` a failure earns
its bonus times the share of the other attempts of its tree that failed, too: where nothing works yet it pays to look
around, and to fail in a new way beside successes pays nothing. So an attempt is compared with all that the run has
found and with what the data showed, where a diversity compares it with its set, and the bonus falls by itself as less
is new. Where kinds stay seldom to the end, for so many ways lead to a goal, it does not fall enough: with ``coef_end``
coef goes there in a straight line over the run, so that its end is about reward.

Source: quality-diversity search, a feature archive of what succeeded (general knowledge); creativity as distinct *and*
unseen (arXiv 2504.15266, section 2). coef and power are not established, so options. Assumes signatures that mean the
same in every update; ``shown`` needs a task that says what its data shows (``Task.shown_signatures``: the creativity
tasks), elsewhere nothing is shown. A vine's signature is that of its own turns. Degenerate cases: an attempt without a
signature earns nothing; coef 0 leaves the run as it is.
"""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.checks import require
from polytune.digests import number_from
from polytune.meanings import Metric
from polytune.methods.base import Beginning, Method, Update
from polytune.methods.options import require_lasting_signatures, require_option
from polytune.rollout import Trajectory, Tree, signature_as_json
from polytune.schedule import on_the_way


@dataclass
class Archive(Method):
    coef: float = 1.0
    coef_end: float | None = None
    power: float = 0.5
    failures: bool = False
    where_unsolved: bool = False
    shown: bool = True
    per_start_state: bool = True
    page: ClassVar[str] = "archives"
    logs: ClassVar[dict[str, Metric]] = {
        "archive/kinds": Metric("kinds found so far", "count", "rises", "stands still: nothing is new"),
        "archive/new": Metric(
            "share of what counts, successes or all attempts, whose kind neither training nor an earlier update had",
            "",
            "above 0",
        ),
        "archive/bonus": Metric("mean bonus of an attempt", "reward", "0 to coef"),
    }

    def __post_init__(self) -> None:
        require_option("coef", self.coef, 0.0)
        require_option("coef_end", self.coef_end, 0.0, unset=True)
        require_option("power", self.power, 0.0)
        require(
            self.failures or not self.where_unsolved,
            "archive.where_unsolved is about failures, which earn nothing; add archive.failures=true",
        )
        self.never_paid: frozenset[int] = frozenset()
        self.counts: Counter[int] = Counter()

    def says(self) -> str:
        of_training = ", none where training showed it," if self.shown else ""
        falls = "" if self.coef_end is None else f", by the end of the run {self.coef_end:g},"
        faded = " A failure earned the less the more of its tree succeeded." if self.where_unsolved else ""
        return (
            f"An archive of kinds: {'an attempt' if self.failures else 'a success'} earned {self.coef:g}{falls} times "
            f"(1 + N)^-{self.power:g} more{of_training} N being how often its kind had been found in earlier updates."
            f"{faded}"
        )

    @property
    def pays_failures(self) -> bool:
        return self.failures

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        what = "counts signatures over all updates"
        require_lasting_signatures("archive", what, objective, "set signature to 'task'")

    def begin(self, beginning: Beginning) -> None:
        if self.shown:
            self.never_paid = frozenset(map(number_of, beginning.shown()))

    def reward(self, update: Update) -> torch.Tensor:
        bonus_B_T = torch.zeros(update.turns_mask_B_T.shape, dtype=torch.float64)
        counted = new = 0
        coef = on_the_way(self.coef, self.coef_end, update.progress)
        for row, (tree, attempt) in enumerate(update.grown):
            if not self.counts_it(attempt):
                continue
            count, shown = self.counts[self.kind(tree.start_state, attempt)], self.is_shown(attempt)
            counted, new = counted + 1, new + (not shown and not count)
            if not shown:
                share = failed_others(tree) if self.where_unsolved and not attempt.success else 1.0
                bonus_B_T[row, len(attempt.turns) - 1] = share * coef * (1 + count) ** -self.power
        attempts = float(len(update.trajectories))
        total, counted, new, attempts = update.sum([float(bonus_B_T.sum()), counted, new, attempts])
        update.record("archive/bonus", total / max(attempts, 1.0))
        update.record("archive/new", new / max(counted, 1.0))
        return bonus_B_T

    def learn(self, update: Update) -> None:
        found = [self.kind(tree.start_state, own) for tree, own in update.grown if self.counts_it(own)]
        self.counts.update(sorted(update.gather(found)))
        update.record("archive/kinds", len(self.counts))

    def counts_it(self, attempt: Trajectory) -> bool:
        """Whether an attempt earns, and counts."""
        return attempt.signature is not None and (attempt.success or self.failures)

    def kind(self, start_state: int, attempt: Trajectory) -> int:
        """A number of 56 bits for what is counted as one."""
        where = start_state if self.per_start_state else None
        return number_of(attempt.signature, where, *([] if attempt.success else ["failed"]))

    def is_shown(self, attempt: Trajectory) -> bool:
        """Whether training showed what an attempt did."""
        return attempt.success and bool(self.never_paid) and number_of(attempt.signature) in self.never_paid

    def state(self) -> dict[str, torch.Tensor]:
        """shown (S,), kinds (K,), counts (K,)."""
        return {
            "shown": torch.tensor(sorted(self.never_paid), dtype=torch.int64),
            "kinds": torch.tensor(list(self.counts), dtype=torch.int64),
            "counts": torch.tensor(list(self.counts.values()), dtype=torch.int64),
        }

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.never_paid = frozenset(state["shown"].tolist())
        self.counts = Counter(dict(zip(state["kinds"].tolist(), state["counts"].tolist(), strict=True)))


def failed_others(tree: Tree) -> float:
    """Of a tree's failures each: the share of the other attempts that failed; 1 where there are none."""
    attempts = list(tree.trajectories())
    failed = sum(not attempt.success for attempt in attempts)
    return (failed - 1) / (len(attempts) - 1) if len(attempts) > 1 else 1.0


def number_of(signature: Hashable, *where: Hashable) -> int:
    """The same number for the same signature, on every machine."""
    return number_from(repr((signature_as_json(signature), *where)).encode(), 7)
