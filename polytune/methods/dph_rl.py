"""DPH-RL (The Choice of Divergence, arXiv 2509.07430): a mass-covering divergence to the pretrained policy, on answers
of its own.

    u = pi / pi_0 of a token,  answers y ~ pi_0;   loss += coef * mean over rehearsed tokens of f(u)
    forward:  f(u) = u - 1 - log u                         js:  f(u) = u log u - (u + 1) log((u + 1) / 2)
    alpha:    f(u) = (u^(1-a) - (1-a) u - a) / (a (a - 1))
Before the first update the policy answers each start state ``samples`` times, which the run's budget pays. Start states
of which at least a share ``solved`` of answers succeeds are the first family: their answers are rehearsed, a share
``share`` of rows, and they are not explored. The others are trained as before, without KL; one of them takes the place
of a solved one that is due.

Source: the authors' code (seamoke/DPH-RL): 8 samples, coef 0.01 to 0.05 (forward, alpha with a = 0.2), 0.05 to 0.2
(js). Not established there, so options: ``solved``, ``share``. Each f is 0 with slope 0 at u = 1; as u goes to 0,
forward grows without bound, js to log 2, alpha to 1 / (1 - a): so answers of pi_0 are not forgotten. Needs no pi_0 in
memory. ``family``: 'all' rehearses and explores every start state. Assumes that no ``kl_coef`` does the same.
Degenerate cases: where nothing is solved nothing is rehearsed, and the share of rows stays blank; where all is, all is
explored, too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import torch

from polytune.checks import require, require_choice
from polytune.meanings import Metric
from polytune.methods.base import Beginning, Method, Minibatch, Update
from polytune.methods.options import require_option
from polytune.methods.row_buffer import Kept, Kind, pack_rows, unpack_rows
from polytune.methods.solved import success_rate
from polytune.rollout import Row, Start, trajectory_row

DIVERGENCES = ("forward", "js", "alpha")


@dataclass
class DPHRL(Method):
    divergence: str = "forward"
    coef: float = 0.05
    alpha: float = 0.2
    samples: int = 8
    solved: float = 1.0
    share: float = 0.25
    family: str = "solved"
    page: ClassVar[str] = "expert"
    logs: ClassVar[dict[str, Metric]] = {
        "dph_rl/divergence": Metric(
            "mean divergence of rehearsed tokens from the pretrained policy",
            "",
            "grows slowly",
            "grows fast: raise coef",
        ),
        "dph_rl/rehearsed": Metric(
            "answers that are rehearsed", "count", "above 0", "0: the pretrained policy solved nothing, see solved"
        ),
    }

    def __post_init__(self) -> None:
        require_choice("divergence", self.divergence, DIVERGENCES)
        require_choice("family", self.family, ("solved", "all"))
        for name, most in (("coef", math.inf), ("solved", 1.0), ("share", 1.0), ("alpha", math.inf)):
            require_option(name, getattr(self, name), 0.0, most)
        require(self.alpha not in (0.0, 1.0), f"alpha is {self.alpha}, where f divides by 0: take forward for 1.")
        require_option("samples", self.samples, 1)
        self.buffer: dict[Kind, Kept] = {}
        self.open: list[int] = []  # start states that are explored
        self.updates = 0

    def says(self) -> str:
        return (
            f"**DPH-RL** (arXiv 2509.07430): a {self.divergence} divergence to the pretrained policy, weight "
            f"{self.coef:g}, on "
            "answers that it gave before the run."
        )

    def wanted_rows(self, rows: int) -> int:
        return math.ceil(self.share * rows)

    def begin(self, beginning: Beginning) -> None:
        starts = [Start(state, -1, num_seeds=self.samples) for state in beginning.start_states]
        for tree in beginning.grow(starts):
            covered = success_rate(tree.seeds) >= self.solved
            if not covered or self.family == "all":
                self.open.append(tree.start_state)
            if covered or self.family == "all":
                for number, seed in enumerate(tree.seeds):
                    kind = (tree.start_state, number)
                    row = trajectory_row(tree.prompt_ids, seed)
                    self.buffer[kind] = Kept(kind, seed.discounted_return(), row, 0)

    def starts(self, due: Sequence[Start], run_seed: int) -> list[Start]:
        return [self._explored(start, run_seed) for start in due]

    def _explored(self, start: Start, run_seed: int) -> Start:
        if not self.open or start.start_state in self.open:
            return start
        return start.instead(Random(f"{run_seed} {start.start_state} {start.attempt}").choice(self.open))

    def replay(self, room: int, progress: float) -> list[tuple[Row, float]]:
        kept = list(self.buffer.values())
        return [(own.row, 1.0) for own in Random(self.updates).sample(kept, min(room, len(kept)))]

    def replayed(self, batch: Minibatch) -> torch.Tensor:
        divergence_b_C = f_divergence(self.divergence, batch.logprobs_b_C - batch.old_b_C, self.alpha)
        batch.record("dph_rl/divergence", divergence_b_C, batch.mask_b_C)
        return self.coef * divergence_b_C

    def learn(self, update: Update) -> None:
        self.updates += 1
        update.record("dph_rl/rehearsed", len(self.buffer))

    def state(self) -> dict[str, torch.Tensor]:
        numbers = {"open": torch.tensor(self.open, dtype=torch.int64), "updates": torch.tensor(self.updates)}
        return pack_rows(self.buffer) | numbers

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.buffer = unpack_rows(state)
        self.open, self.updates = state["open"].tolist(), int(state["updates"])


def f_divergence(name: str, log_u: torch.Tensor, alpha: float = 0.2) -> torch.Tensor:
    """f(u) of log u, elementwise."""
    u = log_u.exp()
    if name == "forward":
        return u - 1 - log_u
    if name == "js":
        return u * log_u - (u + 1) * ((u + 1) / 2).log()
    return (((1 - alpha) * log_u).exp() - (1 - alpha) * u - alpha) / (alpha * (alpha - 1))
