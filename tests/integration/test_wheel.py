"""An installed polytune runs: the built wheel in an environment of its own, in an empty folder."""

import json
import os
import shlex
import shutil
import site
import subprocess
import sys
import venv

import pytest
import warm
from walkers import ROOT

pytestmark = pytest.mark.slow
TINY = ["--task_horizon", "30"]
PROGRAMS = {
    "pretrain": ["--num_demonstrations", "40", "--epochs", "1", "--eval_episodes", "4", *TINY],
    "finetune": ["--num_updates", "1", "--per_device_train_batch_size", "17", "--steps_per_generation", "1", *TINY],
    "evaluate": ["--report", "--n", "2", "--num_start_states", "2", *TINY],
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder of the commands of an environment with the wheel, and of this environment's other packages."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("environment")
    for name in ("polytune", "recipes", "data"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "docs/pypi.md", "LICENSE"):
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    call([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), "."], source)
    venv.create(folder / "env")
    python = folder / "env/bin/python"
    call([*pip, "--python", str(python), "install", "--no-deps", *map(str, folder.glob("*.whl"))], folder)
    shutil.rmtree(source)
    [packages] = (folder / "env/lib").glob("python*/site-packages")
    # a path in a .pth file brings packages, but not the .pth files among them: polytune is not the one of this checkout
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    return python.parent


def environment(**more):
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | quiet | more


def said(result, status):
    assert result.returncode == status, result.stderr[-2000:]
    return result.stdout + result.stderr


def call(command, folder, status=0):
    result = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)
    return said(result, status)


def call_module(installed, words, folder, status=0):
    """``python -m WORDS`` with the wheel's polytune and libraries that are loaded already, see warm.py."""
    [packages] = installed.parent.glob("lib/python*/site-packages")
    return said(warm.run("-m", *words, env=environment(PYTHONPATH=str(packages)), cwd=folder), status)


def test_the_quick_start_from_a_wheel(installed, tmp_path):
    where = call([installed / "python", "-c", "import polytune.places as p; print(p.PACKAGE, p.IN_CHECKOUT)"], tmp_path)
    assert where == f"{next(installed.parent.glob('lib/python*'))}/site-packages/polytune False\n"
    for name, flags in PROGRAMS.items():
        call([installed / "polytune", name, *flags], tmp_path)
    out = tmp_path / "outputs/quickstart"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]
    assert (out / "evaluation/report.html").stat().st_size > 100_000
    commands = {
        "pretrain": json.loads((out / "pretrained/run.json").read_text())["origin"]["command"],
        "finetune": json.loads((out / "finetuned/run.json").read_text())["origin"]["command"],
        "evaluate": json.loads((out / "evaluation/summary.json").read_text())["command"],
    }
    assert commands == {n: f"python -m polytune.app.{n} {' '.join(flags)}" for n, flags in PROGRAMS.items()}
    records = (out / "evaluation/records.jsonl").read_text()
    again = call([installed / "python", *shlex.split(commands["evaluate"])[1:]], tmp_path)
    assert "12 of them recorded before" in again and (out / "evaluation/records.jsonl").read_text() == records


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["finetune", "--help"], 0, "accelerate launch -m polytune.app.finetune"),
        (["finetune", "--help"], 0, "(unset: recipes/fourrooms/quickstart.yaml)"),
        (["finetune", "--config", "recipes/fourrooms/poly_ppo.yaml", "--help"], 0, "outputs/fourrooms/poly_ppo"),
        (["finetune", "--config", "recipes/nothing.yaml"], 2, "does not exist; did you mean recipes/"),
        (["evaluate", "--task", "nothing"], 1, "error: unknown task 'nothing'; known: "),
        (["evaluate"], 1, "(`python -m polytune.app.pretrain` writes outputs/quickstart/pretrained)."),
        (["compare", "--model", "outputs/none"], 1, "error: checkpoint 'outputs/none' does not exist"),
        ([], 0, "accelerate launch --num_processes 2 -m polytune.app.finetune"),
    ],
)  # fmt: skip
def test_what_it_says_there(installed, tmp_path, words, status, told):
    if status == 1:  # said by a program, when torch is loaded
        text = call_module(installed, ["polytune.app.console", *words], tmp_path, status)
    else:
        text = call([installed / "polytune", *words], tmp_path, status)
    assert told in " ".join(text.split()) and "recipes/finetune.py" not in text
    assert status == 0 or text.count("\n") == 1, text


def test_a_loaded_module_is_the_wheels(installed, tmp_path):
    """What ``call_module`` runs is not this checkout."""
    (tmp_path / "where.py").write_text("import polytune.places as p; print(p.PACKAGE, p.IN_CHECKOUT)")
    [packages] = installed.parent.glob("lib/python*/site-packages")
    paths = environment(PYTHONPATH=f"{packages}{os.pathsep}{tmp_path}")
    assert said(warm.run("-m", "where", env=paths, cwd=tmp_path), 0) == f"{packages}/polytune False\n"


def test_programs_start_programs_from_any_folder(installed, tmp_path):
    code = "import subprocess, sys, polytune.places as p; subprocess.run([*p.start('export'), *sys.argv[1:]])"
    (tmp_path / "torch.py").write_text("raise ImportError('the file of a user')")
    assert "--licence" in call([installed / "python", "-P", "-c", code, "--help"], tmp_path)
