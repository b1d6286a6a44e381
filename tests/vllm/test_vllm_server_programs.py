"""`vllm_mode: server` as a user runs it: one process and two, a server that dies in mid-run, the same command again."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serving import served

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    command = [sys.executable, ROOT / "recipes/pretrain.py", "--config", ROOT / "recipes/fourrooms/smoke_pretrain.yaml",
               "--output_dir", folder, "--num_demonstrations", "100", "--epochs", "2"]  # fmt: skip
    subprocess.run([str(word) for word in command], check=True, cwd=ROOT, capture_output=True, timeout=600)
    return folder


def finetune(pretrained, url, weights, output_dir, *flags, processes=1):
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", processes]
    command = [*launch, ROOT / "recipes/finetune.py", "--config", ROOT / "recipes/fourrooms/smoke.yaml", "--model",
               pretrained, "--output_dir", output_dir, "--generator", "vllm", "--vllm_mode", "server",
               "--vllm_server_base_url", url, "--vllm_weights_dir", weights, "--task_horizon", 20, *flags]  # fmt: skip
    command = [str(word) for word in command]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def metrics_of(folder):
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def assert_sampler_agrees(metrics):
    for line in metrics:
        assert line["sampling/canary_gap"] < 1e-4 and line["sampling/logprob_gap"] < 1e-4


def test_a_run_whose_server_dies_continues_on_another(pretrained, tmp_path):
    run, weights, flags = tmp_path / "run", tmp_path / "weights", ("--num_updates", 4)
    with served(pretrained, tmp_path / "first") as (url, process):
        trainer = finetune(pretrained, url, weights, run, *flags)
        while not list(run.glob("checkpoint-*")):
            assert trainer.poll() is None, trainer.stderr.read()[-3000:]
            time.sleep(0.05)
        process.kill()
        process.wait()
        _, said = trainer.communicate(timeout=300)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert trainer.returncode == 1 and len(errors) == 1 and "Traceback" not in said, said[-3000:]
    assert (
        f"the vLLM server at {url} is gone" in errors[0] and "start the server and give the same command" in errors[0]
    )
    with served(pretrained, tmp_path / "second") as (url, _):
        trainer = finetune(pretrained, url, weights, run, *flags)
        said, errors = trainer.communicate(timeout=300)
    assert trainer.returncode == 0 and "continuing from" in said, errors[-3000:]
    metrics = metrics_of(run)
    assert len(metrics) == 4 and metrics[-1]["tokens/reused"] > 0
    assert_sampler_agrees(metrics)


def test_two_processes_share_a_server_and_one_sends_the_weights(pretrained, tmp_path):
    with served(pretrained, tmp_path / "server") as (url, _):
        trainer = finetune(pretrained, url, tmp_path / "weights", tmp_path / "run", "--num_updates", 2, processes=2)
        _, errors = trainer.communicate(timeout=400)
        requests = (tmp_path / "server/server.log").read_text()
    assert trainer.returncode == 0, errors  # whole: accelerate's own traceback comes last
    metrics = metrics_of(tmp_path / "run")
    assert len(metrics) == 2
    assert_sampler_agrees(metrics)
    assert requests.count('"POST /collective_rpc HTTP/1.1" 200') == 2


def test_without_a_gpu_nccl_is_refused_before_the_policy_is_loaded(tmp_path):
    flags = ["--generator", "vllm", "--vllm_mode", "server", "--use_cpu", "true", "--model", tmp_path / "nowhere"]
    command = [sys.executable, ROOT / "recipes/finetune.py", *flags, "--output_dir", tmp_path / "run"]
    found = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert found.returncode != 0 and "Traceback" not in found.stderr
    assert "NCCL needs a GPU in the trainer's process: set vllm_weights_dir" in found.stderr
