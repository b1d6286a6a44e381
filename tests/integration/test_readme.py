"""The README is true: its commands run, its tree is the tree, its example task works as written."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import warm
import yaml

from polytune import config
from polytune.app import console, play
from polytune.app.cli import QUIET_FLAGS, parse
from polytune.app.pretrain import PretrainConfig
from polytune.comparison.options import ComparisonConfig, ReproductionConfig
from polytune.config import AdapterConfig, ObjectiveConfig, PolicyConfig, RolloutConfig, TaskConfig
from polytune.evaluation.options import EvaluationConfig
from polytune.export.options import ExportConfig
from polytune.measures import pass_at_k
from polytune.objective import set_advantages
from polytune.policy import build_tiny
from polytune.policy.rendering import PROMPT_WORD
from polytune.tasks import load_task
from polytune.trainer import PolychromicConfig, check_run

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
FIELDS = {
    "pretrain.py": (TaskConfig, AdapterConfig, PretrainConfig),
    "finetune.py": (TaskConfig, PolicyConfig, AdapterConfig, RolloutConfig, ObjectiveConfig, PolychromicConfig),
    "evaluate.py": (TaskConfig, PolicyConfig, EvaluationConfig),
    "compare.py": (TaskConfig, PolicyConfig, ComparisonConfig),
    "reproduce.py": (ReproductionConfig,),
    "export.py": (ExportConfig,),
}
#: folders of one file a row, named as folders
ONE_FILE_A_ROW = ("diversity", "set_objectives", "credit", "methods")
COMMANDS = [
    line.split("#")[0].strip()
    for line in README.splitlines()
    if re.match(r" {4}(make|python|accelerate|torchrun|polytune)\b", line)
]
DOORS = [c for c in COMMANDS if c.startswith("polytune")]


def recipe_and_flags(command):
    words = shlex.split(command)
    if words[0] == "polytune":  # a door
        return f"{words[1]}.py", words[2:]
    index = next(i for i, word in enumerate(words) if word.startswith("recipes/") and word.endswith(".py"))
    assert all((ROOT / word).is_file() for word in words[:index] if word.startswith("recipes/"))
    return Path(words[index]).name, words[index + 1 :]


def write_example_objective(folder):
    """The README's `my_objectives.py`."""
    [code] = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "def reliable" in block]
    (folder / "my_objectives.py").write_text(code)


def write_example_method(folder):
    """The README's `my_methods.py`."""
    [code] = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class Forks" in block]
    (folder / "my_methods.py").write_text(code)


def corridor_yaml(**settings):
    """The example's YAML as the README shows it, with some settings changed."""
    [text] = [block for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "task: corridor" in block]
    fields = yaml.safe_load(text)
    fields["extends"] = os.path.normpath(ROOT / "recipes/corridor" / fields["extends"])
    return yaml.safe_dump(fields | {key: str(value) for key, value in settings.items()})


def test_there_are_commands():
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_targets_exist(command):
    target = command.split()[1]
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^{target}\b", listed, re.MULTILINE)
    assert subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True).returncode == 0


