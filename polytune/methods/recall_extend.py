"""RED, recall and extend (arXiv 2508.16677): demonstrations weigh as much as their entropy falls beside the rollouts'.

    weight_k = cut(|(1 - D_k / D_(k-1)) / (1 - H_k / H_(k-1))|, 1, most),   1 in the first update
    loss += coef weight_k * mean over replayed tokens of -log pi
D, H: mean entropy of the policy at the tokens of the demonstrations that an update replays, and at those of its
rollouts. Where the rollouts' entropy hardly moves any more (recall) while that of demonstrations still does, imitation
(extend) weighs more. A start state of whose attempts at least a share ``accuracy`` succeeded last is not imitated: the
policy learns from itself there; with 1 that is so of solved ones alone.

Source: the authors' code (OpenRLHF-Millioniron, replay_buffer.py) has the weight as above, most 7, one demonstration in
groups of 8; that the paper shifts between imitation and its own policy by accuracy is the abstract's, its rule was not
read, and ours is the one above. Assumes as ``demonstrations``; D is of other start states from update to update, so it
moves for that, too. Degenerate case: where H does not move at all, the weight is most, and 1 if D does not either.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from polytune.meanings import Metric
from polytune.methods.base import Minibatch, Seen, Update
from polytune.methods.demonstrations import Demonstrations
from polytune.methods.options import require_option
from polytune.methods.row_buffer import Kept
from polytune.methods.solved import Known, note, pack_known, success_rate, unpack_known, whole_trees
from polytune.rollout import Row


@dataclass
class RecallExtend(Demonstrations):
    most: float = 7.0
    accuracy: float = 1.0
    logs: ClassVar[dict[str, Metric]] = {
        **Demonstrations.logs,
        "recall_extend/weight": Metric(
            "weight of the imitation", "weight", "falls as the demonstrations' entropy does"
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require_option("most", self.most, 1.0)
        require_option("accuracy", self.accuracy, 0.0)
        self.rates: Known = {}
        self.drawn: list[Row] = []  # of this update, of all processes
        self.last: list[float] = []  # (D, H) of the update before
        self.ratio = 1.0

    def says(self) -> str:
        return (
            f"**RED** (arXiv 2508.16677): demonstrations were imitated beside, weight {self.coef:g} times 1 to "
            f"{self.most:g}, by how their entropy fell beside the rollouts'."
        )

    def probe(self, seen: Seen) -> dict[str, torch.Tensor]:
        return {"recall_extend/entropy": seen.entropies()}

    def wanted(self) -> list[Kept]:
        return [own for own in super().wanted() if self.rates.get(own.kind[0], (0.0,))[0] < self.accuracy]

    def replay(self, room: int, progress: float) -> list[tuple[Row, float]]:
        given = super().replay(room, progress)
        self.drawn = [row for row, _ in given]
        return given

    def replayed(self, batch: Minibatch) -> torch.Tensor:
        return self.ratio * super().replayed(batch)

    def learn(self, update: Update) -> None:
        super().learn(update)
        found = [(tree.start_state, (success_rate(tree.seeds),)) for tree in whole_trees(update)]
        self.rates = note(self.rates, update, found)
        entropy_B_C = update.probed["recall_extend/entropy"]
        own_B_C = update.own_B_C[: len(entropy_B_C)]
        total, count = update.sum([float(entropy_B_C[own_B_C].double().sum()), float(own_B_C.sum())])
        if not self.drawn:
            return
        said = [
            entropy
            for row, (_, entropies) in zip(self.drawn, update.score(self.drawn), strict=True)
            for entropy, own in zip(entropies, row.own, strict=True)
            if own
        ]
        now = [sum(said) / len(said), total / max(count, 1.0)]
        self.ratio, self.last = self.weigh(self.last, now), now
        update.record("recall_extend/weight", self.ratio)

    def weigh(self, last: list[float], now: list[float]) -> float:
        """The weight of an update with (D, H) ``now`` after one with ``last``; nothing before the first."""
        if not last or min(last) <= 0:
            return 1.0
        fell, moved = (abs(1 - new / old) for new, old in zip(now, last, strict=True))
        if moved == 0:
            return 1.0 if fell == 0 else self.most
        return min(max(fell / moved, 1.0), self.most)

    def state(self) -> dict[str, torch.Tensor]:
        rates = {f"rates/{name}": tensor for name, tensor in pack_known(self.rates, 1).items()}
        return super().state() | rates | {"last": torch.tensor(self.last, dtype=torch.float64)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        super().restore(state)
        rates = {key.removeprefix("rates/"): state[key] for key in state if key.startswith("rates/")}
        self.rates, self.last = unpack_known(rates), state["last"].tolist()
