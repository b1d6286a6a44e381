"""f(G) = mean reward of G + diversity_coef * d(G): the bonus that the polychromic product is compared with.

Assumes that a diverse set is worth something even when it fails: without any reward, d alone is reinforced, which the
product never does. Public replications of arXiv 2509.25424 report no gain at diversity_coef 0.5, the default here.
Closed form: the sum of `mean`'s and of E[d | i in G], which is `polychromic`'s with every reward set to 1.
Degenerate cases: diversity_coef 0 or a constant d is `mean`.
"""

import torch

from polytune.objective.diversity.base import CountForm
from polytune.objective.groups import Groups
from polytune.objective.set_objectives import mean, polychromic
from polytune.objective.set_objectives.base import Measure, Members, Objective, mean_reward, signatures_of
from polytune.objective.sets import Sets


def score(sets: Sets) -> torch.Tensor:
    """f of each set, (S,)."""
    return sets.rewards_S_n.mean(dim=1) + sets.diversity_coef * sets.diversity_S


def given_member(groups: Groups, set_size: int, form: CountForm, diversity_coef: float) -> torch.Tensor:
    """E[f(G) | i in G] over all sets G of `set_size` members, float64 (P, N)."""
    diversity_P_N = polychromic.diversity_given_member(groups, set_size, form)
    return mean.given_member(groups, set_size, form, diversity_coef) + diversity_coef * diversity_P_N


def reference(members: Members, d: Measure, diversity_coef: float) -> float:
    """f of one set."""
    return mean_reward(members) + diversity_coef * d(signatures_of(members))


ADDITIVE = Objective(
    score,
    given_member,
    reads_coef=True,
    reference=reference,
    says="the **additive bonus** f(G) = mean reward of G + {diversity_coef:g} d(G)",
)
