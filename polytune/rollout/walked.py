"""Ways walked again: the snapshots of states that lie on a way, made anew from the start state.

A snapshot is pickled, and unpickling runs whatever code the bytes name. So none is ever written to a disk: what a method
remembers is the way (start state and turns), and who reads a checkpoint walks it. Worlds are deterministic
(`tasks/conformance.py`), so the snapshots are those that were there, byte for byte; a way on which the world shows or
says anything else is refused. Ways with a common beginning walk it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from polytune.policy import Renderer
from polytune.rollout.tree import Turn
from polytune.tasks.base import Episode, Task


class Walk(NamedTuple):
    """What was shown at a start state, and the turns from there."""

    start_state: int
    prompt_ids: tuple[int, ...]
    turns: tuple[Turn, ...]


class _Place(NamedTuple):
    """The state after ``turn`` of the way that was walked last; of the start state: None."""

    turn: Turn | None
    snapshot: bytes
    done: bool


def snapshots_on(task: Task, renderer: Renderer, walks: Sequence[Walk]) -> list[tuple[bytes, ...]]:
    """Of each way the T + 1 snapshots before its turns and after the last.

    Raises:
        ValueError: the world does not go where a way says.
    """
    found: list[tuple[bytes, ...]] = [()] * len(walks)
    order = sorted(range(len(walks)), key=lambda i: (walks[i][:2], [turn.whole_ids for turn in walks[i].turns]))
    last: Walk | None = None
    places: list[_Place] = []
    for index in order:
        walk = walks[index]
        if last is None or last[:2] != walk[:2]:
            places = [_begin(task, renderer, walk)]
        shared = next((i for i, pair in enumerate(zip(walk.turns, places[1:], strict=False)) if pair[0] != pair[1].turn),
                      min(len(walk.turns), len(places) - 1))  # fmt: skip
        places = places[: shared + 1]
        episode = task.restore(places[-1].snapshot) if shared < len(walk.turns) else None
        for turn in walk.turns[shared:]:
            places.append(_take(episode, renderer, turn, walk.start_state, len(places) - 1, places[-1].done))
        found[index], last = tuple(place.snapshot for place in places), walk
    return found


def _begin(task: Task, renderer: Renderer, walk: Walk) -> _Place:
    episode = task.start(walk.start_state)
    _require(renderer.prompt_ids(episode.observation()) == walk.prompt_ids, walk.start_state, "at its start")
    return _Place(None, episode.snapshot(), episode.done)


def _take(episode: Episode, renderer: Renderer, turn: Turn, start_state: int, number: int, done: bool) -> _Place:
    where = f"in turn {number}"
    _require(not done, start_state, where)
    step = episode.step(renderer.action_text(turn.whole_ids))
    told = () if step.done else renderer.feedback_ids(episode.observation(), turn.whole_ids)
    _require(told == turn.feedback_ids, start_state, where)
    return _Place(turn, episode.snapshot(), step.done)


def _require(fits: bool, start_state: int, where: str) -> None:
    if not fits:
        raise ValueError(
            f"start state {start_state} does not go {where} as the checkpoint's way says: another version of the task "
            "or another tokenizer made it, so train from the start in another output_dir."
        )
