"""Methods of bonuses, of advantages by turns, and of the temperature: numbers by hand, and what each promises."""

import math
from types import SimpleNamespace

import pytest
import torch
from made_updates import episodes_update, tree, update_of
from softmax_bandit import mean_over_seeds, train

from polytune.methods import Beginning, build_methods
from polytune.methods.archive import Archive
from polytune.methods.b_star import BStaR
from polytune.methods.beacons import Beacons
from polytune.methods.chi_squared import ChiSquared
from polytune.methods.duration import Duration
from polytune.methods.dynamic_rewards import DynamicRewards, hypervolume
from polytune.methods.efficiency import Efficiency
from polytune.methods.episode_mean import EpisodeMean
from polytune.methods.f_dpg import FDPG
from polytune.methods.hidden_signatures import HiddenSignatures
from polytune.methods.mrt import MRT
from polytune.methods.novelty import Novelty, novelties
from polytune.methods.optimal_baseline import OptimalBaseline
from polytune.methods.set_bonus import SetBonus
from polytune.methods.step_grpo import StepGRPO
from polytune.methods.verl import VERL, effective_rank, ranks
from polytune.objective import set_advantages
from polytune.rollout import Trajectory, Turn
from polytune.tasks import load_task

START, WINS = (0.4, 0.3, 0.2, 0.1), (1.0, 1.0, 0.0, 0.0)


# ---------------------------------------------------------------- bonuses


def test_novelty_by_hand():
    archive = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]], dtype=torch.float64)
    found = novelties(torch.tensor([[0.0, 0.0], [6.0, 8.0], [3.0, 4.0]], dtype=torch.float64), archive, 2)
    assert found.tolist() == pytest.approx([2.5, 2.5, 2.5])
    method = Novelty(coef=0.5, neighbours=2, adds=2, size=3)
    update, told = episodes_update([(1, 0.0, "")], [(1, 0.0, ""), (1, 0.0, "")])
    update.probed = {"novelty/hidden": torch.tensor([[0.0, 0.0], [3.0, 4.0]])}
    assert method.reward(update).abs().max() == 0  # nothing to compare with
    method.learn(update)
    assert len(method.archive_K_W) == 2
    update.probed = {"novelty/hidden": torch.tensor([[0.0, 0.0], [0.0, 10.0]])}
    distances = [(0 + 5) / 2, (10 + math.sqrt(9 + 36)) / 2]
    mean = sum(distances) / 2
    bonus = method.reward(update)
    assert bonus[0].tolist() == pytest.approx([0.5 * distances[0] / mean, 0.0])
    assert bonus[1].tolist() == pytest.approx([0.0, 0.5 * distances[1] / mean])
    assert told["novelty/distance"] == pytest.approx(mean)
    method.learn(update)
    assert len(method.archive_K_W) == 3  # the oldest went
    again = Novelty(coef=0.5, neighbours=2)
    again.restore(method.state())
    assert torch.equal(again.reward(update), method.reward(update))


def test_what_was_never_done_earns_more_than_what_was():
    method = Novelty(coef=1.0, neighbours=1, adds=9)
    update, _ = episodes_update([(1, 0.0, "")], [(1, 0.0, "")])
    update.probed = {"novelty/hidden": torch.tensor([[1.0], [1.1]])}
    method.reward(update), method.learn(update)
    update.probed = {"novelty/hidden": torch.tensor([[1.05], [7.0]])}
    usual, new = method.reward(update)[:, 0].tolist()
    assert new > 50 * usual > 0


def archived(method, *signatures, shown=(), progress=0.0):
    """Bonuses of one attempt each, and what was logged; None: a failure."""
    if shown:
        method.begin(Beginning((0,), None, None, shown=lambda: frozenset(shown)))
    update, told = episodes_update(*[[(1, 0.0, "")]] * len(signatures), success=[s is not None for s in signatures])
    update.progress = progress
    for own, signature in zip(update.trajectories, signatures, strict=True):
        own.signature = "failed" if signature is None else signature
    bonuses = method.reward(update)[:, 0].tolist()
    method.learn(update)
    return bonuses, told


