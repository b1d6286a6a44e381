"""Vines that branch within an answer: shared tokens, own logprobs, whole texts graded, prefixes never trained."""

from collections import defaultdict

import pytest
import torch

from polytune.config import ObjectiveConfig, RolloutConfig
from polytune.policy import Renderer, TransformersGenerator, build_tiny
from polytune.policy.engine import Answer, EngineGenerator
from polytune.policy.generator import SampleKey
from polytune.rollout import RolloutCounters, SeedView, Start, grow_trees, tree_rows
from polytune.tasks import load_task
from polytune.trainer import PolychromicConfig, check_run
from polytune.trainer.advantages import turn_advantages
from polytune.trainer.checks import check_branching

SHAPE = RolloutConfig(num_seeds=2, num_rollout_states=2, num_vines=3, branch_at="token")


@pytest.fixture(scope="module")
def lab():
    task = load_task("triangle", size="tiny", nodes=20, lines=60)
    model, tokenizer = build_tiny("tiny", task.vocabulary(), spaced=False, seed=3)
    renderer = Renderer(tokenizer, task)
    generator = TransformersGenerator(model, max_action_tokens=task.max_action_tokens, stop_ids=renderer.stop_ids)
    counters = RolloutCounters()
    trees = grow_trees(task, renderer, generator, [Start(s, 0) for s in range(6)], SHAPE, run_seed=0, counters=counters)
    return task, model, renderer, generator, trees, counters


def test_vines_share_the_first_tokens_of_their_seed_trajectory(lab):
    task, _, renderer, generator, trees, counters = lab
    branched = set()
    for tree in trees:
        for seed, groups in zip(tree.seeds, tree.vines, strict=True):
            answer = seed.turns[0].action_ids
            assert seed.turns[0].prefix_ids == () and len(groups) == 2
            for k, group in enumerate(groups, start=1):
                place = k * len(answer) // 3
                for vine in group:
                    [turn] = vine.turns
                    assert vine.branch_turn == 0
                    assert turn.prefix_ids == answer[: vine.branch_token] and vine.parent is seed
                    assert vine.branch_token in (place, 0)
                    assert len(turn.logprobs) == len(turn.action_ids) >= 1
                    valid = task.grade(renderer.action_text(turn.whole_ids)) is not None
                    assert vine.success == valid
                    branched.add(vine.branch_token)
    assert len(branched - {0}) >= 2
    assert counters.episodes == 6 * 2 * 7 and counters.env_steps == counters.episodes
    assert generator.counters.reused > 0
    assert len({vine.turns[0].action_ids for tree in trees for g in tree.vine_groups() for vine in g}) > 10


def test_an_answer_that_a_vine_goes_on_with_is_no_longer_than_any_other(lab):
    """An untrained policy hardly ever ends its answer by itself: what a vine is graded on has as many tokens at most as
    a seed trajectory's, or as an evaluation's."""
    task, _, _, _, trees, _ = lab
    vines, lengths = [vine for tree in trees for group in tree.vine_groups() for vine in group], defaultdict(set)
    for vine in vines:
        lengths[vine.branch_token].add(len(vine.turns[0].whole_ids))
    assert len(lengths) > 2 and all(max(found) == task.max_action_tokens for found in lengths.values())


def test_an_engine_is_asked_for_the_rest_of_an_answer(lab):
    _, model, _, _, _, _ = lab
    engine = EngineGenerator(model, max_action_tokens=5)
    engine.max_positions = 8
    parent = engine.open([1, 2, 3, 4, 5], SampleKey(0, 0, 0, 0))
    vine = engine.fork(parent, 5, SampleKey(0, 0, 0, 1), begun=2)
    assert [engine._sampling(branch, 0)["max_tokens"] for branch in (parent, vine)] == [5, 3]
    with pytest.raises(ValueError, match="has reached 5 tokens, but the engine has only 8 positions"):
        engine.sample([parent], [0])
    engine._send_weights, engine._compare = lambda: None, lambda ids: None
    engine._complete = lambda branches, turns: [Answer((7, 7, 7), (0.0,) * 3, 0) for _ in branches]
    assert [sample.ids for sample in engine.sample([vine], [0])] == [(7, 7, 7)]
    assert engine._sampling(vine, 1)["max_tokens"] == 5, "the next action is a whole one"


def test_rows_train_own_tokens_only_and_logprobs_are_the_models(lab):
    _, model, _, _, trees, _ = lab
    for tree in trees:
        for row, trajectory in zip(tree_rows(tree), tree.trajectories(), strict=True):
            [turn] = trajectory.turns
            assert tuple(row.completion_ids) == turn.whole_ids
            assert row.own == [0] * len(turn.prefix_ids) + [1] * len(turn.action_ids)
            assert row.turn_index == [-1] * len(turn.prefix_ids) + [0] * len(turn.action_ids)
            ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
            with torch.no_grad():
                logprobs = model(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1].log_softmax(-1)
            scored = logprobs.gather(-1, torch.tensor(row.completion_ids)[:, None])[:, 0]
            own = torch.tensor(row.own).bool()
            assert torch.allclose(scored[own], torch.tensor(row.logprobs)[own], atol=2e-5)


def test_each_group_is_scored_by_itself(lab):
    *_, trees, _ = lab
    objective = ObjectiveConfig(set_size=2, window=-1, set_normalise="none")
    found = turn_advantages(trees, objective, None)
    rows = [trajectory for tree in trees for trajectory in tree.trajectories()]
    for row, trajectory in enumerate(rows):
        assert bool(found.set_mask_B_T[row, 0]) == (trajectory.parent is not None)


def test_rollouts_repeat(lab):
    task, model, renderer, _, trees, _ = lab
    generator = TransformersGenerator(model, max_action_tokens=task.max_action_tokens, stop_ids=renderer.stop_ids)
    again = grow_trees(task, renderer, generator, [Start(s, 0) for s in range(6)], SHAPE, run_seed=0, max_branches=5)
    ids = [[t.turns[0].whole_ids for t in tree.trajectories()] for tree in trees]
    assert [[t.turns[0].whole_ids for t in tree.trajectories()] for tree in again] == ids


def test_entropy_chooses_a_token(lab):
    task, model, renderer, _, _, _ = lab
    shape = RolloutConfig(1, 1, 3, rollout_states="entropy", branch_at="token")
    generator = TransformersGenerator(model, max_action_tokens=task.max_action_tokens, stop_ids=renderer.stop_ids)

    def look(trees):
        lengths = [len(tree.seeds[0].turns[0].action_ids) for tree in trees]
        return [[SeedView(n, None, [float(i == n - 1) for i in range(n)])] for n in lengths]

    for tree in grow_trees(task, renderer, generator, [Start(1, 0), Start(2, 0)], shape, run_seed=0, view_seeds=look):
        assert all(v.branch_token == len(tree.seeds[0].turns[0].action_ids) - 1 for v in tree.vines[0][0])


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match="branch_at must be one of turn, token, got 'word'"):
        RolloutConfig(branch_at="word")
    with pytest.raises(ValueError, match="branch_at is 'token', but task 'fourrooms' takes many turns"):
        check_branching(load_task("fourrooms"), SHAPE)
    check_branching(load_task("line", size="tiny"), SHAPE)
    args = PolychromicConfig(output_dir="x", num_generations=17, per_device_train_batch_size=17, report_to="none")
    with pytest.raises(ValueError, match="the critic values turns: set rollout_states to 'entropy'"):
        check_run(args, RolloutConfig(1, 2, 8, rollout_states="uncertain", branch_at="token"), ObjectiveConfig())
