"""Measure whole training loops: environment steps a second, here and in a work tree of another commit.

    git worktree add --detach ../old 0d2f666
    python recipes/bench_training.py --old ../old            # about half an hour on an idle machine
    python recipes/bench_training.py --cases goto --repeats 1
    python recipes/bench_training.py --old ../old --cases large large_vines --repeats 1   # 100 M parameters

Each case pretrains a policy for one short pass over a few demonstrations (its episodes mostly run to the horizon), then
fine-tunes it by the case's recipe on one thread. The rate is that of the updates after the first: rollouts, scoring,
critic, two passes with gradients. The two trees take turns, each with its own programs, recipes and policies. Results
go to speed.json: rates by wall clock and by the process's own CPU seconds, which other programs disturb less, peak
memory, and where the time of an update goes; cases that are not measured keep what it has of them. ``goto_400`` shows
what an environment step costs in episodes of 400 turns. ``large`` and ``large_vines`` take a policy of 100 M parameters
with random weights, the same one in both trees. ``pretraining`` clones for 80 steps. ``processes`` is
FourRooms on two cores: one process with two threads, two processes, two runs side by side. ``trl`` is what a user would
pick instead: TRL's GRPOTrainer with episodes whose turns are generated from their whole text
(``polytune/app/plain_trl.py``), on the policy of ``goto``.
"""

import json
import os
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from polytune.app.cli import parse, run
from polytune.app.tree_runs import call, finetune, pretrain, summary, watch
from polytune.checks import require, require_choice, require_integer
from polytune.terminal import progress


class Case(NamedTuple):
    """What is pretrained and fine-tuned, as flags of the two programs; without ``pretrain`` the policy has random
    weights. ``old``: whether the old commit can do the same."""

    title: str
    unit: str
    pretrain: str
    finetune: str
    old: bool = True


FEW = "--num_demonstrations 320 --epochs 1 --eval_every 1000 --eval_episodes 8 --target_success 1.0"
CASES = {
    "goto": Case(
        "GoTo, 100 turns, whole episodes", "environment steps",
        f"--config recipes/reproduce/babyai-goto/cpu_pretrain.yaml {FEW}",
        "--config recipes/babyai/ppo.yaml --num_updates 3 --max_env_steps 18000",
    ),
    "goto_vines": Case(
        "GoTo, vines from 2 equally spaced states", "environment steps",
        f"--config recipes/reproduce/babyai-goto/cpu_pretrain.yaml {FEW}",
        "--config recipes/babyai/poly_ppo_equally_spaced.yaml --num_updates 3 --max_env_steps 18000",
    ),
    "fourrooms": Case(
        "FourRooms, 40 turns, whole episodes", "environment steps",
        f"--task fourrooms {FEW}",
        "--config recipes/fourrooms/ppo.yaml --task_horizon 40 --num_updates 3 --max_env_steps 24000",
    ),
    "triangle": Case(
        "triangle, groups of 256 answers", "answers",
        "--config recipes/creativity/triangle/pretrain.yaml --epochs 2 --eval_every 1000 --eval_episodes 8",
        "--config recipes/creativity/triangle/poly_epo.yaml --num_updates 4",
    ),
    "goto_400": Case(
        "GoTo, 400 turns, whole episodes", "environment steps",
        f"--config recipes/reproduce/babyai-goto/cpu_pretrain.yaml --task_horizon 400 {FEW}",
        "--config recipes/babyai/ppo.yaml --task_horizon 400 --num_updates 3 --max_env_steps 19200", old=False,
    ),
    "large": Case(
        "100 M parameters, 16 turns, whole episodes", "environment steps", "",
        "--config recipes/fourrooms/ppo.yaml --task_horizon 16 --num_updates 3 --max_env_steps 768",
    ),
    "large_vines": Case(
        "100 M parameters, 16 turns, vines", "environment steps", "",
        "--config recipes/fourrooms/poly_ppo_equally_spaced.yaml --task_horizon 16 --num_updates 2 "
        "--max_env_steps 768",
    ),
}  # fmt: skip
#: hidden size, layers, heads and feed-forward size of the large policy
LARGE = (768, 12, 12, 2688)
GOTO_80_STEPS = (
    "--config recipes/reproduce/babyai-goto/cpu_pretrain.yaml --num_demonstrations 1600 --epochs 1 --eval_every 80 "
    "--eval_episodes 128 --target_success 1.0"
)
PRETRAINING, PROCESSES = "pretraining", "processes"


