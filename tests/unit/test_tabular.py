"""The laboratory: worlds, and exact results against hand calculation, finite differences and plain enumeration."""

import itertools
import math

import numpy as np
import pytest

from polytune.objective import set_advantages
from polytune.tasks import load_task
from polytune.tasks.tabular import exact
from polytune.tasks.tabular.exact import JUNK, SetObjective, softmax, tabulate
from polytune.tasks.tabular.worlds import Bandit, TwoStep


def any_success(rewards, signatures):
    return float(any(reward > 0.0 for reward in rewards))


def coverage(rewards, signatures):
    return len({s for r, s in zip(rewards, signatures, strict=True) if r > 0.0} - {None}) / len(rewards)


FUNCTIONS = {
    "mean": exact.mean,
    "polychromic": exact.polychromic,
    "pass_at_k": any_success,
    "coverage": coverage,
}


def uniform_polychromic(optimal, n):
    """E[f_poly] of the policy that pulls m optimal arms, which pay .5, equally often: .5 m/n (1 - (1 - 1/m)^n)."""
    return 0.5 * optimal / n * (1 - (1 - 1 / optimal) ** n)


def random_table(world, seed, spread=1.0):
    return softmax(np.random.default_rng(seed).normal(0.0, spread, (len(world.states), len(world.actions) + 1)))


def small_bandit():
    """Four kinds of outcome: two that pay .5, one that pays .2 and fails, junk."""
    return Bandit(arms=("red", "green", "blue"), payoffs=(1.0, 1.0, 0.4), habits=(1.0, 1.0))


def small_tree():
    return TwoStep(doors=("a", "b"), winning=[("a", "a"), ("b", "a")], habits=(1.0, 1.0))


# Worlds


def test_a_pull_ends_the_bandit():
    task = Bandit()
    for arm, reward, reason in (("red", 0.5, "success"), ("blue", 0.5, "success"), ("grey", 0.0, "miss")):
        episode = task.start(3)
        assert episode.observation() == "arms" and episode.signature() is None
        step = episode.step(arm)
        assert (step.reward, step.done, step.stop_reason) == (reward, True, reason)
        assert episode.signature() == {(arm,)}
    episode = task.start(3)
    assert episode.step("red green") == type(step)(0.0, True, "horizon")
    assert episode.signature() is None, "junk adds no strategy"


def test_a_second_best_arm_pays_and_fails():
    step = small_bandit().start(0).step("blue")
    assert (round(step.reward, 12), step.stop_reason) == (0.2, "miss")


def test_two_steps_lead_to_a_leaf():
    task = TwoStep()
    for path in itertools.product(task.actions, repeat=2):
        episode = task.start(0)
        first, observation = episode.step(path[0]), episode.observation()
        assert (first.reward, first.done, observation) == (0.0, False, f"doors {path[0]}")
        assert episode.signature() is None, "half a path is no strategy yet"
        middle = task.restore(episode.snapshot())
        last = middle.step(path[1])
        won = path in (("left", "left"), ("left", "right"), ("right", "middle"))
        assert (last.reward, last.stop_reason) == ((0.5, "success") if won else (0.0, "miss"))
        assert middle.signature(1) == middle.signature() == {path}
    episode = task.start(0)
    assert not episode.step("nonsense").done and episode.observation() == "doors"
    assert episode.step("left").stop_reason == "horizon", "with horizon 2 no turn is left over"


def test_the_registered_worlds_are_the_defaults_with_every_worlds_horizon():
    for name, kind in (("bandit", Bandit), ("two-step", TwoStep)):
        task = load_task(name)
        assert type(task) is kind and task.horizon == 100 and task.payoffs == kind().payoffs
    assert (
        load_task("polytune.tasks.tabular.worlds:Bandit", arms=["up", "down"], payoffs=[1, 0], habits=[1]).horizon == 1
    )


@pytest.mark.parametrize("task", [Bandit(), TwoStep()], ids=lambda task: task.name)
def test_demonstrations_win_and_are_skewed_by_habit(task):
    seen = dict.fromkeys((path for path, payoff in task.payoffs.items() if payoff == 1.0), 0)
    for seed in range(2000):
        episode = task.start(seed)
        while not episode.done:
            assert task.expert(episode) == task.expert(episode)
            step = episode.step(task.expert(episode))
        assert step.stop_reason == "success"
        seen[episode.path] += 1
    for (path, count), share in zip(seen.items(), (0.7, 0.2, 0.1), strict=True):
        assert abs(count / 2000 - share) < 0.03, path
    assert len({task.start_hash(seed) for seed in range(100)}) == 100, "levels to hold out"


