"""Tests on real weights, SmolLM2-135M-Instruct (`make smollm2`); without them each is skipped."""

from pathlib import Path

import pytest
import torch

from polytune.policy import load_policy

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "outputs/smollm2"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.smollm2)
            if not (FOLDER / "config.json").is_file():
                item.add_marker(pytest.mark.skip(reason=f"{FOLDER} is not there: run make smollm2"))


@pytest.fixture(scope="session")
def policy():
    """Model and tokenizer, as every program loads them."""
    torch.set_num_threads(1)
    return load_policy(FOLDER)
