"""Context-conditioned rollouts (PolicyRollout of TriMPI, arXiv 2510.09474): some attempts of a group read a hint that
the trained rows do not have.

    of each start state ``each`` more attempts y ~ pi(. | x, hint);   m': mean return of all its attempts, these too
    A of the hinted ones = R - m', on rows without the hint, in the clipped surrogate with r = pi(y | x) / pi_old
        ratio 'plain': pi_old(y | x), the policy that does not read the hint;   'true': pi_old(y | x, hint)
    A of the others += m - m',   m: the mean return without the hinted ones
So the group is one, as there, and what the hint brings about is learnt without it. With 'true' nothing is biased, and
hardly anything learnt: what needs the hint has a ratio near 0. Hinted attempts join as replayed rows, a share ``share``
of all, as many as have room; their environment steps are paid from the run's budget.

Source: the abstract and general knowledge of it (rollouts that see the policy document join the group of a GRPO run);
its ratio was not read, 'plain' is what trainers do that score rows anew. ``hint``: a text in words that the policy
knows, "" none; a subclass writes ``hints``. Assumes whole episodes from start states, discount 1, one advantage an
attempt, set_normalise 'none' (a joint mean is no joint std). Degenerate case: without a hint these are further attempts
of the same group.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean
from typing import Any, ClassVar

import torch

from polytune.checks import require, require_choice
from polytune.digests import number_from
from polytune.meanings import Metric
from polytune.methods.base import Grown, Method, Update
from polytune.methods.options import require_option
from polytune.methods.row_buffer import Kept
from polytune.rollout import Row, Start, Trajectory, Tree, trajectory_row


@dataclass
class ContextRollouts(Method):
    hint: str = ""
    each: int = 1
    share: float = 0.125
    ratio: str = "plain"
    name: ClassVar[str] = "context_rollouts"
    page: ClassVar[str] = "expert"
    logs: ClassVar[dict[str, Metric]] = {
        "context_rollouts/rows": Metric(
            "rows that the second growth gave", "rows", "above 0", "0: nothing was to be tried again"
        ),
        "context_rollouts/advantage": Metric("mean advantage of those rows", "advantage"),
    }

    def __post_init__(self) -> None:
        require_option("share", self.share, 0.0, 1.0)
        require_option("each", self.each, 1)
        require_choice("ratio", self.ratio, ("plain", "true"))
        self.hint = "" if self.hint is None else str(self.hint)
        self.found: list[Kept] = []  # of this update, of all processes
        self.means: dict[int, tuple[float, float]] = {}  # of this process's trees, by place: (m, m')
        self.updates = 0

    def says(self) -> str:
        return (
            f"**Context-conditioned rollouts** (arXiv 2510.09474): {self.each} attempts more at a start state read a "
            "hint that was left out when they were trained on."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        require(
            objective.set_scope == "seeds" and trainer.critic == "none" and objective.set_normalise == "none",
            f"method {self.name!r} takes one mean over whole attempts and those that it adds: set set_scope to "
            "'seeds', critic to 'none' and set_normalise to 'none'.",
        )

    def wanted_rows(self, rows: int) -> int:
        return math.ceil(self.share * rows)

    def hints(self, tree: Tree, text) -> Iterable[str]:
        """What the attempts that a start state gets more read, one each."""
        return [self.hint] * self.each

    def again(self, grown: Grown) -> None:
        self.updates += 1
        trees = {place: tree for place, tree in enumerate(grown.trees) if tree.root is None}
        starts = [(place, start) for place, tree in trees.items() for start in self.further(tree, grown.text)]
        more = grown.grow([start for _, start in starts])
        hinted: dict[int, list[Trajectory]] = {}
        for (place, _), tree in zip(starts, more, strict=True):
            hinted.setdefault(place, []).extend(tree.seeds)
        self.means, found = {}, []
        for place, own in hinted.items():
            returns, others = ([one.discounted_return() for one in many] for many in (trees[place].seeds, own))
            self.means[place] = fmean(returns), fmean([*returns, *others])
            for episode, value in zip(own, others, strict=True):
                row = trajectory_row(trees[place].prompt_ids, episode)
                found.append(Kept((trees[place].start_state, 0), value - self.means[place][1], row, self.updates))
        if self.ratio == "plain":
            scored = grown.score([own.row for own in found])
            pairs = zip(found, scored, strict=True)
            found = [own._replace(row=replace(own.row, logprobs=logprobs)) for own, (logprobs, _) in pairs]
        every = grown.gather([(own.kind, own.value, own.row) for own in found])
        every.sort(key=lambda own: (own[0], own[1], own[2].prompt_ids, own[2].completion_ids))
        self.found = [Kept(kind, value, row, self.updates) for kind, value, row in every]
        grown.record(f"{self.name}/rows", len(self.found))
        grown.record(f"{self.name}/advantage", fmean([own.value for own in self.found] or [0.0]))

    def further(self, tree: Tree, text) -> list[Start]:
        """Starts with random numbers that nothing else has, the same whichever process grows them."""
        said = [[turn.action_ids for turn in seed.turns] for seed in tree.seeds]
        key = f"{self.updates} {tree.start_state} {said}"
        return [
            Start(tree.start_state, -1 - number_from(f"{self.name} {number} {key}".encode(), 7), None, 1, hint)
            for number, hint in enumerate(self.hints(tree, text))
        ]

    def replay(self, room: int, progress: float) -> list[tuple[Row, float]]:
        drawn = Random(self.updates).sample(self.found, min(room, len(self.found)))
        return [(own.row, own.value) for own in drawn]

    def turn_advantage(self, update: Update, advantages_B_T: torch.Tensor) -> torch.Tensor:
        changed_B_T, row = advantages_B_T.clone(), 0
        for place, tree in enumerate(update.trees):
            rows = sum(1 for _ in tree.trajectories())
            if place in self.means:
                mean, joint = self.means[place]
                changed_B_T[row : row + rows] += mean - joint
            row += rows
        return torch.where(update.scored_B_T, changed_B_T, 0.0)

    def state(self) -> dict[str, torch.Tensor]:
        return {"updates": torch.tensor(self.updates)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.updates = int(state["updates"])