@dataclass
class BenchTrainingConfig:
    """What is measured, and where the numbers go."""

    old: str | None = field(default=None, metadata={"help": "Work tree of the commit to compare with; unset: none."})
    cases: list[str] = field(
        default_factory=lambda: list(CASES),
        metadata={"help": f"Some of {', '.join(CASES)}, {PRETRAINING}, {PROCESSES}."},
    )
    trl: bool = field(default=True, metadata={"help": "Beside 'goto', measure TRL's own trainer, too."})
    repeats: int = field(default=3, metadata={"help": "Runs of each case in each tree, in turn."})
    output_dir: str = field(default="outputs/bench_training", metadata={"help": "Where speed.json is written."})

    def __post_init__(self) -> None:
        require_integer("repeats", self.repeats, 1)
        for case in self.cases:
            require_choice("cases", case, (*CASES, PRETRAINING, PROCESSES))
        require(
            self.old is None or (Path(self.old) / "recipes/finetune.py").is_file(),
            f"old is {self.old!r}, and there is no recipes/finetune.py: make the work tree with git worktree add.",
        )


def build_large(folder: Path) -> None:
    """A Llama of 100 M parameters with random weights and the words of FourRooms."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from polytune.policy.rendering import PROMPT_WORD
    from polytune.policy.tiny import build_tokenizer
    from polytune.tasks import load_task

    hidden, layers, heads, feed_forward = LARGE
    tokenizer = build_tokenizer([PROMPT_WORD, *load_task("fourrooms").vocabulary()])
    sizes = dict(vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                 num_key_value_heads=heads, intermediate_size=feed_forward)  # fmt: skip
    ids = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    LlamaForCausalLM(LlamaConfig(**sizes, **ids)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure_case(name: str, trees: dict[str, Path], folder: Path, repeats: int) -> dict:
    """One of CASES, the trees in turn."""
    case = CASES[name]
    trees = {tree: path for tree, path in trees.items() if tree == "new" or case.old}
    policies = {tree: folder / tree / name / "policy" for tree in trees}
    if not case.pretrain:
        policies = dict.fromkeys(trees, folder / "large_policy")
        build_large(folder / "large_policy")
    for tree, path in trees.items() if case.pretrain else ():
        pretrain(path, case.pretrain, policies[tree])
    runs: dict[str, list[dict]] = {tree: [] for tree in trees}
    for _ in progress(range(repeats), case.title, "repeat"):
        for tree, path in trees.items():
            runs[tree].append(finetune(path, f"{case.finetune} --model {policies[tree]}", folder / tree / name / "run"))
    found = {tree: summary(own) for tree, own in runs.items()}
    for tree in trees:
        print("{:<42} {}: {:6,.0f} {} a second (CPU: {:,.0f}), {:,.0f} MiB".format(
            case.title, tree, found[tree]["per_second"]["median"], case.unit,
            found[tree]["per_cpu_second"]["median"], found[tree]["peak_mib"]["median"]), flush=True)  # fmt: skip
    if "old" in found:
        for rate in ("per_second", "per_cpu_second"):
            found[f"ratio_{rate}"] = found["new"][rate]["median"] / found["old"][rate]["median"]
        print(f"{'':<42} ratio {found['ratio_per_second']:.2f} (CPU: {found['ratio_per_cpu_second']:.2f})")
    commands = {"pretrain": case.pretrain, "finetune": case.finetune}
    return {"title": case.title, "unit": case.unit, "commands": commands} | found


def measure_trl(here: Path, folder: Path, goto: dict) -> dict:
    """TRL's own trainer on the policy of the case ``goto``."""
    flags = f"--model {folder / 'new/goto/policy'} --task babyai-goto --task_horizon 100"
    one = watch(call(here, "plain_trl", flags, folder / "trl"))
    ratios = {f"ratio_{rate}": goto["new"][rate]["median"] / one[rate] for rate in ("per_second", "per_cpu_second")}
    print("{:<42} TRL: {:6,.1f} a second (CPU: {:,.1f}), ratio {:.0f} (CPU: {:.0f})".format(
        goto["title"], one["per_second"], one["per_cpu_second"], ratios["ratio_per_second"],
        ratios["ratio_per_cpu_second"]), flush=True)  # fmt: skip
    return {"command": f"python -m polytune.app.plain_trl {flags}", **one} | ratios