def test_the_archive_by_hand():
    """coef (1 + N)^-1/2; nothing for failures, and nothing for what training showed, however seldom it was found."""
    method = Archive(coef=6.0)
    seen, new, other = frozenset({1, 2, 3}), frozenset({9, 4, 10}), "else"
    bonuses, told = archived(method, seen, new, new, None, shown=[seen])
    assert bonuses == [0.0, 6.0, 6.0, 0.0]
    assert told == {"archive/bonus": 3.0, "archive/new": pytest.approx(2 / 3), "archive/kinds": 2}
    assert archived(method, frozenset({10, 4, 9}), other)[0] == pytest.approx([6 / math.sqrt(3), 6.0])
    again = Archive(coef=6.0)
    again.restore(method.state())
    assert archived(again, new, seen, other)[0] == pytest.approx([3.0, 0.0, 6 / math.sqrt(2)])
    assert archived(Archive(shown=False), seen, shown=[seen])[0] == [1.0]
    both = Archive(failures=True)  # a failure is a kind of its own, even where it names what a success does
    assert archived(both, "failed", None, None)[0] == [1.0, 1.0, 1.0]
    assert archived(both, "failed", None)[0] == pytest.approx([2**-0.5, 3**-0.5])
    falling = Archive(coef=6.0, coef_end=2.0)
    assert [archived(falling, new, progress=p)[0] for p in (0.0, 0.5)] == [[6.0], pytest.approx([4 / math.sqrt(2)])]
    assert archived(falling, other, progress=0.75)[0] == [3.0]
    flat = Archive(power=0.0)
    assert [archived(flat, new)[0] for _ in range(3)] == [[1.0]] * 3


def test_the_archive_knows_start_states_apart_unless_told_not_to():
    for apart, want in ((True, [1.0, 1.0]), (False, [1.0, 0.5])):
        method = Archive(power=1.0, per_start_state=apart)
        found = []
        for state in (3, 4):
            update, _ = update_of(tree(state, 1, 1, ["way"]))
            update.turns_mask_B_T = torch.ones(1, 1, dtype=torch.bool)
            found.append(method.reward(update).item())
            method.learn(update)
        assert found == want


def test_a_failure_earns_as_much_as_its_tree_fails():
    """Of the three others none, one and all failed, too; a success earns whole, and a failure alone does."""
    method = Archive(coef=6.0, failures=True, where_unsolved=True)
    assert archived(method, "a", "b", "c", None)[0] == [6.0, 6.0, 6.0, 0.0]
    assert archived(method, "d", "e", None, None)[0] == pytest.approx([6.0, 6.0, 2 / math.sqrt(2), 2 / math.sqrt(2)])
    assert archived(method, None, None, None, None)[0] == pytest.approx([3.0] * 4)
    assert archived(method, None)[0] == pytest.approx([6 / math.sqrt(8)])
    with pytest.raises(ValueError, match=r"add archive\.failures=true"):
        Archive(where_unsolved=True)


def test_an_archive_keeps_ways_to_win_that_grpo_drops():
    start = (0.5, 0.1, 0.2, 0.2)
    alone, beside = (mean_over_seeds(lambda s, m=m: train(m, start, WINS, seed=s)) for m in (None, Archive(coef=8.0)))
    assert beside[1] > 2 * alone[1] and beside[:2].sum() > 0.9, (alone, beside)


def test_a_creativity_task_says_what_its_training_set_shows():
    task = load_task("triangle", size="tiny")
    answers = [task.grade(text) for question, text in task.training_lines() if "tri" in question]
    assert task.shown_signatures() == {answer.signature for answer in answers} and all(a.seen for a in answers)
    assert len(task.shown_signatures()) == len(task.structure.seen)
    assert load_task("fourrooms").shown_signatures() == frozenset()


