"""Rollout trees against the world and the model they grew from: replayed actions, full forward passes, counters."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from polytune.config import RolloutConfig
from polytune.policy import Renderer, TransformersGenerator, build_tiny
from polytune.policy.rendering import PROMPT_WORD
from polytune.rollout import (
    RolloutCounters,
    RolloutError,
    SeedView,
    Start,
    grow_trees,
    sample_episodes,
    signature_as_json,
    tree_rows,
)
from polytune.rollout.branching import equally_spaced
from polytune.tasks import Episode, Task, load_task

HORIZON = 12
STARTS = [Start(3, 0), Start(4, 0)]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Lab:
    """A task with a fresh random policy whose distributions differ from place to place."""

    def __init__(self, task):
        self.task = task
        self.model, tokenizer = build_tiny("tiny", [PROMPT_WORD, *task.vocabulary()], seed=1)
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(2.0)
            special = [0, 1, 2, 3]
            self.model.lm_head.weight[special] = 0.0
        self.renderer = Renderer(tokenizer, task)
        self.counters = RolloutCounters()

    def generator(self):
        return TransformersGenerator(self.model, stop_ids=self.renderer.stop_ids)

    def grow(self, num_seeds=1, num_rollout_states=2, num_vines=3, starts=STARTS, run_seed=0, **options):
        self.counters, self.last_generator = RolloutCounters(), self.generator()
        shape = RolloutConfig(num_seeds, num_rollout_states, num_vines if num_rollout_states else 0)
        return grow_trees(self.task, self.renderer, self.last_generator, starts, shape, run_seed=run_seed,
                          counters=self.counters, **options)  # fmt: skip


@pytest.fixture(scope="module")
def lab():
    return Lab(load_task("fourrooms", horizon=HORIZON))


class CorridorEpisode(Episode):
    """Walk ``seed + 1`` cells to the right; the episodes' lengths depend on the start state."""

    def _begin(self):
        self.place = 0

    def observation(self):
        return f"cell={self.place % 4}"

    def _act(self, action):
        self.place += action == "right"
        return self.place > self.seed

    def _place(self):
        return self.place


class Corridor(Task):
    name = "corridor"
    actions = ("left", "right")
    instructions = "Walk to the right."
    episode_class = CorridorEpisode

    def vocabulary(self):
        return ["left", "right", *(f"cell={i}" for i in range(4))]


def as_nested(trees):
    """All that a tree holds, as nested tuples that compare by value (logprobs apart)."""
    return [
        (tree.start_state, tree.prompt_ids, [
            (t.branch_turn, t.stop_reason, t.signature, t.invalid_actions,
             [(turn.action_ids, turn.reward, turn.feedback_ids) for turn in t.turns])
            for t in tree.trajectories()
        ])
        for tree in trees
    ]  # fmt: skip


def all_logprobs(trees):
    return [x for tree in trees for t in tree.trajectories() for turn in t.turns for x in turn.logprobs]


# ---------------------------------------------------------------- shape


@pytest.mark.parametrize("num_turns, expected", [
    (1, [[], [0], [0, 0], [0, 0, 0], [0, 0, 0, 0]]),
    (2, [[], [1], [0, 1], [0, 1, 0], [0, 0, 1, 0]]),
    (3, [[], [1], [1, 2], [0, 1, 2], [0, 1, 0, 2]]),
    (10, [[], [5], [3, 6], [2, 5, 7], [2, 4, 6, 8]]),
    (100, [[], [50], [33, 66], [25, 50, 75], [20, 40, 60, 80]]),
])  # fmt: skip
def test_equally_spaced(num_turns, expected):
    assert [equally_spaced(SeedView(num_turns), num_states) for num_states in range(5)] == expected


@pytest.mark.parametrize("shape", [(1, 0, 0), (3, 0, 0), (1, 1, 1), (1, 2, 4), (2, 2, 3), (3, 1, 2)])
def test_tree_shape_and_rows(lab, shape):
    num_seeds, num_states, num_vines = shape
    trees = lab.grow(*shape)
    assert [tree.start_state for tree in trees] == [start.start_state for start in STARTS]
    for tree in trees:
        assert len(tree.seeds) == len(tree.vines) == num_seeds
        assert all(seed.parent is None and seed.branch_turn == 0 for seed in tree.seeds)
        for seed, groups in zip(tree.seeds, tree.vines, strict=True):
            assert [len(group) for group in groups] == [num_vines] * num_states
            spaced = equally_spaced(SeedView(len(seed.turns)), num_states)
            for turn, group in zip(spaced, groups, strict=True):
                assert all(vine.parent is seed and vine.branch_turn == turn for vine in group)
        assert len(tree_rows(tree)) == len(list(tree.trajectories())) == num_seeds * (1 + num_states * num_vines)
        assert len(list(tree.vine_groups())) == num_seeds * num_states
    assert lab.counters.episodes == sum(len(list(tree.trajectories())) for tree in trees)


