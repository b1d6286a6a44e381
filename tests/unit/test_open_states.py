"""Groups from states of kept episodes whose outcome is open: which are kept, which is chosen, what grows from there."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file
from test_go_explore import update_of
from test_rollout import Lab

from polytune.config import RolloutConfig
from polytune.methods import build_methods
from polytune.methods.go_explore import GoExplore
from polytune.methods.open_states import OpenStates, openest
from polytune.methods.ways import way_of
from polytune.rollout import Start, Trajectory, Tree, Turn, grow_trees, snapshots_on, tree_rows
from polytune.tasks import Episode, Task
from polytune.trainer.hooks import METHODS_FILE, load_methods, save_methods


def walked(actions, success, root=None):
    """A trajectory of one-token actions; its snapshots name the actions before them."""
    before = "" if root is None else root.snapshot.decode()
    trajectory = Trajectory(root=root, stop_reason="success" if success else "horizon")
    for i, action in enumerate(actions):
        trajectory.turns.append(Turn((ord(action),), (-0.5,), 0.0, (i,) if i + 1 < len(actions) else ()))
        trajectory.snapshots.append((before + actions[:i]).encode())
    return trajectory


def tree_of(start_state, *seeds):
    return Tree(start_state=start_state, prompt_ids=(7, start_state), seeds=list(seeds), vines=[[]] * len(seeds))


def entered(method, start_state):
    """Where a group of the start state would begin: the actions before it."""
    [start] = method.starts([Start(start_state, 0)], run_seed=0)
    return None if start.root is None else "".join(chr(turn.action_ids[0]) for turn in start.root.turns)


def test_the_openest_state_by_hand():
    """p = .2 .4 .6 .8 (1): .4 and .6 are as near, the earliest counts; p = .9 .6 .3 (0): .6; 0 .5 at the start."""
    assert openest({0: 0.2, 4: 1.0}, 4) == 1
    assert openest({0: 0.9, 3: 0.0}, 3) == 1
    assert openest({0: 0.5, 3: 0.0}, 3) == 0
    assert openest({0: 0.0, 1: 1.0}, 1) == 0  # the state after the last turn is none
    assert openest({0: 0.0, 2: 0.25, 6: 1.0}, 6) == 3  # 0 .125 .25 .4375 .625: a known place bends the line
    assert openest({0: 0.0, 2: 0.75, 6: 1.0}, 6) == 1  # 0 .375 .75
    assert openest({0: 0.1, 2: 0.0, 4: 0.2, 8: 1.0}, 8) == 5  # .2 .4 .6: the first state within .1


def test_a_failing_start_state_is_entered_along_a_success_and_a_solved_one_along_a_failure():
    method = OpenStates(share=1.0)
    assert entered(method, 3) is None  # nothing is known
    failing = tree_of(3, walked("abcde", True), walked("xyzxyz", False), walked("abababa", True), walked("x", False))
    solved = tree_of(5, walked("ab", True), walked("cd", True), walked("pqrstu", False), walked("p", True))
    never = tree_of(9, walked("xx", False), walked("xy", False))
    seen, told = update_of([failing, solved, never])
    method.learn(seen)
    assert {key: "".join(chr(t.action_ids[0]) for t in kept.way) for key, kept in method.kept.items()} == {
        (3, True): "abcde", (3, False): "xyzxyz", (5, True): "p", (5, False): "pqrstu", (9, False): "xy",
    }  # fmt: skip
    assert method.rates == {3: 0.5, 5: 0.75, 9: 0.0}
    assert told == {"open_states/rooted": 0.0, "open_states/kept": 5}
    assert entered(method, 3) is None  # a half at the start state itself
    method.rates[3] = 0.2
    assert entered(method, 3) == "ab"  # .2 .36 .52
    assert entered(method, 5) == "pq"  # .75 .625 .5
    assert entered(method, 9) is None  # it has never succeeded
    [start] = method.starts([Start(5, 8)], run_seed=0)
    assert start.root.snapshot == b"pq" and start.root.prompt_ids == (7, 5) and start[:2] == (5, 8)


def test_what_a_group_finds_moves_the_next_one():
    method = OpenStates(share=1.0, uses=2)
    method.learn(update_of([tree_of(3, walked("abcdefgh", True), *[walked("xxx", False)] * 7)])[0])
    # 1/8 at the start, 1 after 8 turns: p(3) = .453; nothing won from there: p(5) = .4; all won from there: p(4) = .5
    for begins, rate in (("abc", 0.0), ("abcde", 1.0)):
        assert entered(method, 3) == begins
        [start] = method.starts([Start(3, 0)], run_seed=0)
        seen, told = update_of([tree_of(3, *[walked("zz", bool(rate), start.root)] * 8)])
        method.learn(seen)
        assert told["open_states/success"] == rate and told["open_states/mixed"] == 0.0
        assert told["open_states/rooted"] == 1.0
    assert entered(method, 3) == "abcd"
    kept = method.kept[3, True]
    assert kept.rates == {8: 1.0, 3: 0.0, 5: 1.0} and kept.uses == 2 and method.rates == {3: 0.125}
    method.learn(update_of([tree_of(3, walked("klm", True), walked("xx", False))])[0])
    assert method.rates == {3: pytest.approx((0.125 + 0.5) / 2)}  # halfway
    assert method.kept[3, True].uses == 0 and len(method.kept[3, True].way) == 3  # entered twice: it gives way
    method.learn(update_of([tree_of(3, walked("n", True), walked("xx", False))])[0])
    assert len(method.kept[3, True].way) == 3  # and this one stays until it has been entered


def test_it_is_drawn_by_start_state_and_attempt_alone():
    method = OpenStates(share=0.25)
    method.learn(update_of([tree_of(0, walked("abcdef", True), *[walked("x", False)] * 9)])[0])
    due = [Start(0, attempt) for attempt in range(2000)]
    found = method.starts(due, run_seed=3)
    assert sum(start.root is not None for start in found) / 2000 == pytest.approx(0.25, abs=0.03)
    assert method.starts(due[::-1], run_seed=3) == found[::-1] != method.starts(due[::-1], run_seed=4)
    assert OpenStates(share=0.0).starts(due[:3], 3) == due[:3]


def test_what_it_remembers_comes_back():
    method = OpenStates(share=1.0)
    assert all(len(tensor) == 0 for tensor in method.state().values())
    method.learn(update_of([tree_of(3, walked("abcde", True), walked("xy", False), walked("xyz", False))])[0])
    [start] = method.starts([Start(3, 0)], run_seed=0)
    method.learn(update_of([tree_of(3, walked("q", True, start.root), walked("r", False, start.root))])[0])
    again = OpenStates(share=1.0)
    again.restore(method.state())
    again.revisit(
        lambda walks: [tuple("".join(chr(t.action_ids[0]) for t in walk.turns[:i]).encode()
                             for i in range(len(walk.turns) + 1)) for walk in walks]
    )  # fmt: skip
    assert again.rates == method.rates and again.kept == method.kept and len(again.kept) == 2
    assert again.starts([Start(3, 0)], 0) == method.starts([Start(3, 0)], 0)


class LockEpisode(Episode):
    """Three times the right one of two words, or back to the first cell: solved in few episodes at random."""

    def _begin(self):
        self.place = 0

    def observation(self):
        return f"cell={self.place}"

    def _act(self, action):
        self.place = self.place + 1 if action == "right" else 0
        return self.place == 3

    def _place(self):
        return self.place


class Lock(Task):
    name, actions, instructions, episode_class = "lock", ("left", "right"), "Open.", LockEpisode

    def vocabulary(self):
        return ["left", "right", *(f"cell={i}" for i in range(4))]


@pytest.fixture(scope="module")
def lock():
    return Lab(Lock(horizon=8))


def test_more_groups_have_a_signal_than_from_start_states(lock):
    """Groups of 8 of which some win and some lose, at equal environment steps."""
    mixed = {}
    for share in (0.0, 1.0):
        method, steps, attempt, groups = OpenStates(share=share), 0, 0, []
        while steps < 2500:
            starts = method.starts([Start(0, attempt + i) for i in range(4)], run_seed=0)
            trees = lock.grow(num_seeds=8, num_rollout_states=0, starts=starts, keep_snapshots=True)
            method.learn(update_of(trees)[0])
            steps, attempt = steps + lock.counters.env_steps, attempt + 4
            groups += [0 < sum(seed.success for seed in tree.seeds) < 8 for tree in trees]
        mixed[share] = sum(groups) / len(groups)
    assert mixed[1.0] > mixed[0.0] + 0.2, mixed


def test_a_group_in_an_open_state_is_the_rest_of_its_episode(lock):
    """No step is replayed, only own tokens are trained, the world goes on exactly."""
    method, attempt = OpenStates(share=1.0), 0
    while True:
        [start] = method.starts([Start(0, attempt)], run_seed=0)
        [tree] = lock.grow(num_seeds=8, num_rollout_states=0, starts=[start], keep_snapshots=True)
        if start.root is not None:
            break
        method.learn(update_of([tree])[0])
        attempt += 1
        assert attempt < 50
    before = len(start.root.turns)
    assert lock.counters.env_steps == sum(len(seed.turns) for seed in tree.seeds)
    for seed, row in zip(tree.seeds, tree_rows(tree), strict=True):
        assert seed.first_turn == before and sum(row.own) == len(seed.turns)
        episode = lock.task.start(0)
        turns = [*seed.shared_turns, *seed.turns]
        steps = [episode.step(lock.renderer.action_text(turn.whole_ids)) for turn in turns]
        assert steps[-1].done and steps[-1].stop_reason == seed.stop_reason
        assert [step.reward for step in steps[before:]] == [turn.reward for turn in seed.turns]


def test_vines_that_are_whole_episodes_lead_to_open_states_too(lock):
    """Of a tree of 1 seed trajectory and 2 x 20 vines from the start state, a success of any of them is kept."""
    shape, method = RolloutConfig(1, 2, 20, "start"), OpenStates(share=1.0)
    trees = grow_trees(lock.task, lock.renderer, lock.generator(), [Start(0, i) for i in range(4)], shape, run_seed=0,
                       keep_snapshots=True)  # fmt: skip
    method.learn(update_of(trees)[0])
    won = [t for tree in trees for t in tree.trajectories() if t.success]
    assert won and all(t.parent is not None for t in won)
    assert method.kept[0, True].way in [way_of(t) for t in won]
    [start] = method.starts([Start(0, 9)], run_seed=0)
    episode = lock.task.start(0)
    for turn in start.root.turns:
        episode.step(lock.renderer.action_text(turn.whole_ids))
    assert episode.snapshot() == start.root.snapshot
    spaced = RolloutConfig(1, 2, 3)
    [tree] = grow_trees(
        lock.task, lock.renderer, lock.generator(), [Start(0, 0)], spaced, run_seed=0, keep_snapshots=True
    )
    assert [bool(t.snapshots) for t in tree.trajectories()] == [True] + 6 * [False]


def test_snapshots_are_made_anew_from_the_ways_and_lie_in_no_checkpoint(lock, tmp_path):
    """Byte for byte those that were there; a way that the world does not go is refused."""
    method, explored = OpenStates(share=1.0), GoExplore()
    for attempt in range(12):
        trees = lock.grow(num_seeds=8, num_rollout_states=0, starts=[Start(0, attempt)], keep_snapshots=True)
        for each in (method, explored):
            each.learn(update_of(trees)[0])
    assert len(method.kept) == 2 and len(explored.roots) == 3
    save_methods(tmp_path, {"open": method, "cells": explored})
    for tensor in load_file(tmp_path / METHODS_FILE).values():
        assert b"PTSN" not in bytes(tensor.long().clamp(0, 255).tolist())
    again, cells = OpenStates(share=1.0), GoExplore()
    load_methods(tmp_path, {"open": again, "cells": cells}, partial(snapshots_on, lock.task, lock.renderer))
    assert again.kept == method.kept and cells.roots == explored.roots and cells.visits == explored.visits
    kept = method.kept[0, True]
    kept.way = (kept.way[0], *(replace(turn, feedback_ids=kept.way[0].feedback_ids) for turn in kept.way[1:]))
    save_methods(tmp_path, {"open": method, "cells": explored})
    with pytest.raises(
        ValueError, match="start state 0 does not go in turn 1 as the checkpoint's way says.*train from"
    ):
        load_methods(tmp_path, {"open": again}, partial(snapshots_on, lock.task, lock.renderer))


def test_what_it_contradicts_is_refused():
    shape = {"branch_at": "turn", "num_rollout_states": 2}
    OpenStates().check(None, SimpleNamespace(**shape, rollout_states="start"), None)
    OpenStates().check(
        None, SimpleNamespace(**shape | {"num_rollout_states": 0}, rollout_states="equally_spaced"), None
    )
    with pytest.raises(ValueError, match="vines branch later, at rollout_states 'equally_spaced'.*set it to 'start'"):
        OpenStates().check(None, SimpleNamespace(**shape, rollout_states="equally_spaced"), None)
    with pytest.raises(ValueError, match="'open_states' returns to states between turns"):
        OpenStates().check(None, SimpleNamespace(branch_at="token"), None)
    for options, words in (({"share": 1.5}, "share must be"), ({"uses": 0}, "uses must be")):
        with pytest.raises(ValueError, match=words):
            build_methods(["open_states"], {"open_states": options})
