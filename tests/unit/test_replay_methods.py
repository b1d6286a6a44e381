"""Methods that replay rows: demonstrations, earlier updates, other runs. Numbers by hand, and what each promises."""

import math

import pytest
import torch
from made_updates import beginning, tree, update_of
from softmax_bandit import Bandit, advantages_of, mean_over_seeds, train

from polytune.methods import Minibatch, build_methods
from polytune.methods.demonstrations import Demonstrations
from polytune.methods.hpt import HPT
from polytune.methods.recall_extend import RecallExtend
from polytune.methods.remix import ReMix
from polytune.methods.row_buffer import Kept, numbered
from polytune.methods.swarm import Swarm
from polytune.methods.weighted_replay import WeightedReplay
from polytune.rollout import Row
from polytune.trainer.hooks import save_methods

START, WINS = (0.4, 0.3, 0.2, 0.1), (1.0, 1.0, 0.0, 0.0)


# ---------------------------------------------------------------- demonstrations and HPT


def test_demonstrations_are_drawn_and_their_loss_is_their_likelihood():
    method = Demonstrations(coef=0.5, episodes=3)
    method.begin(beginning(range(9), solved=lambda state: state != 4))
    assert 2 <= len(method.buffer) <= 3 and all(kind[0] != 4 for kind in method.buffer)
    assert [row.completion_ids for row, _ in method.replay(2, 0.0)] == [[5, 6]] * 2
    logprobs = torch.tensor([[-1.0, -3.0]], requires_grad=True)
    ones = torch.ones(1, 2)
    batch = Minibatch(logprobs_b_C=logprobs, old_b_C=logprobs.detach(), advantages_b_C=ones, set_deductions_b_C=None,
                      mask_b_C=ones, epsilon=(0.2, 0.2), tensors={})  # fmt: skip
    assert method.replayed(batch).tolist() == [[0.5, 1.5]]
    again = Demonstrations(coef=0.5, episodes=3)
    again.restore(method.state())
    assert again.replay(3, 0.0) == method.replay(3, 0.0)


def test_imitation_brings_in_what_was_hardly_tried():
    start, rewards = (0.9, 0.099, 0.001), (0.0, 0.0, 1.0)
    with_it = train(Demonstrations(coef=0.5), start, rewards, expert=2)[2].item()
    assert with_it > 0.5 > train(None, start, rewards)[2].item()


def test_hpt_imitates_where_attempts_failed():
    method = HPT(gate=1)
    method.begin(beginning(range(3)))
    assert method.replay(9, 0.0) == []
    update, told = update_of(tree(0, 1), tree(1, 2), tree(2, 0))
    update.groups_G_N = [range(4), range(4, 8), range(8, 12)]
    changed = method.turn_advantage(update, torch.ones(12, 1))
    assert changed[:, 0].tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 4
    method.learn(update)
    assert {row.prompt_ids[0] for row, _ in method.replay(9, 0.0)} == {0, 2} and told["hpt/failing"] == 2
    again = HPT(gate=1)
    again.restore(method.state())
    assert again.replay(9, 0.0) == method.replay(9, 0.0)
    start, rewards = (0.9, 0.099, 0.001), (0.0, 0.0, 1.0)
    assert train(HPT(), start, rewards, expert=2)[2].item() > 0.5


# ---------------------------------------------------------------- replay


def test_weighted_replay_draws_by_return():
    """Chances in proportion to exp(R / alpha) of one draw, with R of 1 and 0 three times each; advantages R - mean."""
    method = WeightedReplay(alpha=0.5, corrected=False)
    method.learn(update_of(tree(0, 3, attempts=6))[0])
    values = []
    for number in range(600):
        method.updates = number
        [(row, advantage)] = method.replay(1, 0.0)
        values.append(advantage)
        assert row.prompt_ids == [0]
    assert set(values) == {0.5, -0.5}
    chance = math.exp(2) / (math.exp(2) + 1)
    assert values.count(0.5) / 600 == pytest.approx(chance, abs=0.05)
    corrected = WeightedReplay(alpha=0.1)
    corrected.learn(update_of(tree(0, 6, attempts=6), tree(1, 0, attempts=6))[0])
    states = []
    for number in range(200):
        corrected.updates = number
        states.append(corrected.replay(1, 0.0)[0][0].prompt_ids[0])
    assert states.count(0) / 200 == pytest.approx(0.5, abs=0.12)  # an easy start state is no better one
    small = WeightedReplay(size=4)
    small.learn(update_of(tree(0, 3, attempts=6))[0])
    assert len(small.buffer) == 4 == len(small.replay(99, 0.0))
    again = WeightedReplay(size=4)
    again.restore(small.state())
    assert again.replay(3, 0.0) == small.replay(3, 0.0)