# ---------------------------------------------------------------- rows


def test_rows_hold_each_sampled_token_once_and_its_logprob(lab):
    trees = lab.grow(num_seeds=2)
    for tree in trees:
        for row, trajectory in zip(tree_rows(tree), tree.trajectories(), strict=True):
            assert len(row.completion_ids) == len(row.own) == len(row.logprobs) == len(row.turn_index)
            shared = sum(len(turn.action_ids) + len(turn.feedback_ids) for turn in trajectory.shared_turns)
            own = [i for i, mask in enumerate(row.own) if mask]
            assert min(own) == shared  # a vine's first own token follows its prefix
            assert [row.completion_ids[i] for i in own] == [x for turn in trajectory.turns for x in turn.action_ids]
            assert [row.logprobs[i] for i in own] == [x for turn in trajectory.turns for x in turn.logprobs]
            assert [row.turn_index[i] for i in own] == list(range(len(trajectory.turns)))  # one token an action
            assert all(row.logprobs[i] == 0.0 and row.turn_index[i] == -1 for i, m in enumerate(row.own) if not m)
            if trajectory.parent is not None:
                seed_row = tree_rows(tree)[list(tree.trajectories()).index(trajectory.parent)]
                assert row.completion_ids[:shared] == seed_row.completion_ids[:shared]
            ids = list(row.prompt_ids) + row.completion_ids
            with torch.no_grad():
                logprobs_T_V = torch.log_softmax(lab.model(torch.tensor([ids])).logits[0], dim=-1)
            begin = len(row.prompt_ids)
            for i in own:
                expected = float(logprobs_T_V[begin + i - 1, row.completion_ids[i]])
                assert row.logprobs[i] == pytest.approx(expected, abs=1e-5)


def test_forks_recompute_nothing_and_nothing_stays_in_the_cache(lab):
    trees = lab.grow(num_seeds=2, num_vines=4, max_branches=3)
    counters = lab.last_generator.counters
    assert counters.recomputed == 0
    prefixes = [
        len(tree.prompt_ids) + sum(len(t.action_ids) + len(t.feedback_ids) for t in vine.shared_turns)
        for tree in trees for group in tree.vine_groups() for vine in group
    ]  # fmt: skip
    assert counters.reused == sum(prefixes)
    assert counters.sampled == lab.counters.env_steps
    assert all(b.closed and b.parked is None and not b.points for b in lab.last_generator.cache.rows)


# ---------------------------------------------------------------- the world


@pytest.mark.parametrize("which", ["fourrooms", "corridor"])
def test_replaying_the_actions_gives_the_same_episode(lab, which):
    lab = lab if which == "fourrooms" else Lab(Corridor(horizon=9))
    starts = [Start(seed, 1) for seed in (0, 1, 2, 5)]
    trees = lab.grow(num_seeds=2, starts=starts)
    solved = 0
    for tree in trees:
        for trajectory in tree.trajectories():
            episode = lab.task.start(tree.start_state)
            assert lab.renderer.prompt_ids(episode.observation()) == tree.prompt_ids
            for turn in trajectory.shared_turns:
                assert episode.step(lab.renderer.action_text(turn.action_ids)).reward == turn.reward
                assert lab.renderer.feedback_ids(episode.observation()) == turn.feedback_ids
            assert episode.turn == trajectory.branch_turn
            invalid = episode.invalid_actions
            for turn in trajectory.turns:
                step = episode.step(lab.renderer.action_text(turn.action_ids))
                assert step.reward == turn.reward
                feedback = () if step.done else lab.renderer.feedback_ids(episode.observation())
                assert feedback == turn.feedback_ids
            assert step.done and step.stop_reason == trajectory.stop_reason
            assert trajectory.success == (step.stop_reason == "success")
            assert episode.signature(trajectory.branch_turn) == trajectory.signature
            assert episode.invalid_actions - invalid == trajectory.invalid_actions
            solved += trajectory.success
    own_turns = sum(len(t.turns) for tree in trees for t in tree.trajectories())
    invalid = sum(t.invalid_actions for tree in trees for t in tree.trajectories())
    assert (lab.counters.env_steps, lab.counters.invalid_actions) == (own_turns, invalid)
    assert solved > 0 or which == "fourrooms"


