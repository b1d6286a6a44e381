"""The critic: the value of each decision, learnt in passes of its own after the rollouts of an update.

Its input is a hidden state at the token before an action, and what the row knows beside its text (``value_features``:
the turns left, the mean return of independent attempts from the same state). Where the hidden state comes from is the
*kind*:

head    the policy's last layer as it was in the rollouts, computed once an update and kept: passes over it are cheap.
shared  the same, and the value loss also moves the policy's trunk, at the scale ``value_coef`` (PPO's usual sum).
own     a trunk of its own that begins as a copy of the policy's; with LoRA, an adapter of its own on the base.

The target is the ordinary return (Poly-PPO, arXiv 2509.25424): a set advantage never enters it. The value loss reaches
the policy under ``shared`` alone.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from polytune.digests import number_from
from polytune.policy.packer import Packer
from polytune.policy.tensors import tensors_only
from polytune.trainer.scoring import length_chunks, packed_rows, rows_per_chunk

CRITIC_FILE = "critic.safetensors"
OPTIMISER_FILE = "critic_optimizer.pt"
#: the values of the field ``critic``
KINDS = ("shared", "own", "head", "none")
#: passes over an update's decisions where ``critic_passes`` is unset: cached features are cheap, a trunk is not
PASSES = {"head": 10, "shared": 10, "own": 1}
#: learning rates where ``critic_learning_rate`` is unset
RATES = {"head": 1e-3, "shared": 1e-3, "own": 1e-4}


@dataclass(eq=False)
class Trunk:
    """What gives a critic of kind ``own`` its hidden states.

    weights: those that learn. run: a transformer's arguments -> its last hidden states. packer: of that transformer;
    None: it cannot run packed rows.
    """

    weights: nn.Module
    run: Callable[..., torch.Tensor]
    packer: Packer | None = None

    def read(self, decisions: Decisions) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(rows_b, hidden states before their decisions (d, H), row by row) of parts of the rows."""
        ids_B_L, mask_B_L, first_B_C = decisions.ids_B_L, decisions.mask_B_L, decisions.first_B_C
        if self.packer is not None:
            for part in packed_rows(ids_B_L, mask_B_L, first_B_C, last_layer=self.packer.last_layer):
                with self.packer.running(part.packed):
                    hidden = self.run(**self.packer.arguments(part.packed))
                yield part.rows_b, part.before(hidden, part.chosen_b_C)
            return
        for chunk in length_chunks(mask_B_L, first_B_C.size(1), rows_per_chunk(mask_B_L.size(1))):
            ids_b_L = ids_B_L[chunk.rows_b].gather(1, chunk.moved_b_L)
            hidden = self.run(input_ids=ids_b_L, attention_mask=torch.ones_like(ids_b_L), use_cache=False)
            yield chunk.rows_b, chunk.before(hidden, first_B_C[chunk.rows_b])


@dataclass
class Decisions:
    """The D decisions of B rows, row by row, turn by turn.

    ids_B_L, mask_B_L: the rows as TRL lays them out, prompts padded on the left, completions of C tokens on the right.
    first_B_C: True at the first token of each own action.
    features_D_F: ``value_features`` of each decision, float32.
    hidden_D_H: the policy's last hidden state before each decision, detached; None for kind ``own``.
    """

    ids_B_L: torch.Tensor
    mask_B_L: torch.Tensor
    first_B_C: torch.Tensor
    features_D_F: torch.Tensor
    hidden_D_H: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.features_D_F)

    def of_rows(self, rows_b: torch.Tensor) -> tuple[Decisions, torch.Tensor]:
        """Those of some rows, and their numbers among all D (d,)."""
        row_D = self.first_B_C.nonzero()[:, 0]
        place_B = torch.full((len(self.first_B_C),), -1, device=row_D.device)
        place_B[rows_b] = torch.arange(len(rows_b), device=row_D.device)
        chosen_d = (place_B[row_D] >= 0).nonzero()[:, 0]
        chosen_d = chosen_d[place_B[row_D[chosen_d]].argsort(stable=True)]
        hidden = None if self.hidden_D_H is None else self.hidden_D_H[chosen_d]
        parts = (self.ids_B_L[rows_b], self.mask_B_L[rows_b], self.first_B_C[rows_b], self.features_D_F[chosen_d])
        return Decisions(*parts, hidden), chosen_d


