"""f(G) = mean reward of G * d(G) where the mean reaches a floor, `diversity_coef`; below it, mean reward / n.

The polychromic product pays for failures that differ: of four members, two equal successes beside two new ways to fail
score .375, four equal successes .25. Here a set that earns less than the floor scores as if its members were all alike,
so new failures pay only beside enough successes: with a floor of .75, two of four fall to .125. Floor 0 is
`polychromic`; floor 1, with rewards in {0, 1}, pays for diversity among sets of winners alone. Assumes rewards in
[0, 1]; negative ones are refused. No closed form: all sets are enumerated, or some drawn (`num_sets`).
"""

import torch

from polytune.objective.set_objectives.base import Measure, Members, Objective, mean_reward, signatures_of
from polytune.objective.sets import Sets

#: a mean of rewards reaches the floor in spite of rounding
ROUNDING = 1e-9


def score(sets: Sets) -> torch.Tensor:
    """f of each set, (S,)."""
    floor, means_S = sets.diversity_coef, sets.rewards_S_n.mean(dim=1)
    if not 0 <= floor <= 1:
        raise ValueError(
            f"diversity_coef is {floor:g}, the mean reward from which diversity counts: choose one in [0, 1]"
        )
    alike = 1 / sets.rewards_S_n.shape[1]
    return means_S * torch.where(means_S >= floor - ROUNDING, sets.diversity_S, alike)


def reference(members: Members, d: Measure, diversity_coef: float) -> float:
    """f of one set."""
    mean = mean_reward(members)
    return mean * (d(signatures_of(members)) if mean >= diversity_coef - ROUNDING else 1 / len(members))


FLOORED = Objective(
    score,
    reads_coef=True,
    takes_negative=False,
    reference=reference,
    says="the **polychromic objective above a floor**: f(G) = mean reward of G x d(G) where that mean is "
    "{diversity_coef:g} or more, else mean reward / n",
)