def test_beacons_pay_each_subgoal_once():
    """Two subgoals, 0.5 each of 1: the door twice counts once, and a word of the start never."""
    method = Beacons(goals="red door / key", coef=1.0)
    told = [(1, 0.0, "a red door"), (1, 0.0, "a red door, a key"), (1, 0.0, "wall")]
    update, logged = episodes_update(told, [(1, 0.0, "nothing")])
    assert method.reward(update).tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]] and logged["beacons/bonus"] == 0.5
    assert Beacons(goals="start", coef=1.0).reward(update).abs().max() == 0
    vine = Trajectory(
        parent=update.trees[0].seeds[0],
        branch_turn=1,
        turns=[Turn((1,), (0.0,), 0.0, tuple(map(ord, "a red door key")))],
    )
    update.trees[0].vines[0] = [[vine]]
    update.turns_mask_B_T = torch.ones(3, 3, dtype=torch.bool)
    assert method.reward(update)[1].tolist() == [0.5, 0.0, 0.0]  # the door was on its way


def test_the_guard_by_hand_and_what_it_does():
    """log u of .5, -.5 and ln 20, which is cut at ln 10."""
    method = ChiSquared(coef=0.2, most=10.0)
    update, told = episodes_update([(1, 0.0, "")], [(1, 0.0, ""), (1, 0.0, "")], [(1, 0.0, "")])
    update.turn_index_B_C = torch.tensor([[0, -1], [0, 1], [0, -1]])
    update.logprobs_B_C = torch.tensor([[0.5, 9.0], [-0.25, -0.25], [math.log(20), 0.0]])
    update.reference_B_C = torch.zeros(3, 2)
    u = [math.exp(0.5), math.exp(-0.5), 10.0]
    chi2 = sum(u) / 3 - 1
    bonus = method.reward(update)
    by_hand = [-0.2 * x / math.sqrt(chi2) for x in u]
    assert bonus.tolist() == [
        [pytest.approx(by_hand[0]), 0],
        [0, pytest.approx(by_hand[1])],
        [pytest.approx(by_hand[2]), 0],
    ]
    assert told["chi_squared/chi2"] == pytest.approx(chi2)
    kept = [mean_over_seeds(lambda s, c=c: train(ChiSquared(coef=c), START, WINS, seed=s)[2:].sum().item())
            for c in (0.5, 0.0)]  # fmt: skip
    assert kept[0] > kept[1] + 0.05, kept


def test_f_dpg_by_hand():
    """Two wins and a loss at pi = pi_0: Z = 2/3, t of wins is Z, of the loss without end (cut at e^5)."""
    update, _ = episodes_update([(1, 1.0, "")], [(1, 1.0, "")], [(1, 0.0, "")], success=[True, True, False])
    update.reference_B_C = update.logprobs_B_C
    t = [2 / 3, 2 / 3, math.exp(5)]
    slopes = {"js": [math.log(2 * x / (x + 1)) for x in t], "forward": [-1 / x for x in t],
              "reverse": [math.log(x) + 1 for x in t], "tv": [-0.5, -0.5, 0.5]}  # fmt: skip
    for name, slope in slopes.items():
        mean = sum(slope) / 3
        found = FDPG(divergence=name).turn_advantage(update, torch.zeros(3, 1, dtype=torch.float64))
        assert found[:, 0].tolist() == pytest.approx([mean - x for x in slope]), name
    update.trees[0].seeds[0].stop_reason = update.trees[0].seeds[1].stop_reason = "no"
    assert FDPG().turn_advantage(update, torch.zeros(3, 1).double()).abs().max() == 0


@pytest.mark.parametrize("divergence", ["js", "forward", "reverse"])
def test_right_answers_keep_their_shares_under_f_dpg(divergence):
    """.4 and .3 win: the ratio stays 4 to 3, where the mean reward alone ends on one arm or the other."""
    ends = [train(FDPG(divergence=divergence), START, WINS, seed=s, updates=80, rate=0.2) for s in range(3)]
    assert all(end[:2].sum() > 0.8 for end in ends), ends
    mean = sum(end[0] / end[:2].sum() for end in ends) / 3
    assert mean.item() == pytest.approx(4 / 7, abs=0.12)


