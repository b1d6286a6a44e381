"""Returns whose parts take each other away are 0, not what rounding leaves: a failure is no success of 1e-16."""

import math
import random
from fractions import Fraction

import pytest

from polytune.config import ObjectiveConfig
from polytune.rollout import Trajectory, Tree, Turn, total_of
from polytune.trainer.advantages import turn_advantages

#: two wins that are alike and two failures that differ, of ten turns that cost .1 each
WIN, LOSS = [-0.1] * 4 + [1.4], [-0.1] * 10


def attempt(rewards, signature):
    turns = [Turn((1,), (0.0,), reward) for reward in rewards]
    return Trajectory(turns=turns, stop_reason="success" if rewards == WIN else "horizon", signature=signature)


def scored(objective, episodes, shift):
    seeds = [attempt(rewards, signature) for rewards, signature in zip(episodes, "abca", strict=True)]
    config = ObjectiveConfig(objective=objective, set_size=2, set_scope="seeds", window=-1, reward_shift=shift)
    return turn_advantages([Tree(0, (1,), seeds, [[] for _ in seeds])], config, None)


@pytest.mark.parametrize("objective", ["coverage", "pass_at_k", "qd_score", "uncertain_max"])
@pytest.mark.parametrize(("loss", "shift"), [(LOSS, 1.0), ([0.1, 0.1, 0.1, -0.3], 0.0)], ids=["shifted", "added up"])
def test_a_failure_is_no_success_of_a_rounding_error(objective, loss, shift):
    """Failures that differ would be worth more to `coverage` than wins that are alike."""
    assert 0 < sum(loss) + shift < 1e-15
    found = scored(objective, [WIN, loss, loss, WIN], shift)
    plain = scored(objective, [[1.0 + shift], [0.0], [0.0], [1.0 + shift]], 0.0)
    assert found.advantages_B_T[:, 0].tolist() == pytest.approx(plain.advantages_B_T[:, 0].tolist(), abs=1e-9)
    assert found.advantages_B_T[0, 0] > 0 > found.advantages_B_T[1, 0]


def test_equal_returns_of_unlike_turns_are_equal_rewards():
    """0.1 + 0.2 is 0.3, too: the cause that is logged of a group without signal."""
    groups = scored("mean", [[0.1, 0.2], [0.3], [0.3], [0.2, 0.1]], 0.0).groups
    assert groups.equal_rewards == groups.without_signal_equal_rewards == groups.without_signal == 1


def test_other_sums_stay_as_they_are():
    draw = random.Random(0)
    for _ in range(2000):
        parts = [draw.choice([-1, 1]) * 10 ** draw.uniform(-6, 3) for _ in range(draw.randint(1, 9))]
        if abs(sum(map(Fraction, parts))) > 1e-9 * sum(map(abs, parts)):
            assert total_of(parts) == sum(parts)
        assert total_of([*parts, *(-part for part in reversed(parts))]) == 0.0
    assert total_of([]) == 0 and total_of([1e-30]) == 1e-30 and math.isinf(total_of([1e308] * 2))
