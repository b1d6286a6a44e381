"""Go-Explore roots (arXiv 1901.10995): some trees grow from states that were reached before, seldom seen ones first.

A cell is what the policy saw in a state, at one start state. The archive holds the shortest way to each cell and how
often it was seen. A start state that is due begins, with chance ``share``, in one of its cells, drawn with weight
    (visits + 1)^-1/2
Return is a restored snapshot: exact, without a step (the paper's deterministic setting), of a resumed run made anew
from the way. The tokens on the way are a
prefix, on which nothing is trained. Cells by observation, and drawing among those of the due start state, are ours:
each start state keeps its turns. Not built: the paper's second phase, imitation of the archive's best trajectories.

Assumes worlds of several turns whose observation says enough of the state. Degenerate cases: an empty archive, share 0
and tasks of one answer begin in start states as before. Beyond ``size`` cells those seen most often are dropped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

import torch

from polytune.checks import require
from polytune.meanings import Metric
from polytune.methods.base import Method, Update
from polytune.methods.options import require_option
from polytune.methods.ragged import pack, unpack
from polytune.methods.ways import pack_ways, unpack_ways, way_of
from polytune.rollout import Root, Start, Walk

Cell = tuple[int, tuple[int, ...]]


@dataclass
class GoExplore(Method):
    share: float = 0.5
    size: int = 5000
    needs_snapshots: ClassVar[bool] = True
    page: ClassVar[str] = "archives"
    logs: ClassVar[dict[str, Metric]] = {
        "go_explore/rooted": Metric(
            "share of trees that began in a state of the archive",
            "share",
            "near share after a few updates",
            "0: the archive has no state of the start states that are due",
        ),
        "go_explore/cells": Metric(
            "cells in the archive", "count", "rises, at most size", "at size at once: observations hardly repeat"
        ),
    }

    def __post_init__(self) -> None:
        require_option("share", self.share, 0.0, 1.0)
        require_option("size", self.size, 1)
        self.roots: dict[Cell, Root] = {}
        self.visits: dict[Cell, int] = {}

    def says(self) -> str:
        return (
            f"**Go-Explore roots** (arXiv 1901.10995): a share {self.share:g} of the trees began in states that "
            "earlier updates had reached, seldom seen ones first."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        require(
            rollout.branch_at == "turn",
            f"method 'go_explore' returns to states between turns, but branch_at is {rollout.branch_at!r}: set it to "
            "'turn'.",
        )

    def starts(self, due: Sequence[Start], run_seed: int) -> list[Start]:
        own: dict[int, list[Cell]] = {}
        for cell in self.roots:
            own.setdefault(cell[0], []).append(cell)
        return [self._draw(start, own.get(start.start_state, []), run_seed) for start in due]

    def _draw(self, start: Start, cells: Sequence[Cell], run_seed: int) -> Start:
        random = Random(f"{run_seed} {start.start_state} {start.attempt}")
        if random.random() >= self.share or not cells:
            return start
        return start._replace(root=self.roots[self.choose(cells, random)])

    def choose(self, cells: Sequence[Cell], random: Random) -> Cell:
        """The cell of a start state in which a tree begins."""
        return random.choices(cells, [(self.visits[cell] + 1) ** -0.5 for cell in cells])[0]

    def admits(self, cell: Cell, update: Update) -> bool:
        """Whether the archive takes a cell that it does not hold."""
        return True

    def learn(self, update: Update) -> None:
        seen: dict[Cell, list] = {}
        for tree in update.trees:
            for trajectory in tree.seeds:
                way = way_of(trajectory)
                for turn, snapshot in enumerate(trajectory.snapshots[1:], start=trajectory.first_turn + 1):
                    found = seen.setdefault((tree.start_state, way[turn - 1].feedback_ids), [0, None])
                    found[0] += 1
                    if found[1] is None or turn <= len(found[1].turns):  # a longer way is not even copied
                        root = Root(tree.start_state, tree.prompt_ids, way[:turn], snapshot)
                        found[1] = min(found[1] or root, root, key=_length)
        for cell, visits, root in sorted(update.gather([(cell, *found) for cell, found in seen.items()]), key=_order):
            if cell not in self.roots and not self.admits(cell, update):
                continue
            self.visits[cell] = self.visits.get(cell, 0) + visits
            self.roots[cell] = min(self.roots.get(cell, root), root, key=_length)
        often = sorted(self.roots, key=self.visits.__getitem__, reverse=True)
        for cell in often[: max(0, len(often) - self.size)]:
            del self.roots[cell], self.visits[cell]
        rooted = [tree.root is not None for tree in update.trees]
        total, count = update.sum([float(sum(rooted)), float(len(rooted))])
        update.record("go_explore/rooted", total / max(count, 1.0))
        update.record("go_explore/cells", len(self.roots))

    def state(self) -> dict[str, torch.Tensor]:
        """start_states, visits (K,); ragged lists of the K roots: prompts, actions, feedback."""
        roots = list(self.roots.values())
        return {
            "start_states": torch.tensor([root.start_state for root in roots], dtype=torch.int64),
            "visits": torch.tensor([self.visits[cell] for cell in self.roots], dtype=torch.int64),
            **pack_ways([root.turns for root in roots]),
            **pack("prompts", [root.prompt_ids for root in roots]),
        }

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.roots, self.visits = {}, {}
        columns = [state[name].tolist() for name in ("start_states", "visits")]
        for start_state, visits, way, prompt in zip(
            *columns, unpack_ways(state), unpack("prompts", state), strict=True
        ):
            root = Root(start_state, tuple(prompt), way, b"")
            cell = (start_state, root.observation_ids)
            self.roots[cell], self.visits[cell] = root, visits

    def revisit(self, snapshots_on: Callable[[Sequence[Walk]], list[tuple[bytes, ...]]]) -> None:
        found = snapshots_on([Walk(*root[:3]) for root in self.roots.values()])
        for cell, snapshots in zip(self.roots, found, strict=True):
            self.roots[cell] = self.roots[cell]._replace(snapshot=snapshots[-1])


def _length(root: Root) -> tuple:
    """Shorter ways first, and one of equal ones whatever the processes' order."""
    return len(root.turns), [turn.action_ids for turn in root.turns]


def _order(found: tuple) -> tuple:
    return found[0], _length(found[2])
