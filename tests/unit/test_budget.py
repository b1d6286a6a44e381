"""The environment-step budget: spent to within about a tree, whatever a tree takes."""

import random

import pytest

from polytune.trainer.budget import grow_to_budget

ROOM = 40


class World:
    """Trees of random size; remembers in what lots they were grown."""

    def __init__(self, mean, spread, seed=0):
        self.rng, self.mean, self.spread = random.Random(seed), mean, spread
        self.spent, self.lots = 0, []

    def grow(self, count):
        sizes = [max(1, round(self.rng.gauss(self.mean, self.spread))) for _ in range(count)]
        self.spent += sum(sizes)
        self.lots.append(count)
        return sum(sizes)


@pytest.mark.parametrize("known", [None, 80.0, 100.0, 130.0])
@pytest.mark.parametrize("seed", range(20))
def test_one_update_ends_near_its_budget(known, seed):
    """Within a tree; within four where the size that it starts from is a fifth too small."""
    world = World(100, 15, seed)
    assert grow_to_budget(ROOM, world.grow, 2000, known) == sum(world.lots)
    assert abs(world.spent - 2000) < (100 if known != 80.0 else 400)
    assert len(world.lots) <= 8


@pytest.mark.parametrize("seed", range(20))
def test_a_run_makes_up_for_its_updates_while_trees_shrink(seed):
    """Ten updates, trees from 300 steps down to 120: within half a per cent of the whole budget."""
    total, updates, spent, mean = 30_000, 10, 0, None
    for update in range(updates):
        world = World(300 - 20 * update, 40, seed * 100 + update)
        trees = grow_to_budget(ROOM, world.grow, total * (update + 1) / updates - spent, mean)
        spent, mean = spent + world.spent, world.spent / trees
    assert abs(spent / total - 1) < 0.01


def test_bounds():
    world = World(100, 0)
    assert grow_to_budget(ROOM, world.grow, 10**9, 100.0) == ROOM  # no more than there is room for
    assert grow_to_budget(ROOM, world.grow, -500, 100.0) == 1  # at least one, though the budget is overdrawn
    assert grow_to_budget(ROOM, world.grow, 50, None) == 1  # nothing is known, and a tree is already too much
    assert grow_to_budget(ROOM, world.grow, -500, 100.0, least=3) == 3  # and one for each process
    assert grow_to_budget(3, world.grow, 10**9, None, least=3) == 3
