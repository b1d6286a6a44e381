"""The speed run: minutes on two cores from nothing to success .65 and pass@16 .97 on FourRooms at 40 turns.

    python recipes/speedrun.py                                                   # the best entry, one line at the end
    python recipes/speedrun.py --config my.yaml --seed 1                         # an entry of your own
    python recipes/speedrun.py --config my.yaml --keep data/results/speedrun.json   # and put it on the board

An entry is a YAML: settings of the pretraining, a recipe of the fine-tuning, and what is changed of it. The clock runs
from the first program's start to the last one's end, checks within them included. Then the policy is judged, off the
clock, on 1,000 levels that follow from its own weights. The rules: docs/results/speedrun.md.
"""

import json
import os
import resource
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polytune.app.cli import parse, run
from polytune.checks import require, require_seed
from polytune.places import PACKAGE, RECIPES, command, find_file, start

#: the entry that leads the board
BEST = RECIPES / "speedrun/sets.yaml"


@dataclass
class SpeedrunConfig:
    """An entry of the speed run."""

    entry: str = field(default="unnamed", metadata={"help": "The entry's name on the board."})
    pretrain: list[str] = field(
        default_factory=list, metadata={"help": "Settings of the pretraining, NAME=VALUE ...: epochs=8, say."}
    )
    finetune: str | None = field(
        default=None, metadata={"help": "Recipe of the fine-tuning; unset: the pretrained policy is the entry's."}
    )
    change: list[str] = field(default_factory=list, metadata={"help": "What is changed of that recipe, NAME=VALUE ..."})
    seed: int = field(default=0, metadata={"help": "Seed of both programs. The board counts seed 0."})
    output_dir: str = field(
        default="outputs/speedrun", metadata={"help": "Each run gets a folder in it, which must be new."}
    )
    keep: str | None = field(default=None, metadata={"help": "The board that the run is entered into; unset: none."})

    def __post_init__(self) -> None:
        require_seed("seed", self.seed)
        require(self.entry.replace("_", "").isalnum(), f"entry must be letters, digits and _, got {self.entry!r}.")
        require(
            self.finetune is not None or not self.change,
            f"change has {self.change}, but no recipe is named that it could change: name one with --finetune.",
        )


def main(argv: Sequence[str]) -> None:
    # ---------------------------------------------------------------- configuration
    (config,) = parse((SpeedrunConfig,), argv, description=__doc__, default_config=BEST)
    folder = Path(config.output_dir) / f"{config.entry}-{config.seed}"
    require(
        not folder.exists(),
        f"{folder} is there already, and a clock that stood still would measure nothing: remove it, or choose another "
        "output_dir.",
    )

    from polytune.comparison import keep, speedrun
    from polytune.running.run_queue import run_jobs

    keep.check_folder(config.keep)
    if config.keep:
        speedrun.read_board(config.keep)  # what cannot be entered is said before the clock runs
    programs, seeds = plan(config, folder)
    pretrained, policy = folder / "pretrained", folder / ("pretrained" if config.finetune is None else "finetuned")
    cores = only_cores(speedrun.CORES)

    # ---------------------------------------------------------------- against the clock, then judged
    result: dict[str, Any] = {"entry": config.entry, "seed": config.seed, "cores": cores}
    result |= {"digest": speedrun.digest(config.pretrain, config.finetune, config.change), "commit": commit()}
    result |= {"load": os.getloadavg()[0], "command": " ".join(["python", *command("speedrun", argv)])}

    def job(launcher) -> None:
        result.update(timed(launcher, programs, folder))
        result.update(judged(launcher, policy, pretrained, seeds, folder))

    failed = run_jobs({config.entry: job}, workers=1, folder=folder, on_outcome=lambda outcome: None)[config.entry]
    if failed.error is not None:
        raise RuntimeError(f"{config.entry}: {failed.error}; its log is {failed.log or folder}.") from failed.error

    # ---------------------------------------------------------------- the line, the board
    (folder / "run.json").write_text(json.dumps(result, indent=1) + "\n")
    if config.keep:
        speedrun.enter(config.keep, result)
    print(speedrun.told(result))


