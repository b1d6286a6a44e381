"""A user's way on a real model: own prompts and reward, a LoRA adapter with a critic's beside it, a proved export."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
TALK = [{"role": "system", "content": "Answer in a few words."}, {"role": "user", "content": "Name a colour."}]


def call(program, *arguments):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, str(ROOT / f"recipes/{program}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An adapter and a critic's adapter, after two updates of a group of 6 answers; its base is a copy's own folder."""
    folder = tmp_path_factory.mktemp("smollm2")
    base = shutil.copytree(ROOT / "outputs/smollm2", folder / "base")
    (folder / "talk.jsonl").write_text(json.dumps({"messages": TALK}) + "\n")
    result = call(
        "finetune", "--config", ROOT / "recipes/arithmetic/grpo.yaml", "--model", base, "--output_dir", folder / "run",
        "--task_args", f"path={folder / 'talk.jsonl'}", "prompt=messages", "reward=bench_rewards:short", "max_tokens=6",
        "--use_peft", "true", "--lora_r", 4, "--critic", "own", "--critic_lora_r", 2, "--critic_learning_rate", 1e-3,
        "--num_seeds", 6, "--per_device_train_batch_size", 6, "--steps_per_generation", 1, "--num_updates", 2,
        "--learning_rate", 1e-3, "--use_cpu", "true", "--save_updates", 2,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    return folder


def test_updates_move_the_adapters_and_the_samplers_logprobs_are_the_trainers(run):
    lines = [json.loads(line) for line in (run / "run/metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(line["sampling/logprob_gap"] < 1e-3 for line in lines)
    assert all(line["update/tokens_distinct"] < line["update/tokens_computed"] + 1 for line in lines)
    adapter = load_file(run / "run/adapter_model.safetensors")
    assert any(weight.abs().max() > 0 for name, weight in adapter.items() if "lora_B" in name)
    recorded = json.loads((run / "run/recorded_episodes.json").read_text())
    assert list(recorded["base_weights"]) == ["model.safetensors"]


def test_an_export_is_proved_and_another_base_is_refused(run):
    done = call("export", "--policy", run / "run", "--output_dir", run / "export", "--licence", "apache-2.0")
    assert done.returncode == 0, done.stderr[-2000:]
    settings = json.loads((run / "export/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(run / "base")
    assert json.loads((run / "export/polytune.json").read_text())["proof"]["largest"] < 1e-4
    weights = load_file(run / "base/model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1.001
    save_file(weights, run / "base/model.safetensors", metadata={"format": "pt"})
    refused = call("export", "--policy", run / "run", "--output_dir", run / "other", "--licence", "apache-2.0")
    assert refused.returncode == 1 and not (run / "other").exists()
    assert "base/model.safetensors is not what the run saved" in refused.stderr
