"""What is logged of an update's whole episodes, from the sums of two processes."""

import math

import pytest

from polytune.rollout import RolloutCounters, Trajectory, Turn
from polytune.trainer.advantages import GroupStatistics
from polytune.trainer.metrics import rollout_metrics, rollout_sums


def episode(turns: int, *, won: bool) -> Trajectory:
    reward = 0.5 if won else 0.0
    own = [Turn((1,), (0.0,), reward * (n == turns - 1)) for n in range(turns)]
    return Trajectory(turns=own, stop_reason="success" if won else "horizon")


def sums(*seeds: Trajectory) -> list[float]:
    steps = sum(len(seed.turns) for seed in seeds)
    counters = RolloutCounters(env_steps=steps, episodes=len(seeds))
    return rollout_sums(1, seeds, counters, GroupStatistics())


def test_turns_of_successes_are_told_apart_over_processes():
    one = sums(episode(3, won=True), episode(10, won=False))
    other = sums(episode(6, won=True), episode(9, won=True), episode(10, won=False))
    found = rollout_metrics([a + b for a, b in zip(one, other, strict=True)], 38)
    assert found["rollout/turns"] == pytest.approx(38 / 5)
    assert found["rollout/turns_won"] == pytest.approx((3 + 6 + 9) / 3)
    assert found["rollout/success"] == pytest.approx(3 / 5)
    assert found["rollout/return"] == pytest.approx(0.3)


def test_where_nobody_won_no_turns_of_successes_are_told():
    found = rollout_metrics(sums(episode(10, won=False)), 10)
    assert "rollout/turns_won" not in found
    assert not any(math.isnan(value) for value in found.values())
