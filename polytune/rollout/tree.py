"""The rollout tree: each token is stored once, a vine refers to its seed trajectory for what they share."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

#: share of its parts below which a sum is what rounding left
ROUNDING = 1e-12


def total_of(parts: Sequence[float]) -> float:
    """Their sum; 0 where parts that take each other away leave rounding alone. Ten turns of -.1 and a shift of 1 sum
    to 1e-16, which objectives would take for a success."""
    total = sum(parts)
    return 0.0 if abs(total) < ROUNDING * sum(map(abs, parts)) else total


def discounted(rewards: Sequence[float], gamma: float) -> float:
    """The sum of rewards, discounted per turn from the first one."""
    return total_of([reward * gamma**t for t, reward in enumerate(rewards)])


def signature_as_json(signature: Hashable | None) -> Any:
    """A signature as records and logs have it, the same on every machine: a set as its sorted list, within a tuple or
    another set, too; a number of numpy's as Python's; what JSON has no word for as its ``repr``.

    Raises:
        ValueError: it has none of its own, and would be another one in each process.
    """
    if isinstance(signature, frozenset | set):
        return sorted(map(signature_as_json, signature), key=repr)
    if isinstance(signature, tuple):
        return tuple(map(signature_as_json, signature))
    if isinstance(signature, np.generic):
        return signature_as_json(signature.item())
    if signature is None or isinstance(signature, str | int | float | list | dict):
        return signature
    if type(signature).__repr__ is object.__repr__:
        raise ValueError(
            f"a signature is {signature!r}, which no record can tell from another one: return text, numbers, or tuples "
            "and frozensets of them."
        )
    return repr(signature)


@dataclass(slots=True)
class Turn:
    """One decision: what the policy sampled and what the environment answered.

    ``feedback_ids`` are the tokens of the next observation, empty after the last turn. ``prefix_ids``: the tokens that
    the action begins with and shares with the seed trajectory, of a vine that branches within it. ``entropies`` of the
    tokens' distributions and the policy's last ``hidden`` state before the first of them: where the generator observes.
    """

    action_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    reward: float
    feedback_ids: tuple[int, ...] = ()
    prefix_ids: tuple[int, ...] = ()
    entropies: tuple[float, ...] = ()
    hidden: Any = None

    @property
    def whole_ids(self) -> tuple[int, ...]:
        """The action as the world got it."""
        return (*self.prefix_ids, *self.action_ids)


class Root(NamedTuple):
    """A state that an earlier update reached from ``start_state``: its snapshot and the turns that lead there."""

    start_state: int
    prompt_ids: tuple[int, ...]
    turns: tuple[Turn, ...]
    snapshot: bytes

    @property
    def observation_ids(self) -> tuple[int, ...]:
        """What the policy sees in it."""
        return self.turns[-1].feedback_ids


@dataclass(eq=False, slots=True)
class Trajectory:
    """A seed trajectory (``parent`` is None) or a vine, which shares its parent's first ``branch_turn`` turns, and
    ``branch_token`` tokens of the next one.

    ``turns`` are its own turns only; ``signature`` and ``invalid_actions`` cover the same turns. ``root``: where a seed
    trajectory begins, None for the start state. ``snapshots``: the world before each own turn, of whole episodes where
    a method asks for them.
    """

    parent: Trajectory | None = None
    branch_turn: int = 0
    branch_token: int = 0
    turns: list[Turn] = field(default_factory=list)
    stop_reason: str | None = None
    signature: Hashable | None = None
    invalid_actions: int = 0
    root: Root | None = None
    snapshots: list[bytes] = field(default_factory=list)

    @property
    def success(self) -> bool:
        """Whether it ended because the task was solved."""
        return self.stop_reason == "success"

    @property
    def shared_turns(self) -> list[Turn]:
        """The turns before its own ones: those that lead to the root, and those of the seed trajectory before the
        rollout state."""
        if self.parent is not None:
            return [*self.parent.shared_turns, *self.parent.turns[: self.branch_turn]]
        return [] if self.root is None else list(self.root.turns)

    @property
    def first_turn(self) -> int:
        """Turns of the episode before its first own one."""
        if self.parent is not None:
            return self.parent.first_turn + self.branch_turn
        return 0 if self.root is None else len(self.root.turns)

    def discounted_return(self, gamma: float = 1.0) -> float:
        """Return of the trajectory's own turns, discounted per turn from its first one."""
        return discounted([turn.reward for turn in self.turns], gamma)


@dataclass(eq=False, slots=True)
class Tree:
    """All that grew from one start state, or from one root: S seed trajectories and, for each, p groups of N vines."""

    start_state: int
    prompt_ids: tuple[int, ...]
    seeds: list[Trajectory] = field(default_factory=list)
    #: vines[s][k]: the vines of rollout state k on seed trajectory s
    vines: list[list[list[Trajectory]]] = field(default_factory=list)

    @property
    def root(self) -> Root | None:
        """Where its seed trajectories begin; None: in the start state."""
        return self.seeds[0].root if self.seeds else None

    def trajectories(self) -> Iterator[Trajectory]:
        """Every trajectory in row order: a seed trajectory, then its vines, rollout state by rollout state."""
        for seed, groups in zip(self.seeds, self.vines, strict=True):
            yield seed
            for group in groups:
                yield from group

    def vine_groups(self) -> Iterator[list[Trajectory]]:
        """The vines of each rollout state."""
        for groups in self.vines:
            yield from groups
