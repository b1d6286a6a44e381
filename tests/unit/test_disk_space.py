"""A run whose checkpoints cannot fit is refused before work, and no other one."""

import shutil
from collections import namedtuple

import pytest
import torch
from peft import LoraConfig, get_peft_model

from polytune.policy import build_tiny
from polytune.running.checkpoints import SaveError, check_space

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def free(monkeypatch):
    """``free(bytes)``: what the disk has left."""
    return lambda size: monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, size))


def size(model):
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def test_weights_that_train_take_two_moments_beside_them(free, tmp_path):
    model, _ = build_tiny("tiny", ["a", "b"])
    need = 3 * 12 * size(model)  # two that stay and the one that is saved
    free(need)
    check_space(tmp_path, model, keep=2)
    free(need - 1)
    with pytest.raises(SaveError, match=f"3 x {need / 3 / 2**20:.1f} MiB"):
        check_space(tmp_path, model, keep=2)
    model.get_input_embeddings().weight.requires_grad_(False)  # saved with the others, without moments
    free(3 * (12 * size(model) + 4 * model.get_input_embeddings().weight.numel()))
    check_space(tmp_path, model, keep=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapters_base_is_in_no_checkpoint(dtype, free, tmp_path):
    model, _ = build_tiny("tiny", ["a", "b"])
    adapted = get_peft_model(model.to(dtype), LoraConfig(r=2, target_modules="all-linear"))
    need = 3 * 12 * size(adapted)
    assert need < 3 * 12 * sum(weight.numel() for weight in adapted.parameters()) / 8
    free(need)
    check_space(tmp_path, adapted, keep=2)
    free(need - 1)
    with pytest.raises(SaveError, match="MiB free"):
        check_space(tmp_path, adapted, keep=2)
