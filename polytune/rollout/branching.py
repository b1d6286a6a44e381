"""Where to branch: which turns of a seed trajectory become rollout states, one short function per rule.

A rule takes a :class:`SeedView` and p, and returns p turns before which the rollout states lie. ``entropy`` and
``uncertain`` cut the trajectory into p stretches of equal length and take the best turn of each (the earliest of equal
ones), since neighbouring turns of one trajectory say the same thing twice. Degenerate case for every rule: a trajectory
of T <= p turns has too few distinct turns; the start state, turn 0, takes the place of each that is named again.
A rule *foresees* when the turns it names depend on what came after them: then "vines start here" tells something of how
the seed trajectory ends (with equally spaced states, that it is short), and nothing that a value of the seed's own
decisions reads may depend on it.
A rule of a user's own is named by its path, "package.module:name": a function like those here, which is taken to need
no values and no entropies and to foresee, or a :class:`Branching` that says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from polytune.checks import require
from polytune.lookup import Row, find_row
from polytune.tables import BRANCHING


class SeedView(NamedTuple):
    """What a rule may look at: T turns; per turn, the critic's value and the policy's entropy (None: not looked up);
    how many turns, or tokens of an answer, it could have been at most (None: as many as it is)."""

    num_turns: int
    values: Sequence[float] | None = None
    entropies: Sequence[float] | None = None
    most_turns: int | None = None


@dataclass(frozen=True)
class Branching(Row):
    """A rule, what has to be looked up for it before the vines grow, and whether it foresees.

    ``choose`` may name fewer turns than p, and nothing branches where the trajectory has ended; ``names_all``: it never
    does, so that no row of a tree stays blank.
    ``whole_episodes``: all vines begin at the start state.
    """

    choose: Callable[[SeedView, int], list[int]]
    needs_values: bool = False
    needs_entropies: bool = False
    foresees: bool = True
    whole_episodes: bool = False
    names_all: bool = False
    function: ClassVar[str] = "choose"
    form: ClassVar[str] = "a Branching or a function choose(seed, num_states) -> turns"

    def turns(self, seed: SeedView, num_states: int) -> list[int]:
        """Where vines begin. ValueError unless they are at most ``num_states`` turns of the trajectory."""
        turns = self.choose(seed, num_states)
        fits = isinstance(turns, list) and all(type(turn) is int and 0 <= turn < seed.num_turns for turn in turns)
        require(
            fits and len(turns) <= num_states,
            f"the branching rule {self.name!r} named {turns!r}: a list of at most {num_states} turns is due, "
            f"integers from 0 to {seed.num_turns - 1}",
        )
        return turns


def find_branching(name: Any) -> Branching:
    """A row of BRANCHING, or "package.module:name": a :class:`Branching`, or a function choose(seed, num_states) ->
    turns. ValueError for an unknown name, a path that leads nowhere, or something that is no rule."""
    return find_row("rollout_states", name, BRANCHING, Branching)


def equally_spaced(seed: SeedView, num_states: int) -> list[int]:
    """Turns floor(k * T / (p + 1)), k = 1..p (Poly-PPO, arXiv 2509.25424, step 2)."""
    return _distinct([k * seed.num_turns // (num_states + 1) for k in range(1, num_states + 1)])


def fixed(seed: SeedView, num_states: int) -> list[int]:
    """Turns floor(k * H / (p + 1)), k = 1..p, of the horizon H, as far as the trajectory goes: the turn alone says
    whether vines start there, so their mean return is an unbiased value of it for the seed trajectory, too."""
    most = seed.num_turns if seed.most_turns is None else seed.most_turns
    turns = dict.fromkeys(k * most // (num_states + 1) for k in range(1, num_states + 1))
    return [turn for turn in turns if turn < seed.num_turns]


def start(seed: SeedView, num_states: int) -> list[int]:
    """The start state, p times: every vine is a whole episode, and no turn is trained more often for lying late."""
    return [0] * num_states


def entropy(seed: SeedView, num_states: int) -> list[int]:
    """Where the policy hesitates: the highest entropy of the next action, in each of p stretches."""
    return _best_of_stretches(seed.entropies, num_states)


def uncertain(seed: SeedView, num_states: int) -> list[int]:
    """Where the outcome is open: the highest v (1 - v), v the critic's value cut to [0, 1], in each of p stretches.

    v (1 - v) is the variance of a 0/1 outcome with chance v. Vines from a state whose outcome is settled all succeed
    or all fail, and sets of them tie. Assumes returns in [0, 1]. A critic that has learnt nothing gives equal values
    everywhere, hence the first turn of each stretch.
    """
    return _best_of_stretches([v * (1 - v) for v in (min(max(v, 0.0), 1.0) for v in seed.values)], num_states)


def _check_horizon(trainer: Any, rollout: Any, objective: Any) -> None:
    require(
        rollout.branch_at == "turn",
        "rollout_states is 'fixed' and branch_at 'token', but an answer has no horizon: set rollout_states to "
        "'equally_spaced' or 'entropy'.",
    )


def _best_of_stretches(scores: Sequence[float], num_states: int) -> list[int]:
    total = len(scores)
    turns = []
    for k in range(num_states):
        first, last = k * total // num_states, (k + 1) * total // num_states
        turns.append(max(range(first, last), key=lambda turn: scores[turn]) if last > first else 0)
    return _distinct(turns)


def _distinct(turns: list[int]) -> list[int]:
    return [0 if turn in turns[:k] else turn for k, turn in enumerate(turns)]


EQUALLY_SPACED = Branching(equally_spaced, names_all=True, says="at equal distances")
UNCERTAIN = Branching(uncertain, needs_values=True, names_all=True, says="where the critic sees an open outcome")
ENTROPY = Branching(entropy, needs_entropies=True, names_all=True, says="where the policy hesitates")
FIXED = Branching(fixed, foresees=False, check=_check_horizon, says="at the same turns of every episode")
START = Branching(start, foresees=False, whole_episodes=True, names_all=True, says="all at its start")
