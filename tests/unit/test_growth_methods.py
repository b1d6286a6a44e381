"""Methods that change how episodes grow: where they end, what they read, what grows after the others."""

import math

import pytest
from made_updates import update_of
from test_rollout import HORIZON, Corridor, Lab

from polytune.methods.early_stop import EarlyStop
from polytune.rollout import STOPPED, Trajectory, Tree, Turn, tree_rows
from polytune.tasks import load_task

# ---------------------------------------------------------------- early stopping


def walked(*seen, success=False):
    turns = [Turn((1,), (-0.5,), float(success and i == len(seen)), (place,)) for i, place in enumerate(seen, start=1)]
    return Trajectory(turns=turns, stop_reason="success" if success else "horizon")


def grown(start_state, *episodes):
    return Tree(start_state, (9,), list(episodes), [[] for _ in episodes])


def test_when_an_episode_is_too_long_or_walks_in_circles():
    """Successes of 2 and 3 turns from start state 7: at 1.5 times the longest, 4.5, the fifth turn is too long; from
    start state 8, which has none, the same; with ``least`` the sixth. An observation may come twice before."""
    method = EarlyStop(stretch=1.5, repeats=2)
    assert method.most(7) == math.inf and not method.stop(7, walked(*range(99)))
    wins = walked(1, 2, success=True), walked(1, 2, 3, success=True), walked(1, 2, 3, 4, 5)
    update, told = update_of(grown(7, *wins))
    method.learn(update)
    assert method.lengths == {7: [2, 3]} and told["early_stop/stopped"] == 0.0
    assert method.most(7) == method.most(8) == 5
    assert not method.stop(7, walked(1, 2, 3, 4)) and method.stop(7, walked(1, 2, 3, 4, 5))
    assert EarlyStop(stretch=1.5, least=6).most(7) == math.inf
    assert not method.stop(8, walked(1, 1)) and method.stop(8, walked(1, 1, 1)) and not method.stop(8, walked(1, 1, 2))
    vine = Trajectory(parent=walked(1, 1, 2), branch_turn=2, turns=walked(1).turns)
    assert method.stop(7, vine)  # with the turns before it
    again = EarlyStop(stretch=1.5)
    again.restore(method.state())
    assert again.lengths == method.lengths
    method = EarlyStop(size=2)
    method.learn(update_of(grown(0, *[walked(*range(n), success=True) for n in (5, 2, 4)]))[0])
    assert method.lengths == {0: [4, 5]}  # the last ones, in an order that does not depend on the processes


@pytest.fixture(scope="module")
def lab():
    return Lab(load_task("fourrooms", horizon=HORIZON))


def test_what_is_stopped_ends_there_and_fails_and_the_others_are_as_they_were(lab):
    """FourRooms with vines: the same samples up to there, rows that train."""
    plain = lab.grow(num_seeds=2)
    asked = []

    def stops(start_state, episode):
        asked.append(start_state)
        return len(episode.turns) == 4 and episode.parent is None

    trees = lab.grow(num_seeds=2, stops=stops)
    assert {*asked} == {tree.start_state for tree in trees}
    for tree, other in zip(trees, plain, strict=True):
        for seed, whole in zip(tree.seeds, other.seeds, strict=True):
            assert [t.action_ids for t in seed.turns] == [t.action_ids for t in whole.turns][:4]
            assert seed.stop_reason == STOPPED and not seed.success and seed.turns[-1].feedback_ids == ()
            assert seed.signature is not None or whole.signature is None
        for row in tree_rows(tree):
            assert len(row.completion_ids) == len(row.own) == len(row.logprobs) == len(row.turn_index)
        assert all(vine.stop_reason != STOPPED for group in tree.vine_groups() for vine in group)


def test_steps_of_failures_are_saved_and_no_success_is_lost():
    """A corridor, and a policy that knows nothing: at 1 times the longest success the same attempts succeed."""
    lab = Lab(Corridor(horizon=HORIZON))
    shape = {"num_seeds": 16, "num_rollout_states": 0}
    trees, steps = lab.grow(**shape), lab.counters.env_steps
    method = EarlyStop(stretch=1.0, repeats=0)
    method.learn(update_of(*trees)[0])
    again = lab.grow(**shape, stops=method.stop)
    wins, more = [[[seed.success for seed in tree.seeds] for tree in own] for own in (trees, again)]
    assert wins == more and any(map(any, wins)) and not all(map(all, wins))
    assert lab.counters.env_steps < steps
    update, told = update_of(*again)
    method.learn(update)
    assert 0.0 < told["early_stop/stopped"] < 1.0
    circles = lab.grow(**shape, stops=EarlyStop(repeats=1).stop)
    assert any(seed.stop_reason == STOPPED for tree in circles for seed in tree.seeds)
