"""Faults of methods that their own tests did not see: what is held, remembered, centred or shared with another one."""

import math
import random

import pytest
import torch
from made_updates import beginning, due, episodes_update, tree, update_of

from polytune.methods import Seen, Update, build_methods
from polytune.methods.alp import ALP
from polytune.methods.alp_gmm import ALPGMM
from polytune.methods.archive import Archive
from polytune.methods.b_star import BStaR
from polytune.methods.dynamic_rewards import DynamicRewards, pareto
from polytune.methods.early_stop import EarlyStop
from polytune.methods.epo import EPO
from polytune.methods.go_explore import GoExplore
from polytune.methods.hpt import HPT
from polytune.methods.lp_reg import LpReg
from polytune.methods.mrt import MRT
from polytune.methods.rec import REC
from polytune.methods.remix import ReMix
from polytune.methods.spear import SPEAR
from polytune.methods.step_grpo import StepGRPO
from polytune.methods.thr import THR
from polytune.methods.verl import effective_rank
from polytune.rollout import Root, Start, Trajectory, Tree, Turn
from polytune.trainer.rollouts import seeds_of_starts


def test_a_temperature_is_held_whatever_it_scores_meanwhile():
    method, taken, found = BStaR(low=1.0, high=2.0, steps=2, hold=3, wanted=4), [], []
    for wins in (4, 3, 1, 1, 1):
        taken.append(method.temperature(0, 0.0))
        update, told = update_of(tree(0, wins))
        update.groups_G_N = [range(4)]
        method.learn(update)
        found.append(told["b_star/balance"])
    assert taken == [1.0, 2.0, 1.0, 1.0, 1.0]
    assert found == [(wins / 4) ** 2 for wins in (4, 3, 1, 1, 1)]


def test_the_front_holds_what_no_other_update_reaches_and_no_more():
    random.seed(0)
    points = [[random.random() for _ in range(3)] for _ in range(60)]
    method, whole = (DynamicRewards(objectives="return/return/return", weights="1/1/1") for _ in range(2))
    for place, point in enumerate(points):
        whole.front = points[:place]
        assert method.factor(point) == pytest.approx(whole.factor(point), abs=1e-12)
        method.front = pareto([*method.front, point])
    assert len(method.front) < 25
    assert pareto([[0.0], [1.0], [1.0], [0.5]]) == [[0.0], [1.0]]


def test_red_centres_over_attempts_however_many_turns_they_take():
    update, _ = episodes_update([(1, 1.0, "")], [(1, 0.0, "")] * 9, success=[True, False])
    advantages_B_T = torch.tensor([[0.6] + [0.0] * 8, [-0.2] * 9], dtype=torch.float64)
    changed_B_T = REC(balance=True).turn_advantage(update, advantages_B_T)
    assert changed_B_T[0].tolist() == pytest.approx([0.4] + [0.0] * 8)
    assert changed_B_T[1].tolist() == pytest.approx([-0.4] * 9)


def test_the_median_of_groups_is_taken_once_in_an_update(monkeypatch):
    """Of 10,240 means and 2,048 rows it took seconds: once for each row."""
    asked, method = [], SPEAR()
    method.buffer = dict.fromkeys([(0, i) for i in range(50)], type("Row", (), {"value": 1.0, "row": None}))
    monkeypatch.setattr("polytune.methods.spear.median", lambda means: asked.append(1) or 0.25)
    assert method.replay(3, 1.0) == [(None, 0.75)] * 3
    assert len(asked) == 1


def test_steps_are_compared_by_rewards_of_other_methods_too():
    update, _ = episodes_update([(1, 0.0, ""), (1, 1.0, "")], [(1, 0.0, ""), (1, 1.0, "")])
    plain_B_T = StepGRPO(eps=1e-12).turn_advantage(update, torch.zeros(2, 2, dtype=torch.float64))
    assert plain_B_T.abs().max() == 0.0
    update.bonus_B_T = torch.tensor([[0.5, 0.0], [0.0, 0.0]], dtype=torch.float64)
    found_B_T = StepGRPO(eps=1e-12).turn_advantage(update, torch.zeros(2, 2, dtype=torch.float64))
    assert found_B_T[:, 0].tolist() == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)])