def test_seed_trajectories_too_short_for_the_rollout_states_grow_vines_from_the_start_state():
    lab = Lab(Corridor(horizon=1))
    trees = lab.grow(num_rollout_states=3, num_vines=2)
    for tree in trees:
        assert [vine.branch_turn for group in tree.vine_groups() for vine in group] == [0] * 6
        assert all(vine.shared_turns == [] and len(vine.turns) == 1 for group in tree.vine_groups() for vine in group)


def test_discounted_return_begins_at_the_rollout_state():
    lab = Lab(Corridor(horizon=9))
    vines = [v for tree in lab.grow(num_vines=6) for group in tree.vine_groups() for v in group if v.success]
    assert any(vine.branch_turn for vine in vines)
    for vine in vines:
        taken = vine.branch_turn + len(vine.turns)
        assert vine.discounted_return() == 1 - 0.5 * taken / 9
        assert vine.discounted_return(0.5) == pytest.approx((1 - 0.5 * taken / 9) * 0.5 ** (len(vine.turns) - 1))


# ---------------------------------------------------------------- determinism


def test_same_run_seed_same_tree_and_other_seeds_differ(lab):
    first = lab.grow()
    again = lab.grow()
    assert as_nested(again) == as_nested(first) and all_logprobs(again) == all_logprobs(first)
    assert as_nested(lab.grow(run_seed=1)) != as_nested(first)
    attempt = as_nested(lab.grow(starts=[Start(start.start_state, 1) for start in STARTS]))
    assert all(a[:2] == b[:2] and a[2] != b[2] for a, b in zip(attempt, as_nested(first), strict=True))


@pytest.mark.parametrize("max_branches", [1, 2, 5, 7])
def test_the_tree_does_not_depend_on_max_branches(lab, max_branches):
    whole, parts = lab.grow(num_seeds=2), lab.grow(num_seeds=2, max_branches=max_branches)
    assert as_nested(parts) == as_nested(whole)
    assert all_logprobs(parts) == pytest.approx(all_logprobs(whole), abs=1e-5)


def test_the_tree_does_not_depend_on_the_other_start_states(lab):
    both, alone = as_nested(lab.grow()), as_nested(lab.grow(starts=STARTS[1:]))
    assert both[1:] == alone


def test_siblings_and_attempts_draw_differently(lab):
    (tree,) = lab.grow(num_seeds=3, starts=STARTS[:1])
    trajectories = [tuple(turn.action_ids for turn in seed.turns) for seed in tree.seeds]
    assert len(set(trajectories)) == 3
    for group in tree.vine_groups():
        assert len({tuple(turn.action_ids for turn in vine.turns) for vine in group}) == 3


# ---------------------------------------------------------------- independent episodes


@pytest.mark.parametrize("max_branches", [2, 64])
def test_sample_episodes_calls_back_once_per_start_with_its_index(max_branches):
    lab = Lab(Corridor(horizon=9))
    starts = [Start(seed, attempt) for attempt in range(3) for seed in (4, 0, 2)]
    counters, ended = RolloutCounters(), []
    episodes = sample_episodes(
        lab.task, lab.renderer, lab.generator(), starts, run_seed=5, max_branches=max_branches, counters=counters,
        on_episode=lambda index, trajectory: ended.append((index, trajectory)),
    )  # fmt: skip
    assert sorted(index for index, _ in ended) == list(range(len(starts)))
    assert [index for index, _ in ended] != list(range(len(starts)))  # called as each ends, not in the end
    assert all(trajectory is episodes[index] for index, trajectory in ended)
    assert counters.episodes == len(starts) and counters.env_steps == sum(len(e.turns) for e in episodes)
    for start, episode in zip(starts, episodes, strict=True):
        (alone,) = sample_episodes(lab.task, lab.renderer, lab.generator(), [start], run_seed=5)
        assert [t.action_ids for t in alone.turns] == [t.action_ids for t in episode.turns]
    assert sample_episodes(lab.task, lab.renderer, lab.generator(), [], run_seed=5) == []


