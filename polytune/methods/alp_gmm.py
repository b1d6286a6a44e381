"""ALP-GMM (arXiv 1910.07224): a teacher that looks for learning progress in the space of start states' parameters.

    ALP of a tree = |its success rate - that of the nearest parameters seen before|, 0 for the first ``least``
    every ``window`` trees: Gaussian mixtures of (parameters, ALP) of the last ``window`` trees, of 2 to ``components``
        components; the one of the lowest AIC stays
    with chance 1 - ``uniform``: a Gaussian drawn in proportion to its mean ALP, parameters drawn of it, and the start
        state whose parameters are nearest takes the place of the one that is due
``parameters``: "package.module:name", a function start state -> numbers, scaled to [0, 1] over the run's start states,
a batch of "difficulty" and "size" say; unset: the number of the start state, for tasks whose numbers mean something.

Source: the authors' code (teachDeepRL, alp_gmm.py): window 250, 2 to 10 components, AIC, 20 % uniform, progress from
the 6th on. There any parameters can be asked for; here those that start states have. Its reward is a return, here
success. Assumes that near parameters are alike. Degenerate cases: before the first fit, with one start state, and where
all means of ALP are 0, each start state keeps its turn.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import torch

from polytune.checks import require
from polytune.lookup import find, is_path
from polytune.meanings import Metric
from polytune.methods.base import Beginning, Method, Update
from polytune.methods.mixture import Mixture, fit
from polytune.methods.options import require_option
from polytune.methods.solved import success_rate, whole_trees
from polytune.rollout import Start


@dataclass
class ALPGMM(Method):
    parameters: str = ""
    window: int = 250
    components: int = 10
    uniform: float = 0.2
    least: int = 5
    logs: ClassVar[dict[str, Metric]] = {
        "alp_gmm/progress": Metric(
            "mean change of success rates among the start states met last", "share", "above 0", "0: nothing changes"
        ),
    }

    def __post_init__(self) -> None:
        require_option("uniform", self.uniform, 0.0, 1.0)
        for name, minimum in (("window", 2), ("components", 2), ("least", 0)):
            value = getattr(self, name)
            require_option(name, value, minimum)
        named = not self.parameters or is_path(self.parameters)
        require(named, f"parameters is {self.parameters!r}: name a function as package.module:name.")
        self._told: Callable[[int], Sequence[float]] | None = None
        if self.parameters:
            self._told = find("parameters", self.parameters, {})
        self.states: list[int] = []
        self.places_S_P = torch.zeros(0, 0, dtype=torch.float64)  # parameters of the states
        self.seen: list[tuple[int, float, float]] = []  # place of a state, success rate, ALP; all trees so far
        self.last: dict[int, float] = {}  # place -> success rate of its last tree; the one that was seen last is last
        self.fitted = 0  # how many of them the mixture has
        self.mixture: Mixture | None = None

    def says(self) -> str:
        return (
            f"**ALP-GMM** (arXiv 1910.07224): a share {1 - self.uniform:g} of the trees grew from start states near "
            "parameters where success rates had changed."
        )

    def begin(self, beginning: Beginning) -> None:
        self.states = sorted(set(beginning.start_states))
        told = [[float(s)] if self._told is None else [float(x) for x in self._told(s)] for s in self.states]
        require(
            len({len(own) for own in told}) == 1 and len(told[0]) > 0 and all(map(math.isfinite, sum(told, []))),
            f"parameters {self.parameters!r} must give each start state as many finite numbers, at least one.",
        )
        places_S_P = torch.tensor(told, dtype=torch.float64)
        low_P, high_P = places_S_P.min(dim=0).values, places_S_P.max(dim=0).values
        self.places_S_P = (places_S_P - low_P) / torch.where(high_P > low_P, high_P - low_P, 1.0)

    def starts(self, due: Sequence[Start], run_seed: int) -> list[Start]:
        return [self._draw(start, run_seed) for start in due]

    def _draw(self, start: Start, run_seed: int) -> Start:
        random = Random(f"{run_seed} {start.start_state} {start.attempt}")
        if self.mixture is None or random.random() < self.uniform:
            return start
        progress_J = self.mixture.means_J_D[:, -1].clamp(min=0.0).tolist()
        if sum(progress_J) <= 0:
            return start
        j = random.choices(range(len(progress_J)), progress_J)[0]
        noise_D = torch.tensor([random.gauss(0.0, 1.0) for _ in self.mixture.means_J_D[j]], dtype=torch.float64)
        drawn_D = self.mixture.means_J_D[j] + torch.linalg.cholesky(self.mixture.covariances_J_D_D[j]) @ noise_D
        return start.instead(self.states[self.nearest(drawn_D[:-1].clamp(0.0, 1.0), self.places_S_P)])

    @staticmethod
    def nearest(place_P: torch.Tensor, places_K_P: torch.Tensor) -> int:
        """The last of the nearest places."""
        apart_K = ((places_K_P - place_P) ** 2).sum(dim=1)
        return int((apart_K == apart_K.min()).nonzero()[-1])

    def learn(self, update: Update) -> None:
        found = [(tree.start_state, success_rate(tree.seeds)) for tree in whole_trees(update)]
        for state, rate in sorted(update.gather(found)):
            place = self.states.index(state)
            progress = 0.0
            if len(self.seen) > self.least:
                known = list(self.last)
                near = self.nearest(self.places_S_P[place], self.places_S_P[known])
                progress = abs(rate - self.last[known[near]])
            self.seen.append((place, rate, progress))
            self._note(place, rate)
        if len(self.seen) - self.fitted >= self.window:
            self._fit()
        recent = self.seen[-self.window :]
        update.record("alp_gmm/progress", sum(own[2] for own in recent) / max(len(recent), 1))

    def _note(self, place: int, rate: float) -> None:
        self.last.pop(place, None)
        self.last[place] = rate

    def _fit(self) -> None:
        """The mixture of the last trees; the same whenever it is fitted again from the same trees."""
        self.fitted = len(self.seen)
        recent = self.seen[: self.fitted][-self.window :]
        progress_N_1 = torch.tensor([[own[2]] for own in recent], dtype=torch.float64)
        points_N_D = torch.cat([self.places_S_P[[own[0] for own in recent]], progress_N_1], dim=1)
        generator = torch.Generator().manual_seed(self.fitted)
        most = min(self.components, len(points_N_D))
        self.mixture = min((fit(points_N_D, count, generator) for count in range(2, most + 1)), key=Mixture.aic)

    def state(self) -> dict[str, torch.Tensor]:
        """The trees so far, from which the mixture follows, and the parameters."""
        return {
            "states": torch.tensor(self.states, dtype=torch.int64),
            "places": self.places_S_P,
            "seen": torch.tensor(self.seen, dtype=torch.float64).reshape(-1, 3),
            "fitted": torch.tensor(self.fitted),
        }

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.states, self.places_S_P = state["states"].tolist(), state["places"]
        self.seen = [(int(place), rate, progress) for place, rate, progress in state["seen"].tolist()]
        self.last = {}
        for place, rate, _ in self.seen:
            self._note(place, rate)
        self.fitted, self.mixture = int(state["fitted"]), None
        if self.fitted:
            everything, self.seen = self.seen, self.seen[: self.fitted]
            self._fit()
            self.seen = everything