def test_weighted_replay_learns_a_seldom_success_sooner():
    start, rewards = (0.7, 0.25, 0.05), (0.0, 0.0, 1.0)
    wins = [mean_over_seeds(lambda s, m=m: train(m(), start, rewards, updates=25, seed=s)[2].item())
            for m in (WeightedReplay, lambda: None)]  # fmt: skip
    assert wins[0] > wins[1] + 0.05, wins


def test_rows_get_kinds_that_no_order_of_processes_changes():
    rows = [(3, 1.0, [7]), (3, 0.5, [7]), (2, 9.0, [8])]
    kept = [Kept((state, 0), value, Row([1], ids, [1], [0.0], [0]), 0) for state, value, ids in rows]
    assert numbered(kept, 2) == numbered(kept[::-1], 2)
    assert [own.kind for own in numbered(kept, 2)] == [(2, 2**21), (3, 2**21 + 1), (3, 2**21 + 2)]


def test_remix_by_hand():
    """Weights r, at most 2, on -A log pi; rows of two updates, none once the share of the run is over."""
    method = ReMix(age=2, until=0.5)
    bandit = Bandit(torch.tensor(START).log().requires_grad_(), WINS, pulls=24)
    for number in range(3):
        update, told = bandit.update(0.0, number)
        advantages, _ = advantages_of(method, bandit, update)
        method.learn(update)
    assert told["remix/kept"] == len(method.buffer) == 48 and {own.born for own in method.buffer.values()} == {2, 3}
    assert len(method.replay(5, 0.2)) == 5 and method.replay(5, 0.5) == []
    stored = {(own.row.completion_ids[0], own.value) for own in method.buffer.values() if own.born == 3}
    fresh = {(t.signature, a) for t, a in zip(update.trajectories, advantages[:, 0].tolist(), strict=True)}
    assert stored == fresh
    old = torch.tensor([[-1.0], [-1.0]])
    logprobs = (old + torch.tensor([[math.log(1.5)], [math.log(4.0)]])).requires_grad_()
    batch = Minibatch(logprobs_b_C=logprobs, old_b_C=old, advantages_b_C=torch.tensor([[2.0], [-1.0]]),
                      set_deductions_b_C=None, mask_b_C=torch.ones(2, 1), epsilon=(0.2, 0.2), tensors={})  # fmt: skip
    (slope,) = torch.autograd.grad(method.replayed(batch).sum(), logprobs)
    assert slope[:, 0].tolist() == pytest.approx([-3.0, 2.0])


def test_remix_learns_more_from_as_many_samples():
    wins = [mean_over_seeds(lambda s, m=m: train(m(), START, WINS, updates=6, pulls=8, seed=s)[:2].sum().item())
            for m in (lambda: ReMix(until=1.0), lambda: None)]  # fmt: skip
    assert wins[0] > wins[1] + 0.02, wins


# ---------------------------------------------------------------- swarm


def test_a_swarm_trains_on_what_others_left(tmp_path):
    """Two runs, of which one remembers a start state's rows of 1 and 0, the other only rows alike, worth nothing."""
    for name, wins in (("a", 1), ("b", 0)):
        other = WeightedReplay()
        other.learn(update_of(tree(7 if name == "a" else 8, wins, attempts=4))[0])
        folder = tmp_path / name / "checkpoint-3"
        folder.mkdir(parents=True)
        save_methods(folder, {"weighted_replay": other})
    method = Swarm(runs=f"{tmp_path}/a:{tmp_path}/b")
    method.begin(beginning([7, 8]))
    drawn = method.replay(99, 0.0)
    assert sorted(advantage for _, advantage in drawn) == [-0.25, -0.25, -0.25, 0.75]
    assert all(row.prompt_ids == [7] for row, _ in drawn) and method.wanted_rows(8) == 4
    again = Swarm()
    again.restore(method.state())
    assert again.replay(2, 0.0) == method.replay(2, 0.0) and Swarm().wanted_rows(8) == 0
    with pytest.raises(
        ValueError, match="'.*/none', which has no checkpoint with remembered rows: run it with method 'w"
    ):
        build_methods(["swarm"], {"swarm": {"runs": f"{tmp_path}/none"}})


