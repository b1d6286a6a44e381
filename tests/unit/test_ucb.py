"""The exploration bonus: coef * min(1, N(s, a)^-1/2), counted over observation and action."""

import pytest
import torch

from polytune.methods.ucb import UCB, visits
from polytune.rollout import Trajectory, Tree, Turn
from polytune.trainer.hooks import METHODS_FILE, load_methods, save_methods


def turn(action, feedback=()):
    return Turn((action,), (0.0,), 0.0, tuple(feedback))


def test_a_visit_is_an_observation_and_an_action():
    seed = Trajectory(turns=[turn(1, [50, 51]), turn(2, [60]), turn(1)])
    vine = Trajectory(parent=seed, branch_turn=1, turns=[turn(2, [60]), turn(9)])
    fresh = Trajectory(parent=seed, branch_turn=0, turns=[turn(1)])
    tree = Tree(start_state=0, prompt_ids=(7, 8), seeds=[seed], vines=[[[vine], [fresh]]])
    seed_keys, vine_keys = visits(tree, seed), visits(tree, vine)
    assert vine_keys[0] == seed_keys[1]  # the same action after the same observation
    assert vine_keys[1] != seed_keys[2]
    assert visits(tree, fresh) == seed_keys[:1]
    assert len({*seed_keys, *vine_keys}) == 4
    other = Tree(start_state=1, prompt_ids=(7,), seeds=[Trajectory(turns=[turn(8)])], vines=[[]])
    assert visits(other, other.seeds[0])[0] not in seed_keys  # (7) 8 is not (7, 8)


def test_bonus_by_hand():
    counts = UCB()
    assert counts.bonus([[b"a" * 16, b"b" * 16], [b"a" * 16]], 3).tolist() == [[1, 1, 0], [1, 0, 0]]  # never tried
    counts.add([b"a" * 16] * 4 + [b"b" * 16])
    assert counts.bonus([[b"a" * 16, b"b" * 16, b"c" * 16]], 3).tolist() == [[0.5, 1.0, 1.0]]
    counts.add([b"a" * 16] * 5)
    torch.testing.assert_close(counts.bonus([[b"a" * 16]], 1), torch.tensor([[1 / 3]], dtype=torch.float64))


def test_counts_survive_a_checkpoint(tmp_path):
    counts = UCB()
    counts.add([b"\x00" * 16, b"\x00" * 16, bytes(range(16))])
    save_methods(tmp_path, {"ucb": counts})
    again = UCB()
    load_methods(tmp_path, {"ucb": again})
    keys = [[b"\x00" * 16, bytes(range(16)), b"z" * 16]]
    assert torch.equal(again.bonus(keys, 3), counts.bonus(keys, 3)) and len(again.counts) == 2
    save_methods(tmp_path, {"ucb": UCB()})  # nothing was visited yet
    load_methods(tmp_path, {"ucb": again})
    assert len(again.counts) == 0
    (tmp_path / METHODS_FILE).unlink()
    with pytest.raises(ValueError, match="holds nothing of method 'ucb', which wants counts, keys"):
        load_methods(tmp_path, {"ucb": again})
