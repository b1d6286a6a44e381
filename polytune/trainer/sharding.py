"""FSDP2: weights sharded over the processes in updates, whole on each of them in rollouts.

A process gathers its weights by asking all others, so all must run the policy equally often. In an update they do, in
rollouts and in scoring (vines of different length, rows in chunks) they do not: there the weights are gathered once.
The critic, a network beside the policy with an optimiser of its own, stays whole on every process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch.distributed.fsdp import FSDPModule


class ShardedPolicy:
    """Mixin before a transformers ``Trainer``; without FSDP2 it changes nothing."""

    @property
    def _is_sharded(self) -> bool:
        return self.accelerator.state.is_fsdp2

    @contextlib.contextmanager
    def _whole_weights(self) -> Iterator[None]:
        """Every process holds all weights and runs the policy as often as it likes."""
        models = [model for model in (self.model, self.ref_model) if isinstance(model, FSDPModule)]
        parts = [part for model in models for part in model.modules() if isinstance(part, FSDPModule)]
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            yield
        finally:
            for part in parts:
                part.reshard()
                part.set_reshard_after_forward(True, recurse=False)