@pytest.mark.parametrize("command", DOORS)
def test_doors_exist(command):
    assert len(command.split()) == 1 or command.split()[1] in console.COMMANDS


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if "recipes/" in c or (c in DOORS and {*c.split()} & {*console.DOORS})]
)
def test_recipe_commands_are_understood(command, tmp_path, monkeypatch):
    recipe, flags = recipe_and_flags(command)
    flags = [word for word in flags if word not in QUIET_FLAGS]
    write_example_objective(tmp_path)
    write_example_method(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    find = config.find_spec
    monkeypatch.setattr(config, "find_spec", lambda name: name == "vllm" or find(name))  # it need not be installed
    assert (ROOT / "recipes" / recipe).is_file()
    if recipe in (
        "bench.py",
        "bench_generators.py",
        "tutorial.py",
        "branch_points.py",
        "methods_benchmark.py",
    ):  # fields of their own, run by tests of their own
        return
    if "recipes/corridor/poly_ppo.yaml" in flags:
        path = tmp_path / "poly_ppo.yaml"
        path.write_text(corridor_yaml(task="corridor", split="seeds:0-9"))
        flags[flags.index("recipes/corridor/poly_ppo.yaml")] = str(path)
    flags = [str(ROOT / word) if word.endswith(".yaml") and not Path(word).is_absolute() else word for word in flags]
    default = str(ROOT / "recipes/fourrooms/quickstart.yaml") if recipe == "finetune.py" else None
    parts = parse(FIELDS[recipe], flags, description="", default_config=default)
    if recipe == "finetune.py":
        check_run(parts[5], parts[3], parts[4])


@pytest.mark.parametrize("command", [c for c in COMMANDS if "polytune.app.play" in c or "polytune play" in c])
def test_play_commands_are_understood(command):
    words = shlex.split(command)
    door = words[:2] == ["polytune", "play"]
    assert door or words[:3] == ["python", "-m", "polytune.app.play"]
    options = play.parse(words[2 if door else 3 :])
    load_task(options.task, **TaskConfig(options.task, options.task_horizon, options.task_args).task_options)


def test_tree_names_every_module_and_nothing_else():
    tree = README.split("## The tree")[1].split("\n## ")[0]
    named = set(re.findall(r"[\w/]+\.py", tree))
    for path in (ROOT / "polytune").rglob("*.py"):
        if path.name != "__init__.py" and path.parent.name not in ONE_FILE_A_ROW:
            assert path.name in named, f"the README's tree does not name {path.relative_to(ROOT)}"
    existing = {path.name for folder in ("polytune", "recipes", "data") for path in (ROOT / folder).rglob("*.py")}
    assert named <= existing, f"the README's tree names {named - existing}, which do not exist"


def test_numbers_in_the_readme():
    row = set_advantages([1, 0, 0, 0, 0, 0, 0, 0], list("ABBBBCDE"), set_size=4)
    assert str([round(x, 4) for x in row.tolist()]) in README
    assert str(pass_at_k(num_samples=16, num_correct=3, k=4)) in README


@pytest.mark.slow
def test_the_example_objective_and_judge_work_as_written(tmp_path):
    """The example's file in the folder one runs from, its command, at a smaller size on an untrained policy."""
    write_example_objective(tmp_path)
    task = load_task("fourrooms")
    for part in build_tiny("tiny", [PROMPT_WORD, *task.vocabulary()]):
        part.save_pretrained(tmp_path / "policy")
    command = next(c for c in COMMANDS if "my_objectives:" in c)
    recipe, flags = recipe_and_flags(command)
    flags = [str(ROOT / word) if word.endswith(".yaml") else word for word in flags]
    small = ["--num_updates", "1", "--per_device_train_batch_size", "32", "--steps_per_generation", "1",
             "--task_horizon", "8", "--model", "policy", "--output_dir", "run", "--max_env_steps", "200"]  # fmt: skip
    result = warm.run(ROOT / "recipes" / recipe, *flags, *small, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    settings = json.loads((tmp_path / "run/run.json").read_text())
    assert settings["objective"]["objective"] == "my_objectives:reliable"
    [line] = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["groups/distinct_signatures"] > 1  # endings: forward, left, right


@pytest.mark.slow
def test_the_example_task_works_as_written(tmp_path):
    """A newcomer's way: the example's code, its YAML, the three commands, at a smaller size."""
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    (tmp_path / "corridor.py").write_text(code)
    pretrained, finetuned = tmp_path / "pretrained", tmp_path / "poly_ppo"
    (tmp_path / "poly_ppo.yaml").write_text(
        corridor_yaml(task="corridor:Corridor", split="seeds:0-9", model=pretrained, output_dir=finetuned)
    )
    small = {
        "pretrain.py": ["--num_demonstrations", "100", "--eval_episodes", "8", "--epochs", "2"],
        "finetune.py": ["--num_updates", "1", "--per_device_train_batch_size", "16", "--steps_per_generation", "1"],
        "evaluate.py": ["--n", "2"],
    }
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    section = README.split("## Add a task")[1].split("\n## ")[0]
    for command in [line.strip() for line in section.splitlines() if "recipes/" in line and line.startswith("    ")]:
        recipe, flags = recipe_and_flags(command)
        text = " ".join(flags).replace("--task corridor", "--task corridor:Corridor")
        for shown, real in (("outputs/corridor/", f"{tmp_path}/"), ("recipes/corridor/", f"{tmp_path}/")):
            text = text.replace(shown, real)
        result = warm.run(ROOT / "recipes" / recipe, *shlex.split(text), *small[recipe], env=environment, cwd=tmp_path)
        assert result.returncode == 0, f"{recipe}: {result.stderr[-2000:]}"
    assert (tmp_path / "evaluation" / "coverage.png").stat().st_size > 10_000
    assert len((tmp_path / "evaluation" / "records.jsonl").read_text().splitlines()) == 2 * 10 * 3
