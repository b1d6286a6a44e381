"""Trackers of a training run: what TRL reports scalars to gets figures as well, of the trees of an update.

vines: the first tree of the update over its map (grid tasks). coverage: pass@k of the update's independent samples of
each start state, whole episodes only: seed trajectories, and vines where the rule is to branch at the start state.
Vines from mid-episode share a prefix, and where others happen to begin depends on the seed trajectory: left out.

Drawing uses matplotlib's Figure and replays episodes; it touches no random state of the run.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from matplotlib.figure import Figure
from PIL import Image
from transformers.integrations import get_available_reporting_integrations

from polytune.checks import require
from polytune.evaluation.summary import counted
from polytune.measures.passk import coverage_ks, pass_at_k_interval
from polytune.pictures.plot import COLOURS, MARKERS, as_label
from polytune.pictures.vine_plot import vine_figure
from polytune.rollout import Tree, find_branching
from polytune.running.provenance import write_json
from polytune.tasks.game import map_of
from polytune.trainer.polychromic import PolychromicTrainer

#: trackers that get figures, too
TRACKERS = ("tensorboard", "trackio", "wandb")
#: the first coverage of a run, which later ones are drawn beside
FIRST_FILE = "coverage_first.json"
LEVEL, DPI = 0.95, 90


def check_trackers(report_to: Sequence[str]) -> None:
    """Refuse a tracker that is unknown or not installed. Raises ValueError."""
    available = get_available_reporting_integrations()
    for name in report_to:
        require(
            name in available,
            f"report_to is {name!r}, which is not installed or no tracker of transformers'; pip install "
            f"'polytune[trackers]' brings {', '.join(TRACKERS)}; found here: {', '.join(available) or 'none'}.",
        )


def tensorboard_folder(output_dir: str) -> Path:
    """Where TensorBoard's events go: TENSORBOARD_LOGGING_DIR, or a folder of the run's own."""
    return Path(os.environ.get("TENSORBOARD_LOGGING_DIR") or Path(output_dir) / "tensorboard").expanduser()


def start_trackers(trainer: PolychromicTrainer, checkpoint: Path | None) -> None:
    """Make the run's trackers ready for a sitting that begins at ``checkpoint``, and give them figures.

    TensorBoard: one folder for all sittings; what a killed one wrote beyond the checkpoint is purged. Trackio: one run
    for all sittings, by its name; its points beyond the checkpoint stay, and come twice. W&B: a sitting is a run.
    """
    args, figures = trainer.args, Figures(trainer)
    if "trackio" in args.report_to and args.run_name is None:
        args.run_name = args.output_dir.strip("/").replace("/", "-")  # a path would lead its images elsewhere
    if "tensorboard" in args.report_to and trainer.is_world_process_zero():
        from torch.utils.tensorboard import SummaryWriter

        step = 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
        folder = tensorboard_folder(args.output_dir)
        figures.callback("TensorBoardCallback").tb_writer = SummaryWriter(str(folder), purge_step=step + 1)
        print(f"tensorboard --logdir {folder}", flush=True)
    if args.figure_updates and any(name in TRACKERS for name in args.report_to):
        trainer.on_trees.append(figures)


class Figures:
    """Observer of a trainer's trees: draws every ``figure_updates`` updates, and logs to the trackers that can show."""

    def __init__(self, trainer: PolychromicTrainer):
        self.callbacks = trainer.callback_handler.callbacks

    def callback(self, name: str) -> Any:
        """transformers' callback of a tracker, None when the run has none such."""
        return next((callback for callback in self.callbacks if type(callback).__name__ == name), None)

    def __call__(self, trainer: PolychromicTrainer, trees: list[Tree], turns: object) -> None:
        args, trees = trainer.args, [tree for tree in trees if tree.root is None]
        update = trainer.state.global_step // args.steps_per_update + 1
        if update not in (1, args.num_updates) and update % args.figure_updates:
            return
        counts = gather_object(
            start_counts(trees, with_vines=find_branching(trainer.rollout.rollout_states).whole_episodes)
        )
        if not trainer.is_world_process_zero():
            return
        figures = {}
        if trees and map_of(trainer.task.start(trees[0].start_state)) is not None:
            figures["vines"], _ = vine_figure(trainer.task, trainer.renderer, trees[0], policy=f"update {update}")
        curve = coverage(counts, update)
        if curve is not None:
            first = Path(args.output_dir) / FIRST_FILE
            if update == 1 or not first.exists():
                write_json(first, curve)
            figures["coverage"] = coverage_figure(curve, json.loads(first.read_text()), title=trainer.task.name)
        for name, figure in figures.items():
            self._log(f"figures/{name}", as_image(figure), update * args.steps_per_update)

    def _log(self, name: str, image: Image.Image, step: int) -> None:
        """To each tracker by its own means; ``step``: that of the update's scalars."""
        if (board := self.callback("TensorBoardCallback")) is not None:
            board.tb_writer.add_image(name, np.asarray(image), step, dataformats="HWC")
        for tracker, module in (("WandbCallback", "_wandb"), ("TrackioCallback", "_trackio")):
            if (found := self.callback(tracker)) is not None:
                api = getattr(found, module)
                api.log({name: api.Image(image), "train/global_step": step})