def plan(config: SpeedrunConfig, folder: Path) -> tuple[dict[str, list[str]], list[int]]:
    """The command of each program against the clock, by the name of its log, and the seeds of the start states that the
    fine-tuning takes.

    Raises:
        ValueError: the entry does not keep to the rules, or a program would refuse it.
    """
    from polytune.app.fields import TRAINER
    from polytune.app.pretrain import PretrainConfig
    from polytune.comparison import speedrun
    from polytune.config import AdapterConfig, ObjectiveConfig, PolicyConfig, RolloutConfig, TaskConfig
    from polytune.tasks.splits import DEMONSTRATION_SEEDS_START
    from polytune.tasks.starts import TRAINING_SPLIT, starts_of, task_of
    from polytune.trainer import check_run

    own = ["--seed", str(config.seed)]
    task = ["--task", speedrun.TASK.task, "--task_horizon", str(speedrun.TASK.task_horizon)]
    words = [*speedrun.flags_of("pretrain", config.pretrain), *task, *own, "--output_dir", str(folder / "pretrained")]
    _, _, pretraining = parse((TaskConfig, AdapterConfig, PretrainConfig), words, description="")
    speedrun.check_demonstrations(pretraining.num_demonstrations, pretraining.base_model)
    programs = {"pretrain": [*start("pretrain"), *words]}
    shown = DEMONSTRATION_SEEDS_START + (config.seed + 1) * 1_000_000
    if config.finetune is None:
        speedrun.check_training([], [shown])
        return programs, []
    words = ["--config", str(find_file(config.finetune)), *speedrun.flags_of("change", config.change), *task, *own]
    words += ["--model", str(folder / "pretrained"), "--output_dir", str(folder / "finetuned")]
    parts = (TaskConfig, PolicyConfig, AdapterConfig, RolloutConfig, ObjectiveConfig, TRAINER)
    task_config, _, _, rollout, objective, args = parse(parts, words, description="")
    check_run(args, rollout, objective)
    _, seeds = starts_of(task_of(task_config), task_config, default_split=TRAINING_SPLIT)
    speedrun.check_training(objective.methods, [*seeds, shown])
    return programs | {"finetune": [*start("finetune"), *words]}, seeds


def only_cores(most: int) -> int:
    """Keep this process, and what it starts, to ``most`` cores; how many it has. Where a system cannot, it has all."""
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count() or 1
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:most])
    return len(os.sched_getaffinity(0))


def commit() -> str:
    """The commit of the code that runs, with a + where files differ from it; nothing without a repository."""

    def git(*words: str) -> str:
        told = subprocess.run(["git", *words], cwd=PACKAGE, capture_output=True, text=True)
        return told.stdout.strip() if told.returncode == 0 else ""

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def timed(launcher, programs: dict[str, list[str]], folder: Path) -> dict[str, Any]:
    """Run the programs one after another: minutes of the clock, CPU minutes of all processes, minutes of each."""

    def used() -> float:
        own = resource.getrusage(resource.RUSAGE_CHILDREN)
        return own.ru_utime + own.ru_stime

    begun, before, stages = time.monotonic(), used(), {}
    for name, words in programs.items():
        since = time.monotonic()
        launcher.call(words, folder / f"{name}.log")
        stages[name] = (time.monotonic() - since) / 60
    return {"minutes": (time.monotonic() - begun) / 60, "cpu_minutes": (used() - before) / 60, "stages": stages}


def judged(launcher, policy: Path, pretrained: Path, seeds: Sequence[int], folder: Path) -> dict[str, Any]:
    """Success and pass@16 with intervals, on levels that the entry has not met."""
    from polytune.comparison import speedrun
    from polytune.running.provenance import demonstration_hashes, fingerprint
    from polytune.tasks.splits import split_hashes
    from polytune.tasks.starts import task_of

    task, weights = task_of(speedrun.TASK), fingerprint(policy)
    seen = {*demonstration_hashes(pretrained), *split_hashes(task, "train"), *map(task.start_hash, seeds)}
    rows = speedrun.judge_rows(task, weights, seen)
    split = folder / "judge_unseen.jsonl"  # evaluate checks once more that they are
    split.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--task", task.name, "--task_horizon", str(task.horizon), "--split", str(split), "--greedy", "false"]
    words += ["--n", str(speedrun.SAMPLES), "--policies", f"entry={policy}", "--output_dir", str(folder / "judged")]
    launcher.call([*start("evaluate"), *words], folder / "evaluate.log")
    found = json.loads((folder / "judged/summary.json").read_text())["policies"]["entry"]
    measures = {name: {key: found[name][key] for key in ("estimate", "low", "high")} for name in speedrun.TARGETS}
    return {"measures": measures, "policy": weights, "first_level": rows[0]["seed"]}


if __name__ == "__main__":
    run(main)
