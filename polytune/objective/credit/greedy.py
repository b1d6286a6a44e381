"""A_i = what i adds to its sets in greedy order: marginal gains (SubPO, arXiv 2307.13372).

    S_0 = nothing;  S_{k+1} = S_k and the member i of G that adds most (of equal ones the first);
    gain of i = f(S_{k+1}) - f(S_k)
averaged over the sets G that hold i, less the mean over the sets of f(G) / n. The greedy order is that in which a
monotone submodular f is within 1 - 1/e of its best. Members alike share out one gain: the first has it all.
Bias: i's gain depends on who else was drawn, and on its own place, so the expected update is no multiple of grad E[f]
(cosines of .84 to 1 on the bandits of test_credit_bias.py, N = 6, n = 3); `shapley` is its unbiased relative. Taken
away is the mean gain, so that advantages of a group's sets sum to 0. Degenerate cases: n = 1 is score minus mean; n = N
has one set and still a signal. n (n + 1) / 2 scores a set. A member in no drawn set is not scored.
"""

from collections.abc import Callable, Mapping, Sequence

import torch

from polytune.objective.credit.base import Credit, Members, ScoredSets


def of_sets(scored: ScoredSets) -> torch.Tensor:
    """Advantages (N,) from explicit sets."""
    num_sets, size = scored.members_S_n.shape
    left_S_n, sets_S = torch.ones(num_sets, size, dtype=torch.bool), torch.arange(num_sets)
    gains_S_n, chosen_S_k = torch.zeros(num_sets, size, dtype=torch.float64), scored.members_S_n[:, :0]
    before_S = torch.zeros(num_sets, dtype=torch.float64)
    for _ in range(size):
        candidates = [torch.cat([chosen_S_k, scored.members_S_n[:, [j]]], dim=1) for j in range(size)]
        scores_S_n = torch.stack([scored.score(members) for members in candidates], dim=1)
        best_S = scores_S_n.masked_fill(~left_S_n, -torch.inf).argmax(dim=1)
        gains_S_n[sets_S, best_S] = scores_S_n[sets_S, best_S] - before_S
        before_S, left_S_n[sets_S, best_S] = scores_S_n[sets_S, best_S], False
        chosen_S_k = torch.cat([chosen_S_k, scored.members_S_n[sets_S, best_S][:, None]], dim=1)
    return scored.member_mean(gains_S_n - gains_S_n.mean())


def reference(i: int, mine: Sequence[Members], scores: Mapping[Members, float], f: Callable) -> float:
    """Advantage of one member."""
    total = 0.0
    for members in mine:
        chosen: tuple[int, ...] = ()
        while i not in chosen:
            before = f(chosen) if chosen else 0.0
            chosen = (*chosen, max((j for j in members if j not in chosen), key=lambda j: f((*chosen, j))))
        total += f(chosen) - before
    return total / len(mine) - sum(scores.values()) / len(scores) / len(mine[0])


GREEDY = Credit(
    of_sets,
    centred=True,
    reference=reference,
    says="**greedy credit** (marginal gains, SubPO, arXiv 2307.13372): a member's advantage is what it adds to its "
    "sets in greedy order, less the mean gain",
)
