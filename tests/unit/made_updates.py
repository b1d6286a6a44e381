"""Updates and trees made by hand, for the tests of methods."""

import torch

from polytune.methods import Beginning, Update
from polytune.rollout import Row, Start, Trajectory, Tree, Turn


def tree(state, wins, attempts=4, signatures=None):
    names = signatures or range(attempts)
    seeds = [
        Trajectory(turns=[Turn((7, i), (-0.5, -0.5), float(i < wins))], stop_reason="success" if i < wins else
        "failure",
                   signature=name)
        for i, name in zip(range(attempts), names, strict=True)
    ]  # fmt: skip
    return Tree(state, (state,), seeds, [[] for _ in seeds])


def update_of(*trees):
    empty, told = torch.zeros(0, 0), {}
    return Update(seed=0, trees=list(trees), turns_mask_B_T=empty, turn_index_B_C=empty, logprobs_B_C=empty,
                  record=told.__setitem__), told  # fmt: skip


def due(*states, attempt=0, num_seeds=4):
    return [Start(state, attempt, None, num_seeds) for state in states]


def episodes_update(*episodes, success=None):
    """One group; an episode is a list of (tokens of the action, reward, text that follows)."""
    success = success or [False] * len(episodes)
    seeds = [
        Trajectory(
            turns=[Turn((1,) * n, (0.0,) * n, reward, tuple(map(ord, text))) for n, reward, text in told],
            stop_reason="success" if win else "no",
        )
        for told, win in zip(episodes, success, strict=True)
    ]  # fmt: skip
    most, told = max(map(len, episodes)), {}
    mask = torch.tensor([[t < len(own) for t in range(most)] for own in episodes])
    return Update(
        seed=0, trees=[Tree(0, tuple(map(ord, "start")), seeds, [[] for _ in seeds])], turns_mask_B_T=mask,
        turn_index_B_C=mask.long() - 1, logprobs_B_C=mask.float(), groups_G_N=[list(range(len(seeds)))],
        scored_B_T=mask, record=told.__setitem__, text=lambda ids: "".join(map(chr, ids)),
    ), told  # fmt: skip


def beginning(states, solved=lambda state: True):
    def demonstrate(state):
        return Row([state], [5, 6], [1, 1], [0.0, 0.0], [0, 0]) if solved(state) else None

    return Beginning(tuple(states), lambda starts: [], demonstrate)