def test_hidden_states_become_signatures_that_sets_tell_apart():
    """Three attempts alike and one apart: the apart one has the largest set advantage of the winners."""
    update, _ = episodes_update(*[[(1, 1.0, "")]] * 4, success=[True] * 4)
    update.probed = {"hidden_signatures/hidden": torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 4.0]])}
    assert HiddenSignatures(scale=2.0).reward(update) == 0.0
    signatures = [seed.signature for seed in update.trajectories]
    assert signatures == [(1.0, 0.0)] * 3 + [(0.0, 2.0)]
    advantages = set_advantages([1.0] * 4, signatures, 2, diversity="leverage").tolist()
    assert advantages[3] > 0 > advantages[0] and advantages[:3] == pytest.approx([advantages[0]] * 3)
    with pytest.raises(ValueError, match="diversity 'vendi' counts names: set diversity to 'leverage'"):
        HiddenSignatures().check(None, None, SimpleNamespace(diversity="vendi"))


# ---------------------------------------------------------------- progress, efficiency


def test_progress_by_hand_and_its_sum():
    """Rollout states 1 and 3 of four turns: J of .25, then .75, then success, paid 1 at the last turn."""
    assert MRT.progress({1: 0.25, 3: 0.75}, [0.0, 0.0, 0.0, 1.0]) == [(2, 0.5), (3, 0.25)]
    assert MRT.progress({0: 0.5}, [0.0, 0.0]) == [(1, -0.5)] and MRT.progress({}, [1.0]) == []
    update, told = episodes_update([(1, 0.0, "")] * 3 + [(1, 1.0, "")])
    [seed] = update.trees[0].seeds

    def vines(turn, *returns):
        return [Trajectory(parent=seed, branch_turn=turn, turns=[Turn((1,), (0.0,), r)]) for r in returns]

    update.trees[0].vines = [[vines(1, 0.0, 0.5), vines(3, 1.0, 0.5)]]
    update.turns_mask_B_T = torch.tensor([[True] * 4] + [[True, False, False, False]] * 4)
    bonus = MRT(coef=2.0).reward(update)
    assert bonus[0].tolist() == [0.0, 0.0, 1.0, 0.5] and bonus[1:].abs().max() == 0
    assert told["mrt/progress"] == pytest.approx(1.5 / 5)
    with pytest.raises(ValueError, match="'mrt' tells progress from vines.*num_rollout_states above 0"):
        MRT().check(None, SimpleNamespace(num_rollout_states=0, branch_at="turn"), None)


def test_the_part_that_finds_the_way_earns_more_than_the_part_that_loses_it():
    assert MRT.progress({0: 0.1, 2: 0.9}, [0.0] * 4)[0][1] > 0 > MRT.progress({0: 0.9, 2: 0.1}, [0.0] * 4)[0][1]


def right(observation, answer):
    return answer == observation[-1]


def answers_update(*texts, success):
    update, told = episodes_update(*[[(1, float(win), "")] for win in success], success=success)
    for seed, text in zip(update.trees[0].seeds, texts, strict=True):
        seed.turns[0].action_ids = tuple(map(ord, text))
    return update, told


def test_efficiency_by_hand():
    """The right one is "t", as the observation's last letter: second of two, first of three, none of two."""
    update, _ = answers_update("a; t", "t;b;c", "x;y", success=[True, True, False])
    method = Efficiency(grade=f"{__name__}:right")
    worth = [1 / math.sqrt(2 * 2), 1 / math.sqrt(3 * 1), -1 / 2]
    assert method.reward(update)[:, 0].tolist() == pytest.approx([worth[0] - 1, worth[1] - 1, worth[2]])
    by_task = Efficiency().reward(update)[:, 0].tolist()
    assert by_task == pytest.approx([1 / math.sqrt(2) - 1, 1 / math.sqrt(3) - 1, -1 / 2])


