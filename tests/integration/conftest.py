"""What the programs' tests share: policies without training, recipes within this process, torch on one thread."""

import importlib.util
from pathlib import Path

import pytest
import torch
from walkers import ROOT, save_walker

from polytune.app.cli import run


@pytest.fixture(scope="session")
def walkers(tmp_path_factory) -> dict[str, Path]:
    """Two untrained policies of unlike skill: name -> folder."""
    root = tmp_path_factory.mktemp("walkers")
    return {"slow": save_walker(root / "slow", 0, 0.007), "quick": save_walker(root / "quick", 1, 0.015)}


@pytest.fixture
def one_thread():
    """Torch on one thread, as in a subprocess that is compared with this one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def call_recipe():
    """``call_recipe("evaluate", *arguments)``: a recipe within this process, errors handled as on the command line."""

    def call(name: str, *arguments) -> None:
        spec = importlib.util.spec_from_file_location(f"recipe_{name}", ROOT / f"recipes/{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        run(module.main, [str(argument) for argument in arguments])

    return call
