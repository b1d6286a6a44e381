"""Checkpoints are whole or absent: damage is found, order is by number, a failed save harms nothing before it."""

import errno
import json
import os
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError

from polytune.running import checkpoints as module
from polytune.running.checkpoints import (
    FORMAT,
    MANIFEST,
    STAGING,
    VERSION_FILE,
    AtomicCheckpoints,
    SaveError,
    check_manifest,
    checkpoints,
    write_manifest,
)
from polytune.trainer import latest_checkpoint


class PlainTrainer:
    """Writes a checkpoint as transformers' Trainer does: into a folder below `_get_output_dir`."""

    def __init__(self, output_dir, save_total_limit=None):
        self.args = SimpleNamespace(output_dir=str(output_dir), save_total_limit=save_total_limit)
        self.accelerator = SimpleNamespace(
            wait_for_everyone=lambda: None, device="cpu", reduce=lambda count, reduction: count
        )
        self.model = torch.nn.Linear(2, 1)
        self.state = SimpleNamespace(global_step=0)
        self.fail: Exception | None = None

        self.loaded: list[Path] = []

    def _load_from_checkpoint(self, folder, model=None):
        self.loaded.append(folder)

    def is_world_process_zero(self):
        return True

    def _get_output_dir(self, trial=None):
        return self.args.output_dir

    def save_model(self, output_dir=None, _internal_call=False):
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_bytes(bytes([self.state.global_step]) * 1000)
        if self.fail is not None:
            raise self.fail

    def _save_checkpoint(self, model, trial):
        folder = Path(self._get_output_dir()) / f"checkpoint-{self.state.global_step}"
        self.save_model(str(folder), _internal_call=True)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": self.state.global_step}))


class Trainer(AtomicCheckpoints, PlainTrainer):
    def save_at(self, step):
        self.state.global_step = step
        self._save_checkpoint(None, None)

    def _save_extra_state(self, folder):
        super()._save_extra_state(folder)
        (folder / "extra").mkdir()
        (folder / "extra/counters.json").write_text("{}")


@pytest.fixture
def trainer(tmp_path):
    return Trainer(tmp_path / "run")


def names(trainer):
    return [path.name for path in checkpoints(trainer.args.output_dir)]


def delete(folder):
    (folder / "model.safetensors").unlink()


def truncate(folder):
    os.truncate(folder / "model.safetensors", 999)


