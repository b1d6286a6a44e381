"""VAS, variance-aware sampling (MMR1, arXiv 2509.21268): more trees where outcomes vary and attempts differ.

    score = learnability p (1 - p) + variety d(signatures of the attempts),   p: success rate of the last tree
With chance ``share`` a start state that is due gives its turn to one of those met so far, drawn in proportion to the
score; else it keeps it. d: a row of DIVERSITY (its weight is ``variety``); the authors' code (verl/curriculum) has
distinct n-grams, self-BLEU and edit distances of texts there.

Source of the defaults: that code: share 0.5, momentum 0, learnability 1 and variety 0 in the released configuration;
0.8 and 0.2 are told of the paper, and taken here. Scores are those of the last tree of a start state (there 8 samples
every few steps). Assumes that start states come back. Degenerate cases: while all scores are 0, and with one start
state, each keeps its turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Method, Update
from polytune.methods.options import require_names, require_option
from polytune.methods.solved import Known, note, pack_known, success_rate, unpack_known, whole_trees
from polytune.objective import find_diversity
from polytune.rollout import Start


@dataclass
class VAS(Method):
    share: float = 0.5
    learnability: float = 0.8
    variety: float = 0.2
    diversity: str = "distinct_fraction"
    logs: ClassVar[dict[str, Metric]] = {
        "vas/score": Metric(
            "mean score of the start states met", "score", "above 0", "0: outcomes do not vary anywhere"
        ),
    }

    def __post_init__(self) -> None:
        require_option("share", self.share, 0.0, 1.0)
        require_option("learnability", self.learnability, 0.0)
        require_option("variety", self.variety, 0.0)
        self.measure = find_diversity(self.diversity)
        self.known: Known = {}

    def says(self) -> str:
        return (
            f"**VAS** (arXiv 2509.21268): a share {self.share:g} of the trees grew from start states drawn by how much "
            "outcomes varied and attempts differed there."
        )

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        if self.variety > 0 and self.measure.count_form is not None:
            require_names("vas", objective)

    def starts(self, due: Sequence[Start], run_seed: int) -> list[Start]:
        states, weights = list(self.known), [numbers[0] for numbers in self.known.values()]
        return [self._draw(start, states, weights, run_seed) for start in due]

    def _draw(self, start: Start, states: list[int], weights: list[float], run_seed: int) -> Start:
        random = Random(f"{run_seed} {start.start_state} {start.attempt}")
        if random.random() >= self.share or sum(weights) <= 0:
            return start
        return start.instead(random.choices(states, weights)[0])

    def score(self, successes: float, signatures: Sequence) -> float:
        """Of a start state, from its success rate and its attempts' signatures."""
        return self.learnability * successes * (1 - successes) + self.variety * self.measure.of_set(signatures)

    def learn(self, update: Update) -> None:
        found = [
            (tree.start_state, (self.score(success_rate(tree.seeds), [seed.signature for seed in tree.seeds]),))
            for tree in whole_trees(update)
        ]
        self.known = note(self.known, update, found)
        update.record("vas/score", sum(numbers[0] for numbers in self.known.values()) / max(len(self.known), 1))

    def state(self) -> dict[str, torch.Tensor]:
        return pack_known(self.known, 1)

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.known = unpack_known(state)
