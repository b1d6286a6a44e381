"""Ways from a start state to a later one: turns as a root has them, without what is only known of fresh samples."""

from collections.abc import Mapping, Sequence

import torch

from polytune.methods.ragged import pack, unpack
from polytune.rollout import Trajectory, Turn

Way = tuple[Turn, ...]


def way_of(trajectory: Trajectory) -> Way:
    """All turns of a trajectory from the start state on."""
    own = (Turn(turn.whole_ids, (), 0.0, turn.feedback_ids) for turn in trajectory.turns)
    return (*trajectory.shared_turns, *own)


def pack_ways(ways: Sequence[Way]) -> dict[str, torch.Tensor]:
    """``turns`` (K,), how many each of the K ways has; ragged lists of all turns: actions, feedback."""
    turns = [turn for way in ways for turn in way]
    return {
        "turns": torch.tensor([len(way) for way in ways], dtype=torch.int64),
        **pack("actions", [turn.action_ids for turn in turns]),
        **pack("feedback", [turn.feedback_ids for turn in turns]),
    }


def unpack_ways(state: Mapping[str, torch.Tensor]) -> list[Way]:
    """The ways that :func:`pack_ways` was given."""
    told = zip(unpack("actions", state), unpack("feedback", state), strict=True)
    turns = iter([Turn(tuple(action), (), 0.0, tuple(feedback)) for action, feedback in told])
    return [tuple(next(turns) for _ in range(count)) for count in state["turns"].tolist()]
