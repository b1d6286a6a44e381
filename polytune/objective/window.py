"""The polychromic window (Poly-PPO, arXiv 2509.25424): which of a vine's actions take the set advantage.

The first action and the next W; every other action takes GAE. W = 0 marks one action, W = None marks all.
"""

import torch

from polytune.objective.groups import integer


def polychromic_window(num_turns: int, window: int | None) -> torch.Tensor:
    """Bool (num_turns,), True inside the window. ValueError for a negative or non-integer argument.

    >>> polychromic_window(4, 1).tolist()
    [True, True, False, False]
    """
    turns = integer("num_turns", num_turns, minimum=0)
    last = turns if window is None else integer("window (or None for all turns)", window, minimum=0)
    return torch.arange(turns) <= last