@pytest.mark.parametrize("option", ["keep", "keep_tokens"])
def test_d3s_keeps_something(option):
    """A share of 0 of the attempts divided by 0; of the tokens it kept them all."""
    with pytest.raises(ValueError, match=f"{option} must be above 0"):
        build_methods(["d3s"], {"d3s": {option: 0.0}})


def vine_update():
    """A seed trajectory of three turns that succeeds, and two vines of its last turn that fail."""
    seed = Trajectory(turns=[Turn((1,), (0.0,), 0.0)] * 3, stop_reason="success")
    vines = [Trajectory(parent=seed, branch_turn=2, turns=[Turn((1,), (0.0,), 0.0)], stop_reason="no") for _ in "ab"]
    index_B_C = torch.tensor([[0, 1, 2], [0, -1, -1], [0, -1, -1]])
    return Update(
        seed=0, trees=[Tree(0, (1,), [seed], [[vines]])], turns_mask_B_T=index_B_C >= 0, turn_index_B_C=index_B_C,
        logprobs_B_C=torch.zeros(3, 3), groups_G_N=[[1, 2], [0]],
        probed={"epo/entropy": torch.tensor([[1.0, 2.0, 3.0], [5.0, 0.0, 0.0], [7.0, 0.0, 0.0]])},
    )  # fmt: skip


def test_a_turn_of_a_vine_is_that_of_the_episode():
    """The vines' only turn is the third one, not the first."""
    method = EPO()
    method.learn(vine_update())
    assert (method.sums / method.counts).tolist() == [1.0, 2.0, 5.0]
    method.advantage(vine_update(), torch.zeros(3, 3), sent := {})
    assert sent["epo/mean"].tolist() == [[1.0, 2.0, 5.0], [5.0] * 3, [5.0] * 3]


def test_vines_that_fail_beside_a_success_are_reinforced():
    """HPT leaves out what it imitates instead, and that is chosen by start states, not by groups."""
    method, update = HPT(), vine_update()
    advantages_B_T = torch.ones(3, 3, dtype=torch.float64)
    assert torch.equal(method.turn_advantage(update, advantages_B_T), advantages_B_T)
    method.learn(update)
    assert method.failing == []
    update.trees[0].seeds[0].stop_reason = "no"
    method.learn(update)
    assert method.failing == [0] and not method.turn_advantage(update, advantages_B_T).any()


@pytest.mark.parametrize("name", ["entropy", "lp_reg", "thr"])
def test_distributions_of_many_tokens_are_never_in_memory_at_once(name, monkeypatch):
    """In parts of two tokens, all is as in one."""
    generator = torch.Generator().manual_seed(0)
    weights_H_V, hidden_b_L_H = (torch.randn(size, generator=generator) for size in ((4, 6), (3, 6, 4)))
    ids_b_C, asked = torch.randint(6, (3, 5), generator=generator), []
    seen = Seen(hidden_b_L_H, torch.ones(3, dtype=torch.long), ids_b_C, torch.ones(3, 5, dtype=torch.bool),
                lambda hidden_d_H: asked.append(len(hidden_d_H)) or hidden_d_H @ weights_H_V)  # fmt: skip

    def found():
        if name == "entropy":
            return seen.entropies()
        if name == "lp_reg":
            return LpReg(kappa=0.5).probe(seen)["lp_reg/log_q"]
        update, _ = episodes_update(*[[(5, 0.0, "")]] * 3, success=[True, False, True])
        update.turn_index_B_C, update.head = torch.zeros(3, 5, dtype=torch.long), seen.head
        update.probed = THR().probe(seen)
        return THR(beta=0.1).advantage(update, weights_H_V.new_ones(3, 5), {})

    whole = found()
    for module in ("base", "lp_reg"):
        monkeypatch.setattr(f"polytune.methods.{module}.TOKENS_AT_ONCE", 2)
    asked.clear()
    torch.testing.assert_close(found(), whole)
    assert max(asked) == 2 and sum(asked) == 15


