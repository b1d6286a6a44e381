"""An exact budget of environment steps: trees are grown as long as they fit, so that methods can be compared.

How many steps a tree takes changes as the policy learns, so a fixed number of trees per update spends another budget
with every method and seed. Here ``max_env_steps`` is spread evenly over the updates. Each update grows nine tenths of
the trees that should fit, at the mean size seen so far, then the same of what is left, until less than half a tree is
left; the first update feels its way from a single tree. The rows of trees that were not grown stay
blank: nothing is trained on them, and the number of gradient steps is what it would have been. What an update spends
too much or too little, the next ones make up for. A run ends within about a tree of its budget for each process, or a
tenth of an update where trees grow from one update to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from polytune.rollout import Start, Tree

#: share of the trees that should fit which is grown at a time
SHARE = 0.9


def grow_to_budget(
    starts: Sequence[Start],
    grow: Callable[[Sequence[Start]], tuple[list[Tree], int]],
    budget: float,
    steps_per_tree: float | None,
) -> list[Tree]:
    """Trees of the first so many start states, at least one.

    Args:
        grow: start states -> their trees and the environment steps these took.
        budget: environment steps left for this update, possibly none.
        steps_per_tree: mean of the update before; None before the first one.
    """
    trees: list[Tree] = []
    spent, mean = 0, steps_per_tree
    while len(trees) < len(starts):
        left = budget - spent
        if trees and left < mean / 2:
            break
        count = 1 if mean is None else max(1, int(SHARE * left / mean))
        if steps_per_tree is None and trees:
            count = min(count, 3 * len(trees))  # a mean over few trees is a rough guess
        grown, steps = grow(starts[len(trees) : len(trees) + count])
        trees += grown
        spent += steps
        mean = spent / len(trees)
    return trees
