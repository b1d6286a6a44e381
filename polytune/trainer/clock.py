"""Where an update's time goes: seconds of its stages, speed, and the share of the arithmetic that the machine could do.

    speed/limit_share = (2 W prefilled + 6 W computed) / (seconds * peak)

W are the weights of the policy's matrices without embeddings (a multiplication and an addition each; a pass with
gradients costs three of those without: Kaplan et al., arXiv 2001.08361, section 2.1, attention left out), ``prefilled``
the tokens that the rollouts ran, ``computed`` those of the update's passes, and ``peak`` what a product of two square
matrices reaches here in the type that the policy computes in.
"""

from __future__ import annotations

import sys
import time

import psutil
import torch

from polytune.running.watchdog import seconds_by_stage

#: stage of the trainer -> its metric
STAGES = {
    "rollouts": "seconds/rollouts",
    "scoring": "seconds/scoring",
    "critic": "seconds/critic",
    "update": "seconds/update",
    "saving a checkpoint": "seconds/saving",
}
#: sides of the matrices that find the peak, and the seconds of a product that is large enough for it
SIDES, ENOUGH = (128, 256, 512, 1024, 2048, 4096), 0.01


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a product of two square matrices, the best of six of each size. Sizes grow
    until a product takes a hundredth of a second: fast hardware shows its speed at large ones alone, and bfloat16 is so
    slow where a CPU does not have it that a large one would take seconds."""
    fastest = 0.0
    for side in SIDES:
        square = torch.full((side, side), 0.5, device=device, dtype=dtype)  # no random numbers: a run draws its own
        best = min(_seconds_of_product(square) for _ in range(6))
        fastest = max(fastest, 2 * side**3 / best)
        if best >= ENOUGH:
            break
    return fastest


def _seconds_of_product(square: torch.Tensor) -> float:
    begin = time.perf_counter()
    square @ square
    if square.device.type == "cuda":
        torch.cuda.synchronize(square.device)
    return time.perf_counter() - begin


def peak_memory(device: torch.device) -> float:
    """GiB that this process has held at most: of the GPU where the policy is on one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**30
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**30 if sys.platform == "darwin" else 2**20)  # bytes there, KiB elsewhere


class Timed:
    """Mixin before a TRL trainer: the only change is ``seconds/*``, ``speed/*`` and ``update/*`` in its log.

    Seconds are the main process's, counts those of all processes. An update's log is written before its checkpoint, so
    ``seconds/saving`` is that of the checkpoint before.
    """

    _peak: float | None = None
    #: at the last log: time, seconds of each stage, (environment steps, tokens prefilled, computed, distinct)
    _at_log: tuple[float, dict[str, float], list[float]] | None = None

    def train(self, *args, **kwargs):
        """The parent's; its clock starts with the first rollouts."""
        self._at_log = None
        return super().train(*args, **kwargs)

    def _generate_and_score_completions(self, inputs):
        if self._at_log is None:
            self._at_log = self._now()
        return super()._generate_and_score_completions(inputs)

    def log(self, logs, *args, **kwargs):
        """The parent's, with the update's speed."""
        if self._at_log is not None and self._metrics["train"].get("rollout/env_steps"):
            for name, value in self._speed().items():
                self._record(name, value)
        super().log(logs, *args, **kwargs)

    def _now(self) -> tuple[float, dict[str, float], list[float]]:
        counts = [self.env_steps, self.generator.counters.prefilled, *self._tokens_run]
        return time.perf_counter(), seconds_by_stage(), counts

    def _speed(self) -> dict[str, float]:
        """Since the last log."""
        (began, stages, first), self._at_log = self._at_log, self._now()
        now, spent, counts = self._at_log
        seconds, (steps, *own) = now - began, (b - a for a, b in zip(first, counts, strict=True))
        prefilled, computed, distinct = self._sum(own)
        found = {metric: spent.get(stage, 0.0) - stages.get(stage, 0.0) for stage, metric in STAGES.items()}
        found["speed/env_steps_per_second"] = steps / seconds
        found["speed/peak_memory"] = peak_memory(self.accelerator.device)
        if computed:  # rows that run one by one are not counted
            if self._peak is None:
                self._peak = peak_flops(self.accelerator.device, self.forward_dtype)
            policy = self.accelerator.unwrap_model(self.model)
            weights = sum(p.numel() for p in policy.parameters() if p.dim() > 1)
            weights -= policy.get_input_embeddings().weight.numel()
            peak = self._peak * self.accelerator.num_processes
            found |= {
                "update/tokens_computed": computed,
                "update/tokens_distinct": distinct,
                "speed/tokens_per_second": (prefilled + computed) / seconds,
                "speed/limit_share": (2 * prefilled + 6 * computed) * weights / (seconds * peak),
            }
        return found
