"""What the Poly-PPO paper reports (arXiv 2509.25424): Table 1 and success with the start state in another room.

100 rollouts x 50 configurations x 3 seeds, episodes of 100 turns, policies that are a CNN with a GRU, or an MLP. Shares
in 0..1, no intervals (the paper gives none). Left out, for want of a number here: REINFORCE + UCB, PPO + UCB, and
perturbed success of Poly-PPO + UCB and of BossLevel; and BossLevel's mean return of the pretrained policy, .212 at a
success of .206, which rewards of at most 1 cannot give.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SOURCE = "arXiv 2509.25424, Table 1 and its perturbation table"

#: how reports write the methods, which are named by their YAML files; both ways of Poly-PPO are held against the
#: paper's figure: its published fields (vines from two equally spaced states, window 5), and ours
METHOD_TITLES = {
    "pretrained": "pretrained",
    "reinforce": "REINFORCE",
    "reinforce_ucb": "REINFORCE + UCB",
    "ppo": "PPO",
    "ppo_ucb": "PPO + UCB",
    "poly_ppo_equally_spaced": "Poly-PPO, published fields",
    "poly_ppo": "Poly-PPO, whole episodes",
    "poly_ppo_ucb": "Poly-PPO + UCB, whole episodes",
}
_POLICIES = ("pretrained", "reinforce", "ppo", "poly_ppo", "poly_ppo_ucb")


@dataclass(frozen=True)
class Published:
    """One environment's figures: policy -> share."""

    title: str
    mean_return: dict[str, float]
    success: dict[str, float]
    #: success under each perturbation
    perturbed: dict[str, dict[str, float]] = field(default_factory=dict)


def _row(*values: float | None) -> dict[str, float]:
    row = {name: value for name, value in zip(_POLICIES, values, strict=False) if value is not None}
    return row | {"poly_ppo_equally_spaced": row["poly_ppo"]}


PUBLISHED = {
    "babyai-goto": Published(
        "BabyAI GoTo",
        _row(0.246, 0.533, 0.406, 0.575, 0.561),
        _row(0.342, 0.730, 0.462, 0.802, 0.762),
        {"start_room": _row(0.302, 0.413, 0.211, 0.606)},
    ),
    "babyai-pickup": Published(
        "BabyAI Pickup",
        _row(0.141, 0.259, 0.283, 0.452, 0.486),
        _row(0.214, 0.398, 0.334, 0.632, 0.656),
        {"start_room": _row(0.152, 0.220, 0.125, 0.334)},
    ),
    "babyai-bosslevel": Published(
        "BabyAI BossLevel",
        _row(None, 0.266, 0.336, 0.378, 0.379),
        _row(0.206, 0.334, 0.388, 0.452, 0.468),
    ),
    "fourrooms": Published(
        "FourRooms",
        _row(0.469, 0.639, 0.618, 0.666, 0.667),
        _row(0.704, 0.896, 0.892, 0.924, 0.932),
        {"start_room": _row(0.650, 0.827, 0.153, 0.887)},
    ),
}
"""Task -> its figures."""
