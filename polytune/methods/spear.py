"""SPEAR's self-imitation (arXiv 2509.22601): the policy trains again on successes of earlier updates, one of a kind.

    loss += gamma(s) * mean of -min(r A, clip(r) A) over replayed tokens (trainer/replayed.py),   A = R - P50 > 0
    gamma(s) = coef (1 - cos(pi s / S)) / 2 for s <= S, then coef;   s: updates made, S: the share ``warmup`` of the run
R: return of the episode; P50: median of the mean returns of the groups seen last (``history``), so that A falls as the
policy learns. Kept: whole episodes that succeed, of each kind (start state and ``key``: 'signature', else 'actions',
word by word) the newest, for ``max_age`` updates; a batch takes as many as it has room for, drawn at random.

Source: the authors' code, which keeps trajectories of advantage above 1 however alike; one of a kind is ours, so that a
seldom strategy is replayed as often as the usual one. S there is 100 to 200 steps. Not built: the reward for tool
turns. There both losses have Clip-Cov; here ``clip_cov`` beside it reaches fresh tokens. Assumes discount 1, and
signatures that mean the same in every update. Degenerate case: while nothing succeeds, or once half of the groups
return the most there is, nothing is replayed.
"""

import math
from dataclasses import dataclass
from random import Random
from statistics import fmean, median
from typing import Any, ClassVar

import torch

from polytune.checks import require, require_choice
from polytune.digests import number_from
from polytune.meanings import Metric
from polytune.methods.base import Method, Update
from polytune.methods.options import require_lasting_signatures, require_option
from polytune.methods.row_buffer import Kept, Kind, keep, pack_rows, unpack_rows
from polytune.rollout import Row, Trajectory, signature_as_json, trajectory_row


@dataclass
class SPEAR(Method):
    coef: float = 1.0
    warmup: float = 0.25
    share: float = 0.125  # of a process's rows, for replay
    key: str = "signature"
    max_age: int = 10
    size: int = 2048
    history: int = 10240
    logs: ClassVar[dict[str, Metric]] = {
        "spear/kept": Metric("successes that are remembered", "count", "above 0", "0: nothing has succeeded"),
        "spear/baseline": Metric(
            "median of the mean returns of the groups seen last",
            "reward",
            "rises",
            "at the largest return: nothing is replayed any more",
        ),
    }

    def __post_init__(self) -> None:
        for name, most in (("coef", math.inf), ("warmup", 1.0), ("share", 1.0)):
            require_option(name, getattr(self, name), 0.0, most)
        for name in ("max_age", "size", "history"):
            value = getattr(self, name)
            require_option(name, value, 1)
        require_choice("key", self.key, ("signature", "actions"))
        self.buffer: dict[Kind, Kept] = {}
        self.means: list[float] = []
        self.updates = 0

    def says(self) -> str:
        return (
            f"**SPEAR** (arXiv 2509.22601): successes of the last {self.max_age} updates, the newest of each "
            f"{self.key if self.key == 'signature' else 'sequence of actions'}, were trained on again, with weight "
            f"{self.coef:g}."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        require(
            self.share > 0.0 or trainer.max_env_steps is not None,
            "method 'spear' has no room: share is 0, and without max_env_steps no row stays blank. Raise spear.share.",
        )
        if self.key == "signature":
            what = "keeps one success of each signature"
            require_lasting_signatures("spear", what, objective, "set spear.key to 'actions'")

    def wanted_rows(self, rows: int) -> int:
        return math.ceil(self.share * rows)

    def replay(self, room: int, progress: float) -> list[tuple[Row, float]]:
        baseline, gamma = self.baseline, self.gamma(progress)
        better = [own for own in self.buffer.values() if own.value > baseline]
        drawn = Random(self.updates).sample(better, min(room, len(better)))
        return [(own.row, gamma * (own.value - baseline)) for own in drawn]

    @property
    def baseline(self) -> float:
        """P50: median of the mean returns of the groups seen last; 0 before there is one."""
        return median(self.means or [0.0])

    def gamma(self, progress: float) -> float:
        """The weight of replayed rows at a share of the run."""
        return (
            self.coef if progress >= self.warmup else self.coef * (1 - math.cos(math.pi * progress / self.warmup)) / 2
        )

    def learn(self, update: Update) -> None:
        self.updates += 1
        found, means = [], []
        for tree in (tree for tree in update.trees if tree.root is None):
            means.append(fmean(seed.discounted_return() for seed in tree.seeds))
            for seed in (seed for seed in tree.seeds if seed.success):
                row = trajectory_row(tree.prompt_ids, seed)
                found.append(Kept(self.kind(tree.start_state, seed), seed.discounted_return(), row, self.updates))
        self.means = [*self.means, *sorted(update.gather(means))][-self.history :]
        since = self.updates - self.max_age + 1
        self.buffer = keep(self.buffer, update.gather(found), since=since, size=self.size)
        update.record("spear/kept", len(self.buffer))
        update.record("spear/baseline", self.baseline)

    def kind(self, start_state: int, episode: Trajectory) -> Kind:
        """What makes two successes one of a kind: start state, and a number of signature or actions."""
        told = signature_as_json(episode.signature) if self.key == "signature" else None
        told = [turn.whole_ids for turn in episode.turns] if told is None else told
        return start_state, number_from(repr(told).encode(), 7)

    def state(self) -> dict[str, torch.Tensor]:
        """Rows of the buffer; means of groups; updates."""
        numbers = {"means": torch.tensor(self.means, dtype=torch.float64), "updates": torch.tensor(self.updates)}
        return pack_rows(self.buffer) | numbers

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.buffer = unpack_rows(state)
        self.means, self.updates = state["means"].tolist(), int(state["updates"])
