"""Every figure of metrics.jsonl has a meaning, and every meaning a figure."""

import copy
import json
from pathlib import Path

import pytest
import test_ground_truth as tabular

from polytune import trainer as trainer_package
from polytune.config import ObjectiveConfig, RolloutConfig
from polytune.meanings import METRICS
from polytune.tasks.tabular.worlds import TwoStep

pytestmark = pytest.mark.usefixtures("one_thread")


def same(texts):
    """A judge that knows no two texts apart."""
    return [0] * len(texts)


RUNS = {
    "critic, vines, methods": (
        dict(set_scope="vines", window=1, set_normalise="group_std", methods=["ucb", "weighted_replay"]),
        RolloutConfig(1, 1, 3),
        dict(critic="head", kl_coef=0.01, entropy_coef=0.01, num_iterations=2),
    ),
    "sets of whole episodes, a judge": (
        dict(set_scope="seeds", window=-1, set_normalise="none", signature="test_logged_figures:same",
             judge_failure="all_same", methods=["ead"]),
        RolloutConfig(4, 0, 0),
        dict(critic="none", kl_coef=0.01, kl_reference="pretrained"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Names of all figures that two updates of each run leave in metrics.jsonl, and those that have a meaning."""
    names, told = set(), dict(METRICS)
    policy = tabular.start_policy(TwoStep())
    for number, (objective, rollout, fields) in enumerate(RUNS.values()):
        folder = tmp_path_factory.mktemp(f"run{number}")
        objective = ObjectiveConfig(objective="polychromic", set_size=2, **objective)
        own = (copy.deepcopy(policy[0]), *policy[1:])
        sizes = dict(num_updates=2, save_updates=2, per_device_train_batch_size=32)
        run = tabular.make_trainer(folder, TwoStep(), own, objective, rollout, **sizes | fields)
        run.train()
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert len(lines) == 2
        names |= {name for line in lines for name in line}
        for method in run.methods.values():
            told |= method.logs
    return names, told


def test_a_run_logs_nothing_without_a_meaning(logged):
    names, told = logged
    missing = names - {*told}
    assert not missing, f"{sorted(missing)}: say in polytune/meanings.py, or in `logs` of the method, what they mean"


def test_the_trainer_logs_all_that_has_a_meaning(logged):
    """In these runs, or, where that needs another engine, by a line of the trainer."""
    source = "".join(path.read_text() for path in sorted(Path(trainer_package.__file__).parent.glob("*.py")))
    for name in sorted({*METRICS} - logged[0]):
        assert f'"{name}"' in source, f"polytune/meanings.py tells of {name}, which nothing records"
