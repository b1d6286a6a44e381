"""What the critic is told beside the text, on a tree written by hand; that nothing of it biases an advantage."""

import itertools

import pytest
import torch

from polytune.rollout import SeedView, Trajectory, Tree, Turn, find_branching
from polytune.trainer.critic import Critic, Decisions
from polytune.trainer.value_features import NUM_FEATURES, value_features, with_vine_values


def trajectory(*rewards, parent=None, branch_turn=0, branch_token=0):
    turns = [Turn((1,), (0.0,), reward) for reward in rewards]
    return Trajectory(parent=parent, branch_turn=branch_turn, branch_token=branch_token, turns=turns)


def tree_of_two():
    """Two seeds; on the first, two vines from turn 1 and one from turn 2."""
    first, second = trajectory(0, 0, 0, 0.5), trajectory(0, 1.0)
    vines = [
        [trajectory(0, 0.8, parent=first, branch_turn=1), trajectory(0.2, parent=first, branch_turn=1)],
        [trajectory(0, 0, parent=first, branch_turn=2)],
    ]
    return Tree(start_state=7, prompt_ids=(5,), seeds=[first, second], vines=[vines, []])


def test_features_by_hand():
    features = value_features([tree_of_two()], horizon=4, gamma=1.0, foresees=False)
    assert features.shape == (5, 4, 3)
    expected = {
        0: [(1.0, 1.0, 1), (0.75, 0.5, 1), (0.5, 0.0, 1), (0.25, 0.0, 1)],  # the other seed; vines at 1; vines at 2
        1: [(0.75, 0.2, 1), (0.5, 0.2, 1)],  # a vine of turn 1: the other one
        2: [(0.75, 0.8, 1)],
        3: [(0.5, 0.0, 0), (0.25, 0.0, 0)],  # alone in its group
        4: [(1.0, 0.5, 1), (0.75, 0.5, 1)],
    }
    order = [0, 1, 2, 3, 4]  # rows: a seed, then its vines
    for row in order:
        count = len(expected[row])
        torch.testing.assert_close(features[row, :count], torch.tensor(expected[row], dtype=torch.float64))
        assert features[row, count:].abs().sum() == 0


def test_seeds_are_not_told_of_vines_whose_place_says_how_they_go_on():
    features = value_features([tree_of_two()], horizon=4, gamma=1.0, foresees=True)
    assert features[0, :, 1].tolist() == [1.0] * 4 and features[0, :, 2].tolist() == [1.0] * 4  # the other seed
    told = value_features([tree_of_two()], horizon=4, gamma=1.0, foresees=False, vine_values=True)
    assert told[0, :, 1].tolist() == [1.0, 1.0, 0.5, 0.0]  # one turn later: at the state it is the target
    assert torch.equal(features[1:], told[1:])


def test_vines_give_the_value_of_their_rollout_state():
    tree = tree_of_two()
    values = with_vine_values([tree], torch.full((5, 4), 9.0, dtype=torch.float64), 1.0)
    assert values[0].tolist() == [9.0, 0.5, 0.0, 9.0] and (values[1:] == 9.0).all()
    discounted = with_vine_values([tree], torch.zeros(5, 4, dtype=torch.float64), 0.5)
    assert discounted[0].tolist() == [0.0, (0.4 + 0.2) / 2, 0.0, 0.0]


def test_two_groups_at_one_state_are_one_estimate_and_branches_within_an_answer_are_none():
    seed = trajectory(1.0)
    groups = [[trajectory(0.0, parent=seed)], [trajectory(1.0, parent=seed), trajectory(0.5, parent=seed)]]
    tree = Tree(0, (5,), [seed], [groups])
    assert with_vine_values([tree], torch.zeros(4, 1), 1.0)[0].tolist() == [0.5]
    within = Tree(0, (5,), [seed], [[[trajectory(0.3, parent=seed, branch_token=2)]]])
    assert with_vine_values([within], torch.zeros(2, 1), 1.0).abs().sum() == 0
    assert value_features([within], 1, 1.0, foresees=False)[0, 0].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("success", [0.2, 0.7])
