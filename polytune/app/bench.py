"""Measure what polytune claims about speed, on this machine and with a fresh random policy: no checkpoint is needed.

    python recipes/bench.py                  # about two minutes on 2 cores; writes outputs/bench/bench.json
    python recipes/bench.py --quick          # a smoke test of half a minute

Rollouts are compared with the way that TRL's rollout examples take: at every turn the whole text of every live episode
is tokenised, padded and given to ``model.generate(max_new_tokens=1)``. That side is measured at some turns, evenly
spread over the episodes, and each stands for the turns around it. Repeats of the two sides alternate. The worlds' own
calls are timed one by one; what a world remembers of a level (walls, what is seen from where) it has learnt in play.
"""

import cProfile
import os
import pstats
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from polytune.app.cli import parse, run, set_cpu_threads
from polytune.terminal import progress


@dataclass
class BenchConfig:
    """What is measured, and where the numbers go."""

    quick: bool = field(default=False, metadata={"help": "Fewer repeats, fewer measured turns."})
    preset: str = field(default="tiny", metadata={"help": "Size of the random policy (polytune.policy.PRESETS)."})
    episodes: int = field(default=64, metadata={"help": "Parallel episodes, 100 turns each."})
    repeats: int = field(default=3, metadata={"help": "Repeats of each timing."})
    cpu_threads: int | None = field(default=None, metadata={"help": "CPU threads; unset: all of the machine's cores."})
    output_dir: str = field(default="outputs/bench", metadata={"help": "Where bench.json is written."})


WORLDS = ("fourrooms", "babyai-goto", "babyai-pickup", "babyai-synthseq", "babyai-bosslevel")

#: part of the file's path, function names ("": all of the file's) -> where the time goes; the first row that fits
PARTS = (
    ("", ("linear",), "model: linear layers"),
    ("", ("scaled_dot_product_attention",), "model: attention"),
    ("row_cache.py", ("update", "make_room", "seat", "_copy_rows"), "cache: writes and copies"),
    ("row_cache.py", (), "batch: inputs, mask"),
    ("transformers_generator.py", ("_choose",), "sampling"),
    ("policy/generator.py", (), "sampling"),
    ("transformers_generator.py", (), "batch: inputs, mask"),
    ("polytune/tasks", (), "world"),
    ("minigrid", (), "world"),
    ("rendering.py", (), "rendering"),
    ("tokeniz", (), "rendering"),
    ("polytune/rollout", (), "rollout loop"),
    ("transformers/", (), "model: norms, rotary, Python"),
    ("torch/", (), "model: norms, rotary, Python"),
)


def seconds(call: Callable[[], object], repeats: int) -> list[float]:
    """Wall-clock seconds of each of ``repeats`` calls."""
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return taken