def measure_pretraining(trees: dict[str, Path], folder: Path) -> dict:
    """Cloning of GoTo by each tree's own recipe: 1,600 demonstrations, 80 steps, an evaluation at the end, once."""
    found: dict = {"command": f"recipes/pretrain.py {GOTO_80_STEPS}"}
    for tree, path in trees.items():
        found[tree] = pretrain(path, GOTO_80_STEPS, folder / tree / PRETRAINING)
        told = json.loads((folder / tree / PRETRAINING / "pretrain.json").read_text())
        found[tree] |= {name: told[name] for name in ("steps", "success") if name in told}
        print(f"pretraining of GoTo, 80 steps, {tree}: {found[tree]['cpu_seconds']:,.0f} seconds of a core", flush=True)
    if "old" in found:
        found["ratio_cpu_seconds"] = found["old"]["cpu_seconds"] / found["new"]["cpu_seconds"]
        print(f"ratio {found['ratio_cpu_seconds']:.2f}")
    return found


def measure_processes(here: Path, folder: Path, repeats: int) -> dict:
    """Environment steps a second of the two cores together."""
    case, policy = CASES["fourrooms"], folder / "new/fourrooms/policy"
    flags = f"{case.finetune} --model {policy} --save_updates 100"
    if not policy.is_dir():
        pretrain(here, case.pretrain, policy)
    two = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
           "--mixed_precision", "no", "--dynamo_backend", "no"]  # fmt: skip
    half = flags + " --per_device_train_batch_size 28"
    ways = {"one process, two threads": [(f"{flags} --cpu_threads 2", ())], "two processes": [(half, two)],
            "two runs side by side": [(f"{flags} --cpu_threads 1", ())] * 2}  # fmt: skip
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in progress(range(repeats), "processes", "repeat"):
        for way, calls in ways.items():
            places = [folder / f"processes_{number}" for number in range(len(calls))]
            for place in places:
                shutil.rmtree(place, ignore_errors=True)
            started = [call(here, "finetune", own, place, launcher=launcher)
                       for (own, launcher), place in zip(calls, places, strict=True)]  # fmt: skip
            with ThreadPoolExecutor() as pool:
                rates[way].append(sum(found["per_second"] for found in pool.map(watch, started)))
    for way, found in rates.items():
        print(f"{way:<42} {statistics.median(found):6,.0f} environment steps a second", flush=True)
    return {"command": flags, "unit": case.unit} | summary(
        [dict(zip(rates, r, strict=True)) for r in zip(*rates.values(), strict=True)]
    )


def main(argv: Sequence[str]) -> None:
    # ---------------------------------------------------------------- configuration
    (config,) = parse((BenchTrainingConfig,), argv, description=__doc__)

    from polytune.pictures.speed import plot_speed
    from polytune.running.provenance import write_json

    here = Path(__file__).resolve().parents[2]
    trees = {"new": here} | ({} if config.old is None else {"old": Path(config.old).resolve()})
    folder = Path(config.output_dir).resolve()
    report = json.loads((folder / "speed.json").read_text()) if (folder / "speed.json").is_file() else {"cases": {}}
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"load average {load:.1f}: other programs run. Rates by CPU seconds suffer less.")
    conditions = {"load_average": load, "repeats": config.repeats, "commits": {
        name: subprocess.run(["git", "rev-parse", "HEAD"], cwd=tree, capture_output=True, text=True).stdout.strip()
        for name, tree in trees.items()
    }}  # fmt: skip
    report |= {"commits": report.get("commits", {}) | conditions["commits"]}

    # ---------------------------------------------------------------- each case
    for name in config.cases:
        if name == PRETRAINING:
            report[name] = measure_pretraining(trees, folder) | conditions
        elif name == PROCESSES:
            report[name] = measure_processes(here, folder, config.repeats) | conditions
        else:
            report["cases"][name] = measure_case(name, trees, folder, config.repeats) | conditions
        if name == "goto" and config.trl:
            report["trl"] = measure_trl(here, folder, report["cases"][name]) | conditions
        if {"goto", "goto_400"} <= set(report["cases"]):
            short, long = (report["cases"][n]["new"]["per_cpu_second"]["median"] for n in ("goto", "goto_400"))
            report["growth"] = short / long
            print(f"an environment step at 400 turns costs {report['growth']:.2f} times one at 100", flush=True)
        write_json(folder / "speed.json", report)
        if report["cases"]:  # pretraining and processes have no bars
            plot_speed(report, folder / "speed.png")
    print(f"wrote {folder}/speed.json{' and speed.png' if report['cases'] else ''}")


if __name__ == "__main__":
    run(main)
