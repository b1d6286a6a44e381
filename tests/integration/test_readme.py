"""The README and the pages of docs/ are true: their commands are understood, their examples work as written."""

import ast
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import warm
import yaml

from polytune import config
from polytune.app import check_task, console, play
from polytune.app.cli import QUIET_FLAGS, load_yaml, parse, parser_of
from polytune.app.pretrain import PretrainConfig
from polytune.comparison.options import ComparisonConfig, ReproductionConfig
from polytune.config import AdapterConfig, ObjectiveConfig, PolicyConfig, RolloutConfig, TaskConfig
from polytune.evaluation.options import EvaluationConfig
from polytune.export.options import ExportConfig
from polytune.policy import build_tiny
from polytune.policy.rendering import PROMPT_WORD
from polytune.tasks import load_task
from polytune.tasks.starts import options_of
from polytune.trainer import PolychromicConfig, check_run

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = "\n".join(path.read_text() for path in PAGES)
OWN_TASK = (ROOT / "docs/how-to/own-task.md").read_text()
FIELDS = {
    "pretrain.py": (TaskConfig, AdapterConfig, PretrainConfig),
    "finetune.py": (TaskConfig, PolicyConfig, AdapterConfig, RolloutConfig, ObjectiveConfig, PolychromicConfig),
    "evaluate.py": (TaskConfig, PolicyConfig, EvaluationConfig),
    "compare.py": (TaskConfig, PolicyConfig, ComparisonConfig),
    "reproduce.py": (ReproductionConfig,),
    "export.py": (ExportConfig,),
}


def shown(text):
    """The commands that a text shows, each once, without their remarks; one that a backslash breaks is one."""
    lines = text.replace("\\\n", "").splitlines()
    found = [line for line in lines if re.match(r" {4}(make|python|accelerate|torchrun|polytune)( |$)", line)]
    return list(dict.fromkeys(line.split("#")[0].strip() for line in found))


COMMANDS = shown(TEXT)
#: those within a sentence or a table: `make NAME`
TARGETS = sorted({f"make {name}" for name in re.findall(r"`make ([a-z0-9-]+)`", TEXT)} - {*COMMANDS})
DOORS = [c for c in COMMANDS if c.startswith("polytune")]


def recipe_and_flags(command):
    words = shlex.split(command)
    if words[0] == "polytune":  # a door
        return f"{words[1].replace('-', '_')}.py", words[2:]
    if words[1] == "-m":
        return f"{words[2].removeprefix('polytune.app.')}.py", words[3:]
    index = next(i for i, word in enumerate(words) if word.startswith("recipes/") and word.endswith(".py"))
    assert all((ROOT / word).is_file() for word in words[:index] if word.startswith("recipes/"))
    return Path(words[index]).name, words[index + 1 :]


def understand(command, folder):
    """Parse a command as its program does, its recipe included; ``folder`` has the examples' files."""
    recipe, flags = recipe_and_flags(command)
    flags = [word for word in flags if word not in QUIET_FLAGS]
    if recipe not in FIELDS:
        module = importlib.import_module(f"polytune.app.{recipe.removesuffix('.py')}")
        parser = module.build_parser() if hasattr(module, "build_parser") else parser_of(module.main)
        parser.parse_args(flags)
        return
    assert (ROOT / "recipes" / recipe).is_file()
    if "recipes/corridor/poly_ppo.yaml" in flags:
        path = folder / "poly_ppo.yaml"
        path.write_text(corridor_yaml())
        flags[flags.index("recipes/corridor/poly_ppo.yaml")] = str(path)
    flags = [str(ROOT / word) if word.endswith(".yaml") and not Path(word).is_absolute() else word for word in flags]
    default = str(ROOT / "recipes/fourrooms/quickstart.yaml") if recipe == "finetune.py" else None
    parts = parse(FIELDS[recipe], flags, description="", default_config=default)
    if recipe == "finetune.py":
        check_run(parts[5], parts[3], parts[4])


def example(told, language="python"):
    """The one block of code of the pages that has ``told`` in it; the README may show it a second time."""
    blocks = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    [code] = {block for block in blocks if told in block}
    return code


#: file of an example -> what stands in it
EXAMPLES = {
    "my_objectives.py": "def reliable",
    "my_methods.py": "class Forks",
    "my_rewards.py": "def right",
    "corridor.py": "class CorridorEpisode",
}


def write_examples(folder):
    """The examples' files, and the row of data that goes with the reward."""
    for name, told in EXAMPLES.items():
        (folder / name).write_text(example(told))
    (folder / "mine.jsonl").write_text(example("What is 2 + 3?", "jsonl"))
    shutil.copytree(ROOT / "data/units", folder, dirs_exist_ok=True)


