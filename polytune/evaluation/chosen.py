"""Best of n by unlikeness: pass@k of k attempts that a chooser takes of n, beside that of k drawn at random.

Each attempt's record has a vector: the mean of the policy's last hidden states over the tokens that it said, projected
to WIDTH numbers (``--coreset``). The chooser is ``polytune.measures.coreset``; that of random ones is the unbiased
estimate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from polytune.evaluation.columns import Records
from polytune.evaluation.records import Attempt
from polytune.evaluation.summary import as_interval
from polytune.measures.coreset import coreset
from polytune.measures.intervals import mean_interval, paired_difference_interval
from polytune.measures.passk import coverage_ks, pass_at_k
from polytune.methods.rep_exp import project
from polytune.policy.rendering import Renderer
from polytune.rollout import Trajectory, trajectory_row
from polytune.tasks.base import Task

#: numbers of an attempt's vector
WIDTH = 32


def attempt_vectors(
    model, task: Task, renderer: Renderer, cohort: Sequence[Attempt], trajectories: Sequence[Trajectory]
) -> list[list[float]]:
    """One pass over each attempt, in its order."""
    device, found = next(model.parameters()).device, []
    for attempt, trajectory in zip(cohort, trajectories, strict=True):
        row = trajectory_row(renderer.prompt_ids(task.start(attempt.start_seed).observation()), trajectory)
        ids_1_L = torch.tensor([[*row.prompt_ids, *row.completion_ids]], device=device)
        own_L = torch.tensor([False] * len(row.prompt_ids) + [bool(own) for own in row.own], device=device)
        with torch.no_grad():
            hidden_L_H = model.base_model(input_ids=ids_1_L).last_hidden_state[0]
        mean_1_H = hidden_L_H[own_L].double().mean(dim=0, keepdim=True).cpu()
        found.append([round(number, 4) for number in project(mean_1_H, WIDTH, 0)[0].tolist()])
    return found


def has_vectors(records: Records) -> bool:
    """Whether all sampled attempts can be chosen from."""
    return bool(records.where(greedy=False).column("has vector").all())


def summarise_chosen(
    records: Records, policies: Sequence[str], *, ks: Sequence[int], level: float, seed: int
) -> dict[str, dict[int, dict[str, dict[str, float]]]]:
    """Policy -> k -> {"chosen", "random", "difference"}, each with an interval over start states."""
    summary: dict[str, dict[int, dict[str, dict[str, float]]]] = {}
    for policy in policies:
        attempts = list(records.where(policy=policy, greedy=False).by_start().values())
        most = min(map(len, attempts))
        orders = [coreset(np.array([record["vector"] for record in own]), most) for own in attempts]
        wins = [own.column("success").astype(bool).tolist() for own in attempts]
        summary[policy] = {}
        for k in (k for k in (ks or coverage_ks(most)) if k < most):
            chosen = [float(any(won[i] for i in order[:k])) for won, order in zip(wins, orders, strict=True)]
            random = [pass_at_k(len(won), sum(won), k) for won in wins]
            told = (mean_interval(chosen, level, seed=seed), mean_interval(random, level, seed=seed),
                    paired_difference_interval(random, chosen, level, seed))  # fmt: skip
            summary[policy][k] = {
                name: as_interval(tuple(map(float, values)))
                for name, values in zip(("chosen", "random", "difference"), told, strict=True)
            }
    return summary


def chosen_table(summary: Mapping[str, Mapping[int, Mapping[str, Mapping[str, float]]]]) -> str:
    """In words, a line for each policy and k."""
    lines = ["pass@k of k attempts chosen for being unlike (leverage), and of k at random:"]
    for policy, of_k in summary.items():
        for k, told in of_k.items():
            gain = told["difference"]
            lines.append(
                f"{policy}, k = {k}: {told['chosen']['estimate']:.3f} chosen, {told['random']['estimate']:.3f} random, "
                f"difference {gain['estimate']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
            )
    return "\n".join(lines)
