"""Which models can run packed rows (``packed.py``), and how: hooks on the trunk, tried before they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from polytune.policy.canary import attention_kinds
from polytune.policy.loading import positions_of
from polytune.policy.packed import Attends, pack

#: largest difference of a hidden state in the trial of a model, as a share of the largest
TRIAL_LIMIT, TRIAL_LIMIT_16_BITS = 1e-3, 0.1


class Packer:
    """Runs packed rows through one transformer, the trunk of a causal model; its hooks do nothing at other times.

    Where its last layer and norm are found and nothing recomputes activations, they work at reads alone.
    """

    def __init__(self, transformer: PreTrainedModel):
        self.transformer = transformer
        self._packed: Attends | None = None
        self._expand_n: torch.Tensor | None = None
        self._divide_n: torch.Tensor | None = None
        self._seen: Callable[[torch.Tensor], None] | None = None
        layers, norm = getattr(transformer, "layers", None), getattr(transformer, "norm", None)
        self._known = isinstance(layers, nn.ModuleList) and isinstance(norm, nn.Module) and hasattr(layers[-1], "mlp")
        self._hooks = [transformer.register_forward_hook(self._hand_over)]
        if self._known:
            mlp = layers[-1].mlp
            self._hooks += [module.register_forward_pre_hook(self._choose) for module in (mlp, norm)]
            self._hooks.append(mlp.register_forward_hook(self._spread))

    def remove(self) -> None:
        """Take its hooks back."""
        for hook in self._hooks:
            hook.remove()

    @property
    def last_layer(self) -> int:
        """For :func:`pack`."""
        recomputes = getattr(self.transformer, "is_gradient_checkpointing", False) and self.transformer.training
        return len(self.transformer.layers) - 1 if self._known and not recomputes else -1

    @staticmethod
    def arguments(packed: Attends) -> dict:
        """Of the model's call, within :meth:`running`."""
        nothing = torch.zeros(1, 1, 1, 1, device=packed.ids_1_T.device)  # a mask of this shape is left alone
        return {"input_ids": packed.ids_1_T, "position_ids": packed.positions_1_T, "attention_mask": nothing,
                "use_cache": False, "packed": packed}  # fmt: skip

    @contextmanager
    def running(
        self,
        packed: Attends,
        expand_n: torch.Tensor | None = None,
        seen: Callable[[torch.Tensor], None] | None = None,
        divide_n: torch.Tensor | None = None,
    ) -> Iterator[None]:
        """Within, one call of the model with :meth:`arguments`: ``seen`` gets the hidden states (1, R, H), and the
        model goes on with (1, n, H), those at ``expand_n`` of them, divided by ``divide_n``: so are then the logits of
        a head without bias."""
        self._packed, self._expand_n, self._seen, self._divide_n = packed, expand_n, seen, divide_n
        try:
            yield
        finally:
            self._packed = self._expand_n = self._seen = self._divide_n = None

    def run(self, packed: Attends) -> torch.Tensor:
        """The hidden states (1, R, H) of the transformer alone."""
        with self.running(packed):
            return self.transformer(**self.arguments(packed)).last_hidden_state

    def _choose(self, module, args):
        if self._packed is None or self._packed.reads_R is None:
            return args
        return args[0][:, self._packed.reads_R], *args[1:]

    def _spread(self, module, args, output):
        packed = self._packed
        if packed is None or packed.reads_R is None:
            return output
        return output.new_zeros(1, packed.ids_1_T.size(1), output.size(2)).index_copy(1, packed.reads_R, output)

    def _hand_over(self, module, args, output):
        if self._packed is None:
            return output
        if self._seen is not None:
            self._seen(output.last_hidden_state)
        if self._expand_n is not None:
            output.last_hidden_state = output.last_hidden_state[:, self._expand_n]
        if self._divide_n is not None:
            hidden_1_n_H = output.last_hidden_state
            output.last_hidden_state = (hidden_1_n_H.float() / self._divide_n[:, None]).to(hidden_1_n_H.dtype)
        return output


#: rows of a trial: one, a branch of it, a branch of that branch, an equal, and a short one
TRIAL = (("a", 24), ("ab", 20), ("abc", 28), ("a", 24), ("d", 5))


#: transformers that have been tried: their packer, which lives as long as their hooks, or None and the reason
_TRIED: WeakKeyDictionary[nn.Module, tuple[ref[Packer] | None, str]] = WeakKeyDictionary()


def find_packer(model: PreTrainedModel) -> tuple[Packer | None, str]:
    """A packer of the model's trunk that has been tried, one for all who ask, or None and the reason."""
    transformer = model.base_model
    if transformer not in _TRIED:
        packer, reason = _try(model)
        _TRIED[transformer] = (None if packer is None else ref(packer), reason)
    found, reason = _TRIED[transformer]
    return None if found is None else found(), reason


def _try(model: PreTrainedModel) -> tuple[Packer | None, str]:
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa":
        return None, f"its attn_implementation is {config._attn_implementation!r}, not 'sdpa'"
    if attention_kinds(config) != {"full_attention"}:
        return None, f"not all of its layers attend to everything ({', '.join(sorted(attention_kinds(config)))})"
    transformer = model.base_model
    words, room = model.get_input_embeddings().weight.shape[0], positions_of(model)
    if room is not None and room < 32:
        return None, f"it has only {room} positions"
    rows = [np.concatenate([(np.arange(8) * 5 + ord(part)) % words for part in way]) for way, _ in TRIAL]
    rows = [np.resize(row, length) for row, (_, length) in zip(rows, TRIAL, strict=True)]
    packer, training = Packer(transformer), model.training
    model.eval()
    reason = "it was not tried"
    try:
        with torch.no_grad():
            reason = _difference(packer, model, rows)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # whatever a model's own code does with arguments that it does not know
        reason = f"it fails there ({type(error).__name__}: {error})"
    finally:
        model.train(training)
        if reason:
            packer.remove()
    return (None if reason else packer), reason


def _difference(packer: Packer, model: PreTrainedModel, rows: list[np.ndarray]) -> str:
    """What packed rows give otherwise than the rows one by one; "" where there is nothing."""
    transformer, device = packer.transformer, packer.transformer.device
    packed = pack(rows, list(map(len, rows)), [np.arange(3, len(row)) for row in rows], device=device,
                  last_layer=packer.last_layer)  # fmt: skip
    with packer.running(packed, torch.zeros(1, dtype=torch.long, device=device)):
        if model(**packer.arguments(packed)).logits.size(1) != 1:
            return "its head takes hidden states from a part of its trunk"
    hidden = packer.run(packed)
    for number, row in enumerate(rows):
        ids = torch.from_numpy(row).to(device)[None]
        plain = transformer(input_ids=ids, use_cache=False).last_hidden_state[0, 3:]
        columns = torch.arange(3, len(row), device=device)
        gap = (packed.read(hidden, torch.full_like(columns, number), columns) - plain).float().abs().max()
        limit = TRIAL_LIMIT if plain.dtype == torch.float32 else TRIAL_LIMIT_16_BITS
        if not gap <= limit * plain.float().abs().max():
            return f"its hidden states differ there by {gap:.2g}"
    return ""
