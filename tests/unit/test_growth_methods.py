"""Methods that change how episodes grow: where they end, what they read, what grows after the others."""

import math
from types import SimpleNamespace

import pytest
import torch
from made_updates import tree, update_of
from softmax_bandit import mean_over_seeds, train
from test_rollout import HORIZON, Corridor, Lab

from polytune.methods import Grown, Minibatch, build_methods
from polytune.methods.context_rollouts import ContextRollouts
from polytune.methods.critique_grpo import CritiqueGRPO
from polytune.methods.early_stop import EarlyStop
from polytune.rollout import STOPPED, Start, Trajectory, Tree, Turn, tree_rows
from polytune.tasks import load_task
from polytune.tasks.messages import Conversation, with_hint

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
    for own, other in zip(trees, plain, strict=True):
        for seed, whole in zip(own.seeds, other.seeds, strict=True):
            assert [t.action_ids for t in seed.turns] == [t.action_ids for t in whole.turns][:4]
            assert seed.stop_reason == STOPPED and not seed.success and seed.turns[-1].feedback_ids == ()
            assert seed.signature is not None or whole.signature is None
        for row in tree_rows(own):
            assert len(row.completion_ids) == len(row.own) == len(row.logprobs) == len(row.turn_index)
        assert all(vine.stop_reason != STOPPED for group in own.vine_groups() for vine in group)


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


# ---------------------------------------------------------------- attempts that read a hint


def grow_of(told, answer, reward):
    """``Grown.grow`` that notes its starts; each attempt says ``answer``."""

    def grow(starts):
        told.extend(starts)
        made = [Trajectory(turns=[Turn(answer, (-0.1,) * len(answer), reward)], stop_reason="success") for _ in starts]
        return [Tree(start.start_state, (5, 5, 5), [one], [[]]) for start, one in zip(starts, made, strict=True)]

    return grow


def score(rows):
    return [([-2.0] * len(row.completion_ids), [1.0] * len(row.completion_ids)) for row in rows]


def words(ids):
    return " ".join(map(str, ids))


def test_hinted_attempts_join_the_group_and_rows_are_without_the_hint():
    """Returns 1, 0, 0, 0 and two hinted ones of 1: m = 1/4, m' = 1/2."""
    method, starts, told = ContextRollouts(hint="say 8", each=2), [], {}
    trees = [tree(3, 1), tree(4, 0)]
    method.again(Grown(trees, grow_of(starts, (8,), 1.0), score, words, record=told.__setitem__))
    assert [start.hint for start in starts] == ["say 8"] * 4 and [s.start_state for s in starts] == [3, 3, 4, 4]
    assert len({start.attempt for start in starts}) == 4 and max(start.attempt for start in starts) < 0
    assert told["context_rollouts/rows"] == 4
    rows = method.replay(9, 0.0)
    assert len(rows) == 4 and len(method.replay(3, 0.0)) == 3
    assert all((row.prompt_ids, row.completion_ids) == ([own], [8]) for row, _ in rows for own in row.prompt_ids)
    assert all(row.logprobs == [-2.0] for row, _ in rows)  # without the hint; of the sampler:
    other = ContextRollouts(ratio="true")
    other.again(Grown(trees, grow_of([], (8,), 1.0), score, words))
    assert all(row.logprobs == [-0.1] for row, _ in other.replay(9, 0.0))
    gains = sorted((row.prompt_ids[0], gain) for row, gain in rows)
    assert gains == [(3, pytest.approx(0.5))] * 2 + [(4, pytest.approx(1 - 2 / 6))] * 2
    update, _ = update_of(*trees)
    update.scored_B_T = torch.ones(8, 1, dtype=torch.bool)
    moved = method.turn_advantage(update, torch.zeros(8, 1, dtype=torch.float64))[:, 0].tolist()
    assert moved == pytest.approx([0.25 - 0.5] * 4 + [0.0 - 2 / 6] * 4)
    again = ContextRollouts(hint="say 8", each=2)
    again.restore(method.state())
    more, starts[:] = list(starts), []
    again.again(Grown(trees, grow_of(starts, (8,), 1.0), score, words))
    assert {start.attempt for start in starts}.isdisjoint(start.attempt for start in more)  # of the next update
    with pytest.raises(ValueError, match="method 'context_rollouts' takes one mean .* set_normalise to 'none'"):
        method.check(SimpleNamespace(critic="none"), None, SimpleNamespace(set_scope="seeds", set_normalise="std"))


