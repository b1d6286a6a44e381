"""Methods that choose what grows: budgets and draws by hand, and where the budget goes; DPH-RL's two families."""

import itertools
import math
import random
from collections import Counter

import pytest
import torch
from made_updates import due, tree, update_of
from softmax_bandit import mean_over_seeds, train

from polytune.config import ObjectiveConfig, RolloutConfig
from polytune.methods import Beginning, build_methods
from polytune.methods.alp import ALP
from polytune.methods.dph_rl import DPHRL, f_divergence
from polytune.methods.judged_roots import JudgedRoots, least_alike
from polytune.methods.knapsack import Knapsack, allot, value
from polytune.methods.unsolved import Unsolved
from polytune.methods.vas import VAS
from polytune.rollout import Start, Trajectory, Tree, Turn

# ---------------------------------------------------------------- another start state


def test_an_attempt_in_anothers_place_has_its_own_random_numbers():
    start = Start(3, 5, None, 8)
    assert start.instead(3) is start
    others = {Start(s, a).instead(9) for s in range(50) for a in range(50) if s != 9}
    assert len({other.attempt for other in others}) == len(others) and max(o.attempt for o in others) < 0
    assert start.instead(9) == start.instead(9) and start.instead(9).num_seeds == 8


# ---------------------------------------------------------------- Knapsack


def test_greedy_budgets_are_the_best_ones():
    """Against all allotments, with rates of 0 and 1 among them."""
    rng = random.Random(0)
    for _ in range(60):
        count, low = rng.choice([2, 3, 4]), rng.choice([1, 2])
        high = low + rng.choice([1, 3, 6])
        rates = [rng.choice([0.0, 1.0, 0.1, 0.25, 0.5, 0.9]) for _ in range(count)]
        budget = rng.randint(low * count, high * count)
        found = allot(rates, budget, low, high)
        assert sum(found) == budget and all(low <= number <= high for number in found)
        every = (numbers for numbers in itertools.product(range(low, high + 1), repeat=count) if sum(numbers) == budget)
        best = max(sum(map(value, numbers, rates)) for numbers in every)
        assert sum(map(value, found, rates)) == pytest.approx(best, abs=1e-12)


def test_values_by_hand_and_leftovers():
    assert value(2, 0.5) == pytest.approx(0.5 * 0.125) and value(1, 0.3) == pytest.approx(0) == value(9, 1.0)
    assert allot([1.0, 0.0, 1.0], 18, 2, 20) == [2, 14, 2]  # worth nothing: to what never succeeded
    assert allot([0.0, 0.0], 40, 2, 8) == [8, 8]  # what nobody may take stays blank


def test_the_budget_moves_to_open_problems():
    method = Knapsack()
    assert method.starts(due(0, 1, 2), 0) == due(0, 1, 2)  # nothing is known
    method.learn(update_of(tree(0, 4), tree(1, 1), tree(2, 0))[0])
    numbers = [start.num_seeds for start in method.starts(due(0, 1, 2, 3), 0)]
    assert sum(numbers) == 16 and numbers[0] == 2 and numbers[1] > 4 and numbers[3] == 4  # 3 was never met
    again = Knapsack()
    again.restore(method.state())
    assert again.known == method.known == {0: (1.0,), 1: (0.25,), 2: (0.0,)}


def test_knapsack_refuses_sets_that_it_cannot_fill():
    objective = ObjectiveConfig(set_size=4, set_scope="seeds", window=-1)
    with pytest.raises(ValueError, match="down to low = 2 attempts, and a set takes 4 of them: raise knapsack.low"):
        Knapsack().check(None, RolloutConfig(num_seeds=8), objective)
    Knapsack(low=4).check(None, RolloutConfig(num_seeds=8), objective)
    with pytest.raises(ValueError, match="num_seeds is 2: raise num_seeds"):
        Knapsack(low=4).check(None, RolloutConfig(num_seeds=2), objective)


# ---------------------------------------------------------------- VAS


def test_scores_of_vas_by_hand():
    method = VAS(learnability=0.8, variety=0.2)
    method.learn(update_of(tree(0, 1, signatures="aabb"), tree(1, 4, signatures="cccc"), tree(0, 2))[0])
    first, second = 0.8 * 3 / 16 + 0.2 * 2 / 4, 0.8 / 4 + 0.2
    assert method.known[0][0] == pytest.approx((first + second) / 2) and method.known[1][0] == pytest.approx(0.05)


