"""Early stopping of hopeless rollouts (ActiveVLN, arXiv 2509.12618): what is far too long, or walks in circles, ends.

    after turn t of an episode, t counted from the start state, it fails at once
        if t >= max(least, ceil(stretch * L)), L: turns of the longest of its start state's last ``size`` successes
        or if its last observation came ``repeats`` times before   (0: never asked)
A start state without a success has L of all start states; without any at all nothing is too long. What a stopped
episode earned stays, its success is lost, its signature is that of what it did.

Source: the abstract ("prune long-tail or likely failed trajectories"); its rule was not read, so stretch, least,
repeats and size are options, and the rule is ours. There it saves time; here, with ``max_env_steps``, the steps go to
more trees. Assumes that a success is not much longer than those before it: a long new way is never found once short
ones are known, unless ``stretch`` is large. A critic is taught that a stopped state is worth nothing. Evaluations do
without it. Degenerate cases: stretch so large that no horizon is reached, and repeats 0: nothing is stopped.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Method, Update
from polytune.methods.options import require_option
from polytune.methods.ragged import pack, unpack
from polytune.methods.solved import whole_trees
from polytune.rollout import STOPPED, Trajectory


@dataclass
class EarlyStop(Method):
    stretch: float = 2.0
    least: int = 1
    repeats: int = 3
    size: int = 16
    logs: ClassVar[dict[str, Metric]] = {
        "early_stop/stopped": Metric(
            "share of rollouts that were ended early",
            "share",
            "below .2",
            "above: the limit is too short for the policy",
        ),
    }

    def __post_init__(self) -> None:
        require_option("stretch", self.stretch, 1.0)
        for name, minimum in (("least", 1), ("repeats", 0), ("size", 1)):
            value = getattr(self, name)
            require_option(name, value, minimum)
        self.lengths: dict[int, list[int]] = {}  # start state -> turns of its last successes
        self.longest: int | None = None  # of all of them; none before the first

    def says(self) -> str:
        circles = f", or where an observation came {self.repeats} times before" if self.repeats else ""
        return (
            f"**Early stopping** (arXiv 2509.12618): rollouts ended as failures at {self.stretch:g} times the turns of "
            f"the longest success known{circles}."
        )

    def most(self, start_state: int) -> float:
        """Turns at which an episode of this start state is too long."""
        longest = max(self.lengths[start_state]) if start_state in self.lengths else self.longest
        return math.inf if longest is None else max(self.least, math.ceil(self.stretch * longest))

    def stop(self, start_state: int, episode: Trajectory) -> bool:
        seen = [turn.feedback_ids for turn in (*episode.shared_turns, *episode.turns)]
        return len(seen) >= self.most(start_state) or 0 < self.repeats <= seen[:-1].count(seen[-1])

    def learn(self, update: Update) -> None:
        found = [
            (tree.start_state, len(own.turns)) for tree in whole_trees(update) for own in tree.seeds if own.success
        ]
        for start_state, turns in sorted(update.gather(found)):
            self.lengths[start_state] = [*self.lengths.get(start_state, []), turns][-self.size :]
        self.longest = max(map(max, self.lengths.values()), default=None)
        stopped = [own.stop_reason == STOPPED for own in update.trajectories]
        total, count = update.sum([float(sum(stopped)), float(len(stopped))])
        update.record("early_stop/stopped", total / max(count, 1.0))

    def state(self) -> dict[str, torch.Tensor]:
        states = torch.tensor(list(self.lengths), dtype=torch.int64)
        return {"start_states": states} | pack("turns", list(self.lengths.values()))

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.lengths = dict(zip(state["start_states"].tolist(), unpack("turns", state), strict=True))
        self.longest = max(map(max, self.lengths.values()), default=None)