def decision_turns(first_B_C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows (D,), which of its row's own turns it is (D,)) of each decision."""
    return first_B_C.nonzero()[:, 0], (first_B_C.cumsum(dim=1) - 1)[first_B_C]


class ValueHead(nn.Module):
    """Hidden states (..., H) and features (..., F) -> values (...), float32 under autocast too. Three layers, the last
    of which begins at 0, hence every value too."""

    def __init__(self, hidden_size: int, num_features: int, width: int, *, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Linear(hidden_size + num_features, width), nn.GELU(),
                nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1),
            )  # fmt: skip
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, hidden: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return self.layers(torch.cat([hidden.float(), features.float()], dim=-1)).squeeze(-1)


class Critic(nn.Module):
    """Values of decisions, and how they are learnt; it has its own optimiser and its own files.

    Args:
        hidden_size: of the hidden states.
        num_features: of ``Decisions.features_D_F``.
        trunk: of kind ``own``; None: ``Decisions.hidden_D_H`` is read.
        passes, minibatches: over the decisions of an update.
        reduce: sum of a tensor over all processes; None: there is one. Every process makes the same number of steps.
    """

    def __init__(
        self,
        hidden_size: int,
        num_features: int,
        *,
        width: int = 256,
        seed: int = 0,
        trunk: Trunk | None = None,
        learning_rate: float = 1e-3,
        passes: int = 10,
        minibatches: int = 8,
        max_grad_norm: float = 0.5,
        epsilon: float = 1e-5,
        reduce: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        super().__init__()
        self.head = ValueHead(hidden_size, num_features, width, seed=seed)
        self._trunk, self.trunk = trunk, None if trunk is None else trunk.weights
        self.passes, self.minibatches, self.max_grad_norm, self._reduce = passes, minibatches, max_grad_norm, reduce
        self.optimiser = torch.optim.AdamW(self.parameters(), lr=learning_rate, eps=epsilon, weight_decay=0.0)

    def forward(self, decisions: Decisions) -> torch.Tensor:
        """Values (D,), float32."""
        if self._trunk is None:
            return self.head(decisions.hidden_D_H, decisions.features_D_F)
        found = list(self._trunk.read(decisions))
        return self.head(in_order(found, decisions.first_B_C), decisions.features_D_F)

    @torch.no_grad()
    def values(self, decisions: Decisions) -> torch.Tensor:
        """Values (D,), float32, without gradients."""
        return self(decisions)

    def learn(self, decisions: Decisions, targets_D: torch.Tensor, *, salt: str) -> dict[str, float]:
        """Regress the values on ``targets_D`` by half the squared error, ``passes`` times over all decisions.

        Args:
            targets_D: float32, as many as there are decisions.
            salt: says which minibatches they fall into; another one in every update.

        Returns:
            the mean loss of the last pass and the mean norm of its gradients, over all processes.
        """
        for number in range(self.passes):
            losses, norms, count = 0.0, [], 0.0
            for part, targets_d in self._minibatches(decisions, targets_D, f"{salt} {number}"):
                loss, size, norm = self._step(part, targets_d)
                losses, count = losses + loss, count + size
                norms += [norm] if size else []  # without a decision there was no step
        return {"loss": losses / max(count, 1.0), "grad_norm": sum(norms) / max(len(norms), 1)}

    def _minibatches(self, decisions: Decisions, targets_D: torch.Tensor, salt: str):
        """The decisions in as many minibatches in every process, some of them possibly empty. What a row's tokens are
        says where it goes, so the steps do not depend on which process has it; without a trunk its turns are dealt out
        one by one."""
        row_D, turn_D = decision_turns(decisions.first_B_C)
        keys_B = torch.tensor(row_keys(decisions.ids_B_L, decisions.mask_B_L, salt), device=row_D.device)
        if self._trunk is not None:
            of_row_B = keys_B % self.minibatches
            for number in range(self.minibatches):
                rows_b = ((of_row_B == number) & decisions.first_B_C.any(dim=1)).nonzero()[:, 0]
                part, chosen_d = decisions.of_rows(rows_b)
                yield part, targets_D[chosen_d]
            return
        minibatch_D = (keys_B[row_D] + turn_D) % self.minibatches
        for number in range(self.minibatches):
            chosen_d = (minibatch_D == number).nonzero()[:, 0]
            part = Decisions(
                decisions.ids_B_L, decisions.mask_B_L, decisions.first_B_C, decisions.features_D_F[chosen_d],
                decisions.hidden_D_H[chosen_d],
            )  # fmt: skip
            yield part, targets_D[chosen_d]

    def _step(self, part: Decisions, targets_d: torch.Tensor) -> tuple[float, float, float]:
        """One optimiser step: (sum of the losses, their number, norm of the gradient), over all processes."""
        self.optimiser.zero_grad()
        total = 0.0
        for piece, chosen_d in self._pieces(part):
            loss = 0.5 * ((self(piece) - targets_d[chosen_d]) ** 2).sum()
            loss.backward()
            total += float(loss.detach())
        parameters = list(self.parameters())
        reduce = self._reduce or (lambda tensor: tensor)
        total, count = reduce(parameters[0].new_tensor([total, len(targets_d)], dtype=torch.float64)).tolist()
        if count == 0:
            return 0.0, 0.0, 0.0
        for parameter in parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = reduce(gradient) / count
        norm = nn.utils.clip_grad_norm_(parameters, self.max_grad_norm or math.inf)  # 0: not clipped, as transformers
        self.optimiser.step()
        return total, count, float(norm)

    def _pieces(self, part: Decisions):
        """A minibatch in pieces whose graphs are held one at a time: as many rows as are scored together."""
        if not len(part):
            return
        if self._trunk is None:
            yield part, slice(None)
            return
        rows = part.mask_B_L.sum(dim=1).argsort(stable=True)
        for rows_b in rows.split(rows_per_chunk(part.ids_B_L.size(1))):
            yield part.of_rows(rows_b)

    def save(self, folder: str | Path) -> None:
        """Write weights and optimiser into a checkpoint's folder; ``load`` takes them back."""
        save_file({k: v.contiguous().clone() for k, v in self.state_dict().items()}, Path(folder) / CRITIC_FILE)
        torch.save(self.optimiser.state_dict(), Path(folder) / OPTIMISER_FILE)

    def load(self, folder: str | Path) -> None:
        """Raises ``FileNotFoundError`` when the checkpoint was written without a critic."""
        self.load_state_dict(load_file(Path(folder) / CRITIC_FILE))
        with tensors_only(folder):
            optimiser = torch.load(Path(folder) / OPTIMISER_FILE, map_location="cpu", weights_only=True)
        self.optimiser.load_state_dict(optimiser)


def copied_trunk(
    transformer: PreTrainedModel,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    *,
    packs: bool = False,
) -> Trunk:
    """A float32 copy of a policy's trunk that learns; ``packs``: the policy's can run packed rows."""
    hooks = [(module, name) for module in transformer.modules() for name in ("_forward_hooks", "_forward_pre_hooks")]
    kept = [getattr(module, name) for module, name in hooks]
    for module, name in hooks:  # those of the policy's passes are none of the copy's
        setattr(module, name, OrderedDict())
    try:
        trunk = copy.deepcopy(transformer).float().requires_grad_(True).eval()
    finally:
        for (module, name), own in zip(hooks, kept, strict=True):
            setattr(module, name, own)

    def run(**arguments) -> torch.Tensor:
        with autocast():
            return trunk(**arguments).last_hidden_state

    return Trunk(trunk, run, Packer(trunk) if packs else None)


def row_keys(ids_B_L: torch.Tensor, mask_B_L: torch.Tensor, salt: str) -> list[int]:
    """A number for each row from its tokens (without padding) and ``salt``, the same in every process."""
    return [
        number_from(salt.encode() + ids[mask].tobytes(), 4)
        for ids, mask in zip(ids_B_L.cpu().numpy(), mask_B_L.bool().cpu().numpy(), strict=True)
    ]


def in_order(found: list[tuple[torch.Tensor, torch.Tensor]], first_B_C: torch.Tensor) -> torch.Tensor:
    """What was read in chunks, (rows_b, of their decisions in turn), as (D, ...) in the order of ``Decisions``."""
    places = []
    for rows_b, _ in found:
        place, column = first_B_C[rows_b].nonzero(as_tuple=True)
        places.append(rows_b[place] * first_B_C.size(1) + column)
    return torch.cat([read for _, read in found])[torch.cat(places).argsort()]


def variance_sums(values: torch.Tensor, returns: torch.Tensor) -> list[float]:
    """Sums of flat tensors that add up over processes: count, values, returns, their squares, errors, their squares."""
    errors = returns - values
    return [float(len(values)), float(values.sum()), float(returns.sum()), float((returns**2).sum()),
            float(errors.sum()), float((errors**2).sum())]  # fmt: skip


def explained_variance(sums: list[float]) -> float:
    """1 - Var(returns - values) / Var(returns) from :func:`variance_sums`; NaN when all returns are alike."""
    count, _, returns, returns_squared, errors, errors_squared = sums
    variance = returns_squared / count - (returns / count) ** 2
    return float("nan") if variance < 1e-12 else 1 - (errors_squared / count - (errors / count) ** 2) / variance
