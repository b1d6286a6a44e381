"""Go-Explore roots: which states are kept, how they are drawn, what grows from them."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from test_rollout import Corridor, Lab

from polytune.config import ObjectiveConfig
from polytune.methods import Update, build_methods
from polytune.methods.go_explore import GoExplore
from polytune.methods.ragged import pack, unpack
from polytune.methods.ucb import visits
from polytune.rollout import Root, Start, Trajectory, Tree, Turn, tree_rows
from polytune.tasks import Episode, Task
from polytune.trainer.value_features import value_features


def update_of(trees):
    told = {}
    empty = torch.zeros(0, 0)
    return Update(seed=0, trees=trees, turns_mask_B_T=empty, turn_index_B_C=empty, logprobs_B_C=empty,
                  record=told.__setitem__), told  # fmt: skip


def walked(start_state, observations, root=None):
    """A trajectory that sees observations (one number each) after its turns."""
    turns = [Turn((100 + i,), (0.5,), 0.0, (seen,)) for i, seen in enumerate(observations)]
    trajectory = Trajectory(turns=turns, stop_reason="horizon", root=root)
    trajectory.snapshots = [f"{start_state}-{i}".encode() for i in range(len(turns))]
    return trajectory


def snapshots_on(walks):
    """Those that ``walked`` gives, made anew."""
    return [tuple(f"{walk.start_state}-{i}".encode() for i in range(len(walk.turns) + 1)) for walk in walks]


def tree_of(start_state, *seeds):
    return Tree(start_state=start_state, prompt_ids=(7, start_state), seeds=list(seeds), vines=[[]] * len(seeds))


def test_the_archive_holds_the_shortest_way_and_counts_visits():
    """The last observation of an episode has no turn after it, hence no snapshot; the start state is no cell."""
    method = GoExplore()
    seen, told = update_of([tree_of(0, walked(0, [1, 2, 3, 9]), walked(0, [4, 3, 9])), tree_of(5, walked(5, [3, 9]))])
    method.learn(seen)
    assert method.visits == {(0, (1,)): 1, (0, (2,)): 1, (0, (3,)): 2, (0, (4,)): 1, (5, (3,)): 1}
    assert {cell: len(root.turns) for cell, root in method.roots.items()} == {
        (0, (1,)): 1, (0, (2,)): 2, (0, (3,)): 2, (0, (4,)): 1, (5, (3,)): 1}  # fmt: skip
    root = method.roots[0, (3,)]
    assert (
        root.prompt_ids == (7, 0) and root.snapshot == b"0-2" and [t.feedback_ids for t in root.turns] == [(4,), (3,)]
    )
    assert told == {"go_explore/rooted": 0.0, "go_explore/cells": 5}
    further, told = update_of([tree_of(0, walked(0, [8, 2, 9], root=root)), tree_of(5, walked(5, [6]))])
    method.learn(further)
    found = method.roots[0, (8,)]
    assert [turn.feedback_ids for turn in found.turns] == [(4,), (3,), (8,)] and told["go_explore/rooted"] == 0.5
    assert len(method.roots[0, (2,)].turns) == 2 and method.visits[0, (2,)] == 2


def test_beyond_its_size_the_archive_drops_what_was_seen_most():
    method = GoExplore(size=2)
    method.learn(update_of([tree_of(0, walked(0, [1, 2, 3, 9]), walked(0, [1, 3, 9]), walked(0, [1, 9]))])[0])
    assert set(method.roots) == set(method.visits) == {(0, (2,)), (0, (3,))} - {(0, (1,))}


def test_seldom_seen_states_of_the_due_start_state_come_first():
    method = GoExplore(share=0.75)
    due = [Start(0, attempt) for attempt in range(4000)]
    assert method.starts(due, run_seed=3) == due  # an empty archive
    method.learn(update_of([tree_of(0, walked(0, [1, 2, 9])), tree_of(1, walked(1, [5, 9]))])[0])
    method.visits = {(0, (1,)): 15, (0, (2,)): 0, (1, (5,)): 0}  # weights 1/4 and 1
    found = method.starts(due, run_seed=3)
    assert [start[:2] for start in found] == [start[:2] for start in due]  # each keeps its turn and random numbers
    drawn = Counter(None if start.root is None else start.root.observation_ids for start in found)
    assert set(drawn) == {None, (1,), (2,)}
    assert drawn[None] / 4000 == pytest.approx(0.25, abs=0.03)
    assert drawn[(2,)] / (drawn[(1,)] + drawn[(2,)]) == pytest.approx(0.8, abs=0.03)
    assert method.starts(due[::-1], run_seed=3) == found[::-1] != method.starts(due[::-1], run_seed=4)
    assert GoExplore(share=0.0).starts(due[:3], 3) == due[:3]


def test_what_it_remembers_comes_back():
    method = GoExplore()
    assert all(len(tensor) == 0 for tensor in method.state().values())
    method.learn(update_of([tree_of(0, walked(0, [1, 2, 9])), tree_of(1, walked(1, [5, 9]))])[0])
    again = GoExplore()
    again.restore(method.state())
    again.revisit(snapshots_on)
    assert again.visits == method.visits and list(again.roots) == list(method.roots)
    told = [[(root.start_state, root.prompt_ids, root.snapshot, [(t.action_ids, t.feedback_ids) for t in root.turns])
             for root in own.roots.values()] for own in (method, again)]  # fmt: skip
    assert told[0] == told[1]
    assert unpack("x", pack("x", [(), (3, 4), (), (5,)])) == [[], [3, 4], [], [5]]


@pytest.fixture(scope="module")
def lab():
    return Lab(Corridor(horizon=9))


def test_a_tree_from_a_root_is_the_rest_of_its_episode(lab):
    """Replayed from the start state; vines on it; only own tokens are trained; turns count from the start state."""
    first = lab.grow(num_seeds=2, num_rollout_states=0, starts=[Start(6, 0)], keep_snapshots=True)
    assert all(len(seed.snapshots) == len(seed.turns) for seed in first[0].seeds)
    method = GoExplore()
    method.learn(update_of(first)[0])
    root = max(method.roots.values(), key=lambda root: len(root.turns))
    assert len(root.turns) >= 3
    [tree] = lab.grow(num_seeds=2, starts=[Start(6, 1, root)], keep_snapshots=True)
    before, rows = len(root.turns), tree_rows(tree)
    assert tree.root is root and tree.start_state == 6 and lab.last_generator.counters is not None
    for trajectory, row in zip(tree.trajectories(), rows, strict=True):
        assert len(trajectory.shared_turns) == trajectory.first_turn >= before
        episode = lab.task.start(6)
        assert lab.renderer.prompt_ids(episode.observation()) == tree.prompt_ids
        steps = [episode.step(lab.renderer.action_text(turn.whole_ids))
                 for turn in [*trajectory.shared_turns, *trajectory.turns]]  # fmt: skip
        assert steps[-1].done and steps[-1].stop_reason == trajectory.stop_reason
        assert [step.reward for step in steps[trajectory.first_turn :]] == [turn.reward for turn in trajectory.turns]
        assert episode.signature(trajectory.first_turn) == trajectory.signature
        way = [i for turn in root.turns for i in (*turn.action_ids, *turn.feedback_ids)]
        assert row.completion_ids[: len(way)] == way and not any(row.own[: len(way)])
        assert sum(row.own) == sum(len(turn.action_ids) for turn in trajectory.turns)
    seed = tree.seeds[0]
    left = value_features([tree], 9, 1.0)[0, : len(seed.turns), 0]
    assert left.tolist() == pytest.approx([(9 - before - t) / 9 for t in range(len(seed.turns))])
    fresh, repeated = visits(tree, seed), visits(tree, tree.vines[0][0][0])
    assert len(fresh) == len(seed.turns) and len(repeated) == len(tree.vines[0][0][0].turns)


class ChainEpisode(Episode):
    """``right`` leads one cell on, ``left`` back to the first one: seldom is a random walk far from it."""

    def _begin(self):
        self.place = 0

    def observation(self):
        return f"cell={self.place}"

    def _act(self, action):
        self.place = self.place + 1 if action == "right" else 0
        return False


class Chain(Task):
    name, actions, instructions, episode_class = "chain", ("left", "right"), "Walk.", ChainEpisode

    def vocabulary(self):
        return ["left", "right", *(f"cell={i}" for i in range(self.horizon + 1))]


def test_roots_lead_further_than_start_states_do_at_equal_environment_steps():
    chain, cells = Lab(Chain(horizon=40)), {}
    for share in (0.0, 0.8):
        method, steps, attempt, seen = GoExplore(share=share), 0, 0, set()
        while steps < 2000:
            starts = method.starts([Start(0, attempt + i) for i in range(4)], run_seed=0)
            trees = chain.grow(num_rollout_states=0, starts=starts, keep_snapshots=True)
            method.learn(update_of(trees)[0])
            steps, attempt = steps + chain.counters.env_steps, attempt + 4
            seen |= {turn.feedback_ids for tree in trees for turn in tree.seeds[0].turns}
        cells[share] = len(seen)
    assert cells[0.8] >= cells[0.0] + 2, cells


def test_what_it_contradicts_is_refused():
    with pytest.raises(ValueError, match="'go_explore' returns to states between turns, but branch_at is 'token'"):
        GoExplore().check(None, SimpleNamespace(branch_at="token"), None)
    for options, words in (({"share": 1.5}, "share must be"), ({"size": 0}, "size must be")):
        with pytest.raises(ValueError, match=words):
            build_methods(["go_explore"], {"go_explore": options})
    assert ObjectiveConfig(methods=["go_explore"]).methods == ["go_explore"]
    assert Root(0, (1,), (Turn((2,), (), 0.0, (3,)),), b"").observation_ids == (3,)
