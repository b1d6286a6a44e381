"""Groups that grow from states whose outcome is open, on episodes kept from earlier updates (``rollout_states: open``).

Of each start state a success and a failure are kept, with the snapshot before each of their turns. The policy's
success p(t) from the state before turn t is known at both ends of such a way of T turns, p(0) from the last groups at
the start state and p(T) = 1 or 0, and wherever a group has begun; between these places it is read off a straight line.
A start state that is due begins, with chance ``share``, in the state t = 0 .. T - 1 whose p(t) is nearest to a half,
the earliest of equal ones: a failing configuration (p(0) < 1/2) is entered along its success, a solved one along its
failure. What the group then finds becomes p(t), so the next one begins nearer to the place where p crosses a half:
regula falsi over updates. A later figure moves an earlier one halfway, since the policy changes. A way that was
entered ``uses`` times gives way to a new one.

Why: by the law of total variance outcomes settle along an episode, so groups at equally spaced states of the policy's
own episodes tie; half-open states on a way of the other outcome do not (entering along stored successes and failures:
arXiv 2605.05112). Return is a restored snapshot, exact and without a step (a resumed run
makes them anew from the ways); the turns on the way are a prefix, on which
nothing is trained. Straight lines, the halfway step and ways of one episode each are ours.

Assumes worlds of several turns, each tree's attempts independent and begun in one state: ``num_rollout_states`` 0
(groups of seed trajectories) or vines with ``rollout_states`` start. Degenerate cases: a start state that was never
solved, or never failed, begins there itself, as does one whose own p(0) is nearest to a half; share 0 changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar

import torch

from polytune.checks import require
from polytune.meanings import Metric
from polytune.methods.base import Method, Update
from polytune.methods.options import require_option
from polytune.methods.ragged import pack, unpack
from polytune.methods.ways import Way, pack_ways, unpack_ways, way_of
from polytune.rollout import Root, Start, Trajectory, Tree, Walk, find_branching

HALF = 0.5
#: start state, and whether the episode on the way succeeded
Key = tuple[int, bool]


@dataclass
class Kept:
    """A way that was walked once: its turns, the snapshot before each, how often it was entered, p(t) where known."""

    prompt_ids: tuple[int, ...]
    way: Way
    snapshots: tuple[bytes, ...]
    uses: int = 0
    rates: dict[int, float] = field(default_factory=dict)

    def root(self, start_state: int, turn: int) -> Root:
        """Where a group begins that goes on before turn ``turn``."""
        return Root(start_state, self.prompt_ids, self.way[:turn], self.snapshots[turn])


def openest(rates: dict[int, float], turns: int) -> int:
    """The state 0 .. ``turns`` - 1 whose p(t) is nearest to a half, the earliest of equal ones; ``rates``: p where it
    is known, 0 and ``turns`` included, straight lines between."""
    known = sorted(rates)
    best, least = 0, abs(rates[0] - HALF)
    for left, right in zip(known, known[1:], strict=False):
        for turn in range(left, min(right, turns - 1) + 1):
            share = (turn - left) / (right - left)
            gap = abs(rates[left] + share * (rates[right] - rates[left]) - HALF)
            if gap < least - 1e-12:
                best, least = turn, gap
    return best


@dataclass
class OpenStates(Method):
    share: float = 0.5
    uses: int = 8
    needs_snapshots: ClassVar[bool] = True
    logs: ClassVar[dict[str, Metric]] = {
        "open_states/rooted": Metric(
            "share of groups that began in mid-episode",
            "share",
            "near share",
            "far below: start states have no success or no failure yet",
        ),
        "open_states/kept": Metric("start states with a kept way", "count", "rises"),
        "open_states/success": Metric(
            "success rate of those groups",
            "share",
            ".3 to .7",
            "outside: the estimate lags behind the policy, larger groups",
        ),
        "open_states/mixed": Metric(
            "share of those groups with both outcomes",
            "share",
            "above that of the others, see groups/equal_rewards",
            "below: the states are not open",
        ),
    }

    def __post_init__(self) -> None:
        require_option("share", self.share, 0.0, 1.0)
        require_option("uses", self.uses, 1)
        self.rates: dict[int, float] = {}
        self.kept: dict[Key, Kept] = {}

    def says(self) -> str:
        return (
            f"**Open states** (after arXiv 2605.05112): a share {self.share:g} of the groups began where success was "
            "estimated nearest to a half, on a kept success of a failing start state or a kept failure of a solved one."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        require(
            rollout.branch_at == "turn",
            f"method 'open_states' returns to states between turns, but branch_at is {rollout.branch_at!r}: set it to "
            "'turn'.",
        )
        require(
            rollout.num_rollout_states == 0 or find_branching(rollout.rollout_states).whole_episodes,
            "method 'open_states' chooses where groups begin, but vines branch later, at rollout_states "
            f"{rollout.rollout_states!r}, where outcomes have settled: set it to 'start', or num_rollout_states to 0.",
        )

    def starts(self, due: Sequence[Start], run_seed: int) -> list[Start]:
        return [self._enter(start, run_seed) for start in due]

    def _enter(self, start: Start, run_seed: int) -> Start:
        rate = self.rates.get(start.start_state)
        if rate is None or Random(f"{run_seed} {start.start_state} {start.attempt}").random() >= self.share:
            return start
        success = rate < HALF
        kept = self.kept.get((start.start_state, success))
        if kept is None:
            return start
        turn = openest({0: rate} | kept.rates, len(kept.way))
        return start._replace(root=kept.root(start.start_state, turn)) if turn else start

    def learn(self, update: Update) -> None:
        found = sorted(update.gather([_found(tree) for tree in update.trees]), key=_order)
        for start_state, way, successes, attempts, ways in found:
            rate = successes / attempts
            if way:
                self._measured(start_state, way, rate)
            else:
                self.rates[start_state] = _moved(self.rates.get(start_state), rate)
                for kept in ways:
                    key = (start_state, kept.rates[len(kept.way)] == 1.0)
                    if key not in self.kept or self.kept[key].uses >= self.uses:
                        self.kept[key] = kept
        self._tell(update, found)

    def _measured(self, start_state: int, way: Way, rate: float) -> None:
        """p at the end of a way, of each kept one that begins with it."""
        for success in (True, False):
            kept = self.kept.get((start_state, success))
            if kept is not None and kept.way[: len(way)] == way:
                kept.rates[len(way)] = _moved(kept.rates.get(len(way)), rate)
                kept.uses += 1

    def _tell(self, update: Update, found: Sequence[tuple]) -> None:
        rooted = [(successes, attempts) for _, way, successes, attempts, _ in found if way]
        update.record("open_states/rooted", len(rooted) / max(len(found), 1))
        update.record("open_states/kept", len(self.kept))
        if rooted:
            rates = [successes / attempts for successes, attempts in rooted]
            update.record("open_states/success", sum(rates) / len(rates))
            update.record("open_states/mixed", sum(0 < rate < 1 for rate in rates) / len(rates))

    def state(self) -> dict[str, torch.Tensor]:
        """Of S start states: start_states, start_rates (S,). Of K ways: of (K,), successes, uses, their turns, ragged
        prompts, places and rates."""
        ways = list(self.kept.values())
        integers = {
            "start_states": list(self.rates),
            "of": [start_state for start_state, _ in self.kept],
            "successes": [int(success) for _, success in self.kept],
            "uses": [kept.uses for kept in ways],
        }
        return {
            **{name: torch.tensor(numbers, dtype=torch.int64) for name, numbers in integers.items()},
            "start_rates": torch.tensor(list(self.rates.values()), dtype=torch.float64),
            **pack_ways([kept.way for kept in ways]),
            **pack("prompts", [kept.prompt_ids for kept in ways]),
            **pack("places", [list(kept.rates) for kept in ways]),
            **pack("rates", [list(kept.rates.values()) for kept in ways], torch.float64),
        }

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.rates = dict(zip(state["start_states"].tolist(), state["start_rates"].tolist(), strict=True))
        self.kept = {}
        columns = [state[name].tolist() for name in ("of", "successes", "uses")]
        ragged = [unpack(name, state) for name in ("prompts", "places", "rates")]
        for of, success, uses, way, prompt, places, rates in zip(*columns, unpack_ways(state), *ragged, strict=True):
            known = dict(zip(places, rates, strict=True))
            self.kept[of, bool(success)] = Kept(tuple(prompt), way, (), uses, known)

    def revisit(self, snapshots_on: Callable[[Sequence[Walk]], list[tuple[bytes, ...]]]) -> None:
        found = snapshots_on([Walk(of, kept.prompt_ids, kept.way) for (of, _), kept in self.kept.items()])
        for kept, snapshots in zip(self.kept.values(), found, strict=True):
            kept.snapshots = snapshots[:-1]


def _moved(before: float | None, now: float) -> float:
    """A figure of a policy that changes: halfway to what was found now."""
    return now if before is None else (before + now) / 2


def _found(tree: Tree) -> tuple[int, Way, int, int, list[Kept]]:
    """Start state, the way to its root, successes and attempts from there; of whole episodes the shortest success and
    the longest failure."""
    attempts = [t for t in tree.trajectories() if t.first_turn == tree.seeds[0].first_turn]
    found = tree.start_state, tree.root.turns if tree.root else (), sum(t.success for t in attempts), len(attempts)
    if tree.root is not None:
        return *found, []
    whole = sorted((own for own in attempts if own.snapshots), key=_length)
    ends = [own for own in whole if own.success][:1] + [own for own in whole if not own.success][-1:]
    return *found, [
        Kept(tree.prompt_ids, way_of(own), tuple(own.snapshots), rates={len(own.turns): float(own.success)})
        for own in ends
    ]


def _length(trajectory: Trajectory) -> tuple:
    return len(trajectory.turns), [turn.whole_ids for turn in trajectory.turns]


def _order(found: tuple) -> tuple:
    """Any order that does not depend on which process grew what."""
    start_state, way, successes, attempts, ways = found
    told = [[turn.action_ids for turn in kept.way] for kept in ways]
    return start_state, len(way), [turn.action_ids for turn in way], successes, attempts, told