def test_fewer_answers_are_worth_more_and_failing_with_few_costs_more():
    update, _ = answers_update("t", "t;b", "x", "x;y;z", success=[True, True, False, False])
    total = Efficiency(grade=f"{__name__}:right").reward(update)[:, 0] + torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert total[0] == 1 > total[1] > 0 > total[3] > total[2] == -1


# ---------------------------------------------------------------- advantages of turns


def test_steps_are_compared_step_by_step():
    update, _ = episodes_update([(1, 1.0, ""), (1, 0.0, "")], [(1, 0.0, ""), (1, 4.0, "")], [(1, 0.0, "")])
    z = [[2 / 3, -2.0], [-1 / 3, 2.0], [-1 / 3, 0.0]]
    stds = [math.sqrt((4 + 1 + 1) / 9 / 2), math.sqrt(8.0)]
    z = [[x / s for x, s in zip(row, stds, strict=True)] for row in z]
    found = StepGRPO(to_go=False, eps=1e-12).turn_advantage(update, torch.zeros(3, 2, dtype=torch.float64))
    assert found.flatten().tolist() == pytest.approx([x for row in z for x in row])
    ahead = StepGRPO(eps=1e-12).turn_advantage(update, torch.zeros(3, 2, dtype=torch.float64))
    assert ahead[:, 0].tolist() == pytest.approx([a + b for a, b in z]) and ahead[2, 1] == 0
    start = mean_over_seeds(lambda s: train(StepGRPO(), START, WINS, updates=20, seed=s)[:2].sum().item())
    assert start > 0.85


def test_long_actions_count_more():
    update, _ = episodes_update([(1, 0.0, ""), (3, 0.0, "")], [(2, 0.0, "")])
    ones = torch.ones(2, 2, dtype=torch.float64)
    assert (Duration().turn_advantage(update, ones) * update.turns_mask_B_T).tolist() == [[0.5, 1.5], [1.0, 0.0]]
    assert torch.equal(Duration(power=0.0).turn_advantage(update, ones), ones)


def test_a_long_attempt_counts_as_much_as_a_short_one():
    """The mean over tokens of what it makes is the mean over attempts of their means; blank rows count nowhere."""
    update, _ = episodes_update([(1, 0.0, "")] * 4, [(1, 0.0, "")], [(1, 0.0, "")] * 2)
    update.turn_index_B_C = torch.tensor([[0, 0, 1, 2, 2, 3], [0, -1, -1, -1, -1, -1], [0, 1, 1, -1, -1, -1], [-1] * 6])
    advantages_B_T = torch.tensor([[-1.0] * 4, [1.0, 0, 0, 0], [2.0, 3.0, 0, 0]], dtype=torch.float64)
    found = EpisodeMean().turn_advantage(update, advantages_B_T)
    assert found[:, 0].tolist() == pytest.approx([-10 / 18, 10 / 3, 20 / 9]) and found[2, 1] == pytest.approx(30 / 9)
    at_B_C = update.turn_index_B_C[:3]
    tokens = torch.where(at_B_C < 0, 0.0, found.gather(1, at_B_C.clamp(min=0)))
    assert tokens.sum().item() / 10 == pytest.approx((-1 + 1 + (2 + 3 + 3) / 3) / 3)
    alike, _ = episodes_update([(1, 0.0, "")], [(1, 0.0, "")])
    assert torch.equal(EpisodeMean().turn_advantage(alike, advantages_B_T[:2, :1]), advantages_B_T[:2, :1])


