"""The alarm for duplicate attempts: silent for honest samplers however often they repeat themselves, loud for a fixed
seed and for a sampler that is sharper than its logprobs."""

import math
import random

from polytune.rollout import Trajectory, Turn, count_duplicates
from polytune.rollout.duplicates import Duplicates


def attempt(draw, probabilities, length):
    """A trajectory of `length` decisions among len(probabilities) actions; `draw()` gives the action."""
    trajectory = Trajectory()
    for _ in range(length):
        action = draw()
        trajectory.turns.append(Turn((action,), (math.log(probabilities[action]),), 0.0))
    return trajectory


def groups(rng, probabilities, *, length, count=40, members=8, sharpen=1.0, shared=False):
    weights = [p**sharpen for p in probabilities]
    made = []
    for _ in range(count):
        if shared:
            state = rng.getrandbits(30)
        group = []
        for _ in range(members):
            source = random.Random(state) if shared else rng
            group.append(attempt(lambda s=source: s.choices(range(len(weights)), weights)[0], probabilities, length))
        made.append(group)
    return made


def test_observed_meets_expected_for_honest_samplers():
    rng = random.Random(0)
    for probabilities in ([0.25] * 4, [0.9, 0.05, 0.05], [0.999, 0.001]):
        for length in (1, 3, 10):
            found = count_duplicates(groups(rng, probabilities, length=length, count=400))
            spread = 5 * math.sqrt(found.attempts) / 2
            assert found.attempts == 400 * 7
            assert abs(found.observed - found.expected) < spread
            assert not found.alarm


def test_no_false_alarm_in_many_small_updates():
    rng = random.Random(1)
    chances = [count_duplicates(groups(rng, [0.6, 0.3, 0.1], length=6, count=4)).chance for _ in range(2000)]
    assert min(chances) > 1e-9
    assert sum(chance < 0.01 for chance in chances) < 40  # a bound, so rarer than its own figure


def test_one_seed_for_every_attempt_is_an_alarm():
    found = count_duplicates(groups(random.Random(2), [0.25] * 4, length=8, count=2, shared=True))
    assert found.observed == found.attempts == 14
    assert found.alarm
    assert "14 of 14 attempts repeat" in str(found)


def test_a_sharper_sampler_than_its_logprobs_is_an_alarm():
    assert count_duplicates(groups(random.Random(3), [0.5, 0.3, 0.2], length=6, sharpen=4.0)).alarm


def test_the_greedy_policy_is_expected_to_repeat_itself():
    found = count_duplicates(groups(random.Random(4), [1.0], length=5))
    assert found.observed == found.attempts and found.expected == found.attempts and not found.alarm


def test_the_worlds_answer_tells_attempts_apart():
    first, second = (attempt(lambda: 0, [0.5], 2) for _ in range(2))
    second.turns[0].feedback_ids = (7,)
    assert count_duplicates([[first, second]]).observed == 0


def test_hand_worked():
    """Actions A (p = .6), A, B (p = .4): the second repeats with .6, the third would with .6."""
    a, b = 0, 1
    members = [attempt(lambda action=action: action, [0.6, 0.4], 1) for action in (a, a, b)]
    found = count_duplicates([members])
    assert (found.attempts, found.observed) == (2, 1)
    assert math.isclose(found.expected, 1.2)
    assert Duplicates(2, 0, 0.0).chance == 1.0 and Duplicates(2, 1, 0.0).alarm
