"""Measure whole training loops: environment steps a second, here and in a work tree of another commit.

    git worktree add --detach ../old 0d2f666
    python recipes/bench_training.py --old ../old            # about half an hour on an idle machine
    python recipes/bench_training.py --cases goto --repeats 1

Each case pretrains a policy for one short pass over a few demonstrations (its episodes mostly run to the horizon), then
fine-tunes it by the case's recipe on one thread. The rate is that of the updates after the first: rollouts, scoring,
critic, two passes with gradients. The two trees take turns, each with its own programs, recipes and policies. Results
go to speed.json: rates by wall clock and by the process's own CPU seconds, which other programs disturb less, peak
memory, and where the time of an update goes. ``trl`` is what a user would pick instead: TRL's GRPOTrainer with episodes
whose turns are generated from their whole text (``polytune/app/plain_trl.py``), on the policy of ``goto``.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from polytune.app.cli import parse, run
from polytune.config import require, require_choice, require_integer
from polytune.terminal import progress


class Case(NamedTuple):
    """What is pretrained and fine-tuned, as flags of the two programs."""

    title: str
    unit: str
    pretrain: str
    finetune: str


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
}  # fmt: skip
UPDATE = re.compile(r"update (\d+)/\d+: env steps ([\d,]+)")


@dataclass
class BenchTrainingConfig:
    """What is measured, and where the numbers go."""

    old: str | None = field(default=None, metadata={"help": "Work tree of the commit to compare with; unset: none."})
    cases: list[str] = field(
        default_factory=lambda: list(CASES), metadata={"help": "Some of " + ", ".join(CASES) + "."}
    )
    trl: bool = field(default=True, metadata={"help": "Beside 'goto', measure TRL's own trainer, too."})
    repeats: int = field(default=3, metadata={"help": "Runs of each case in each tree, in turn."})
    output_dir: str = field(default="outputs/bench_training", metadata={"help": "Where speed.json is written."})

    def __post_init__(self) -> None:
        require_integer("repeats", self.repeats, 1)
        for case in self.cases:
            require_choice("cases", case, tuple(CASES))
        require(
            self.old is None or (Path(self.old) / "recipes/finetune.py").is_file(),
            f"old is {self.old!r}, and there is no recipes/finetune.py: make the work tree with git worktree add.",
        )


def call(tree: Path, program: str, flags: str, output_dir: Path) -> subprocess.Popen:
    """One of a tree's programs on one thread."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    begin = ["-m", "polytune.app.plain_trl"] if program == "plain_trl" else [f"recipes/{program}.py"]
    command = [sys.executable, *begin, *flags.split(), "--output_dir", str(output_dir)]
    return subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def cpu_seconds(pid: int) -> float:
    """Of a running process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def finetune(tree: Path, case: Case, policy: Path, output_dir: Path) -> dict:
    """Rates of the updates after the first, and what the run told of itself."""
    shutil.rmtree(output_dir, ignore_errors=True)
    process = call(tree, "finetune", f"{case.finetune} --model {policy} --save_updates 100 --cpu_threads 1", output_dir)
    found = watch(process)
    lines = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    names = {key for line in lines for key in line if key.startswith(("seconds/", "speed/", "update/"))}
    return found | {name: statistics.fmean(line[name] for line in lines[1:] if name in line) for name in sorted(names)}


def watch(process: subprocess.Popen) -> dict:
    """Rates between the first and the last line that a program prints of an update, and its memory."""
    seen = []
    for line in process.stdout:
        if found := UPDATE.search(line):
            seen.append((int(found[2].replace(",", "")), time.perf_counter(), cpu_seconds(process.pid)))
    told = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or len(seen) < 2:
        raise RuntimeError(f"{' '.join(process.args)} ended with status {process.returncode}:\n{told[-2000:]}")
    (first, began, cpu_began), (last, ended, cpu_ended) = seen[0], seen[-1]
    return {"per_second": (last - first) / (ended - began), "per_cpu_second": (last - first) / (cpu_ended - cpu_began),
            "peak_mib": usage.ru_maxrss / 1024}  # fmt: skip


def pretrain(tree: Path, case: Case, output_dir: Path) -> float:
    """A short pretraining; returns its seconds."""
    shutil.rmtree(output_dir, ignore_errors=True)
    began = time.perf_counter()
    process = call(tree, "pretrain", case.pretrain, output_dir)
    _, told = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{tree}: {' '.join(process.args)} ended with status {process.returncode}:\n{told[-2000:]}")
    return time.perf_counter() - began


def summary(runs: Sequence[dict]) -> dict:
    """Median, least and most of every number."""
    return {
        name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for name in runs[0]
        if (values := [found[name] for found in runs if name in found])
    }


def main(argv: Sequence[str]) -> None:
    # ---------------------------------------------------------------- configuration
    (config,) = parse((BenchTrainingConfig,), argv, description=__doc__)

    from polytune.pictures.speed import plot_speed
    from polytune.running.provenance import write_json

    here = Path(__file__).resolve().parents[2]
    trees = {"new": here} | ({} if config.old is None else {"old": Path(config.old).resolve()})
    folder = Path(config.output_dir).resolve()
    report: dict = {"cases": {}, "load_average": os.getloadavg()[0], "repeats": config.repeats, "commits": {
        name: subprocess.run(["git", "rev-parse", "HEAD"], cwd=tree, capture_output=True, text=True).stdout.strip()
        for name, tree in trees.items()
    }}  # fmt: skip
    if report["load_average"] > 0.5:
        print(f"load average {report['load_average']:.1f}: other programs run. Rates by CPU seconds suffer less.")

    # ---------------------------------------------------------------- each case, the trees in turn
    for name in config.cases:
        case = CASES[name]
        for tree, path in trees.items():
            pretrain(path, case, folder / tree / name / "policy")
        runs: dict[str, list[dict]] = {tree: [] for tree in trees}
        for _ in progress(range(config.repeats), case.title, "repeat"):
            for tree, path in trees.items():
                places = folder / tree / name
                runs[tree].append(finetune(path, case, places / "policy", places / "run"))
        found = {tree: summary(own) for tree, own in runs.items()}
        if "old" in found:
            for rate in ("per_second", "per_cpu_second"):
                found[f"ratio_{rate}"] = found["new"][rate]["median"] / found["old"][rate]["median"]
        command = {"pretrain": case.pretrain, "finetune": case.finetune}
        report["cases"][name] = {"title": case.title, "unit": case.unit, "commands": command} | found
        for tree in trees:
            print("{:<42} {}: {:6,.0f} {} a second (CPU: {:,.0f}), {:,.0f} MiB".format(
                case.title, tree, found[tree]["per_second"]["median"], case.unit,
                found[tree]["per_cpu_second"]["median"], found[tree]["peak_mib"]["median"]), flush=True)  # fmt: skip
        if name == "goto" and config.trl:
            flags = f"--model {folder / 'new/goto/policy'} --task babyai-goto --task_horizon 100"
            one = watch(call(here, "plain_trl", flags, folder / "trl"))
            report["trl"] = {"command": f"python -m polytune.app.plain_trl {flags}", **one} | {
                f"ratio_{rate}": found["new"][rate]["median"] / one[rate] for rate in ("per_second", "per_cpu_second")
            }
            print("{:<42} TRL: {:6,.1f} a second (CPU: {:,.1f}), ratio {:.0f} (CPU: {:.0f})".format(
                case.title, one["per_second"], one["per_cpu_second"], report["trl"]["ratio_per_second"],
                report["trl"]["ratio_per_cpu_second"]), flush=True)  # fmt: skip
        if "old" in found:
            print(f"{'':<42} ratio {found['ratio_per_second']:.2f} (CPU: {found['ratio_per_cpu_second']:.2f})")
        write_json(folder / "speed.json", report)
        plot_speed(report, folder / "speed.png")
    print(f"wrote {folder}/speed.json and speed.png")


if __name__ == "__main__":
    run(main)