def test_the_expert_goes_on_from_where_the_episode_is():
    task = TwoStep()
    episode = task.start(0)
    episode.step("right")
    assert task.expert(episode) == "middle", "the one way to win from here"
    episode = task.start(0)
    episode.step("middle")
    assert task.expert(episode) in task.actions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"payoffs": (1.0, 2.0, 0.0, 0.0, 0.0, 0.0), "habits": (1.0,)}, r"must lie in \[0, 1\] and one must be 1"),
        ({"payoffs": (0.5, 0.0, 0.0, 0.0, 0.0, 0.0), "habits": ()}, "one must be 1"),
        ({"payoffs": (1.0, 0.0)}, "6 payoffs, one an arm, are wanted"),
        ({"habits": (1.0, 1.0)}, "3 habits, one an arm that pays 1, are wanted"),
        ({"habits": (1.0, 0.0, 1.0)}, "weights above 0 of paths that pay 1"),
    ],
)
def test_worlds_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Bandit(**options)


def test_paths_of_another_length_are_refused():
    with pytest.raises(ValueError, match="is not 2 of the words"):
        TwoStep(winning=[("left",), ("left", "left"), ("right", "right")])


# One trajectory


def test_tables_hold_every_trajectory():
    bandit, tree = tabulate(Bandit()), tabulate(TwoStep())
    assert bandit.states == ((),) and [o.actions[0] for o in bandit.outcomes] == [*Bandit().actions, JUNK]
    assert len(tree.states) == 4 and len(tree.outcomes) == 13 and sum(o.success for o in tree.outcomes) == 3
    for world in (bandit, tree):
        table = random_table(world, 0)
        assert math.isclose(exact.path_probabilities(world, table).sum(), 1.0)
        assert all(outcome.signature is None for outcome in world.outcomes if JUNK in outcome.actions)
    middle = tabulate(TwoStep(), after=("left",))
    assert middle.states == (("left",),) and [o.actions for o in middle.outcomes][:2] == [("left",), ("middle",)]
    assert {o.signature for o in middle.outcomes} <= {o.signature for o in tree.outcomes}


def test_a_world_with_turns_left_over_has_no_table():
    with pytest.raises(ValueError, match="'bandit' with horizon 100 lets an episode go on"):
        tabulate(load_task("bandit"))
    with pytest.raises(ValueError, match="no decision is due"):
        tabulate(Bandit(), after=("red",))


def test_values_worked_by_hand():
    world = tabulate(Bandit())
    table = np.array([[0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05]])
    assert math.isclose(exact.success_rate(world, table), 0.7)
    assert math.isclose(exact.path_probabilities(world, table) @ world.rewards_O, 0.35)
    assert math.isclose(exact.pass_at_k(world, table, 3), 1 - 0.3**3)
    entropy = -sum(p * math.log(p) for p in table[0])
    assert math.isclose(exact.decision_entropy(table)[0], entropy)
    assert math.isclose(exact.path_entropy(world, table), entropy)
    winning = exact.signature_probabilities(world, table, success_only=True)
    assert [round(p, 12) for p in winning.values()] == [0.4, 0.2, 0.1]
    assert math.isclose(exact.signature_probabilities(world, table)[None], 0.05)


def test_path_entropy_is_the_sum_of_the_decisions_entropies():
    world = tabulate(TwoStep())
    table = random_table(world, 1)
    decisions = dict(zip(world.states, exact.decision_entropy(table), strict=True))
    root = dict(zip(TwoStep().actions, table[world.states.index(())], strict=False))
    expected = decisions[()] + sum(root[action] * decisions[(action,)] for action in TwoStep().actions)
    assert math.isclose(exact.path_entropy(world, table), expected)


def test_the_table_tells_what_sampling_estimates():
    task, rng = TwoStep(), np.random.default_rng(0)
    world = tabulate(task)
    table, columns, wins = random_table(world, 2), [*task.actions, JUNK], 0
    for _ in range(4000):
        episode, history = task.start(0), ()
        while not episode.done:
            row = table[world.states.index(history)] if history in world.states else table[0]
            action = columns[rng.choice(4, p=row)]
            history = (*history, action)
            wins += episode.step(action).stop_reason == "success"
    assert abs(wins / 4000 - exact.success_rate(world, table)) < 0.03


