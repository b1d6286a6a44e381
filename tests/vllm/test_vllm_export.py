"""An exported adapter, and exported merged weights, in vLLM: the logprobs that the trainer recorded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/integration"))
from walkers import save_walker  # noqa: E402


def run(program, *arguments):
    command = [sys.executable, str(ROOT / "recipes" / program), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert result.returncode == 0, f"{program}: {result.stderr[-3000:]}"


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """(base, exported adapter, the same merged, what the run recorded)."""
    root = tmp_path_factory.mktemp("exports")
    base = save_walker(root / "base", 1, 0.015)
    settings = {
        "task": "fourrooms", "task_horizon": 12, "split": "seeds:41-48", "num_seeds": 1, "num_rollout_states": 1,
        "num_vines": 3, "num_generations": 4, "per_device_train_batch_size": 16, "steps_per_generation": 1,
        "set_size": 2, "use_cpu": True, "learning_rate": 1e-2, "entropy_coef": 0.1, "num_updates": 2,
        "use_peft": True, "lora_r": 8,
    }  # fmt: skip
    (root / "run.yaml").write_text(yaml.safe_dump(settings))
    run("finetune.py", "--config", root / "run.yaml", "--model", base, "--output_dir", root / "run")
    for name, flags in (("adapter", []), ("merged", ["--merge", "true"])):
        run("export.py", "--policy", root / "run", "--output_dir", root / name, *flags)
    return base, root / "adapter", root / "merged", json.loads((root / "run/recorded_episodes.json").read_text())


def engine(path, monkeypatch, **options):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM

    return LLM(
        model=str(path), dtype="float32", enforce_eager=True, block_size=32, enable_chunked_prefill=False,
        max_model_len=512, logprobs_mode="processed_logprobs", skip_tokenizer_init=True, seed=0,
        max_logprobs=-1, **options,
    )  # fmt: skip


def largest_gap(llm, recorded, **options):
    """Between the recorded logprobs and those that vLLM gives each token after what stood before it.

    Not as a prompt's logprobs: with LoRA vLLM 0.31 wraps the head, and its CPU kernel takes one row a request there
    ("einsum(): subscript b has size 4 for operand 1 which does not broadcast with previously seen size 72").
    """
    from vllm import SamplingParams

    prefixes, tokens, trained = [], [], []
    for episode in recorded["episodes"]:
        ids = episode["prompt_ids"] + episode["completion_ids"]
        own = [place for place, mine in enumerate(episode["own_C"], start=len(episode["prompt_ids"])) if mine]
        prefixes += [{"prompt_token_ids": ids[:place]} for place in own]
        tokens += [ids[place] for place in own]
        trained += episode["logprobs"]
    asked = SamplingParams(max_tokens=1, temperature=1.0, logprobs=-1, detokenize=False)
    found = llm.generate(prefixes, asked, use_tqdm=False, **options)
    assert len(found) == len(trained) > 20
    return max(
        abs(output.outputs[0].logprobs[0][token].logprob - value)
        for output, token, value in zip(found, tokens, trained, strict=True)
    )


def test_vllm_serves_the_exported_adapter(exports, monkeypatch):
    from vllm.lora.request import LoRARequest

    base, adapter, _, recorded = exports
    llm = engine(base, monkeypatch, enable_lora=True, max_lora_rank=8, max_loras=1)
    assert largest_gap(llm, recorded) > 1e-2, "the base alone is another policy"
    gap = largest_gap(llm, recorded, lora_request=LoRARequest("policy", 1, str(adapter)))
    print(f"largest difference with the adapter: {gap:.3g} nats")
    assert gap < 1e-4


def test_vllm_serves_the_exported_merged_weights(exports, monkeypatch):
    _, _, merged, recorded = exports
    gap = largest_gap(engine(merged, monkeypatch), recorded)
    print(f"largest difference with merged weights: {gap:.3g} nats")
    assert gap < 1e-4