def spread(values: Sequence[float]) -> dict[str, float]:
    """The least, the median and the largest of some measurements, in their unit."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def shares(profile: cProfile.Profile) -> dict[str, float]:
    """Share of the profiled time in each of :data:`PARTS`; a built-in function counts where it was called."""
    spent: dict[str, float] = defaultdict(float)

    def book(file: str, function: str, own: float) -> None:
        name = function.rstrip(">}").split(".")[-1].split(" ")[-1]
        part = next((p for f, names, p in PARTS if f in file and (not names or name in names)), "other")
        spent[part] += own

    for (file, _, function), (_, _, own, _, callers) in pstats.Stats(profile).stats.items():
        builtin = file == "~" and not any(name in function for name in ("linear", "scaled_dot_product"))
        for (calling_file, _, calling), (_, _, part, _) in callers.items() if builtin else ():
            book(calling_file, calling, part)
        if not builtin:
            book(file, function, own)
    total = sum(spent.values())
    return {part: own / total for part, own in sorted(spent.items(), key=lambda item: -item[1])}


def measure_vines(task, renderer, model, starts: list) -> dict:
    """Tokens run for the vines of each rollout state, against replaying their prefix for each of them."""
    from polytune.config import RolloutConfig
    from polytune.policy import TransformersGenerator
    from polytune.rollout import RolloutCounters, grow_trees

    def tokens(turns) -> int:
        return sum(len(turn.action_ids) + len(turn.feedback_ids) for turn in turns)

    generator, counters = TransformersGenerator(model, stop_ids=renderer.stop_ids), RolloutCounters()
    begin = time.perf_counter()
    shape = RolloutConfig(num_seeds=1, num_rollout_states=2, num_vines=8)
    trees = grow_trees(task, renderer, generator, starts, shape, run_seed=0, counters=counters)
    rate = counters.env_steps / (time.perf_counter() - begin)
    by_state: list[list[tuple[int, int]]] = [[] for _ in range(shape.num_rollout_states)]
    for tree in trees:
        for k, group in enumerate(tree.vines[0]):
            own = sum(tokens(vine.turns) for vine in group)
            by_state[k].append((own, sum(len(tree.prompt_ids) + tokens(vine.shared_turns) for vine in group)))
    assert sum(prefix for state in by_state for _, prefix in state) == generator.counters.reused
    per_state = [sum(own + prefix for own, prefix in state) / sum(own for own, _ in state) for state in by_state]
    flat = [pair for state in by_state for pair in state]
    report = {"groups": len(flat), "recomputed": generator.counters.recomputed, "env_steps_per_s": rate, "goal": 2,
              "ratio": sum(own + prefix for own, prefix in flat) / sum(own for own, _ in flat),
              "ratio_per_group": spread([(own + prefix) / own for own, prefix in flat]),
              "ratio_per_rollout_state": per_state}  # fmt: skip
    print(f"vines, p=2, N=8, {len(trees)} trees: tokens if prefixes were replayed / tokens run (goal 2)")
    print(f"  all groups {report['ratio']:8.2f} (turns 33 and 66 of 100 leave at most 1.98)")
    for k, ratio in enumerate(per_state, start=1):
        print(f"  state {k}    {ratio:8.2f}")
    print(f"  recomputed {report['recomputed']:8} tokens (goal 0); {rate:,.0f} env steps/s")
    return report


def measure_sets(repeats: int) -> dict:
    """Set advantages in closed form against enumeration, and at a size that enumeration cannot reach."""
    from polytune.objective import OBJECTIVES, enumerate_set_advantages, set_advantages

    def group(members: int) -> tuple[list[float], list[int]]:
        return [float(i % 3 == 0) for i in range(members)], [i * i % 7 for i in range(members)]

    closed = seconds(lambda: set_advantages(*group(20), 10), 50)
    loops = seconds(lambda: enumerate_set_advantages(*group(20), 10), repeats)
    vectorised = seconds(lambda: set_advantages(*group(20), 10, credit="max"), repeats)
    large = seconds(lambda: set_advantages(*group(256), 32), 20)
    huge = {goal: seconds(lambda goal=goal: set_advantages(*group(512), 64, objective=goal), 20) for goal in OBJECTIVES}
    speedup = statistics.median(loops) / statistics.median(closed)
    report = {"closed_form_s": spread(closed), "enumeration_s": spread(loops),
                                "vectorised_enumeration_s": spread(vectorised), "ratio": speedup, "goal": 1000,
                                "n256_set32_ms": {k: 1e3 * v for k, v in spread(large).items()},
                                "n256_goal_ms": 20, "n512_goal_ms": 50,
                                "n512_set64_ms": {goal: {k: 1e3 * v for k, v in spread(times).items()}
                                                  for goal, times in huge.items()}}  # fmt: skip
    print("set advantages, N=20, n=10: median ms")
    print(f"  closed     {1e3 * statistics.median(closed):8.2f}")
    print(f"  loops      {1e3 * statistics.median(loops):8.0f} ratio {speedup:,.0f} (goal 1,000)")
    print(f"  vectorised {1e3 * statistics.median(vectorised):8.0f}")
    print(f"  N=256      {1e3 * statistics.median(large):8.2f} n=32 (goal 20)")
    medians = ", ".join(f"{goal} {1e3 * statistics.median(times):.2f}" for goal, times in huge.items())
    print(f"  N=512      n=64 (goal 50): {medians}")
    return report


def measure_worlds(seeds: int) -> dict:
    """Milliseconds of one world's calls, over the states of episodes played by expert and random actions in turn."""
    import random

    from polytune.tasks import load_task
    from polytune.tasks.base import ExpertError

    calls, goal = ("step", "observation", "snapshot", "restore"), 0.5
    report: dict = {"restore_goal_ms": goal}
    print(f"worlds, ms: median and 99th percentile; goal: restore {goal} at the median")
    print(f"  {'':<17}" + "".join(f"{call:>16}" for call in calls))
    for name in WORLDS:
        task, taken, states = load_task(name), {call: [] for call in calls}, 0
        for seed in range(seeds):
            episode, rng = task.start(seed), random.Random(seed)
            while not episode.done:
                try:
                    action = task.expert(episode) if rng.random() < 0.5 else rng.choice(task.actions)
                except ExpertError:
                    action = rng.choice(task.actions)
                taken["step"] += seconds(lambda e=episode, a=action: e.step(a), 1)
                taken["observation"] += seconds(episode.observation, 1)
                taken["snapshot"] += seconds(episode.snapshot, 1)
                snapshot, states = episode.snapshot(), states + 1
                taken["restore"] += seconds(lambda t=task, s=snapshot: t.restore(s), 1)
        report[name] = {"states": states} | {
            call: {"median_ms": 1e3 * statistics.median(times), "p99_ms": 1e3 * statistics.quantiles(times, n=100)[98]}
            for call, times in taken.items()
        }
        cells = [f"{report[name][call]['median_ms']:8.3f}{report[name][call]['p99_ms']:8.3f}" for call in calls]
        print(f"  {name:<17}" + "".join(cells))
    return report