def test_vas_draws_start_states_where_outcomes_vary():
    method = VAS(share=0.5, variety=0.0)
    starts = due(*range(4)) * 100
    starts = [start._replace(attempt=i) for i, start in enumerate(starts)]
    assert method.starts(starts, 0) == starts
    method.learn(update_of(tree(0, 0), tree(1, 4), tree(2, 2), tree(3, 1))[0])
    drawn = Counter(start.start_state for start in method.starts(starts, 0))
    assert method.starts(starts, 0) == method.starts(starts, 0) != method.starts(starts, 1)
    weights = {0: 0, 1: 0, 2: 4 / 7, 3: 3 / 7}
    for state, weight in weights.items():
        assert drawn[state] == pytest.approx(400 * (0.5 / 4 + 0.5 * weight), abs=35)


# ---------------------------------------------------------------- ALP


def test_learning_progress_by_hand_and_where_it_sends():
    method = ALP(uniform=0.0)
    method.learn(update_of(tree(0, 1), tree(1, 4), tree(2, 0))[0])
    assert method.starts(due(0, 1, 2), 0) == due(0, 1, 2)  # no progress is known
    method.learn(update_of(tree(0, 3), tree(1, 4), tree(2, 1), tree(2, 0))[0])
    assert method.known == {0: (0.75, 0.5), 1: (1.0, 0.0), 2: (0.125, 0.125)}
    starts = [start._replace(attempt=i) for i, start in enumerate(due(*range(3)) * 100)]
    drawn = [start.start_state for start in method.starts(starts, 0)]
    assert drawn.count(1) == 0 and drawn.count(0) / 300 == pytest.approx(0.8, abs=0.08)
    assert sum(a == b for a, b in zip(ALP(uniform=1.0).starts(starts, 0), starts, strict=True)) == 300


# ---------------------------------------------------------------- unsolved problems only


def beginning(wins):
    def grow(starts):
        assert all(start.attempt == -1 for start in starts)
        return [tree(start.start_state, wins[start.start_state], start.num_seeds) for start in starts]

    return Beginning(tuple(wins), grow, lambda state: None)


def test_only_what_was_never_solved_grows():
    method = Unsolved(samples=8)
    assert method.starts(due(0, 1), 0) == due(0, 1)
    method.begin(beginning({0: 3, 1: 0, 2: 1, 3: 0}))
    assert method.open == [1, 3]
    grown = method.starts(due(0, 1, 2, 3), 0)
    assert [start.start_state in (1, 3) for start in grown] == [True] * 4 and grown[1] == due(1)[0]
    lenient = Unsolved(samples=8, wins=1)
    lenient.begin(beginning({0: 3, 1: 0, 2: 1, 3: 0}))
    assert lenient.open == [1, 2, 3]
    all_solved = Unsolved()
    all_solved.begin(beginning({0: 1, 1: 2}))
    assert all_solved.starts(due(0, 1), 0) == due(0, 1)


# ---------------------------------------------------------------- DPH-RL


@pytest.mark.parametrize("name, at_2", [("forward", 1 - math.log(2)), ("js", 2 * math.log(2) - 3 * math.log(1.5)),
                                        ("alpha", (2**0.8 - 1.6 - 0.2) / -0.16)])  # fmt: skip
def test_divergences_by_hand(name, at_2):
    """At u = 2; 0 with slope 0 at u = 1; never negative; the mean over y ~ pi_0 is the divergence."""
    log_u = torch.tensor([math.log(2.0), 0.0, -3.0], dtype=torch.float64, requires_grad=True)
    found = f_divergence(name, log_u)
    assert found[0].item() == pytest.approx(at_2) and found[1].item() == pytest.approx(0) and found.min() > -1e-12
    (slope,) = torch.autograd.grad(found.sum(), log_u)
    assert slope[1].item() == pytest.approx(0, abs=1e-12)
    p, q = torch.tensor([0.7, 0.3], dtype=torch.float64), torch.tensor([0.4, 0.6], dtype=torch.float64)  # pi_0, pi
    m = (p + q) / 2
    wanted = {
        "forward": (p * (p / q).log()).sum(),
        "js": (q * (q / m).log()).sum() + (p * (p / m).log()).sum(),
        "alpha": ((p**0.2 * q**0.8).sum() - 1) / -0.16,
    }
    assert (p * f_divergence(name, (q / p).log())).sum().item() == pytest.approx(wanted[name].item())


