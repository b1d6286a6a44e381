"""A run killed with SIGKILL and restarted ends bit for bit as an uninterrupted one."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import warm
from doors import Doors
from outcomes import assert_same, without_times
from safetensors.torch import load_file

from polytune.methods.ucb import UCB
from polytune.policy import build_tiny
from polytune.policy.rendering import PROMPT_WORD
from polytune.trainer.hooks import load_methods

ROOT = Path(__file__).resolve().parents[2]
RECIPE, DIES = ROOT / "recipes/finetune.py", ROOT / "tests/integration/run_and_die.py"
UPDATES = 4


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """An untrained policy: the toy task is so small that it often succeeds."""
    folder = tmp_path_factory.mktemp("policy")
    model, tokenizer = build_tiny("tiny", [PROMPT_WORD, *Doors().vocabulary()])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def command(policy, output_dir):
    return [
        "--config", str(ROOT / "recipes/fourrooms/smoke.yaml"), "--model", str(policy), "--output_dir", str(output_dir),
        "--task", "doors:Doors", "--split", "seeds:0-2", "--task_horizon", "16", "--num_updates", str(UPDATES),
        "--learning_rate", "1e-3", "--disable_tqdm", "true", "--cpu_threads", "1",
    ]  # fmt: skip


def environment():
    return os.environ | {"PYTHONPATH": str(Path(__file__).parent)}


def run(*arguments):
    """A process that is forked, see warm.py."""
    return warm.run(*arguments, env=environment())


def run_python(*arguments):
    """A Python of its own: another hash seed than that of the forked ones."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=300, env=environment()
    )


def outcome(folder, *, rng=True):
    """Weights, critic, metrics without clocks, and the last checkpoint's optimiser, schedule, RNG and counters."""
    metrics = [without_times(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = max(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    return {
        "weights": load_file(folder / "model.safetensors"),
        "critic": load_file(last / "critic.safetensors"),
        "optimizer": torch.load(last / "optimizer.pt", weights_only=True)["state"],
        "critic_optimizer": torch.load(last / "critic_optimizer.pt", weights_only=True)["state"],
        "scheduler": torch.load(last / "scheduler.pt", weights_only=True),
        "rng": torch.load(last / "rng_state.pth", weights_only=False) if rng else None,
        "counters": json.loads((last / "polytune_state.json").read_text()),
        "steps": last.name,
        "metrics": metrics,
        "trees": [json.loads(line) for line in (folder / "trees.jsonl").read_text().splitlines()],
    }


@pytest.fixture(scope="module")
def uninterrupted(policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    result = run_python(RECIPE, *command(policy, folder))
    assert result.returncode == 0, result.stderr[-3000:]
    found = outcome(folder)
    initial = load_file(policy / "model.safetensors")
    assert any(not torch.equal(found["weights"][name], initial[name]) for name in initial)  # the run taught something
    assert len(found["metrics"]) == UPDATES and found["steps"] == f"checkpoint-{4 * UPDATES}"
    return found


@pytest.mark.slow
def test_killed_again_and_again_ends_the_same(policy, uninterrupted, tmp_path):
    """One run, killed seven times: in rollouts, in updates, in saves; the moments are drawn at random."""
    draw = random.Random(7)
    folder = tmp_path / "run"
    moments = [
        ("rollout", draw.randint(2, 60)),  # the first update's rollouts: nothing is saved yet
        ("update", draw.randint(5, 8)),  # second update
        ("staged", 1),  # the second checkpoint is half written
        ("rollout", draw.randint(40, 60)),  # beyond the next save
        ("manifest", 1),
        ("renamed", 3),  # calls 1 and 2: looking for the checkpoint to continue from, and the first save's rotation
        ("final", 2),
    ]
    for place, count in moments:
        result = run(DIES, place, count, RECIPE, *command(policy, folder))
        assert result.returncode in (-signal.SIGKILL, 0), result.stderr[-3000:]
        if place != "final" and place != "renamed":
            assert result.returncode == -signal.SIGKILL, f"{place} {count} was never reached"
    result = run_python(RECIPE, *command(policy, folder))
    assert result.returncode == 0, result.stderr[-3000:]
    assert_same(outcome(folder), uninterrupted)


@pytest.mark.slow
def test_a_truncated_newest_checkpoint_is_reported_and_passed_over(policy, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    died = run(DIES, "update", 14, RECIPE, *command(policy, folder))
    assert died.returncode == -signal.SIGKILL
    newest = max(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    result = run(RECIPE, *command(policy, folder))
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"{newest} is damaged (model.safetensors has" in result.stderr
    assert "continuing from" in result.stdout
    assert_same(outcome(folder), uninterrupted)


@pytest.mark.slow
def test_other_settings_do_not_continue_a_run(policy, tmp_path):
    folder = tmp_path / "run"
    run(DIES, "update", 6, RECIPE, *command(policy, folder))
    kept = sorted(path.name for path in folder.glob("checkpoint-*"))
    result = run(RECIPE, *command(policy, folder), "--kl_coef", "0.5")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "kl_coef was 0.02, now 0.5" in result.stderr
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == kept


@pytest.mark.slow
def test_budget_and_visit_counts_resume_bit_for_bit(policy, tmp_path):
    """Steps left, tree size and N(s, a) are in the checkpoint; so is what ``uncertain`` asks the critic for."""
    flags = ["--max_env_steps", "600", "--methods", "ucb", "--rollout_states", "uncertain"]
    whole = run(RECIPE, *command(policy, tmp_path / "whole"), *flags)
    assert whole.returncode == 0, whole.stderr[-3000:]
    died = run(DIES, "update", 9, RECIPE, *command(policy, tmp_path / "cut"), *flags)
    assert died.returncode == -signal.SIGKILL
    again = run_python(RECIPE, *command(policy, tmp_path / "cut"), *flags)
    assert again.returncode == 0 and "continuing from" in again.stdout, again.stderr[-3000:]
    assert_same(outcome(tmp_path / "whole"), outcome(tmp_path / "cut"))
    ucbs = [UCB(), UCB()]
    for name, ucb in zip(("whole", "cut"), ucbs, strict=True):
        load_methods(max((tmp_path / name).glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1])), {"ucb": ucb})
    assert ucbs[0].counts == ucbs[1].counts and len(ucbs[0].counts) > 3
