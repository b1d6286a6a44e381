"""SPEAR: which successes are kept, with what advantage they come back, by hand; what it remembers; what it refuses."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from polytune.config import ObjectiveConfig
from polytune.methods import Update, build_methods
from polytune.methods.spear import SPEAR
from polytune.rollout import Root, Trajectory, Tree, Turn


def episode(reward, signature, *actions, success=True, root=None):
    """Of single-token actions; the reward comes with the last one."""
    turns = [Turn((action,), (-0.5 * action,), 0.0, (90 + action,)) for action in actions]
    turns[-1] = replace(turns[-1], reward=reward, feedback_ids=())
    return Trajectory(turns=turns, stop_reason="success" if success else "horizon", signature=signature, root=root)


def update_of(*trees):
    told = {}
    empty = torch.zeros(0, 0)
    trees = [Tree(start_state=state, prompt_ids=(7, state), seeds=seeds, vines=[[]] * len(seeds))
             for state, seeds in trees]  # fmt: skip
    return Update(seed=0, trees=trees, turns_mask_B_T=empty, turn_index_B_C=empty, logprobs_B_C=empty,
                  record=told.__setitem__), told  # fmt: skip


def replayed(method, room=9, progress=1.0):
    return sorted((row.completion_ids, advantage) for row, advantage in method.replay(room, progress))


def test_the_advantage_is_the_return_above_the_median_group_times_gamma():
    """Groups of means 0.25, 0.5 and 0.75: P50 is 0.5. gamma(s) = 2 (1 - cos(pi s / 0.4)) / 2."""
    method = SPEAR(coef=2.0, warmup=0.4)
    assert method.replay(5, 0.5) == [] and method.baseline == 0.0
    seen, told = update_of(
        (0, [episode(0.5, "a", 1), episode(0.0, "b", 2, success=False)]),
        (1, [episode(1.0, "a", 3, 4), episode(0.0, None, 1, success=False)]),
        (2, [episode(0.8, "a", 5), episode(0.7, "b", 6)]),
    )
    method.learn(seen)
    assert method.means == pytest.approx([0.25, 0.5, 0.75]) and told == {"spear/kept": 4, "spear/baseline": 0.5}
    assert replayed(method) == [([3, 93, 4], pytest.approx(1.0)), ([5], pytest.approx(0.6)), ([6], pytest.approx(0.4))]
    for progress, gamma in ((0.0, 0.0), (0.1, 1 - 0.5**0.5), (0.2, 1.0), (0.3, 1 + 0.5**0.5), (0.4, 2.0), (0.9, 2.0)):
        assert method.gamma(progress) == pytest.approx(gamma)
    assert SPEAR(warmup=0.0).gamma(0.0) == 1.0
    drawn = method.replay(2, 1.0)
    assert len(drawn) == 2 and drawn == method.replay(2, 1.0)  # the same in every process
    [row] = [row for row, _ in method.replay(9, 1.0) if row.completion_ids == [3, 93, 4]]
    assert row.prompt_ids == [7, 1] and row.own == [1, 0, 1] and row.logprobs == [-1.5, 0.0, -2.0]
    method.learn(update_of((0, [episode(1.0, "a", 9)]), (1, [episode(1.0, "a", 9)]), (2, [episode(1.0, "c", 9)]))[0])
    assert method.baseline == pytest.approx(0.875)  # of .25 .5 .75 1 1 1
    method.learn(update_of((3, [episode(1.0, "a", 1)]))[0])
    assert method.baseline == 1.0 and method.replay(9, 1.0) == []  # nothing is better than half of the groups


def test_the_newest_of_each_kind_stays():
    method = SPEAR()
    method.means = [0.0] * 99
    method.learn(update_of((0, [episode(0.9, "a", 1), episode(0.8, "a", 2), episode(0.5, "b", 3)]))[0])
    assert replayed(method) == [([1], 0.9), ([3], 0.5)]  # of one kind in one update, the highest return
    method.learn(update_of((0, [episode(0.6, "a", 4), episode(1.0, "c", 5, success=False)]),
                           (1, [episode(0.7, "a", 6)]))[0])  # fmt: skip
    assert replayed(method) == [([3], 0.5), ([4], 0.6), ([6], 0.7)]
    method.learn(update_of((0, [episode(0.6, None, 7), episode(0.6, None, 8)]))[0])
    assert len(replayed(method)) == 5  # without a signature, their actions tell them apart
    rooted = episode(1.0, "z", 9, root=Root(0, (7, 0), (), b""))
    method.learn(update_of((0, [rooted]))[0])
    assert len(replayed(method)) == 5 and len(method.means) == 103
    words = SPEAR(key="actions")
    words.learn(update_of((0, [episode(0.9, "a", 1), episode(0.8, "a", 2), episode(0.7, "b", 2)]))[0])
    assert sorted(own.value for own in words.buffer.values()) == [0.8, 0.9]
    sets = SPEAR()
    sets.learn(update_of((0, [episode(0.9, frozenset("ab"), 1), episode(0.8, frozenset("ba"), 2)]))[0])
    assert len(sets.buffer) == 1


def test_what_is_old_or_too_much_goes():
    method = SPEAR(max_age=2, size=3, history=2)
    for action in range(4):
        method.learn(
            update_of((0, [episode(1.0, str(action), action)]), (1, [episode(0.0, None, 1, success=False)]))[0]
        )
    assert [own.row.completion_ids for own in method.buffer.values()] == [[2], [3]]  # two updates at most
    assert method.means == [0.0, 1.0]
    method.learn(update_of((0, [episode(1.0, str(action), action) for action in range(5, 9)]))[0])
    assert len(method.buffer) == 3 and all(own.born == 5 for own in method.buffer.values())


def test_processes_in_any_order_keep_the_same():
    trees = [(0, [episode(0.9, "a", 1), episode(0.9, "a", 2)]), (1, [episode(0.3, "a", 3)]), (2, [episode(1, "b", 4)])]
    kept = []
    for order in (trees, trees[::-1]):
        method = SPEAR()
        method.learn(update_of(*order)[0])
        kept.append((list(method.buffer.values()), method.means, method.replay(2, 1.0)))
    assert kept[0] == kept[1]


def test_what_it_remembers_comes_back():
    method, again = SPEAR(), SPEAR()
    again.restore(method.state())
    assert again.buffer == {} and again.means == [] and again.updates == 0
    method.learn(update_of((0, [episode(1 / 3, "a", 1, 2), episode(0.1, "b", 3)]), (5, [episode(0.7, None, 4)]))[0])
    again.restore(method.state())
    assert list(again.buffer.items()) == list(method.buffer.items())
    assert again.means == method.means and again.updates == 1 and again.replay(1, 1.0) == method.replay(1, 1.0)


def test_what_it_contradicts_is_refused():
    args, objective = SimpleNamespace(max_env_steps=None), ObjectiveConfig(signature="task")
    SPEAR().check(args, None, objective)
    SPEAR(share=0.0).check(SimpleNamespace(max_env_steps=100), None, objective)
    with pytest.raises(ValueError, match="'spear' has no room: share is 0, and without max_env_steps"):
        SPEAR(share=0.0).check(args, None, objective)
    with pytest.raises(ValueError, match="signature 'ngram' numbers the clusters of a group anew.*spear.key to 'act"):
        SPEAR().check(args, None, SimpleNamespace(signature="ngram", methods=[]))
    SPEAR(key="actions").check(args, None, SimpleNamespace(signature="ngram", methods=[]))
    for option, value in (
        ("coef", -1),
        ("warmup", 2),
        ("share", 1.5),
        ("max_age", 0),
        ("size", 0),
        ("size", 1.5),
        ("key", "arm"),
    ):
        with pytest.raises(ValueError, match=f"{option} "):
            build_methods(["spear"], {"spear": {option: value}})
    assert [SPEAR(share=share).wanted_rows(16) for share in (0.0, 0.01, 0.125, 1.0)] == [0, 1, 2, 16]
