"""What is logged of an update's rollouts: sums that add up over processes, then the metrics they make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

from polytune.rollout import RolloutCounters, Trajectory
from polytune.trainer.advantages import GroupStatistics

#: averages over groups, in the order in which :func:`rollout_sums` lists them
GROUP_METRICS = tuple(field.name for field in fields(GroupStatistics) if field.name != "groups")


def rollout_sums(
    trees: int, seeds: Sequence[Trajectory], counters: RolloutCounters, groups: GroupStatistics
) -> list[float]:
    """Sums of one process: environment steps, trees, episodes, invalid actions; of seed trajectories; of groups."""
    return [
        counters.env_steps,
        trees,
        counters.episodes,
        counters.invalid_actions,
        len(seeds),
        sum(seed.discounted_return() for seed in seeds),
        sum(seed.success for seed in seeds),
        sum(len(seed.turns) for seed in seeds),
        sum(len(seed.turns) for seed in seeds if seed.success),
        groups.groups,
        *(getattr(groups, name) for name in GROUP_METRICS),
    ]


def rollout_metrics(sums: Sequence[float], env_steps: int) -> dict[str, float]:
    """Metrics from the sums over all processes.

    Return, success and turns are those of seed trajectories that begin in a start state: vines, and trees from roots,
    start in mid-episode and say nothing about how the policy does from the start. ``env_steps`` is the run's total so
    far.
    """
    update_steps, trees, episodes, invalid, seeds, returns, successes, turns, won, groups, *of_groups = sums
    whole = {"return": returns / seeds, "success": successes / seeds, "turns": turns / seeds} if seeds else {}
    if successes:
        whole["turns_won"] = won / successes
    metrics = {f"rollout/{name}": value for name, value in whole.items()} | {
        "rollout/env_steps": env_steps,
        "rollout/trees": trees,
        "rollout/episodes": episodes,
        "actions/invalid_rate": invalid / update_steps,
    }
    if groups:
        metrics |= {f"groups/{name}": value / groups for name, value in zip(GROUP_METRICS, of_groups, strict=True)}
    return {name: value for name, value in metrics.items() if not math.isnan(value)}  # d that nobody worked out
