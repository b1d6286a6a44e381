"""Swarm sharing (SAPO, arXiv 2509.08721): rows that other runs left are trained on beside the run's own.

    replayed rows: of other runs' policies, with their own logprobs;   advantage R - mean R of the start state's pool
``runs``: output folders of other runs of the same task and tokenizer, other seeds say, "/a:/b" with ":" between them;
each must have remembered rows (method ``weighted_replay``, or ``spear``), whose last checkpoint is read once, before
the first update. A share ``share`` of rows is drawn in each update; rows of advantage 0 are dropped, as there.

Source: notes on the paper: I own and J external rollouts in one group, zero advantages dropped, text encoded anew under
the own policy. There nodes share as they go; here a run takes what others have left, so that it stays repeatable, and
tokens are taken as they are. Shares are an option (4 and 4 of 8 there). Assumes like policies: the clipped surrogate
bounds ratios, it does not correct them. Degenerate case: without ``runs`` nothing is shared.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import ClassVar

import torch
from safetensors.torch import load_file

from polytune.checks import require
from polytune.meanings import Metric
from polytune.methods.base import Beginning, Method, Update
from polytune.methods.options import require_option
from polytune.methods.row_buffer import Kept, Kind, pack_rows, unpack_rows
from polytune.rollout import Row

REMEMBER = ("weighted_replay", "spear")
#: up to which a return and the mean of equal ones may differ
ROUNDING = 1e-9


@dataclass
class Swarm(Method):
    runs: str = ""
    share: float = 0.5
    logs: ClassVar[dict[str, Metric]] = {
        "swarm/pool": Metric("rows of other runs", "count", "above 0", "0: see runs"),
    }

    def __post_init__(self) -> None:
        require_option("share", self.share, 0.0, 1.0)
        self.pool: dict[Kind, Kept] = {}
        self.updates = 0
        for run in self._folders():
            require(
                bool(self._files(run)),
                f"runs names {str(run)!r}, which has no checkpoint with remembered rows: run it with method "
                f"{' or '.join(map(repr, REMEMBER))}.",
            )

    def _folders(self) -> list[Path]:
        return [Path(run) for run in str(self.runs).split(":") if run]

    @staticmethod
    def _files(run: Path) -> list[Path]:
        """Of what methods remember, the last checkpoint first."""
        found = run.glob("checkpoint-*/methods.safetensors")
        return sorted(found, key=lambda path: int(path.parent.name.split("-")[1]), reverse=True)

    def says(self) -> str:
        return (
            f"**Swarm sharing** (arXiv 2509.08721): rows of {len(self._folders())} other runs were trained on, a share "
            f"{self.share:g} of all."
        )

    def wanted_rows(self, rows: int) -> int:
        return math.ceil(self.share * rows) if self.runs else 0

    def begin(self, beginning: Beginning) -> None:
        found: dict[int, list[Kept]] = {}
        for run in self._folders():
            state = load_file(self._files(run)[0])
            for name in REMEMBER:
                own = {key.removeprefix(f"{name}/"): state[key] for key in state if key.startswith(f"{name}/")}
                for kept in unpack_rows(own).values() if own else ():
                    found.setdefault(kept.kind[0], []).append(kept)
        for state, rows in sorted(found.items()):
            mean = fmean(own.value for own in rows)
            for number, own in enumerate(own for own in rows if abs(own.value - mean) > ROUNDING):
                self.pool[state, number] = Kept((state, number), own.value - mean, own.row, 0)

    def replay(self, room: int, progress: float) -> list[tuple[Row, float]]:
        kept = list(self.pool.values())
        return [(own.row, own.value) for own in Random(self.updates).sample(kept, min(room, len(kept)))]

    def learn(self, update: Update) -> None:
        self.updates += 1
        update.record("swarm/pool", len(self.pool))

    def state(self) -> dict[str, torch.Tensor]:
        return pack_rows(self.pool) | {"updates": torch.tensor(self.updates)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.pool, self.updates = unpack_rows(state), int(state["updates"])
