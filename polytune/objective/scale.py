"""The scale of a population of advantages, and which groups carry a signal at all.

Set advantages (about .02 to .12) and GAE advantages differ in size, so each population is normalised on its own and
both scales are logged. Nothing is divided by what rounding left: a spread below :data:`SPREAD` of what the advantages
were worked out from counts as none.
"""

from dataclasses import replace

import torch

from polytune.objective.scores import GroupScores

#: share of the largest score of a group below which its advantages do not differ
SPREAD = 1e-6
MIN_STD = 1e-8


def centred_groups(advantages_P_N: torch.Tensor, scored_P_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(advantages less their group's mean, std of each group (P,)), both over the scored members; unscored ones get 0.

    The std is that of a sample (N - 1), 0 for fewer than two scored members.
    """
    count_P_1 = scored_P_N.sum(dim=1, keepdim=True)
    mean_P_1 = torch.where(scored_P_N, advantages_P_N, 0.0).sum(dim=1, keepdim=True) / count_P_1.clamp(min=1)
    centred_P_N = torch.where(scored_P_N, advantages_P_N - mean_P_1, 0.0)
    std_P_1 = ((centred_P_N**2).sum(dim=1, keepdim=True) / (count_P_1 - 1).clamp(min=1)).sqrt()
    return centred_P_N, std_P_1[:, 0]


def standardise_groups(scores: GroupScores) -> GroupScores:
    """Each group's advantages centred over its scored members and divided by their std, as GRPO does; 0 for all members
    of a group whose std is below 1e-6 of its largest score: such a group says nothing about its actions.

    Losses of `per_set` are divided by the same number, and where centring takes from a group they grow by it, so that
    both they and advantage + loss, what members gain, stay at least 0. Over all sets there is nothing to take.
    """
    centred_P_N, std_P = centred_groups(scores.advantages_P_N, scores.scored_P_N)
    signal_P_1 = group_signal(scores)[:, None]
    factor_P_1 = torch.where(signal_P_1, 1.0 / std_P[:, None], 0.0)
    losses_P_N = scores.losses_P_N
    if losses_P_N is not None:
        moved_P_N = torch.where(scores.scored_P_N, scores.advantages_P_N - centred_P_N, 0.0)  # the group's mean
        losses_P_N = (losses_P_N + moved_P_N.clamp(min=0.0)) * factor_P_1
    return replace(scores, advantages_P_N=centred_P_N * factor_P_1, losses_P_N=losses_P_N)


def group_signal(scores: GroupScores) -> torch.Tensor:
    """Bool (P,): True where the scored members' advantages differ (a std above 1e-6 of the group's largest score),
    False where the group teaches nothing about its actions.

    Between 10 and 80 % of groups tie in practice; their share belongs in the log. A constant that all members share,
    as `leave_one_out` gives a tied group, is no signal.
    """
    _, std_P = centred_groups(scores.advantages_P_N, scores.scored_P_N)
    return std_P > SPREAD * scores.scale_P
