"""Tree -> training rows.

A row is prompt + completion, as TRL lays it out. In the completion, the row's own sampled tokens have mask 1; the
environment's text and a vine's shared prefix have mask 0, so a prefix is trained once, on its seed trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from polytune.rollout.tree import Trajectory, Tree


@dataclass(slots=True)
class Row:
    """One trajectory as tokens; the lists have one entry per completion token.

    ``turn_index`` is the row's own turn that a sampled token belongs to, and -1 on every other token.
    """

    prompt_ids: list[int]
    completion_ids: list[int] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turn_index: list[int] = field(default_factory=list)

    def add(self, ids: tuple[int, ...], logprobs: tuple[float, ...] | None, turn: int) -> None:
        """Append tokens; ``logprobs`` is None for tokens that are not the row's own samples."""
        own = logprobs is not None
        self.completion_ids.extend(ids)
        self.own.extend([int(own)] * len(ids))
        self.logprobs.extend(logprobs if own else [0.0] * len(ids))
        self.turn_index.extend([turn if own else -1] * len(ids))


def blank_row(prompt_ids: tuple[int, ...], pad_id: int) -> Row:
    """A row on which nothing is trained, to fill a batch."""
    row = Row(prompt_ids=list(prompt_ids))
    row.add((pad_id,), None, -1)
    return row


def trajectory_row(prompt_ids: tuple[int, ...], trajectory: Trajectory) -> Row:
    """The row of one trajectory."""
    row = Row(prompt_ids=list(prompt_ids))
    for turn in trajectory.shared_turns:
        row.add(turn.action_ids, None, -1)
        row.add(turn.feedback_ids, None, -1)
    for index, turn in enumerate(trajectory.turns):
        row.add(turn.prefix_ids, None, -1)
        row.add(turn.action_ids, turn.logprobs, index)
        row.add(turn.feedback_ids, None, -1)
    return row


def tree_rows(tree: Tree) -> list[Row]:
    """The S * (1 + p * N) rows of a tree, in the order of :meth:`Tree.trajectories`."""
    return [trajectory_row(tree.prompt_ids, trajectory) for trajectory in tree.trajectories()]