def test_both_families_of_start_states():
    method = DPHRL(samples=4, solved=0.75)
    method.begin(beginning({0: 3, 1: 2, 2: 4, 3: 0}))
    assert method.open == [1, 3] and {kind[0] for kind in method.buffer} == {0, 2} and len(method.buffer) == 8
    assert {start.start_state for start in method.starts(due(0, 1, 2, 3), 0)} == {1, 3}
    drawn = method.replay(3, 0.5)
    assert len(drawn) == 3 == len(method.replay(3, 0.5)) and drawn == method.replay(3, 0.5)
    row = drawn[0][0]
    assert row.prompt_ids[0] in (0, 2) and row.own == [1, 1] and row.logprobs == [-0.5, -0.5]
    method.learn(update_of()[0])
    assert method.replay(3, 0.5) != drawn
    again = DPHRL(samples=4, solved=0.75)
    again.restore(method.state())
    assert again.replay(8, 0.0) == method.replay(8, 0.0) and again.open == [1, 3] and again.updates == 1
    everything = DPHRL(samples=4, family="all")
    everything.begin(beginning({0: 4, 1: 0}))
    assert everything.open == [0, 1] and len(everything.buffer) == 8
    assert [DPHRL(share=share).wanted_rows(16) for share in (0.0, 0.25, 1.0)] == [0, 4, 16]


@pytest.mark.parametrize("name", ["forward", "js", "alpha"])
def test_what_the_pretrained_policy_did_is_not_forgotten(name):
    """Three arms win alike: without the divergence one of them ends with nearly all."""
    start, rewards = (0.5, 0.3, 0.15, 0.05), (1.0, 1.0, 1.0, 0.0)
    method = dict(divergence=name, coef=1.0, family="all", samples=64)
    left = mean_over_seeds(lambda s: train(DPHRL(**method), start, rewards, seed=s, room=64)[:3].min().item())
    plain = mean_over_seeds(lambda s: train(None, start, rewards, seed=s)[:3].min().item())
    assert left > plain + 0.03, (left, plain)


# ---------------------------------------------------------------- Intelligent Go-Explore


def walk(*observations):
    turns = [Turn((1,), (0.0,), 0.0, tuple(map(ord, text))) for text in observations]
    return Trajectory(
        turns=[*turns, Turn((1,), (0.0,), 0.0)], stop_reason="horizon", snapshots=[b"s"] * (len(turns) + 1)
    )


def last(texts):
    return len(texts) - 1


def no_walls(text, texts):
    return "wall" not in text and text not in texts


def nonsense(texts):
    return "the door"


def test_the_judge_chooses_among_texts_of_the_start_state():
    method = JudgedRoots(share=1.0, judge=f"{__name__}:last", admits_by=f"{__name__}:no_walls")
    update, told = update_of(Tree(0, (7,), [walk("door", "wall")], [[]]), Tree(1, (8,), [walk("key")], [[]]))
    update.text = lambda ids: "".join(map(chr, ids))
    method.learn(update)
    assert sorted(method.texts.values()) == ["door", "key"] and told["go_explore/cells"] == 2
    [start] = method.starts(due(0), 0)
    assert start.root.observation_ids == tuple(map(ord, "door"))
    again = JudgedRoots(share=1.0, judge=f"{__name__}:last")
    again.restore(method.state())
    again.revisit(lambda walks: [(b"", method.roots[walk.start_state, walk.turns[-1].feedback_ids].snapshot)
                                 for walk in walks])  # fmt: skip
    assert again.texts == method.texts and again.starts(due(0, 1), 0) == method.starts(due(0, 1), 0)
    wrong = JudgedRoots(share=1.0, judge=f"{__name__}:nonsense")
    wrong.restore(method.state())
    with pytest.raises(ValueError, match="returned 'the door' for 1 texts: a place from 0 to 0 is due"):
        wrong.starts(due(0), 0)


def test_the_judge_that_needs_no_model_takes_the_oddest_text():
    assert least_alike(["a wall a wall", "a wall a door", "a key b lamp"]) == 2
    assert least_alike(["same", "same"]) == 0 and least_alike([""]) == 0


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("judged_roots", {"judge": ""}, "unknown judge ''"),
        ("judged_roots", {"judge": "math:pi"}, "judge 'math:pi' is 3.14.*: name a function"),
        ("judged_roots", {"judge": "no.such:f"}, "cannot import 'no.such'"),
        ("dph_rl", {"divergence": "reverse"}, "divergence must be one of forward, js, alpha, got 'reverse'"),
        ("dph_rl", {"alpha": 1.0}, "alpha is 1.0, where f divides by 0"),
        ("knapsack", {"low": 9, "high": 3}, "low is 9 and high 3: raise high"),
        ("vas", {"diversity": "vendy"}, "unknown diversity 'vendy'; did you mean 'vendi'"),
        ("unsolved", {"samples": 1.5}, "samples must be a whole number"),
    ],
)
def test_wrong_options_are_named(name, options, words):
    with pytest.raises(ValueError, match=words):
        build_methods([name], {name: options})