def test_what_one_method_draws_at_a_start_says_nothing_of_the_next_one():
    """With one run seed Go-Explore rooted all starts that ALP kept, and open states took all roots of Go-Explore."""
    methods = {"alp": ALP(uniform=0.3), "archive": Archive(), "go_explore": GoExplore(share=0.5)}
    seeds = seeds_of_starts(methods, 7)
    assert seeds["alp"] == 7 and list(seeds) == ["alp", "go_explore"]
    assert seeds_of_starts({"go_explore": GoExplore()}, 7) == {"go_explore": 7}
    methods["alp"].known = {0: (0.5, 0.0), 1: (0.5, 0.5)}
    root = Root(0, (9,), (Turn((1,), (), 0.0, (1,)),), b"")
    methods["go_explore"].roots, methods["go_explore"].visits = {(0, (1,)): root}, {(0, (1,)): 1}
    starts = [Start(0, attempt, None, 4) for attempt in range(2000)]
    for name, seed in seeds.items():
        starts = methods[name].starts(starts, seed)
    kept = [start for start in starts if start.start_state == 0]
    assert len(kept) == pytest.approx(600, abs=60)
    assert sum(start.root is not None for start in kept) == pytest.approx(len(kept) / 2, abs=50)


def test_rollout_states_at_one_turn_are_one_state():
    """Two groups of vines before the only turn, of returns 1 and 0: J is 1/2, and the turn brought 1/2."""
    update = vine_update()
    seed = Trajectory(turns=[Turn((1,), (0.0,), 1.0)], stop_reason="success")
    vines = [Trajectory(parent=seed, turns=[Turn((1,), (0.0,), float(win))]) for win in (1, 1, 0, 0)]
    update.trees = [Tree(0, (1,), [seed], [[vines[:2], vines[2:]]])]
    update.turns_mask_B_T = torch.ones(5, 1, dtype=torch.bool)
    assert MRT().reward(update).flatten().tolist() == [0.5, 0.0, 0.0, 0.0, 0.0]


def test_the_longest_success_is_known_before_a_turn_asks():
    """It was looked for among all start states' at each turn of each episode."""
    update, _ = update_of(tree(0, 1))
    method, again = EarlyStop(stretch=3.0), EarlyStop(stretch=3.0)
    assert method.most(5) == math.inf
    method.learn(update)
    again.restore(method.state())
    for own in (method, again):
        assert own.longest == 1 and own.most(0) == own.most(5) == 3


def test_progress_is_told_from_the_nearest_tree_seen_last():
    """As a search through all trees so far, of which there may be a hundred thousand; after a restart, too."""
    random.seed(1)
    method, again, every = ALPGMM(window=10**6, least=2), ALPGMM(window=10**6, least=2), []
    for own in (method, again):
        own.begin(beginning(range(0, 36, 4)))
    for number in range(60):
        state, wins = random.randrange(0, 36, 4), random.randrange(5)
        gaps = [abs(other - state) for other, _ in every]
        near = max((i for i, gap in enumerate(gaps) if gap == min(gaps)), default=0)
        due = abs(wins / 4 - every[near][1]) if number > 2 else 0.0
        every.append((state, wins / 4))
        method.learn(update_of(tree(state, wins))[0])
        assert method.seen[-1][2] == pytest.approx(due)
        again.restore(method.state())
        assert list(again.last.items()) == list(method.last.items())
    assert len(method.last) == 9


def test_progress_is_a_mean_over_start_states_that_have_one():
    method = ALP()
    method.learn(update_of(*[tree(state, 0) for state in range(10)])[0])
    assert method.starts(due(3), 0) == due(3)
    update, told = update_of(tree(0, 4))
    method.learn(update)
    assert told["alp/progress"] == 1.0
    again = ALP()
    again.restore(method.state())
    assert again.known == method.known


def test_rows_are_kept_free_no_longer_than_there_is_something_to_replay():
    method = ReMix(share=0.25, until=0.5)
    for progress, wanted in ((0.0, 4), (0.4, 4), (0.6, 4), (0.8, 0)):
        assert method.wanted_rows(16) == wanted
        update, _ = episodes_update([(1, 1.0, "")], [(1, 0.0, "")])
        update.progress = progress
        method.advantage(update, torch.tensor([[0.5], [-0.5]]), {})
        method.learn(update)


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_rows_alike_have_no_effective_rank(rows):
    """Their mean is off by rounding, which counted as one direction."""
    row_1_H = 30 * torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    assert effective_rank(row_1_H.repeat(rows, 1)) == 0.0
    assert effective_rank(torch.zeros(rows, 4)) == 0.0
    assert effective_rank(torch.cat([row_1_H, 1.001 * row_1_H])) == pytest.approx(1.0, abs=0.01)
