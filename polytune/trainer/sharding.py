"""FSDP2: weights sharded over the processes in updates, whole on each of them in rollouts.

A process gathers its weights by asking all others, so all must run the policy equally often. In an update they do, in
rollouts and in scoring (vines of different length, rows in chunks) they do not: there the weights are gathered once.
The critic, a small network beside the policy, stays whole on every process (DDP), and so does its optimiser state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

CRITIC_OPTIMIZER = "critic_optimizer.pt"


class ShardedPolicy:
    """Mixin before a transformers ``Trainer`` with a ``critic``; without FSDP2 it changes nothing."""

    @property
    def _is_sharded(self) -> bool:
        return self.accelerator.state.is_fsdp2

    def _prepare_critic(self, critic: torch.nn.Module) -> torch.nn.Module:
        if not self._is_sharded:
            return self.accelerator.prepare_model(critic)
        return DistributedDataParallel(critic.to(self.accelerator.device))

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

    # ------------------------------------------------------------------ the optimiser: policy sharded, critic whole

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self._is_sharded and self.critic is not None:  # the policy has been prepared, the schedule covers both
            self._add_critic(self.optimizer.optimizer)
        return super().create_scheduler(num_training_steps, optimizer)

    @contextlib.contextmanager
    def _without_critic(self) -> Iterator[dict]:
        """The optimiser as FSDP2 knows it; yields the critic's state by its parameters' numbers."""
        optimizer = self.optimizer.optimizer
        group = optimizer.param_groups.pop()
        states = {number: optimizer.state.pop(p) for number, p in enumerate(group["params"]) if p in optimizer.state}
        try:
            yield states
        finally:
            optimizer.param_groups.append(group)
            optimizer.state.update({group["params"][number]: state for number, state in states.items()})

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._is_sharded or self.critic is None:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        with self._without_critic() as states:
            super()._save_optimizer_and_scheduler(output_dir)
            if self.args.should_save:
                torch.save(states, Path(output_dir) / CRITIC_OPTIMIZER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self._is_sharded or self.critic is None or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        with self._without_critic() as states:
            super()._load_optimizer_and_scheduler(checkpoint)
            device = self.accelerator.device
            states.update(torch.load(Path(checkpoint) / CRITIC_OPTIMIZER, map_location=device, weights_only=True))
