"""A checkpoint on a tiny world, exactly: the action probabilities that it has in each state, without sampling."""

from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedModel

from polytune.policy import Renderer
from polytune.tasks.tabular.exact import World


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