def flip(folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[500] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def empty_subfolder(folder):
    shutil.rmtree(folder / "extra")


def no_manifest(folder):
    (folder / MANIFEST).unlink()


def manifest_text(text):
    def write(folder):
        (folder / MANIFEST).write_text(text)

    return write


DAMAGE = [
    (delete, "model.safetensors is missing"),
    (truncate, "model.safetensors has 999 bytes instead of 1000"),
    (flip, "model.safetensors has other content"),
    (empty_subfolder, "extra/counters.json is missing"),
    (no_manifest, "manifest.json is missing"),
    (manifest_text('{"model.saf'), "manifest.json cannot be read"),
    (manifest_text("[1]"), "manifest.json cannot be read"),
    (manifest_text('{"model.safetensors": 3}'), "manifest.json cannot be read"),
    (manifest_text("{}"), "manifest.json lists no files"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGE, ids=[reason for _, reason in DAMAGE])
def test_damage_is_found_and_the_checkpoint_before_is_used(trainer, damage, reason, monkeypatch):
    warnings = []
    monkeypatch.setattr(module.logger, "warning", warnings.append)
    for step in (9, 10):
        trainer.save_at(step)
    newest = Path(trainer.args.output_dir) / "checkpoint-10"
    assert check_manifest(newest) is None and latest_checkpoint(trainer.args.output_dir) == newest
    damage(newest)
    assert check_manifest(newest).startswith(reason)
    assert latest_checkpoint(trainer.args.output_dir).name == "checkpoint-9"
    assert len(warnings) == 1 and "checkpoint-10 is damaged" in warnings[0] and reason in warnings[0]
    damage(newest.with_name("checkpoint-9"))
    assert latest_checkpoint(trainer.args.output_dir) is None


def test_order_is_by_number_and_strangers_are_passed_over(tmp_path):
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-100", "checkpoint-x", "checkpoint-7.old", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-200").write_text("a file")
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert checkpoints(tmp_path / "nowhere") == [] and latest_checkpoint(tmp_path / "nowhere") is None


def test_the_limit_keeps_the_newest(trainer):
    trainer.args.save_total_limit = 2
    for step in (8, 9, 10, 11):
        trainer.save_at(step)
    assert names(trainer) == ["checkpoint-10", "checkpoint-11"]
    assert not (Path(trainer.args.output_dir) / STAGING).exists()


def test_a_damaged_newer_checkpoint_does_not_push_out_the_whole_one(trainer):
    trainer.args.save_total_limit = 1
    trainer.save_at(30)
    truncate(Path(trainer.args.output_dir) / "checkpoint-30")
    trainer.save_at(20)  # the run went back and goes on from before
    assert latest_checkpoint(trainer.args.output_dir).name == "checkpoint-20"
    trainer.save_at(30)
    assert names(trainer) == ["checkpoint-30"]
    assert latest_checkpoint(trainer.args.output_dir).name == "checkpoint-30"


def test_remains_of_a_killed_save_do_no_harm(trainer):
    trainer.save_at(1)
    staging = Path(trainer.args.output_dir) / STAGING
    (staging / "checkpoint-2").mkdir(parents=True)
    (staging / "checkpoint-2/model.safetensors").write_bytes(b"half")
    (staging / "old-checkpoint-0").mkdir()  # killed while it removed an old one
    assert latest_checkpoint(trainer.args.output_dir).name == "checkpoint-1"
    trainer.save_at(2)
    assert names(trainer) == ["checkpoint-1", "checkpoint-2"] and not staging.exists()
    assert check_manifest(Path(trainer.args.output_dir) / "checkpoint-2") is None


@pytest.mark.parametrize("place", ["write_manifest", "os.rename"])
def test_a_kill_leaves_the_old_checkpoints_alone(trainer, place, monkeypatch):
    class Kill(BaseException):
        pass

    def kill(*args):
        raise Kill

    trainer.args.save_total_limit = 1
    trainer.save_at(1)
    with monkeypatch.context() as patch, pytest.raises(Kill):
        owner, name = (module.os, "rename") if place == "os.rename" else (module, place)
        patch.setattr(owner, name, kill)
        trainer.save_at(2)
    assert names(trainer) == ["checkpoint-1"] and latest_checkpoint(trainer.args.output_dir).name == "checkpoint-1"
    trainer.save_at(2)
    assert names(trainer) == ["checkpoint-2"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
        RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
    ],
)
def test_a_failed_save_names_path_reason_intact_checkpoint_and_fix(trainer, error):
    trainer.fail = error
    with pytest.raises(SaveError) as first:
        trainer.save_at(1)
    assert "There is no earlier checkpoint" in str(first.value) and "begins anew" in str(first.value)
    trainer.fail = None
    trainer.save_at(1)
    trainer.fail = error
    with pytest.raises(SaveError) as second:
        trainer.save_at(2)
    with pytest.raises(SaveError) as final:
        trainer.save_model()
    for raised, path in ((second, "run/checkpoint-2"), (final, "run")):
        message = str(raised.value)
        assert f"{path} could not be written: {error}" in message and "MiB free" in message
        assert "checkpoint-1 is intact" in message and "make room and run the same command again" in message
    assert names(trainer) == ["checkpoint-1"] and not (Path(trainer.args.output_dir) / STAGING).exists()
    trainer.fail = None
    trainer.save_at(2)
    assert latest_checkpoint(trainer.args.output_dir).name == "checkpoint-2"


