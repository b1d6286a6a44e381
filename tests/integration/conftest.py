"""Policies without training: random walkers on FourRooms, which reach a goal that is near now and then."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from polytune.app.cli import run
from polytune.policy import build_tiny
from polytune.policy.rendering import PROMPT_WORD
from polytune.tasks import load_task

ROOT = Path(__file__).resolve().parents[2]


def pytest_configure(config):
    """Each worker of pytest-xdist keeps to one core: those whose threads crowd the same cores slow each other down."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if worker.startswith("gw") and len(cores) > 1:
        os.sched_setaffinity(0, {cores[int(worker[2:]) % len(cores)]})


def pytest_collection_modifyitems(items):
    """Files with slow tests first: what the workers of pytest-xdist share at the end is short."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def save_walker(folder: Path, seed: int, forward: float, task: str = "fourrooms") -> Path:
    """A tiny policy of random weights that nearly always says an action; ``forward`` raises the logit of that one."""
    task = load_task(task)
    model, tokenizer = build_tiny("tiny", [PROMPT_WORD, *task.vocabulary()], seed=seed)
    with torch.no_grad():
        model.model.embed_tokens.weight += 1.0  # a direction that all hidden states share
        for action in task.actions:
            bonus = 0.1 + (forward if action == "forward" else 0.0)
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(action)] += bonus
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


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
