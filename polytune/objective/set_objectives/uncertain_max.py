"""f(G) = E[highest reward in G], where the reward of a kind is real with probability q = `diversity_coef`, else 0.

A set is judged by its best member under a reward that is not known for sure (arXiv 2606.03962: a distribution over
reward functions, and the maximum over a set). Of the distribution the paper leaves open, this is the simplest that
knows kinds: all members of one signature are right, or wrong, together, other signatures independently. With b_(1) >=
b_(2) >= ... the best reward of each signature that succeeds in G,
    f(G) = sum_j b_(j) q (1 - q)^(j-1)      and with rewards in {0, 1}, m signatures that win, 1 - (1 - q)^m.
q 1 is `max_at_k`; as q falls to 0, f / q becomes the sum of `qd_score`, or, of rewards in {0, 1}, `coverage`. A failure
adds nothing however new it is, and neither does a second success of a kind. Assumes that a reward above 0 is success; a
signature of None adds nothing. No closed form: all sets are enumerated, or some drawn (`num_sets`). d is not read.
"""

import itertools
import math

import torch

from polytune.objective.set_objectives.base import Measure, Members, Objective
from polytune.objective.set_objectives.qd_score import best_by_signature, best_of_kinds
from polytune.objective.sets import Sets


def score(sets: Sets) -> torch.Tensor:
    """f of each set, (S,)."""
    q, best_S_n = sets.diversity_coef, best_of_kinds(sets).sort(dim=1, descending=True).values
    if not 0 < q <= 1:
        raise ValueError(f"diversity_coef is {q:g}, the probability that a kind's reward is real: choose one in (0, 1]")
    return (best_S_n * q * (1 - q) ** torch.arange(best_S_n.shape[1])).sum(dim=1)


def reference(members: Members, d: Measure, diversity_coef: float) -> float:
    """f of one set, by going through which kinds are real."""
    best = list(best_by_signature(members).values())
    total = 0.0
    for real in itertools.product((True, False), repeat=len(best)):
        chance = math.prod(diversity_coef if own else 1 - diversity_coef for own in real)
        total += chance * max([reward for reward, own in zip(best, real, strict=True) if own], default=0.0)
    return total


UNCERTAIN_MAX = Objective(
    score,
    reads_diversity=False,
    reads_coef=True,
    wins_above_0=True,
    reference=reference,
    says="**the best member under an uncertain reward** (arXiv 2606.03962): f(G) = expected highest reward in G where "
    "that of a signature is real with probability {diversity_coef:g}",
)