def corridor_yaml(**settings):
    """The example's YAML as its page shows it, with some settings changed."""
    text = example("task: corridor", "yaml")
    fields = yaml.safe_load(text)
    fields["extends"] = str(ROOT / fields["extends"])
    return yaml.safe_dump(fields | {key: str(value) for key, value in settings.items()})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the examples' files, and vLLM taken for installed."""
    write_examples(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    find = config.find_spec
    monkeypatch.setattr(config, "find_spec", lambda name: name == "vllm" or find(name))
    return tmp_path


def test_there_are_commands():
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", [c for c in [*COMMANDS, *TARGETS] if c.startswith("make")])
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
def test_recipe_commands_are_understood(command, folder):
    understand(command, folder)


def test_commands_on_generated_pages_are_understood(folder, monkeypatch):
    """Those of recipes, docstrings and overviews, as the pages made from the code show them."""
    monkeypatch.syspath_prepend(ROOT / "docs/site")
    families, reference = importlib.import_module("families"), importlib.import_module("reference")
    pages = [text for _, text in [*families.pages(), *reference.pages()]]
    blocks = [block for text in pages for block in re.findall(r"^```\w+\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)]
    commands = shown("\n".join(f"    {line.strip()}" for block in blocks for line in block.splitlines()))
    assert len(commands) > 100
    for command in commands:
        if command not in COMMANDS and not command.startswith("polytune completion"):
            understand(command, folder)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python data/")])
def test_programs_of_data_exist(command):
    assert (ROOT / command.split()[1]).is_file()


@pytest.mark.parametrize("command", [c for c in COMMANDS if "check-task" in c and "textworld" not in c])
def test_check_task_commands_find_nothing_wrong(command, tmp_path, monkeypatch, capsys):
    write_examples(tmp_path)
    monkeypatch.chdir(tmp_path)
    check_task.main([*shlex.split(command)[2:], "--seeds", "2"])
    assert "nothing is wrong" in capsys.readouterr().out


@pytest.mark.parametrize("command", [c for c in COMMANDS if "polytune.app.play" in c or "polytune play" in c])
def test_play_commands_are_understood(command, tmp_path, monkeypatch):
    write_examples(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)
    door = words[:2] == ["polytune", "play"]
    assert door or words[:3] == ["python", "-m", "polytune.app.play"]
    options = play.parse(words[2 if door else 3 :])
    load_task(options.task, **options_of(TaskConfig(options.task, options.task_horizon, options.task_args)))


@pytest.mark.slow
def test_the_example_objective_and_judge_work_as_written(tmp_path):
    """The example's file in the folder one runs from, its command, at a smaller size on an untrained policy."""
    write_examples(tmp_path)
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
    write_examples(tmp_path)
    pretrained, finetuned = tmp_path / "start", tmp_path / "poly_ppo"
    (tmp_path / "poly_ppo.yaml").write_text(corridor_yaml(model=pretrained, output_dir=finetuned))
    small = {
        "pretrain.py": ["--num_demonstrations", "100", "--eval_episodes", "8", "--epochs", "2"],
        "finetune.py": [
            "--num_updates",
            "1",
            "--per_device_train_batch_size",
            "17",
            "--steps_per_generation",
            "1",
            "--max_env_steps",
            "400",
        ],
        "evaluate.py": ["--n", "2", "--num_start_states", "10"],
    }
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    for command in re.findall(r"^    (polytune (?:pretrain|finetune|evaluate) .*)$", OWN_TASK, re.MULTILINE):
        recipe, flags = recipe_and_flags(command)
        text = " ".join(flags)
        for shown, real in (("outputs/corridor/", f"{tmp_path}/"), ("recipes/corridor/", f"{tmp_path}/")):
            text = text.replace(shown, real)
        result = warm.run(ROOT / "recipes" / recipe, *shlex.split(text), *small[recipe], env=environment, cwd=tmp_path)
        assert result.returncode == 0, f"{recipe}: {result.stderr[-2000:]}"
    assert (tmp_path / "evaluation" / "coverage.png").stat().st_size > 10_000
    assert len((tmp_path / "evaluation" / "records.jsonl").read_text().splitlines()) == 2 * 10 * 3


def test_the_example_task_has_as_many_start_states_as_its_page_names(tmp_path, monkeypatch):
    write_examples(tmp_path)
    monkeypatch.chdir(tmp_path)
    task = load_task("corridor:Corridor")
    assert len({task.start_hash(seed) for seed in range(50)}) == 50 and task.start_hash(50) == task.start_hash(0)
    assert set(re.findall(r"seeds:[\d-]+", OWN_TASK)) == {"seeds:0-49"} and "32 lines" in PAGES[0].read_text()
    assert len(example("class CorridorEpisode").splitlines()) == 32
    episode = type("Lost", (type(task.start(0)),), {"_failure": lambda self: "spent"})(task, 0)
    assert episode.step("right").stop_reason == "spent" and episode.done  # what the page says of _failure
    (tmp_path / "recipes/corridor").mkdir(parents=True)
    (tmp_path / "recipes/corridor/poly_ppo.yaml").write_text(example("task: corridor", "yaml"))
    fields = load_yaml("recipes/corridor/poly_ppo.yaml")  # in any folder
    assert (fields["output_dir"], fields["set_scope"], fields["task_horizon"]) == (
        "outputs/corridor/poly_ppo",
        "vines",
        40,
    )


@pytest.mark.slow
def test_the_five_lines_of_python_train_and_measure(tmp_path):
    """The README's program beside the example's file, at a smaller size."""
    write_examples(tmp_path)
    code = example("from polytune import evaluate, finetune, pretrain")
    small = {
        "max_env_steps=20000": "max_env_steps=400, num_updates=1, per_device_train_batch_size=17, "
        "steps_per_generation=1, cpu_threads=1",
        "num_demonstrations=200": "num_demonstrations=60, eval_episodes=8, epochs=2",
        "policies=[start, sets]": "policies=[start, sets], n=2",
    }
    for shown, run in small.items():
        assert shown in code
        code = code.replace(shown, run)
    (tmp_path / "five.py").write_text(code)
    result = warm.run(tmp_path / "five.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    told = ast.literal_eval(result.stdout.splitlines()[-1])
    assert list(told) == ["start", "sets"] and all(0 <= share <= 1 for share in told.values())
    run = json.loads((tmp_path / "outputs/corridor/sets/run.json").read_text())
    assert run["task"]["task"] == "corridor:Corridor" and (tmp_path / "outputs/corridor/both/coverage.png").is_file()