def test_a_groups_advantages_sum_to_0_over_its_tokens():
    """By hand: six tokens at -1 and one at 1 have the mean -5/7; blank rows, other groups and unscored turns stay."""
    update, _ = episodes_update([(1, 0.0, "")] * 4, [(1, 0.0, "")], [(1, 0.0, "")] * 2)
    update.turn_index_B_C = torch.tensor([[0, 0, 1, 2, 2, 3], [0, -1, -1, -1, -1, -1], [0, 1, 1, -1, -1, -1], [-1] * 6])
    update.groups_G_N = [(0, 1), (2,)]
    update.scored_B_T = update.turns_mask_B_T.clone()
    update.scored_B_T[2, 1] = False
    advantages_B_T = torch.tensor([[-1.0] * 4, [1.0, 0, 0, 0], [2.0, 0, 0, 0]], dtype=torch.float64)
    found = OptimalBaseline().turn_advantage(update, advantages_B_T)
    assert found[0].tolist() == pytest.approx([-2 / 7] * 4) and found[1].tolist() == pytest.approx([12 / 7, 0, 0, 0])
    assert found[2].tolist() == [0.0] * 4  # alone in its group
    rewards, lengths = torch.tensor([0.0, 1.0]), torch.tensor([6.0, 1.0])
    assert found[:2, 0].tolist() == pytest.approx((2 * (rewards - (rewards * lengths).sum() / 7)).tolist())


# ---------------------------------------------------------------- VERL


def test_effective_ranks_by_hand():
    square = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert effective_rank(square) == pytest.approx(2.0) and effective_rank(square[:2]) == pytest.approx(1.0)
    assert effective_rank(torch.ones(3, 2)) == 0.0
    rows = torch.cat([square[:2], square[2:]])
    assert ranks(rows, 2).tolist() == pytest.approx([2.0, 1.0, 0.0])
    assert ranks(rows[:0], 2).tolist() == [0.0] * 3


def test_verl_raises_advantages_of_rising_rank_by_half_of_them_at_most():
    method = VERL(gain=0.0, kappa=2.0, momentum=0.25)
    update, told = episodes_update([(1, 0.0, "")], [(1, 0.0, "")])
    ones = torch.tensor([[2.0], [-2.0]])
    update.probed = {"verl/ranks": torch.tensor([[2.0, 1.0, 0.5], [4.0, 1.0, 0.5]])}
    assert torch.equal(method.advantage(update, ones, {}), ones)  # no history yet
    method.learn(update)
    assert method.means.tolist() == [3.0, 1.0, 0.5] and told["verl/rank"] == 3.0
    update.probed = {"verl/ranks": torch.tensor([[3.3, 1.0, 0.5], [30.0, 9.0, 0.5]])}
    changed = method.advantage(update, ones, {})
    assert changed[0].item() == pytest.approx(2 + 0.5 * math.tanh(0.1)) and changed[1].item() == pytest.approx(
        -2 + math.tanh(5.0)
    )
    method.learn(update)
    assert method.means[0].item() == pytest.approx(0.75 * 3 + 0.25 * 16.65)
    again = VERL()
    again.restore(method.state())
    assert torch.equal(again.means, method.means)


# ---------------------------------------------------------------- sets beside the critic


