"""Trackers for real: TensorBoard's event files of a run that is killed and resumed; figures; what is refused."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import warm
from outcomes import without_times
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from polytune.measures import pass_at_k
from polytune.pictures import tracking
from polytune.rollout import Trajectory, Tree

ROOT = Path(__file__).resolve().parents[2]
UPDATES = 3


@pytest.fixture(scope="module")
def runs(walkers, tmp_path_factory, call_recipe):
    """Two runs of the same settings: with TensorBoard, killed when its third update was logged but not saved, and
    resumed from the second; without a tracker."""
    folder = tmp_path_factory.mktemp("runs")
    common = [
        "--config", ROOT / "recipes/fourrooms/smoke.yaml", "--model", walkers["quick"], "--num_updates", UPDATES,
        "--task_horizon", 12, "--learning_rate", "1e-3", "--cpu_threads", 1, "--num_seeds", 8,
        "--num_rollout_states", 0, "--num_generations", 8, "--per_device_train_batch_size", 8, "--set_scope", "seeds",
        "--split", "seeds:0-3",
    ]  # fmt: skip
    tracked = [*common, "--report_to", "tensorboard", "--figure_updates", 2, "--output_dir", folder / "tracked"]
    killed = warm.run(
        ROOT / "tests/integration/run_and_die.py", "staged", UPDATES, ROOT / "recipes/finetune.py", *tracked
    )
    assert killed.returncode == -9 and f"tensorboard --logdir {folder}/tracked/tensorboard" in killed.stdout
    call_recipe("finetune", *tracked)
    call_recipe("finetune", *common, "--output_dir", folder / "plain")
    return folder


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def events(runs):
    found = EventAccumulator(str(runs / "tracked/tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return found.Reload()


def test_tensorboard_has_what_metrics_jsonl_has(runs, events):
    metrics = lines(runs / "tracked")
    assert len(metrics) == UPDATES and len(list((runs / "tracked/tensorboard").iterdir())) == 2  # two sittings
    names = {name for line in metrics for name in line} - {"step", "epoch"}  # the summary at the end has an epoch too
    assert {f"train/{name}" for name in names} <= set(events.Tags()["scalars"])
    for name in names:
        written = [(event.step, event.value) for event in events.Scalars(f"train/{name}")]
        expected = [(line["step"], np.float32(line[name])) for line in metrics if line.get(name) is not None]
        assert written == expected, name  # each step once, in order


def test_trackers_and_figures_change_nothing(runs):
    tracked, plain = (without_times(lines(runs / name)) for name in ("tracked", "plain"))
    assert tracked == plain and not (runs / "plain/tensorboard").exists()


def test_figures_are_pictures_at_the_steps_of_their_updates(runs, events):
    steps = [line["step"] for line in lines(runs / "tracked")]
    for name, least in (("figures/vines", 400), ("figures/coverage", 300)):
        shown = events.Images(name)
        assert [image.step for image in shown] == steps  # updates 1, 2 and 3: the first, every second, the last
        for image in shown:
            picture = Image.open(io.BytesIO(image.encoded_image_string))
            assert picture.format == "PNG" and picture.size == (image.width, image.height)
            assert min(picture.size) >= least and len(set(picture.convert("L").tobytes())) > 20
    first = json.loads((runs / "tracked" / tracking.FIRST_FILE).read_text())
    assert first["update"] == 1 and first["ks"] == [1, 2, 4, 8]


def trajectory(success, **branch):
    return Trajectory(stop_reason="success" if success else "horizon", **branch)


def test_coverage_counts_whole_episodes_of_each_start_state_only():
    won, lost = trajectory(True), trajectory(False)
    vines = [[trajectory(True, parent=won, branch_turn=3)] * 2]
    trees = [Tree(5, (), [won, lost], [vines, []]), Tree(6, (), [lost, lost], [[], []]), Tree(5, (), [won, won])]
    trees[2].vines = [[], []]
    assert tracking.start_counts(trees, with_vines=False) == [(5, 2, 1), (6, 2, 0), (5, 2, 2)]
    assert tracking.start_counts(trees[:1], with_vines=True) == [(5, 4, 3)]
    curve = tracking.coverage(tracking.start_counts(trees, with_vines=False), 7)
    assert (curve["update"], curve["starts"], curve["ks"]) == (7, 2, [1, 2])  # start state 6 has two samples
    for k, (estimate, low, high) in zip(curve["ks"], curve["pass@k"], strict=True):
        assert estimate == pytest.approx((pass_at_k(4, 3, k) + pass_at_k(2, 0, k)) / 2) and low <= estimate <= high
    assert tracking.coverage([(5, 1, 1), (6, 4, 1)], 7) is None  # one sample says nothing of coverage


def test_a_tracker_that_is_missing_is_refused_before_work(capsys, call_recipe, tmp_path):
    for name in ("tensorbord", "wandb"):
        if name in tracking.get_available_reporting_integrations():
            continue
        with pytest.raises(SystemExit) as end:
            call_recipe("finetune", "--report_to", name, "--output_dir", tmp_path / "run")
        told = capsys.readouterr()
        assert end.value.code == 1 and told.out == "" and not (tmp_path / "run").exists()
        assert told.err.startswith(f"error: report_to is '{name}'") and "pip install 'polytune[trackers]'" in told.err
        assert told.err.count("\n") == 1


def test_trackio_and_wandb_are_given_images_by_their_own_means():
    logged = []

    class Api:
        Image = staticmethod(lambda image: ("image", image.size))
        log = staticmethod(logged.append)

    callbacks = [type("WandbCallback", (), {"_wandb": Api})(), type("TrackioCallback", (), {"_trackio": Api})()]
    figures = tracking.Figures(SimpleNamespace(callback_handler=SimpleNamespace(callbacks=callbacks)))
    figures._log("figures/vines", Image.new("RGB", (4, 3)), 8)
    assert logged == [{"figures/vines": ("image", (4, 3)), "train/global_step": 8}] * 2
