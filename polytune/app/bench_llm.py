"""Measure fine-tuning of a real language model, SmolLM2-135M (`make smollm2`): memory, tokens a second of each stage.

    python -m polytune.app.bench_llm --output_file data/results/smollm2.json      # minutes on one idle core
    python -m polytune.app.bench_llm --cases lora

Each case is three updates of `recipes/finetune.py` on one thread, a group of 8 episodes of FourRooms a time; figures
are means of the updates after the first. `limit_share`: the share of the arithmetic that a matrix product reaches here.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from polytune.app.bench_training import Case, finetune
from polytune.app.cli import parse, run
from polytune.checks import require, require_choice
from polytune.places import PACKAGE
from polytune.running.provenance import write_json

SMALL = (
    "--config recipes/fourrooms/smoke.yaml --use_peft true --lora_r 8 --num_start_states 1 --set_scope seeds "
    "--num_seeds 8 --num_rollout_states 0 --num_vines 0 --window -1 --set_normalise group_std "
    "--per_device_train_batch_size 8 --steps_per_generation 1 --num_iterations 1 --num_updates 3 --use_cpu true "
    "--kl_coef 0 --task_horizon 4 --collapse_share 0"
)
CASES = {
    "lora": Case("LoRA, the critic's head on the policy's features", "environment steps", "", SMALL),
    "critic_adapter": Case(
        "LoRA, and a critic with an adapter of its own", "environment steps", "",
        f"{SMALL} --critic own --critic_lora_r 4 --critic_learning_rate 1e-4",
    ),
}  # fmt: skip


@dataclass
class BenchLlmConfig:
    """What is measured, and where it is written."""

    model: str = field(default="outputs/smollm2", metadata={"help": "The base model."})
    cases: list[str] = field(default_factory=lambda: [*CASES], metadata={"help": f"Of {', '.join(CASES)}."})
    output_dir: str = field(default="outputs/bench_llm", metadata={"help": "Where the runs go."})
    output_file: str = field(default="outputs/bench_llm/smollm2.json", metadata={"help": "The figures."})

    def __post_init__(self) -> None:
        for name in self.cases:
            require_choice("cases", name, tuple(CASES))
        require((Path(self.model) / "config.json").is_file(), f"model {self.model!r} is not there: make smollm2.")


def stages(found: dict) -> dict:
    """Peak memory, seconds and tokens a second of each stage of an update."""
    seconds = {name.partition("/")[2]: value for name, value in found.items() if name.startswith("seconds/")}
    computed = found["update/tokens_computed"]
    whole = found["speed/tokens_per_second"] * sum(seconds.values())
    return {
        "peak_mib": round(found["peak_mib"]),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "tokens_a_second": {
            "rollouts": round((whole - computed) / seconds["rollouts"], 1),
            "update": round(computed / seconds["update"], 1),
            "loop": round(found["speed/tokens_per_second"], 1),
        },
        "tokens": {"update_computed": computed, "update_distinct": found["update/tokens_distinct"]},
        "limit_share": round(found["speed/limit_share"], 3),
        "env_steps_per_cpu_second": round(found["per_cpu_second"], 3),
    }


def main(argv: Sequence[str]) -> None:
    (config,) = parse((BenchLlmConfig,), argv, description=__doc__)
    tree, results = PACKAGE.parent, {}
    for name in config.cases:
        found = finetune(tree, CASES[name], Path(config.model).resolve(), Path(config.output_dir).resolve() / name)
        results[name] = {"what": CASES[name].title, "flags": CASES[name].finetune} | stages(found)
        print(name, json.dumps(results[name]), flush=True)
    command = "python -m polytune.app.bench_llm" + "".join(f" {word}" for word in argv)
    kept = {"command": command, "load_average": os.getloadavg()[0], "cases": results}
    write_json(Path(config.output_file), kept)


if __name__ == "__main__":
    run(main)
