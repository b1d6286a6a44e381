"""A checkpoint on a tiny world, exactly: the action probabilities that it has in each state, without sampling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from transformers import PreTrainedModel

from polytune.pictures.plot import COLOURS, MARKERS, bar_style
from polytune.policy import Renderer
from polytune.tasks.tabular.exact import World, distinct_wins


def action_logprobs(model: PreTrainedModel, renderer: Renderer, world: World, *, seed: int = 0) -> torch.Tensor:
    """log pi(a | s) of each state and action of `world`, the last column `JUNK`: (S, A) as in `exact.py`, float64.

    Differentiable, so a gradient G = dE/d logits of `exact.py` goes on to the weights as that of (G * logprobs).sum().
    Raises ValueError if an action is not one token (then its probability is no single number).
    """
    codes = [renderer.action_ids(action) for action in world.actions]
    if any(len(code) != 1 for code in codes):
        raise ValueError(f"actions must be one token each, got {dict(zip(world.actions, codes, strict=True))}")
    action_A, rows = torch.tensor([code[0] for code in codes], device=model.device), []
    for history in world.states:
        episode = renderer.task.start(seed)
        ids = list(renderer.prompt_ids(episode.observation()))
        for action in history:
            episode.step(action)
            ids += [*renderer.action_ids(action), *renderer.feedback_ids(episode.observation())]
        logits_V = model(torch.tensor([ids], device=model.device)).logits[0, -1].double()
        junk_V = torch.ones_like(logits_V, dtype=torch.bool).index_fill(0, action_A, False)
        logits_A = torch.cat([logits_V[action_A], logits_V[junk_V].logsumexp(dim=0, keepdim=True)])
        rows.append(torch.log_softmax(logits_A, dim=0))
    return torch.stack(rows)


@torch.no_grad()
def action_table(model: PreTrainedModel, renderer: Renderer, world: World, *, seed: int = 0) -> np.ndarray:
    """pi(a | s) of each state and action of `world`, (S, A), for `exact.py`."""
    return action_logprobs(model, renderer, world, seed=seed).exp().cpu().numpy()


def plot_arms(world: World, tables: Mapping[str, np.ndarray], path: str | Path, *, title: str) -> None:
    """One group of bars an arm, one bar a policy; beside it how many winning arms k pulls find. Writes a PNG."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    bars, found = figure.subplots(1, 2, width_ratios=(3, 2))
    width, ks = 0.8 / len(tables), range(1, len(world.actions) + 1)
    winning = sum(outcome.success for outcome in world.outcomes)
    for index, (name, table_S_A) in enumerate(tables.items()):
        colour = COLOURS[index % len(COLOURS)]
        places = np.arange(len(world.actions) + 1) + width * (index - (len(tables) - 1) / 2)
        bars.bar(places, table_S_A[0], width * 0.92, **bar_style(index), label=name)
        wins = [distinct_wins(world, table_S_A, k) for k in ks]
        found.plot(ks, wins, f"{MARKERS[index % len(MARKERS)]}-", color=colour, markersize=4.5, clip_on=False)
    bars.axhline(1 / winning, color="black", linewidth=0.8, linestyle=":")
    bars.text(len(world.actions) + 0.45, 1 / winning, f"1/{winning}", va="bottom", ha="right")
    wins = {outcome.actions[0] for outcome in world.outcomes if outcome.success}
    labels = [f"{arm}\nwins" if arm in wins else f"{arm}\nfails" for arm in world.actions]
    bars.set_xticks(range(len(world.actions) + 1), [*labels, "no arm\nfails"])
    bars.set(ylabel="probability", ylim=(0, 1))
    bars.set_title("What is pulled")
    found.set(xlabel="pulls k", ylabel="expected number of different ones", ylim=(0, winning), xlim=(1, len(ks)))
    found.set_title("Winning arms that k pulls find")
    for axes in (bars, found):
        axes.grid(alpha=0.25, axis="y")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=len(tables))
    figure.suptitle(title)
    figure.savefig(path, dpi=130)