def test_an_evaluation_never_meets_the_random_numbers_of_a_rollout(lab):
    """Same run seed, start state and attempt: the tree's first seed trajectory and an independent episode differ."""
    trees = lab.grow()
    episodes = sample_episodes(lab.task, lab.renderer, lab.generator(), STARTS, run_seed=0)
    for tree, episode in zip(trees, episodes, strict=True):
        assert [t.action_ids for t in tree.seeds[0].turns] != [t.action_ids for t in episode.turns]


def test_sampled_actions_follow_the_policy_over_attempts():
    """First actions of 600 attempts at one start state against the policy's probabilities, chi-squared."""
    lab = Lab(Corridor(horizon=1))
    starts = [Start(3, attempt) for attempt in range(600)]
    episodes = sample_episodes(lab.task, lab.renderer, lab.generator(), starts, run_seed=0)
    prompt = lab.renderer.prompt_ids(lab.task.start(3).observation())
    with torch.no_grad():
        probabilities = lab.model(torch.tensor([prompt])).logits[0, -1].softmax(-1).tolist()
    counts = [0] * len(probabilities)
    for episode in episodes:
        counts[episode.turns[0].action_ids[0]] += 1
    bins = [i for i, p in enumerate(probabilities) if 600 * p >= 5]
    statistic = sum((counts[i] - 600 * probabilities[i]) ** 2 / (600 * probabilities[i]) for i in bins)
    assert len(bins) >= 4 and statistic < 31.3  # p = .001 at 11 degrees of freedom, of which there are at most 10


# ---------------------------------------------------------------- tasks that break their contract


def broken(**hooks):
    episode = type("BrokenEpisode", (CorridorEpisode,), hooks)
    return Lab(type("Broken", (Corridor,), {"name": "broken", "episode_class": episode})(horizon=9))


def raise_in_turn_3(self, action):
    if self.turn == 3:
        raise KeyError("lost door")
    return False


@pytest.mark.parametrize("grow", [True, False])
def test_a_task_that_raises_is_named(grow):
    lab = broken(_act=raise_in_turn_3)
    starts = [Start(41, 0)]
    with pytest.raises(
        RolloutError, match=r"'broken' raised KeyError in turn 2 of start state 41 after action.*lost"
    ) as e:
        always_right(lab)
        if grow:
            lab.grow(starts=starts)
        else:
            sample_episodes(lab.task, lab.renderer, lab.generator(), starts, run_seed=0)
    assert isinstance(e.value.__cause__, KeyError)


def always_right(lab):
    """Random tiny policies now and then sample words that are no action."""
    lab.renderer.action_text = lambda ids: "right"


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_is_named(reward):
    def step(self, action):
        result = CorridorEpisode.step(self, action)
        return result if self.turn < 2 else type(result)(reward, result.done, result.stop_reason)

    lab = broken(step=step)
    with pytest.raises(RolloutError, match=rf"'broken' returned reward {reward} in turn 1 of start state 41 .*finite"):
        lab.grow(starts=[Start(41, 0)])


@pytest.mark.parametrize("hook, doing", [("_save", "while taking a snapshot"), ("_load", "while restoring a snapshot")])
def test_snapshots_that_raise_are_named(hook, doing):
    def fail(self, *args):
        raise OSError("no such state")

    with pytest.raises(RolloutError, match=rf"'broken' raised OSError in turn \d of start state 41 {doing}: no such"):
        broken(**{hook: fail}).grow(starts=[Start(41, 0)])


def test_a_reward_that_is_no_number_is_named():
    def step(self, action):
        result = CorridorEpisode.step(self, action)
        return type(result)(None, result.done, result.stop_reason)

    with pytest.raises(RolloutError, match="'broken' raised TypeError in turn 0 of start state 41"):
        broken(step=step).grow(starts=[Start(41, 0)])


def test_a_signature_of_numpys_numbers_is_one_of_pythons():
    """As a world's `_place` gives it from an array; what would be another text in each process is refused."""
    own = (np.int64(3), frozenset({(np.float32(1.5), "a"), ("b", np.bool_(True))}))
    assert json.loads(json.dumps(signature_as_json(own))) == [3, [["b", True], [1.5, "a"]]]
    assert signature_as_json(own) == signature_as_json((3, frozenset({(1.5, "a"), ("b", True)})))
    assert json.dumps(signature_as_json((Fraction(1, 2), b"x"))) == r"""["Fraction(1, 2)", "b'x'"]"""
    with pytest.raises(ValueError, match="a signature is <object .*, which no record can tell from another one"):
        signature_as_json(("a", object()))
