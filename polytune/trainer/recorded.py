"""Episodes that are saved beside the weights with their logprobs, so that an export can prove what it ships.

A run remembers a few whole episodes of its last update (token ids, process 0). Whenever it saves its policy it scores
them with the weights that it saves, through its own model: adapter unmerged, its dtype, its temperature. An exporter
scores the same tokens in a fresh process; see ``polytune/export/proof.py``. Beside the digests of the weights stand
those of the base that an adapter was trained on, where that is a folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from polytune.digests import file_digest
from polytune.policy.loading import CheckpointError, adapter_base, weight_files
from polytune.rollout import Tree, trajectory_row
from polytune.running.provenance import RECORDED_FILE, write_json

#: whole episodes that are kept: enough to touch most weights, cheap to score at every save
RECORDED_EPISODES = 4


def choose(trees: list[Tree], count: int = RECORDED_EPISODES) -> list[dict[str, Any]]:
    """Up to ``count`` seed trajectories, one of each tree before a second one of any, those from start states before
    those from roots; ``own_C`` marks the policy's tokens among those of the completion."""
    trees = sorted(trees, key=lambda tree: tree.root is not None)
    rounds = max((len(tree.seeds) for tree in trees), default=0)
    pairs = [(tree, tree.seeds[r]) for r in range(rounds) for tree in trees if r < len(tree.seeds)]
    chosen = []
    for tree, seed in pairs[:count]:
        row = trajectory_row(tree.prompt_ids, seed)
        chosen.append({"start_state": tree.start_state, "prompt_ids": row.prompt_ids,
                       "completion_ids": row.completion_ids, "own_C": row.own})  # fmt: skip
    return chosen


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the weights' files in a folder, by name."""
    return {path.name: file_digest(path) for path in weight_files(folder)}


class RecordsEpisodes:
    """Mixin before a TRL trainer: the only change is one more file, ``recorded_episodes.json``, wherever it saves."""

    _recorded: list[dict[str, Any]] | None = None
    _base_digests: dict[str, str] | None = None

    def _record_episodes(self, trees: list[Tree]) -> None:
        """Remember episodes of an update."""
        if self.is_world_process_zero():
            self._recorded = choose(trees)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The parent's, and the episodes beside the weights."""
        super().save_model(output_dir, _internal_call)
        with self._whole_weights():  # every process gathers, one scores
            if self._recorded:
                self._write_recorded(Path(output_dir or self.args.output_dir))

    def _write_recorded(self, folder: Path) -> None:
        model = self.accelerator.unwrap_model(self.model)
        training = model.training
        model.eval()
        episodes = [{**episode, "logprobs": self._logprobs(model, episode)} for episode in self._recorded]
        model.train(training)
        mixed = self.accelerator.mixed_precision
        content = {
            "step": self.state.global_step,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "autocast": {"bf16": "bfloat16", "fp16": "float16"}.get(mixed),
            "temperature": self.args.temperature,
            "weights": digests(folder),
            "episodes": episodes,
        }
        try:
            base = adapter_base(folder)
        except CheckpointError:  # the base was built in this process, and has no name
            base = None
        if base is not None and Path(base).is_dir():
            if self._base_digests is None:  # the base stands still
                self._base_digests = digests(Path(base))
            content["base_weights"] = self._base_digests
        write_json(folder / RECORDED_FILE, content)

    def _logprobs(self, model: torch.nn.Module, episode: dict[str, Any]) -> list[float]:
        """Of the policy's own tokens, by TRL's pass over a row: no critic, no gradients, no random numbers."""
        ids_1_L = torch.tensor([episode["prompt_ids"] + episode["completion_ids"]], device=self.accelerator.device)
        width = len(episode["completion_ids"])
        with torch.no_grad():
            logprobs_1_C, _, _ = super()._get_per_token_logps_and_entropies(
                model, ids_1_L, torch.ones_like(ids_1_L), width
            )
        own_C = torch.tensor(episode["own_C"], dtype=torch.bool)
        return logprobs_1_C[0].float().cpu()[own_C].tolist()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Also the episodes: a run that is resumed at its very end saves its policy without another update."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and (Path(checkpoint) / RECORDED_FILE).is_file():
            if self.is_world_process_zero():
                self._recorded = remembered(Path(checkpoint))


def remembered(folder: Path) -> list[dict[str, Any]]:
    """The episodes of a checkpoint without their logprobs."""
    episodes = json.loads((folder / RECORDED_FILE).read_text())["episodes"]
    return [{name: value for name, value in episode.items() if name != "logprobs"} for episode in episodes]