def measure_rollouts(ours: Callable[[], tuple], naive, repeats: int, every: int) -> tuple[dict, list]:
    """Lock-step cache against whole contexts (``naive``), these at every so many turns; and tokens a second of ours."""
    measured = range(every // 2, naive.task.horizon, every)
    naive.turn(*naive.at(0))
    our_rates, naive_rates, token_rates = [], [], []
    for _ in progress(range(max(repeats, 3)), "rollouts", "repeat"):
        begin = time.perf_counter()
        counters, generator, _ = ours()
        our_seconds = time.perf_counter() - begin
        our_rates.append(counters.env_steps / our_seconds)
        token_rates.append(generator.counters.prefilled / our_seconds)
        if len(naive_rates) < repeats:
            prepared = [naive.at(turn) for turn in measured]
            naive_seconds = [seconds(lambda p=p: naive.turn(*p), 1)[0] for p in prepared]
            naive_rates.append(sum(len(worlds) for worlds, _ in prepared) / sum(naive_seconds))
    ratio = statistics.median(our_rates) / statistics.median(naive_rates)
    report = {"env_steps_per_s": spread(our_rates), "whole_context_env_steps_per_s": spread(naive_rates),
              "ratio": ratio, "goal": 15, "env_steps": counters.env_steps,
              "measured_turns": list(measured)}  # fmt: skip
    print("rollouts, env steps/s: min, median, max")
    print("  ours       {min:8,.0f} {median:8,.0f} {max:8,.0f}".format(**spread(our_rates)))
    print("  whole text {min:8,.1f} {median:8,.1f} {max:8,.1f}".format(**spread(naive_rates)))
    print(f"  ratio      {ratio:8.1f} (goal 15)")
    return report, token_rates


def measure_limit(ours: Callable[[], tuple], model, token_rates: list) -> dict:
    """Share of the arithmetic limit that linear layers reach, and where the rest of the time goes."""
    import torch

    square = torch.rand(1024, 1024)
    matmul = 2 * 1024**3 / min(seconds(lambda: square @ square, 10)) / 1e9
    weights = model.num_parameters() - model.get_input_embeddings().weight.numel()
    used = 2 * weights * statistics.median(token_rates) / 1e9
    profile = cProfile.Profile()
    profile.runcall(ours)
    report = {"matmul_gflops": matmul, "linear_gflops": used, "share": used / matmul,
              "tokens_per_s": spread(token_rates), "profile": shares(profile)}  # fmt: skip
    print(
        f"limit: {used:.1f} of {matmul:.0f} GFLOP/s in linear layers ({used / matmul:.0%}); where profiled time goes:"
    )
    for part, share in report["profile"].items():
        print(f"  {share:6.1%} {part}")
    return report


def main(argv: Sequence[str]) -> None:
    # ---------------------------------------------------------------- configuration
    (config,) = parse((BenchConfig,), argv, description=__doc__)
    repeats = 1 if config.quick else config.repeats
    set_cpu_threads(config.cpu_threads)

    import torch

    from polytune.app.whole_contexts import WholeContexts
    from polytune.policy import Renderer, TransformersGenerator, build_tiny
    from polytune.policy.rendering import PROMPT_WORD
    from polytune.rollout import RolloutCounters, Start, sample_episodes
    from polytune.running.provenance import write_json
    from polytune.tasks import load_task

    task = load_task("fourrooms")
    model, tokenizer = build_tiny(config.preset, [PROMPT_WORD, *task.vocabulary()])
    tokenizer.padding_side = "left"
    renderer = Renderer(tokenizer, task)
    starts = [Start(seed, 0) for seed in range(config.episodes)]
    report: dict = {"threads": torch.get_num_threads(), "parameters": model.num_parameters(), "repeats": repeats,
                    "load_average": os.getloadavg()[0]}  # fmt: skip
    print(f"{report['parameters']:,} parameters, {report['threads']} threads, {config.episodes} episodes")
    if report["load_average"] > 0.5:
        print(f"load average {report['load_average']:.1f}: other programs run, which slows several threads far more "
              "than one. Wait for an idle machine, or give --cpu_threads 1.")  # fmt: skip

    # ---------------------------------------------------------------- measure
    def ours() -> tuple[RolloutCounters, TransformersGenerator, list]:
        generator, counters = TransformersGenerator(model, stop_ids=renderer.stop_ids), RolloutCounters()
        return counters, generator, sample_episodes(task, renderer, generator, starts, run_seed=0, counters=counters)

    _, _, episodes = ours()  # a warm-up, too
    naive = WholeContexts(task, renderer, model, tokenizer, starts, episodes)
    report["rollouts"], token_rates = measure_rollouts(ours, naive, repeats, 50 if config.quick else 20)
    report["worlds"] = measure_worlds(4 if config.quick else 20)
    report["vines"] = measure_vines(task, renderer, model, starts[: 2 if config.quick else 8])
    report["set_advantages"] = measure_sets(repeats)
    report["limit"] = measure_limit(ours, model, token_rates)
    write_json(Path(config.output_dir) / "bench.json", report)
    print(f"wrote {config.output_dir}/bench.json")


if __name__ == "__main__":
    run(main)