def test_set_advantages_are_added_within_the_window():
    shapes = [(3, 1.0, "a"), (2, 1.0, "a"), (1, 1.0, "b"), (2, 0.0, "c"), (1, 1.0, "a"), (1, 1.0, "a")]
    update, told = episodes_update(*([(1, reward * (t == 0), "") for t in range(n)] for n, reward, _ in shapes))
    for attempt, (_, _, signature) in zip(update.trajectories, shapes, strict=True):
        attempt.signature = signature
    update.groups_G_N = [range(4), range(4, 6)]  # the second is smaller than a set
    critic = torch.arange(18, dtype=torch.float64).reshape(6, 3)
    method = SetBonus(coef=0.5, window=0, set_size=3)
    found = method.turn_advantage(update, critic.clone()) - critic
    own_N = set_advantages([1.0, 1.0, 1.0, 0.0], ["a", "a", "b", "c"], 3)
    std = ((own_N**2).sum().item() / 6) ** 0.5
    assert found[:4, 0].tolist() == pytest.approx((0.5 * own_N / std).tolist())
    assert found[:, 1:].abs().max() == 0 and found[4:].abs().max() == 0
    assert told["set_bonus/scale_raw"] == pytest.approx(std)
    method.window = -1
    changed = method.turn_advantage(update, critic.clone()) - critic
    assert changed[0].tolist() == pytest.approx([found[0, 0].item()] * 3)
    assert changed[1].tolist() == pytest.approx([found[1, 0].item()] * 2 + [0])
    update.progress, method.coef_end = 0.75, 0.1
    falling = method.turn_advantage(update, critic.clone()) - critic
    assert falling[0, 0].item() == pytest.approx(found[0, 0].item() * 0.2 / 0.5)
    update.groups_G_N = [range(2), range(4, 6)]  # all alike: nothing is added
    method.set_size = 2
    assert torch.equal(method.turn_advantage(update, critic.clone()), critic)


def test_a_rare_way_to_win_keeps_its_mass_beside_the_critic():
    start = (0.6, 0.1, 0.2, 0.1)
    alone, beside = (mean_over_seeds(lambda seed, m=m: train(m, start, WINS, seed=seed)) for m in (None, SetBonus(1.0)))
    assert beside[1] > 2 * alone[1], (alone, beside)
    assert beside[:2].sum() > 0.9, beside


# ---------------------------------------------------------------- B-STaR


def test_the_controller_tries_all_and_keeps_the_best():
    method = BStaR(low=0.5, high=1.5, steps=3, hold=2, wanted=4)
    scores = {0.5: (4, "aaaa"), 1.0: (2, "abcd"), 1.5: (0, "abcd")}
    taken = []
    for _ in range(8):
        factor = method.temperature(0, 0.0)
        taken.append(factor)
        wins, signatures = scores[factor]
        update, told = update_of(tree(0, wins, signatures=signatures))
        update.groups_G_N = [range(4)]
        method.learn(update)
        assert told["b_star/balance"] == pytest.approx({0.5: 0.25, 1.0: 0.5 * 0.5, 1.5: 0.0}[factor])
    assert taken == [0.5, 1.0, 1.5, 0.5, 0.5, 0.5, 1.0, 1.5]
    scores[1.0] = (4, "abcd")
    again = BStaR(low=0.5, high=1.5, steps=3, hold=2, wanted=4)
    again.restore(method.state())
    assert again.temperature(3, 0.9) == method.temperature(0, 0.0)


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("beacons", {"goals": "key//door"}, "goals 'key//door' has an empty phrase"),
        ("f_dpg", {"divergence": "kl"}, "divergence must be one of js, forward, reverse, tv"),
        ("b_star", {"low": 2.0}, "high must be"),
        ("weighted_replay", {"corrected": 1}, "corrected must be true or false, got 1: change it in method_args"),
        ("novelty", {"neighbours": 0}, "neighbours must be"),
        ("archive", {"power": -1}, "power must be a number of at least 0"),
        ("archive", {"shown": 1}, "shown must be true or false"),
        ("set_bonus", {"coef_end": -0.5}, "coef_end must be"),
        ("archive", {"coef_end": -1}, "coef_end must be a number of at least 0"),
        ("set_bonus", {"window": -2}, "window must be a number of at least -1, got -2"),
        ("step_grpo", {"to_go": "yes"}, "to_go must be true or false"),
        ("verl", {"stride": 1.5}, "stride must be a whole number"),
    ],
)
def test_wrong_options_are_named(name, options, words):
    with pytest.raises(ValueError, match=words):
        build_methods([name], {name: options})


@pytest.mark.parametrize("name", ["chi_squared", "f_dpg"])
def test_the_pretrained_policy_must_be_at_hand(name):
    trainer = SimpleNamespace(kl_reference="behaviour", kl_coef=0.1, critic="none")
    with pytest.raises(
        ValueError, match=f"method {name!r} reads the pretrained policy: set kl_reference to 'pretrained'"
    ):
        build_methods([name], {})[name].check(trainer, None, None)


