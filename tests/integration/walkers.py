"""Policies without training: random walkers on FourRooms, which reach a goal that is near now and then."""

from pathlib import Path

import torch

from polytune.policy import build_tiny
from polytune.policy.rendering import PROMPT_WORD
from polytune.tasks import load_task

ROOT = Path(__file__).resolve().parents[2]


def save_walker(folder: Path, seed: int, forward: float, task: str = "fourrooms") -> Path:
    """A tiny policy of random weights that nearly always says an action; ``forward`` raises the logit of that one."""
    task = load_task(task)
    model, tokenizer = build_tiny("tiny", [PROMPT_WORD, *task.vocabulary()], seed=seed)
    with torch.no_grad():
        model.model.embed_tokens.weight += 1.0  # a direction that all hidden states share
        for action in task.actions:
            bonus = 0.1 + (forward if action == "forward" else 0.0)
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(action)] += bonus
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