# Sets


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("set_size", [1, 2, 3])
@pytest.mark.parametrize("task", [small_bandit(), small_tree()], ids=["bandit", "two-step"])
def test_set_values_and_gradients(name, set_size, task):
    """E[f] against the sum over all tuples of trajectories, its gradient against finite differences."""
    world, f = tabulate(task), FUNCTIONS[name]
    objective, table = SetObjective(world, f, set_size), random_table(world, 3)
    paths_O = exact.path_probabilities(world, table)
    total = 0.0
    for members in itertools.product(range(len(world.outcomes)), repeat=set_size):
        rewards, signatures = zip(
            *((world.outcomes[i].reward, world.outcomes[i].signature) for i in members), strict=True
        )
        total += math.prod(paths_O[i] for i in members) * f(rewards, signatures)
    assert math.isclose(objective.value(table), total, rel_tol=1e-12)

    logits, step, gradient = np.log(table), 1e-5, objective.gradient(table)
    for row, column in np.ndindex(*logits.shape):
        moved = np.zeros_like(logits)
        moved[row, column] = step
        slope = objective.value(softmax(logits + moved)) - objective.value(softmax(logits - moved))
        assert abs(slope / (2 * step) - gradient[row, column]) < 1e-8


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("credit", "factor"), [("mean", (1 - 2 / 4) / 2), ("leave_one_out", 1 / 2)])
def test_set_advantages_expect_the_exact_gradient(name, credit, factor):
    """Mean over members of A_i d log pi(a_i), summed over all groups of N = 4 with their probabilities, n = 2."""
    world = tabulate(small_bandit())
    table, kinds = random_table(world, 4), range(len(world.outcomes))
    groups = list(itertools.product(kinds, repeat=4))
    rewards = [[world.outcomes[i].reward for i in group] for group in groups]
    signatures = [[world.outcomes[i].signature for i in group] for group in groups]
    advantages_P_N = set_advantages(rewards, signatures, 2, objective=name, credit=credit).numpy()
    choices_P_N = np.array(groups)
    weights_P = table[0][choices_P_N].prod(axis=1)
    scores_P_N_A = np.eye(len(kinds))[choices_P_N] - table[0]
    update_A = np.einsum("p,pn,pna->a", weights_P, advantages_P_N, scores_P_N_A) / 4
    np.testing.assert_allclose(
        update_A, factor * SetObjective(world, FUNCTIONS[name], 2).gradient(table)[0], atol=1e-14
    )


def test_standard_rl_collapses_and_the_polychromic_optimum_is_uniform():
    """From one skewed start, by exact gradient ascent: no sampling, no optimiser, no network."""
    world = tabulate(Bandit())
    start = np.array([[0.4, 0.12, 0.08, 0.1, 0.1, 0.1, 0.1]])
    collapsed = SetObjective(world, exact.mean, 4).ascend(start)
    assert collapsed[0, 0] > 0.99 and exact.success_rate(world, collapsed) > 0.999
    objective = SetObjective(world, exact.polychromic, 4)
    kept = objective.ascend(start)
    np.testing.assert_allclose(kept[0, :3], 1 / 3, atol=2e-3)
    assert exact.success_rate(world, kept) > 0.998
    assert abs(objective.value(kept) - uniform_polychromic(3, 4)) < 1e-3
    tree = tabulate(TwoStep())
    kept = SetObjective(tree, exact.polychromic, 4).ascend(random_table(tree, 5), steps=4000)
    for p in exact.signature_probabilities(tree, kept, success_only=True).values():
        assert abs(p - 1 / 3) < 0.01


def test_the_closed_polychromic_value_and_when_failing_arms_pay():
    """First-order gain of a failing arm at the uniform policy: negative up to n = m, positive for n far above."""
    for optimal in range(1, 9):
        arms = [f"arm{i}" for i in range(optimal + 1)]
        world = tabulate(Bandit(arms=arms, payoffs=(*[1.0] * optimal, 0.0), habits=[1.0] * optimal))
        table = np.array([[*[1 / optimal] * optimal, 0.0, 0.0]])
        for set_size in range(1, 5):
            objective = SetObjective(world, exact.polychromic, set_size)
            value = objective.value(table)
            assert math.isclose(value, uniform_polychromic(optimal, set_size))
            gain = objective.given_member(table)[optimal] - value
            # one failing member turns E[u_n] into (n-1)/n * (E[u_(n-1)] + 1) with E[u_n] = m (1 - (1 - 1/m)^n)
            distinct, fewer = (optimal * (1 - (1 - 1 / optimal) ** size) for size in (set_size, set_size - 1))
            worth = (set_size - 1) / set_size * (fewer + 1) > distinct + 1e-12
            assert (gain > 1e-12) == worth and not (worth and set_size <= optimal)


def test_refusals():
    world = tabulate(Bandit())
    with pytest.raises(ValueError, match="set_size must be at least 1"):
        SetObjective(world, exact.mean, 0)
    with pytest.raises(ValueError, match="too many"):
        SetObjective(tabulate(TwoStep()), exact.mean, 40)
    with pytest.raises(ValueError, match="cannot raise a probability of 0"):
        SetObjective(world, exact.mean, 2).ascend(np.array([[1.0, 0, 0, 0, 0, 0, 0]]))