def praise(observation, answer):
    return f"{observation} not {answer}"


def test_failures_are_critiqued_and_refined():
    """An answer of tokens 7 and its number; the first failure of each start state, none where all succeed."""
    method, starts = CritiqueGRPO(each=2), []
    method.again(Grown([tree(3, 3), tree(4, 4), tree(6, 0)], grow_of(starts, (8,), 1.0), score, words))
    assert [(s.start_state, s.hint) for s in starts] == [(3, "7 3"), (6, "7 0"), (6, "7 1")]
    for other, hint in ((CritiqueGRPO(words="in {observation} wrong: {answer}"), "in 6 wrong: 7 0"),
                        (CritiqueGRPO(critic=f"{__name__}:praise"), "6 not 7 0")):  # fmt: skip
        told = []
        other.again(Grown([tree(6, 0)], grow_of(told, (8,), 1.0), score, words))
        assert [start.hint for start in told] == [hint]
    logprobs = torch.tensor([[math.log(0.1), math.log(0.9)]], requires_grad=True)
    batch = Minibatch(logprobs_b_C=logprobs, old_b_C=logprobs.detach() - 5, advantages_b_C=torch.tensor([[0.5, -2.0]]),
                      set_deductions_b_C=None, mask_b_C=torch.ones(1, 2), epsilon=(0.2, 0.2), tensors={})  # fmt: skip
    terms = method.replayed(batch)
    assert terms[0].tolist() == pytest.approx([-0.5 * 0.5, 2.0 * 0.9])
    (slope,) = torch.autograd.grad(terms.sum(), logprobs)
    assert slope[0].tolist() == pytest.approx([-0.5 * 0.1 * 0.1 / 0.2**2, 2.0 * 0.9 * 0.1 / 1.0**2])
    with pytest.raises(ValueError, match="a critique is the hint"):
        build_methods(["critique_grpo"], {"critique_grpo": {"hint": "x"}})


@pytest.mark.parametrize("method", [ContextRollouts, CritiqueGRPO])
def test_what_only_the_hint_brings_about_is_learnt_without_it(method):
    """An arm of one in a hundred wins; with the hint it is every second attempt's."""

    def end(own, seed):
        return train(own, (0.89, 0.1, 0.01), (0.0, 0.0, 1.0), seed=seed, updates=40, hinted=(0.25, 0.25, 0.5))[2].item()

    assert mean_over_seeds(lambda s: end(method(), s)) > 0.8 > 0.2 > mean_over_seeds(lambda s: end(None, s))


def test_a_hint_is_read_and_not_written(lab):
    """Prompts of hinted attempts are the plain ones, their logprobs those of the longer ones."""
    word = lab.task.actions[0]
    [plain] = lab.grow(starts=[Start(3, 0)], num_rollout_states=0)
    [hinted] = lab.grow(starts=[Start(3, 0, hint=f"{word} {word}")], num_rollout_states=0)
    assert hinted.prompt_ids == plain.prompt_ids and len(hinted.seeds[0].turns) > 0
    observation = lab.task.start(3).observation()
    read = lab.renderer.prompt_ids(with_hint(observation, f"{word} {word}"))
    first = hinted.seeds[0].turns[0]
    with torch.no_grad():
        logits = lab.model(torch.tensor([[*read, *first.action_ids]])).logits[0, len(read) - 1 : -1]
    logprobs = logits.log_softmax(-1).gather(1, torch.tensor(first.action_ids)[:, None])[:, 0]
    assert first.logprobs == pytest.approx(logprobs.tolist(), abs=1e-4)
    asked = Conversation.of([{"role": "system", "content": "be kind"}, {"role": "user", "content": "why"}])
    assert with_hint(asked, "because").messages[-1] == {"role": "user", "content": "why\nbecause"}
    assert with_hint(asked, "because").messages[0] == asked.messages[0] and asked.messages[1]["content"] == "why"
