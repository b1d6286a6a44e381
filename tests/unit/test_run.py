"""The parts of a run: read, checked and written down as one."""

import json
from pathlib import Path

import pytest
import yaml

from polytune.app.cli import flagged, parse
from polytune.policy.run_file import RUN_FILE
from polytune.run import RUN_YAML, RunConfig, as_yaml
from polytune.running.provenance import check_same_run, other_horizon

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(
    path
    for folder in ("fourrooms", "babyai", "creativity/triangle", "tabular")
    for path in (ROOT / "recipes" / folder).glob("*.yaml")
    if "compare" not in path.stem and "pretrain" not in path.stem
)


def read(*flags):
    return RunConfig.read(parse, [str(flag) for flag in flags], description="")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_runs_recipe_is_that_run(path, tmp_path):
    first = read("--config", path, "--learning_rate", "3e-4", "--num_updates", 7)
    (tmp_path / RUN_YAML).write_text(as_yaml(first.recipe()))
    again = read("--config", tmp_path / RUN_YAML)
    assert again.settings == first.settings and set(again.given) == set(first.given)
    assert (again.trainer.learning_rate, again.trainer.num_updates) == (3e-4, 7)


def test_it_is_recorded_beside_every_field(tmp_path):
    """Flags win over the recipe, switches count, and only what was given is written."""
    job = read("--config", ROOT / "recipes/fourrooms/ppo.yaml", "--output_dir", tmp_path, "--no_disable_dropout",
               "--max_env_steps", 9000, "--methods", "ucb", "--method_args", "ucb.coef=0.2")  # fmt: skip
    job.record(["recipes/finetune.py"], {})
    found = yaml.safe_load((tmp_path / RUN_YAML).read_text())
    assert found["max_env_steps"] == 9000 and found["disable_dropout"] is False and found["methods"] == ["ucb"]
    assert found["method_args"] == ["ucb.coef=0.2"] and found["output_dir"] == str(tmp_path)
    assert "adam_beta1" not in found and "max_steps" not in found and "num_generations" not in found
    assert (tmp_path / RUN_FILE).is_file()
    (tmp_path / "checkpoint-1").mkdir()
    check_same_run(tmp_path, read("--config", tmp_path / RUN_YAML).settings)
    told = json.loads((tmp_path / RUN_FILE).read_text())
    told["trainer"].pop("critic_passes"), told["objective"].pop("reward_shift")  # of a polytune without these fields
    (tmp_path / RUN_FILE).write_text(json.dumps(told))
    check_same_run(tmp_path, read("--config", tmp_path / RUN_YAML).settings)
    with pytest.raises(ValueError, match="critic_passes was None, now 3"):
        check_same_run(tmp_path, read("--config", tmp_path / RUN_YAML, "--critic_passes", 3).settings)
    with pytest.raises(ValueError, match="max_env_steps was 9000, now 9001"):
        check_same_run(tmp_path, read("--config", tmp_path / RUN_YAML, "--max_env_steps", 9001).settings)


def test_another_number_of_processes_is_told_as_such(tmp_path):
    """Not as rows of an update, which no field sets, unless the record has no more to tell."""
    job = read("--config", ROOT / "recipes/fourrooms/ppo.yaml", "--output_dir", tmp_path, "--use_cpu", "true")
    job.record(["recipes/finetune.py"], {})
    (tmp_path / "checkpoint-1").mkdir()
    had = job.trainer.generation_batch_size
    job.trainer.generation_batch_size *= 2  # as two processes have it
    with pytest.raises(ValueError, match=r"other settings \(num_processes was 1, now 2\): give"):
        check_same_run(tmp_path, job.settings)
    told = json.loads((tmp_path / RUN_FILE).read_text())
    told["trainer"].pop("per_device_train_batch_size")
    (tmp_path / RUN_FILE).write_text(json.dumps(told))
    with pytest.raises(ValueError, match=f"generation_batch_size was {had}, now {2 * had}"):
        check_same_run(tmp_path, job.settings)


def test_a_flag_with_hyphens_is_given_too():
    """Both spellings are taken, so both are written to run.yaml, which does the same again."""
    hyphens, plain = (read("--config", ROOT / "recipes/fourrooms/ppo.yaml", name, 7)
                      for name in ("--task-horizon", "--task_horizon"))  # fmt: skip
    assert hyphens.recipe() == plain.recipe() and hyphens.recipe()["task_horizon"] == 7


def test_what_a_command_line_names():
    assert flagged(["--task-horizon=4", "--no-c"], ["task_horizon", "c"]) == ["task_horizon", "c"]
    assert flagged(["--a", "1", "--no_b", "--c=2", "x", "--d", "-q"], ["a", "b", "c", "no_d"]) == ["a", "b", "c"]


def test_rows_of_a_tree_follow_from_its_shape():
    recipe = ROOT / "recipes/fourrooms/poly_ppo_equally_spaced.yaml"
    job = read("--config", recipe)
    assert job.trainer.num_generations == job.rollout.rows_per_prompt == 17
    assert read("--config", recipe, "--num_generations", 17).settings == job.settings
    with pytest.raises(ValueError, match="num_generations is 16, but a tree has .* = 17 rows: leave num_generations"):
        read("--config", recipe, "--num_generations", 16)
    with pytest.raises(ValueError, match="nothing to compare it with: raise num_seeds to 2"):
        read("--config", ROOT / "recipes/fourrooms/ppo.yaml", "--num_seeds", 1)


def test_another_horizon_than_in_training_is_known(tmp_path):
    for task, given, other in (
        ({"task": "fourrooms", "task_horizon": 16}, 100, 16),
        ({"task": "fourrooms", "task_horizon": 16}, 16, None),
        ({"task": "fourrooms"}, 16, None),  # the default of its version
        ({"task": "bandit", "task_horizon": 16}, 100, None),
        (["fourrooms"], 100, None),
    ):
        (tmp_path / RUN_FILE).write_text(json.dumps({"task": task}))
        assert other_horizon(tmp_path, "fourrooms", given) == other
    assert other_horizon(tmp_path / "none", "fourrooms", 100) is None
