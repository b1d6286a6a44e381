"""Measure the vLLM generator against the transformers generator: the same policy, worlds and shapes, in one run.

    python recipes/bench_generators.py                       # 1 M and 100 M random weights, ten minutes on 2 cores
    python recipes/bench_generators.py --sizes 1M --quick    # a smoke test of a minute

Two workloads of FourRooms: independent episodes, and vine trees (1 seed trajectory, 2 rollout states, 8 vines each),
whose forks share a prefix. Random weights never reach the goal, so every episode takes all of its turns and both
generators the same number of environment steps. Repeats of the two alternate; the first of each, which warms up, is not
counted. vLLM runs in an environment of its own: `make bench`.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from polytune.app.cli import parse, run, set_cpu_threads
from polytune.places import command
from polytune.terminal import progress

#: name -> (hidden size, layers, heads, feed-forward size, episodes, turns of an episode)
SIZES = {"1M": (128, 4, 4, 448, 64, 60), "100M": (768, 12, 12, 2304, 32, 16)}
GENERATORS = ("transformers", "vllm")


@dataclass
class GeneratorBenchConfig:
    """What is measured, and where the numbers go."""

    sizes: list[str] = field(default_factory=lambda: list(SIZES), metadata={"help": f"Among {', '.join(SIZES)}."})
    repeats: int = field(default=3, metadata={"help": "Counted repeats of each timing."})
    quick: bool = field(default=False, metadata={"help": "A quarter of the turns, one repeat."})
    dtype: str | None = field(default=None, metadata={"help": "Weights; unset: float32, on a GPU bfloat16."})
    cpu_threads: int | None = field(default=None, metadata={"help": "CPU threads; unset: all of the machine's cores."})
    output_dir: str = field(default="outputs/bench", metadata={"help": "Where generators.json is written."})

    def __post_init__(self) -> None:
        unknown = sorted(set(self.sizes) - set(SIZES))
        if unknown or not self.sizes:
            raise ValueError(f"sizes has {', '.join(unknown) or 'nothing'}: choose among {', '.join(SIZES)}.")


def main(argv: Sequence[str]) -> None:
    # ---------------------------------------------------------------- configuration
    from polytune.config import PolicyConfig

    (config,) = parse((GeneratorBenchConfig,), argv, description=__doc__)
    PolicyConfig(generator="vllm")  # refused where vLLM is not installed
    set_cpu_threads(config.cpu_threads)

    import torch

    from polytune.running.provenance import origin, write_json

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = config.dtype or ("bfloat16" if device == "cuda" else "float32")
    report = origin(command("bench_generators", argv)) | {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "sizes": {},
    }

    # ---------------------------------------------------------------- measure
    for size in config.sizes:
        report["sizes"][size] = measured = measure(size, config, device, getattr(torch, dtype))
        print(f"{size}: {measured['parameters']:,} parameters, {dtype}, {report['device']}")
        print("                            env steps/s: min, median, max     tokens/s   prefix reused")
        for workload in ("episodes", "trees"):
            for name in GENERATORS:
                own = measured[workload][name]
                rates = "".join(f"{own['env_steps_per_s'][key]:10,.1f}" for key in ("min", "median", "max"))
                print(f"  {workload:9} {name:13} {rates} {own['tokens_per_s']:12,.0f} {own['reused_share']:15.0%}")
            print(f"  {workload:9} vLLM / transformers: {measured[workload]['ratio']:.2f}", flush=True)

    # ---------------------------------------------------------------- keep
    write_json(Path(config.output_dir) / "generators.json", report)
    print(f"wrote {config.output_dir}/generators.json")


def measure(size: str, config: GeneratorBenchConfig, device: str, dtype) -> dict:
    """Both generators on both workloads with a policy of random weights of this size."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from polytune.policy import Renderer, build_generator
    from polytune.policy.rendering import PROMPT_WORD
    from polytune.policy.tiny import build_tokenizer
    from polytune.tasks import load_task

    hidden, layers, heads, feed_forward, episodes, turns = SIZES[size]
    task = load_task("fourrooms", horizon=max(4, turns // 4) if config.quick else turns)
    tokenizer = build_tokenizer([PROMPT_WORD, *task.vocabulary()])
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=heads, head_dim=hidden // heads, intermediate_size=feed_forward,
            max_position_embeddings=2048, pad_token_id=tokenizer.pad_token_id,
        )
    ).to(device, dtype).eval()  # fmt: skip
    renderer = Renderer(tokenizer, task)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        generators = {
            name: build_generator(name, model, path=folder, max_action_tokens=1, stop_ids=renderer.stop_ids)
            for name in GENERATORS
        }
    measured: dict = {"parameters": sum(p.numel() for p in model.parameters()), "turns": task.horizon}
    for workload in ("episodes", "trees"):
        results: dict[str, list[dict]] = {name: [] for name in GENERATORS}
        for repeat in progress(range(1 + (1 if config.quick else config.repeats)), workload, "repeat"):
            for name, generator in generators.items():
                results[name].append(rollouts(workload, task, renderer, generator, episodes, run_seed=repeat))
        measured[workload] = {name: summary(own[1:]) for name, own in results.items()}
        rates = [measured[workload][name]["env_steps_per_s"]["median"] for name in GENERATORS]
        measured[workload]["ratio"] = rates[1] / rates[0]
    generators["vllm"].shutdown()
    return measured


def rollouts(workload: str, task, renderer, generator, episodes: int, *, run_seed: int) -> dict:
    """Environment steps, tokens and seconds of one round of rollouts."""
    from polytune.config import RolloutConfig
    from polytune.rollout import RolloutCounters, Start, grow_trees, sample_episodes

    generator.reset()
    generator.counters, counters = type(generator.counters)(), RolloutCounters()
    begin = time.perf_counter()
    if workload == "episodes":
        starts = [Start(seed, 0) for seed in range(episodes)]
        sample_episodes(task, renderer, generator, starts, run_seed=run_seed, counters=counters)
    else:
        shape = RolloutConfig(num_seeds=1, num_rollout_states=2, num_vines=8)
        starts = [Start(seed, 0) for seed in range(max(1, episodes // shape.rows_per_prompt))]
        grow_trees(task, renderer, generator, starts, shape, run_seed=run_seed, counters=counters)
    seconds, tokens = time.perf_counter() - begin, generator.counters
    return {"env_steps": counters.env_steps, "seconds": seconds, "tokens": tokens.prefilled + tokens.sampled,
            "reused": tokens.reused, "shared": tokens.reused + tokens.recomputed}  # fmt: skip


def summary(rounds: Sequence[dict]) -> dict:
    """Environment steps and tokens a second over rounds, and the share of prefix tokens that forks shared."""
    rates = [r["env_steps"] / r["seconds"] for r in rounds]
    return {"env_steps_per_s": {"min": min(rates), "median": median(rates), "max": max(rates)},
            "tokens_per_s": median(r["tokens"] / r["seconds"] for r in rounds),
            "reused_share": sum(r["reused"] for r in rounds) / max(1, sum(r["shared"] for r in rounds)),
            "rounds": list(rounds)}  # fmt: skip


if __name__ == "__main__":
    run(main)
