"""An exact budget of environment steps: trees are grown as long as they fit, so that methods can be compared.

How many steps a tree takes changes as the policy learns, so a fixed number of trees per update spends another budget
with every method and seed. Here ``max_env_steps`` is spread evenly over the updates. Each update grows nine tenths of
the trees that should fit, at the mean size seen so far, then the same of what is left, until less than half a tree is
left; the first update feels its way from a single tree for each process. All processes count together: they grow the
same round, and its steps are added up before the next one. The rows of trees that were not grown stay blank: nothing is
trained on them, and the number of gradient steps is what it would have been. What an update spends too much or too
little, the next ones make up for. A run ends within about a tree of its budget, or a tenth of an update where trees
grow from one update to the next.
"""

from __future__ import annotations

from collections.abc import Callable

#: share of the trees that should fit which is grown at a time
SHARE = 0.9


def grow_to_budget(
    room: int, grow: Callable[[int], float], budget: float, steps_per_tree: float | None, *, least: int = 1
) -> int:
    """Grow trees as long as they fit, ``least`` of them in any case. Returns how many were grown.

    Args:
        room: trees that the update has room for, at least ``least``.
        grow: grows the next so many trees and returns the environment steps that they took.
        budget: environment steps left for this update, possibly none.
        steps_per_tree: mean of the update before; None before the first one.
        least: processes, each of which needs a tree.
    """
    trees, spent, mean = 0, 0.0, steps_per_tree
    while trees < room:
        left = budget - spent
        if trees and left < mean / 2:
            break
        count = 1 if mean is None else int(SHARE * left / mean)
        if steps_per_tree is None and trees:
            count = min(count, 3 * trees)  # a mean over few trees is a rough guess
        count = min(max(count, 1 if trees else least), room - trees)
        spent += grow(count)
        trees += count
        mean = spent / trees
    return trees