def test_rows_of_equal_returns_take_no_room(tmp_path):
    """The mean of three times .7 is not .7 to the last bit."""
    other, row = WeightedReplay(), Row([7], [1], [1], [0.0], [0])
    other.buffer = {(7, i): Kept((7, i), 0.7, row, 0) for i in range(3)}
    (tmp_path / "checkpoint-1").mkdir()
    save_methods(tmp_path / "checkpoint-1", {"weighted_replay": other})
    method = Swarm(runs=str(tmp_path))
    method.begin(beginning([7]))
    assert method.replay(9, 0.0) == []


# ---------------------------------------------------------------- RED: recall and extend


def test_the_weight_of_demonstrations_by_hand():
    """D from 2 to 1.5, H from 1 to 0.9: .25 / .1; cut to 1 and to most; a rise counts as a fall."""
    method = RecallExtend(most=4.0)
    assert method.weigh([], [2.0, 1.0]) == 1.0
    assert method.weigh([2.0, 1.0], [1.5, 0.9]) == pytest.approx(2.5) == method.weigh([2.0, 1.0], [2.5, 0.9])
    assert method.weigh([2.0, 1.0], [1.98, 0.9]) == 1.0 and method.weigh([2.0, 1.0], [1.0, 0.99]) == 4.0
    assert method.weigh([2.0, 1.0], [1.9, 1.0]) == 4.0 and method.weigh([2.0, 1.0], [2.0, 1.0]) == 1.0


def test_entropies_of_an_update_become_its_weight():
    """Demonstrations of two own tokens, scored 1 and 3, then 1 and 2; rollouts of mean entropy 0.5, then 0.4. A start
    state that is solved is not imitated."""
    method, said = RecallExtend(coef=0.5, accuracy=0.75), [[1.0, 3.0], [1.0, 2.0], [1.0, 2.0]]
    method.begin(beginning(range(2)))
    for number, entropies in enumerate(said):
        drawn = [row.prompt_ids[0] for row, _ in method.replay(9, 0.0)]
        assert sorted(drawn) == ([0, 1] if number < 2 else [1])
        update, told = update_of(tree(0, 3 if number else 0), tree(1, 1))
        update.turn_index_B_C = torch.zeros(8, 2, dtype=torch.long)
        update.probed = {"recall_extend/entropy": torch.full((8, 2), 0.5 if number == 0 else 0.4)}
        update.score = lambda rows, told=entropies: [([-1.0, -1.0], told) for _ in rows]
        method.learn(update)
        if number == 1:
            assert told["recall_extend/weight"] == pytest.approx((1 - 1.5 / 2) / (1 - 0.4 / 0.5))
    ones = torch.ones(1, 2)
    batch = Minibatch(logprobs_b_C=-ones, old_b_C=-ones, advantages_b_C=ones, set_deductions_b_C=None, mask_b_C=ones,
                      epsilon=(0.2, 0.2), tensors={})  # fmt: skip
    method.ratio = 3.0
    assert method.replayed(batch).tolist() == [[1.5, 1.5]]
    again = RecallExtend(coef=0.5, accuracy=0.75)
    again.restore(method.state())
    assert again.last == method.last == [1.5, pytest.approx(0.4)] and again.replay(9, 0.0) == method.replay(9, 0.0)


def test_red_brings_in_what_was_hardly_tried():
    start, rewards = (0.9, 0.099, 0.001), (0.0, 0.0, 1.0)
    assert train(RecallExtend(coef=0.5), start, rewards, expert=2)[2] > 0.5 > train(None, start, rewards)[2]
