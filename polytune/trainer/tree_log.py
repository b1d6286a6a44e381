"""``trees.jsonl``: a few of a run's trees as text, so that what the policy tried and was credited can be seen.

One tree of about :data:`LOGGED_UPDATES` updates, the first and the last among them, evenly spaced in between; where one
of an update's trees grew from a start state that an earlier line has, that one, otherwise the first. A line holds
``step`` (the optimiser steps at the end of the update, as in ``metrics.jsonl``), ``update``, ``env_steps``,
``start_state`` and ``seeds``; a trajectory holds its actions as the world got them, its outcome, signature and
``advantage``, that of its first own action as it was trained on (scaled, with an exploration bonus if there is one;
``null``: never scored) and whether a set gave it (``by_set``). Returns are not discounted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from polytune.policy import Renderer
from polytune.rollout import Trajectory, Tree, signature_as_json
from polytune.trainer.advantages import TurnAdvantages
from polytune.trainer.callbacks import keep_until

TREES_FILE = "trees.jsonl"
LOGGED_UPDATES = 10


class TreeLog(TrainerCallback):
    """An observer of the trainer's trees (``on_trees``), and a callback: a resumed run drops what it grows again.

    Args:
        path: of ``trees.jsonl``; only the main process writes it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._known: list[int] = []

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            self._known = [line["start_state"] for line in keep_until(self.path, state.global_step)]

    def __call__(self, trainer, trees: Sequence[Tree], turns: TurnAdvantages) -> None:
        args, state = trainer.args, trainer.state
        update = state.global_step // args.steps_per_update + 1
        if not state.is_world_process_zero or not is_due(update, args.num_updates):
            return
        whole = [i for i, tree in enumerate(trees) if tree.root is None]  # an episode is shown from its start
        if not whole:
            return
        index = next((i for i in whole if trees[i].start_state in self._known), whole[0])
        first_row = sum(len(list(tree.trajectories())) for tree in trees[:index])
        line = {
            "step": state.global_step + args.steps_per_update,
            "update": update,
            "env_steps": trainer.env_steps,
            "start_state": trees[index].start_state,
            "seeds": tree_as_json(trees[index], trainer.renderer, turns, first_row),
        }
        self._known.append(trees[index].start_state)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def is_due(update: int, updates: int) -> bool:
    """Whether a tree of this update (1..``updates``) is kept."""
    return update in (1, updates) or update % math.ceil(updates / LOGGED_UPDATES) == 0


def tree_as_json(tree: Tree, renderer: Renderer, turns: TurnAdvantages, first_row: int) -> list[dict[str, Any]]:
    """The seed trajectories of a tree, each with its rollout states and their vines.

    Args:
        turns: advantages of all rows; ``first_row``: that of the tree's first trajectory.
    """
    rows = {id(trajectory): first_row + i for i, trajectory in enumerate(tree.trajectories())}

    def plain(trajectory: Trajectory) -> dict[str, Any]:
        row = rows[id(trajectory)]
        by_set, by_critic = bool(turns.set_mask_B_T[row, 0]), bool(turns.gae_mask_B_T[row, 0])
        return {
            "actions": [renderer.action_text(turn.whole_ids) for turn in trajectory.turns],
            "success": trajectory.success,
            "return": trajectory.discounted_return(),
            "signature": signature_as_json(trajectory.signature),
            "advantage": round(float(turns.advantages_B_T[row, 0]), 5) if by_set or by_critic else None,
            "by_set": by_set,
        }

    found = []
    for seed, groups in zip(tree.seeds, tree.vines, strict=True):
        states = [
            {"turn": group[0].branch_turn, "token": group[0].branch_token, "vines": [plain(vine) for vine in group]}
            for group in groups
        ]
        found.append({**plain(seed), "states": states})
    return found
