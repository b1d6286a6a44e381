"""The recipes through vLLM, run as a user runs them: they learn, and both generators see the same policy."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INTEGRATION = ROOT / "tests/integration"
sys.path.insert(0, str(INTEGRATION))
from chat_policy import through_the_recipes  # noqa: E402


def run(program, *arguments, timeout=900):
    command = [sys.executable, str(ROOT / "recipes" / program), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT)
    assert result.returncode == 0, f"{program}: {result.stderr[-3000:]}"
    return result.stdout


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_sampler_agrees(metrics):
    """Each update's canary and its samples' logprobs are the trainer's; so the importance ratios are 1."""
    for line in metrics:
        assert line["sampling/canary_gap"] < 1e-4 and line["sampling/logprob_gap"] < 1e-4
        assert line["sampling/importance_ratio"] == pytest.approx(1.0, abs=1e-4)
        assert line["sampling/importance_truncated"] == 0.0


def test_poly_ppo_learns_fourrooms(tmp_path):
    """8 updates on 4 start states; success of 256 episodes before and after, sampled by the transformers generator."""
    before, after, evaluation = tmp_path / "before", tmp_path / "after", tmp_path / "evaluation"
    run("pretrain.py", "--config", ROOT / "recipes/fourrooms/smoke_pretrain.yaml", "--output_dir", before,
        "--num_demonstrations", 400, "--epochs", 12, "--learning_rate", 2e-3, "--target_success", 0.3)  # fmt: skip
    world = ["--task_horizon", 40, "--num_start_states", 4]
    run("finetune.py", "--config", ROOT / "recipes/fourrooms/smoke.yaml", "--generator", "vllm", "--model", before,
        "--output_dir", after, *world, "--num_updates", 8, "--num_vines", 8, "--num_generations", 17, "--set_size", 4,
        "--per_device_train_batch_size", 34, "--steps_per_generation", 4, "--critic_learning_rate", 1e-3,
        "--rollout_states", "start")  # fmt: skip
    assert_sampler_agrees(metrics_of(after))
    run("evaluate.py", "--policies", before, after, *world, "--n", 64, "--output_dir", evaluation)
    summary = json.loads((evaluation / "summary.json").read_text())["policies"]
    success = [summary[name]["success"]["estimate"] for name in ("before", "after")]
    assert success[1] > success[0] + 0.1, success  # standard error of the difference: .04


def test_poly_epo_learns_triangle_and_both_generators_evaluate_alike(tmp_path):
    """12 updates from the committed policy of the clip ablation, whose validity is .51."""
    before, after = ROOT / "data/results/runs/clip_ablation/policy", tmp_path / "after"
    recipe = ROOT / "recipes/creativity/triangle/poly_epo_group_std.yaml"
    run("finetune.py", "--config", recipe, "--generator", "vllm", "--model", before,
        "--output_dir", after, "--num_updates", 12, "--learning_rate", 3e-4)  # fmt: skip
    metrics = metrics_of(after)
    assert_sampler_agrees(metrics)
    validity = [line["rollout/success"] for line in metrics]
    assert sum(validity[-3:]) / 3 > sum(validity[:3]) / 3 + 0.1, validity
    found = {}
    for generator in ("vllm", "transformers"):
        folder = tmp_path / generator
        run("evaluate.py", "--task", "triangle", "--task_args", "size=tiny", "--policies", f"before={before}", after,
            "--generator", generator, "--n", 1, "--num_start_states", 512, "--output_dir", folder)  # fmt: skip
        summary = json.loads((folder / "summary.json").read_text())
        found[generator] = {name: own["success"]["estimate"] for name, own in summary["policies"].items()}
        records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        found[generator]["greedy"] = [r["actions"] for r in records if r["attempt"] < 0]
    for name in ("before", "after"):
        difference = found["vllm"][name] - found["transformers"][name]
        assert abs(difference) < 0.12, found  # 4 standard errors
    same = [a == b for a, b in zip(found["vllm"]["greedy"], found["transformers"]["greedy"], strict=True)]
    assert len(same) == 1024 and sum(same) / len(same) > 0.99  # a near tie may fall either way


def test_a_chat_checkpoint_goes_through_the_recipes(tmp_path, monkeypatch):
    """Template, byte-level BPE, LoRA with a trained head, which is tied no longer."""
    monkeypatch.setenv("PYTHONPATH", str(INTEGRATION), prepend=os.pathsep)
    through_the_recipes(lambda name, *arguments: run(f"{name}.py", *arguments), tmp_path, "vllm")


def test_the_benchmark_counts_the_same_work_on_both_sides(tmp_path):
    said = run("bench_generators.py", "--sizes", "1M", "--quick", "--output_dir", tmp_path)
    measured = json.loads((tmp_path / "generators.json").read_text())["sizes"]["1M"]
    assert "episodes  vLLM / transformers:" in said and 0.9e6 < measured["parameters"] < 1.1e6
    for workload in ("episodes", "trees"):
        steps = {
            name: [r["env_steps"] for r in measured[workload][name]["rounds"]] for name in ("vllm", "transformers")
        }
        assert steps["vllm"] == steps["transformers"] and measured[workload]["ratio"] > 0
    assert measured["trees"]["transformers"]["reused_share"] == 1.0
