"""An archive of kinds: a success earns a bonus that falls with how often its kind has succeeded before.

    reward of a success, at its last turn, += coef (1 + N(s))^-power;   none for a kind that training showed (``shown``)
s: its signature, with its start state where ``per_start_state``, otherwise the same from all of them. N(s): successes
of that signature in all earlier updates of the run, over all processes. power 0: every kind that training did not show
earns coef for ever; 1/2 is the rate of a count-based bonus. So an attempt is compared with all that the run has found
and with what the data showed, where a diversity compares it with its set; and failures earn nothing.

Source: quality-diversity search, a feature archive of what succeeded (general knowledge); creativity as distinct *and*
unseen (arXiv 2504.15266, section 2). coef and power are not established, so options. Assumes signatures that mean the
same in every update; ``shown`` needs a task that says what its data shows (``Task.shown_signatures``: the creativity
tasks), elsewhere nothing is shown. A vine's signature is that of its own turns. Degenerate cases: a success without a
signature earns nothing; coef 0 leaves the run as it is.
"""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from polytune.config import require
from polytune.digests import number_from
from polytune.meanings import Metric
from polytune.methods.base import Beginning, Method, Update, require_option
from polytune.rollout import Trajectory, signature_as_json


@dataclass
class Archive(Method):
    coef: float = 1.0
    power: float = 0.5
    shown: bool = True
    per_start_state: bool = True
    page: ClassVar[str] = "archives"
    logs: ClassVar[dict[str, Metric]] = {
        "archive/kinds": Metric("kinds of success found so far", "count", "rises", "stands still: nothing is new"),
        "archive/new": Metric(
            "share of the successes whose kind neither training nor an earlier update had", "", "above 0"
        ),
        "archive/bonus": Metric("mean bonus of an attempt", "reward", "0 to coef"),
    }

    def __post_init__(self) -> None:
        require_option("coef", self.coef, 0.0)
        require_option("power", self.power, 0.0)
        for name in ("shown", "per_start_state"):
            value = getattr(self, name)
            require(isinstance(value, bool), f"{name} must be true or false, got {value!r}: change it in method_args.")
        self.never_paid: frozenset[int] = frozenset()
        self.counts: Counter[int] = Counter()

    def says(self) -> str:
        of_training = ", none where training showed it," if self.shown else ""
        return (
            f"An archive of kinds: a success earned {self.coef:g} (1 + N)^-{self.power:g} more{of_training} N being "
            "how often its signature had succeeded in earlier updates."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        require(
            objective.signature in ("task", "actions"),
            f"method 'archive' counts signatures over all updates, but signature {objective.signature!r} numbers the "
            "clusters of a group anew in every update: set signature to 'task'.",
        )

    def begin(self, beginning: Beginning) -> None:
        if self.shown:
            self.never_paid = frozenset(map(number_of, beginning.shown()))

    def reward(self, update: Update) -> torch.Tensor:
        bonus_B_T = torch.zeros(update.turns_mask_B_T.shape, dtype=torch.float64)
        successes = new = 0
        for row, (start_state, trajectory) in enumerate(_attempts(update)):
            if not trajectory.success or trajectory.signature is None:
                continue
            count, shown = self.counts[self.kind(start_state, trajectory)], self.is_shown(trajectory)
            successes, new = successes + 1, new + (not shown and not count)
            if not shown:
                bonus_B_T[row, len(trajectory.turns) - 1] = self.coef * (1 + count) ** -self.power
        attempts = float(len(update.trajectories))
        total, successes, new, attempts = update.sum([float(bonus_B_T.sum()), successes, new, attempts])
        update.record("archive/bonus", total / max(attempts, 1.0))
        update.record("archive/new", new / max(successes, 1.0))
        return bonus_B_T

    def learn(self, update: Update) -> None:
        found = (own for own in _attempts(update) if own[1].success and own[1].signature is not None)
        self.counts.update(sorted(update.gather([self.kind(*own) for own in found])))
        update.record("archive/kinds", len(self.counts))

    def kind(self, start_state: int, trajectory: Trajectory) -> int:
        """A number of 63 bits for what is counted as one."""
        return number_of(trajectory.signature, start_state if self.per_start_state else None)

    def is_shown(self, trajectory: Trajectory) -> bool:
        """Whether training showed what an attempt did."""
        return bool(self.never_paid) and number_of(trajectory.signature) in self.never_paid

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


def number_of(signature: Hashable, *where: Hashable) -> int:
    """The same number for the same signature, on every machine."""
    return number_from(repr((signature_as_json(signature), *where)).encode(), 7)


def _attempts(update: Update) -> list[tuple[int, Trajectory]]:
    """(start state, attempt) of this process's rows."""
    return [(tree.start_state, own) for tree in update.trees for own in tree.trajectories()]