# ---------------------------------------------------------------- dynamic reward weights


def test_hypervolumes_by_hand():
    """In the plane, boxes of 2 x 1 and 1 x 3 that share 1 x 1; a point below 0 adds nothing; in space, times 2."""
    assert hypervolume([]) == 0.0 and hypervolume([[3.0], [2.0]]) == 3.0
    assert hypervolume([[2.0, 1.0], [1.0, 3.0]]) == pytest.approx(2 + 3 - 1)
    assert hypervolume([[2.0, 1.0], [1.0, 3.0], [-1.0, 9.0], [1.0, 0.5]]) == pytest.approx(4.0)
    assert hypervolume([[2.0, 1.0, 2.0], [1.0, 3.0, 2.0]]) == pytest.approx(8.0)
    assert hypervolume([[2.0, 1.0, 1.0], [1.0, 3.0, 2.0]]) == pytest.approx(2 * 1 * 1 + 1 * 3 * 2 - 1 * 1 * 1)


def turns_left(attempt):
    return 10 - len(attempt.turns)


def test_objectives_and_the_factor_by_hand():
    """Returns 1, 0, 1, the first two alike: distinct 1/2, 1/2, 1. The front begins at the first update's means; the
    second reaches .2 and .3 beyond it, the third nothing new."""
    method = DynamicRewards(objectives="return/distinct", weights="3/1")
    update, told = episodes_update([(1, 0.0, ""), (1, 1.0, "")], [(1, 0.0, "")], [(1, 1.0, "")])
    for attempt, name in zip(update.trajectories, "aab", strict=True):
        attempt.signature = name
    bonus = method.reward(update)
    paid = [0.5 * (0.75 * r + 0.25 * d) for r, d in ((1.0, 0.5), (0.0, 0.5), (1.0, 1.0))]
    assert bonus[0].tolist() == pytest.approx([0.0, paid[0] - 1.0])
    assert bonus[1].tolist() == pytest.approx([paid[1], 0.0]) and bonus[2, 0] == pytest.approx(paid[2] - 1.0)
    assert told["dynamic_rewards/factor"] == 0.5 and method.front == [pytest.approx([2 / 3, 2 / 3])]
    better = [2 / 3 + 0.2, 2 / 3 + 0.3]
    assert method.factor(better) == pytest.approx(0.5 + 1.5 * math.tanh(0.06))
    method.front.append(better)
    assert method.factor([2 / 3 + 0.1, 2 / 3 + 0.3]) == 0.5
    again = DynamicRewards(objectives="return/distinct")
    again.restore(method.state())
    assert again.factor([0.9, 0.9]) == method.factor([0.9, 0.9])
    own = DynamicRewards(objectives=f"brief/{__name__}:turns_left", weights="1/0")
    assert own.told(update.trajectories, [[0, 1, 2]]) == [[0.5, 8.0], [1.0, 9.0], [1.0, 9.0]]
    wrong = [("objectives", "retrun/brief", "is one of return, distinct, brief"), ("weights", "1", "give each"),
             ("weights", "0/0", "must not all be 0"), ("weights", "a/1", "give numbers")]  # fmt: skip
    for name, value, words in wrong:
        with pytest.raises(ValueError, match=words):
            build_methods(["dynamic_rewards"], {"dynamic_rewards": {name: value}})


def test_a_second_objective_keeps_a_second_way_to_win():
    """Two arms win; distinct pays the one that fewer took, so both stay."""

    def least(weights, seed):
        return train(DynamicRewards(weights=weights), START, WINS, seed=seed, rate=1.0)[:2].min().item()

    kept = [mean_over_seeds(lambda s, w=w: least(w, s), seeds=2) for w in ("1/1", "1/0")]
    assert kept[0] > kept[1] + 0.05, kept