def start_counts(trees: Iterable[Tree], *, with_vines: bool) -> list[tuple[int, int, int]]:
    """(start state, independent samples, successes) of each tree; ``with_vines``: they begin at the start state."""
    counts = []
    for tree in trees:
        samples = [*tree.trajectories()] if with_vines else tree.seeds
        counts.append((tree.start_state, len(samples), sum(sample.success for sample in samples)))
    return counts


def coverage(counts: Iterable[tuple[int, int, int]], update: int) -> dict[str, Any] | None:
    """pass@k with intervals over start states; None where a start state has fewer than 2 samples, and
    without start states."""
    by_start: dict[int, list[int]] = {}
    for start, samples, successes in counts:
        cell = by_start.setdefault(start, [0, 0])
        cell[0] += samples
        cell[1] += successes
    if not by_start:
        return None
    samples_P, correct_P = zip(*by_start.values(), strict=True)
    if min(samples_P) < 2:
        return None
    ks = coverage_ks(min(samples_P))
    curve = [pass_at_k_interval(samples_P, correct_P, k, LEVEL) for k in ks]
    return {"update": update, "starts": len(by_start), "ks": ks, "pass@k": curve}


def coverage_figure(curve: dict[str, Any], first: dict[str, Any], *, title: str) -> Figure:
    """An update's pass@k beside the first one's, each over the start states of its own update."""
    figure = Figure(figsize=(5.2, 4.0), layout="constrained")
    axes = figure.subplots()
    curves = [first, curve] if first["update"] != curve["update"] else [curve]
    for index, own in enumerate(curves):
        reach = [[e - low for e, low, _ in own["pass@k"]], [high - e for e, _, high in own["pass@k"]]]
        label = f"update {own['update']}, {counted(own['starts'], 'start state')}"
        # side by side at each k, so that neither hides the other
        places, estimates = [k * 1.05**index for k in own["ks"]], [cell[0] for cell in own["pass@k"]]
        style = {"fmt": f"{MARKERS[index]}-", "markersize": 4.5, "elinewidth": 1, "capsize": 2.5, "clip_on": False}
        axes.errorbar(places, estimates, reach, color=COLOURS[index], label=label, **style)
    ks = max((own["ks"] for own in curves), key=len)
    axes.set(xscale="log", xlabel="samples k", ylabel="pass@k", ylim=(0, 1))
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    axes.set_title(f"{as_label(title)}: coverage of the training rollouts\n{100 * LEVEL:.0f} % intervals", fontsize=10)
    return figure


def as_image(figure: Figure) -> Image.Image:
    """A figure's pixels."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return Image.open(buffer).convert("RGB")