def test_the_mean_of_siblings_is_no_bias(success):
    """All outcomes of three attempts at a one-action world, each with its probability: sum of grad log pi times
    (return - mean of siblings) is the gradient of the success; with the row's own return in the mean it is not."""
    gradient, own_in_it = 0.0, 0.0
    for outcomes in itertools.product([0, 1], repeat=3):
        probability = 1.0
        for outcome in outcomes:
            probability *= success if outcome else 1 - success
        tree = Tree(0, (5,), [trajectory(float(outcome)) for outcome in outcomes], [[]] * 3)
        siblings = value_features([tree], 1, 1.0)[:, 0, 1]
        for row, outcome in enumerate(outcomes):
            score = (outcome - success) / (success * (1 - success))  # d log pi / d success
            gradient += probability * score * (outcome - float(siblings[row]))
            own_in_it += probability * score * (outcome - sum(outcomes) / 3)
    assert abs(gradient - 3.0) < 1e-12 and abs(own_in_it - 2.0) < 1e-12


def gradient_with(rule, horizon=3, win=0.3, told=True):
    """Enumerated: E of the sum over a seed's actions of (d log pi) (return - baseline), the baseline being what the
    critic is told of vines, or their value. Action 1 wins and ends the episode; one vine, either way it may end."""
    choose, total = find_branching(rule).choose, 0.0
    foresees = find_branching(rule).foresees
    for length in range(1, horizon + 1):
        for won in [True] if length < horizon else [True, False]:
            probability = (1 - win) ** (length - 1) * (win if won else 1 - win)
            rewards = [0.0] * (length - 1) + [float(won)]
            for place in choose(SeedView(length, most_turns=horizon), 1):
                value = 1 - (1 - win) ** (horizon - place)
                for outcome, chance in ((1.0, value), (0.0, 1 - value)):
                    seed = trajectory(*rewards)
                    vine = trajectory(outcome, parent=seed, branch_turn=place)
                    tree = Tree(0, (5,), [seed], [[[vine]]])
                    if told:
                        numbers = value_features([tree], horizon, 1.0, foresees=foresees)[0, :, 1]
                    else:
                        numbers = with_vine_values([tree], torch.zeros(2, length, dtype=torch.float64), 1.0)[0]
                    for turn in range(length):
                        score = 1 / win if rewards[turn] else -1 / (1 - win)
                        total += probability * chance * score * (float(won) - float(numbers[turn]))
            if not choose(SeedView(length, most_turns=horizon), 1):
                total += probability * sum((1 / win if r else -1 / (1 - win)) * float(won) for r in rewards)
    return total


def test_what_vines_tell_biases_no_gradient():
    """Success is 1 - (1 - w)^H, its derivative H (1 - w)^(H - 1). Equally spaced vines say that the seed is short."""
    exact = 3 * 0.7**2
    for rule in ("start", "fixed", "equally_spaced"):
        assert gradient_with(rule) == pytest.approx(exact), f"{rule}: what the critic is told"
    for rule in ("start", "fixed"):
        assert gradient_with(rule, told=False) == pytest.approx(exact), f"{rule}: values of rollout states"
    assert abs(gradient_with("equally_spaced", told=False) - exact) > 0.1, "which is why it is refused"


def test_the_norm_of_the_critics_gradient_is_a_mean_over_the_steps_that_it_made():
    """One decision and eight minibatches: seven of them are empty, and no step."""
    ids, first = torch.tensor([[3, 4, 5]]), torch.tensor([[True, False]])
    features, hidden = torch.ones(1, NUM_FEATURES), torch.ones(1, 4)
    decisions = Decisions(ids, torch.ones_like(ids), first, features, hidden)
    one, eight = (
        Critic(4, NUM_FEATURES, width=8, passes=1, minibatches=count).learn(decisions, torch.tensor([2.0]), salt="0")
        for count in (1, 8)
    )
    assert one["grad_norm"] > 0 and one == eight