def test_a_full_disk_while_the_manifest_is_written(trainer, monkeypatch):
    trainer.save_at(1)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(SaveError, match="checkpoint-1 is intact"):
        patch.setattr(module.os, "fsync", full)
        trainer.save_at(2)
    assert names(trainer) == ["checkpoint-1"]


def test_a_bug_in_a_save_is_not_taken_for_a_full_disk(trainer):
    trainer.fail = TypeError("a bug")
    with pytest.raises(TypeError, match="a bug"):
        trainer.save_at(1)
    assert names(trainer) == []


def test_the_manifest_lists_every_file_and_nothing_else(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/b").write_text("22")
    write_manifest(tmp_path)
    listing = json.loads((tmp_path / MANIFEST).read_text())
    assert {name: size for name, (size, _) in listing.items()} == {"a": 1, "deep/er/b": 2}
    (tmp_path / "later").write_text("an added file does no harm")
    assert check_manifest(tmp_path) is None


def test_a_finished_policy_is_noted_and_half_of_a_newer_one_is_not(trainer):
    folder = Path(trainer.args.output_dir)
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text("{}")
    trainer.save_model()
    assert list(json.loads((folder / MANIFEST).read_text())) == ["model.safetensors"] and check_manifest(folder) is None
    trainer.state.global_step, trainer.fail = 1, OSError("no space left")
    with pytest.raises(SaveError, match="the policy .* could not be written: no space left"):
        trainer.save_model()
    assert not (folder / MANIFEST).exists()
    trainer.fail = None
    trainer.save_at(1)
    assert not (folder / MANIFEST).exists() and check_manifest(folder / "checkpoint-1") is None
    trainer.save_model()
    assert check_manifest(folder) is None


def test_weights_that_are_not_finite_leave_the_checkpoints_alone(trainer):
    trainer.save_at(1)
    torch.nn.init.constant_(trainer.model.weight, float("nan"))
    for save in (lambda: trainer.save_at(2), trainer.save_model):
        with pytest.raises(FloatingPointError, match=r"1 weights are not finite \(weight\).*checkpoint-1 is intact"):
            save()
    assert names(trainer) == ["checkpoint-1"] and not (Path(trainer.args.output_dir) / "model.safetensors").exists()


def test_every_bit_of_a_checkpoint_counts(trainer):
    trainer.save_at(1)
    folder, draw = Path(trainer.args.output_dir) / "checkpoint-1", random.Random(0)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert {path.name for path in files} >= {MANIFEST, VERSION_FILE, "model.safetensors", "counters.json"}
    for number in range(48):
        path = files[number % len(files)]
        content = path.read_bytes()
        broken = bytearray(content)
        broken[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        for damaged in (broken, content[: draw.randrange(len(content))]):
            path.write_bytes(damaged)
            assert check_manifest(folder) is not None, (path.name, damaged)
        path.write_bytes(content)
    assert check_manifest(folder) is None


def test_a_checkpoint_of_another_format_is_refused_with_both_versions(trainer):
    trainer.save_at(1)
    folder = Path(trainer.args.output_dir) / "checkpoint-1"
    trainer._load_from_checkpoint(folder)
    assert trainer.loaded == [folder]
    now = json.loads((folder / VERSION_FILE).read_text())
    (folder / VERSION_FILE).write_text(json.dumps({"format": now["format"] + 1, "polytune": "9.9"}))
    told = (
        rf"written by polytune 9.9 \(format {FORMAT + 1}\), and this is polytune {now['polytune']} \(format {FORMAT}\)"
    )
    with pytest.raises(ValueError, match=told):
        trainer._load_from_checkpoint(folder)
    (folder / VERSION_FILE).write_text("[]")
    with pytest.raises(ValueError, match=f"{VERSION_FILE} cannot be read"):
        trainer._load_from_checkpoint(folder)
    (folder / VERSION_FILE).unlink()  # of a time when none was written
    trainer._load_from_checkpoint(folder)
    assert trainer.loaded == [folder, folder]
