"""Two text worlds small enough to be solved exactly: a bandit (one decision) and a two-step tree (two decisions).

A world is a list of *paths* (one action a turn) with a payoff in [0, 1] each. The end of a path ends the episode: with
success if it pays 1, as a `miss` otherwise. It pays payoff * (1 - 0.5 t/H), i.e. the reward of every world times the
payoff; with the horizon equal to the depth, where every turn is needed, that is 0.5 * payoff.
Signature: the whole path (the arm pulled, the leaf reached), `None` before its end, so text that is no action adds no
strategy. Start states differ in nothing but the demonstration that the expert gives there.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import ClassVar

from polytune.tasks.base import Episode, Task

Path = tuple[str, ...]


class PathEpisode(Episode):
    """Walks down one path."""

    task: PathWorld

    def _begin(self) -> None:
        self.path: Path = ()
        self.draw = random.Random(self.seed).random()  # which demonstration this start state gets

    def observation(self) -> str:
        return " ".join((self.task.sign, *self.path))

    def _act(self, action: str) -> bool:
        self.path = (*self.path, action)
        return self._payoff() == 1.0

    def _failure(self) -> str | None:
        return "miss" if len(self.path) == self.task.depth else None

    def _reward(self) -> float:
        return self._payoff() * (1.0 - 0.5 * self.turn / self.task.horizon)

    def _payoff(self) -> float:
        return self.task.payoffs.get(self.path, 0.0)

    def _place(self) -> Path | None:
        return self.path if len(self.path) == self.task.depth else None

    def signature(self, since_turn: int = 0) -> Hashable | None:
        """The set that holds the path walked, `None` as long as it has no end."""
        return super().signature(since_turn) or None


class PathWorld(Task):
    """Paths over the same actions at each turn.

    Args:
        actions: the words that can be said, at every turn.
        payoffs: path -> payoff in [0, 1]; paths that are left out pay 0. At least one pays 1.
        habits: path that pays 1 -> how often the expert walks it, relative to the others.
        horizon: turns at most. With `depth`, no turn is left over for text that is no action: only then are the exact
            results exact.

    Raises:
        ValueError: a path of another length or with an unknown action, a payoff outside [0, 1], no path that pays 1, a
            habit of a path that does not pay 1 or with a weight that is not positive.
    """

    episode_class = PathEpisode
    depth: ClassVar[int]
    sign: ClassVar[str]
    """The word at the beginning of every observation; the actions taken so far follow it."""

    def __init__(
        self,
        actions: Sequence[str],
        payoffs: Mapping[Path, float],
        habits: Mapping[Path, float],
        horizon: int,
    ):
        super().__init__(horizon)
        self.actions, self.payoffs, self.habits = tuple(actions), dict(payoffs), dict(habits)
        for path in (*self.payoffs, *self.habits):
            if len(path) != self.depth or not set(path) <= set(self.actions):
                raise ValueError(f"path {path!r} of task {self.name!r} is not {self.depth} of the words {self.actions}")
        if not all(0.0 <= payoff <= 1.0 for payoff in self.payoffs.values()) or 1.0 not in self.payoffs.values():
            raise ValueError(f"payoffs of task {self.name!r} must lie in [0, 1] and one must be 1, got {self.payoffs}")
        if not self.habits or any(w <= 0.0 or self.payoffs.get(p) != 1.0 for p, w in self.habits.items()):
            raise ValueError(f"habits of task {self.name!r} are weights above 0 of paths that pay 1, got {self.habits}")
        words = f"Say {self.depth} of these words, one at a time: {', '.join(self.actions)}."
        self.instructions = f"{words} Some {'words' if self.depth == 1 else 'pairs of words'} win, others lose."

    def vocabulary(self) -> list[str]:
        return [self.sign, *self.actions]

    def expert(self, episode: Episode) -> str:
        """The next action of this start state's demonstration: a path drawn by habit from `episode.draw`. Where the
        episode has left that path, the most habitual one that still can be walked; the first action if none can."""
        bounds = itertools.accumulate(weight / sum(self.habits.values()) for weight in self.habits.values())
        shown = next(path for path, bound in zip(self.habits, bounds, strict=True) if episode.draw < bound + 1e-9)
        by_habit = sorted(self.habits, key=self.habits.get, reverse=True)
        taken = len(episode.path)
        open_paths = [path for path in (shown, *by_habit) if path[:taken] == episode.path]
        return open_paths[0][taken] if open_paths else self.actions[0]


class Bandit(PathWorld):
    """One decision: by default six arms, of which three win; the expert pulls them in the proportion 7 : 2 : 1."""

    name = "bandit"
    depth = 1
    sign = "arms"

    def __init__(
        self,
        horizon: int = 1,
        arms: Sequence[str] = ("red", "green", "blue", "black", "grey", "white"),
        payoffs: Sequence[float] = (1.0, 1.0, 1.0, 0.0, 0.0, 0.0),
        habits: Sequence[float] = (7.0, 2.0, 1.0),
    ):
        """`arms`: their words; `payoffs`: one an arm; `habits`: one an arm that pays 1, in their order."""
        paid = _paired(((arm,) for arm in arms), payoffs, "payoffs, one an arm")
        optimal = [path for path, payoff in paid.items() if payoff == 1.0]
        super().__init__(arms, paid, _paired(optimal, habits, "habits, one an arm that pays 1"), horizon)


class TwoStep(PathWorld):
    """Two decisions: by default three doors twice, nine paths, of which three win. Two of those begin with the same
    door, the third does not, and one first door leads nowhere."""

    name = "two-step"
    depth = 2
    sign = "doors"

    def __init__(
        self,
        horizon: int = 2,
        doors: Sequence[str] = ("left", "middle", "right"),
        winning: Sequence[Path] = (("left", "left"), ("left", "right"), ("right", "middle")),
        habits: Sequence[float] = (7.0, 2.0, 1.0),
    ):
        """`doors`: their words; `winning`: the paths that pay 1; `habits`: one for each of them."""
        paths = [tuple(path) for path in winning]
        super().__init__(
            doors, dict.fromkeys(paths, 1.0), _paired(paths, habits, "habits, one a winning path"), horizon
        )


def _paired(paths: Iterable[Path], numbers: Sequence[float], what: str) -> dict[Path, float]:
    paths = list(paths)
    if len(paths) != len(numbers):
        raise ValueError(f"{len(paths)} {what}, are wanted: got {list(numbers)}")
    return dict(zip(paths, numbers, strict=True))


# The rows of TASKS: as every world's, their only option is the horizon. Sizes are options of the classes above.


def bandit(horizon: int = 100) -> Bandit:
    """The default bandit. With `horizon=1` a text that is no arm ends the episode, as the exact results assume."""
    return Bandit(horizon)


def two_step(horizon: int = 100) -> TwoStep:
    """The default two-step tree. With `horizon=2` a text that is no door fails, as the exact results assume."""
    return TwoStep(horizon)
