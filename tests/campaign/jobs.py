"""The programs that the campaign kills, at their smallest, and how they are started."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/integration")]

import outcomes  # noqa: E402, F401 (kills.py has it from here)
import warm  # noqa: E402
from walkers import save_walker  # noqa: E402

DIES = ROOT / "tests/integration/run_and_die.py"
#: where the campaign works: start/ (policies), whole/JOB (uninterrupted), killed/POINT
WORK = ROOT / "outputs/campaign"
START = WORK / "start"
LIMIT = 600.0
#: polytune is that of this checkout, whatever is installed
PATH = os.pathsep.join([str(ROOT), str(ROOT / "tests/integration")])


@dataclass(frozen=True)
class Job:
    """A program and what it is given; it leaves all that it makes in ``run`` of the folder it runs in.

    places: name of a place of run_and_die.py -> kills there. before: makes the folder ready.
    """

    name: str
    program: str
    arguments: tuple
    places: dict[str, int]
    processes: int = 1
    before: Callable[[Path], object] = field(default=lambda folder: None)

    def start(self, folder: Path, place: str | None = None, count: int = 0, **die) -> "Started":
        """Start it in a folder that is ready, killed at a place or (None) not at all."""
        recipe = ROOT / f"recipes/{self.program}.py"
        words = [recipe] if place is None else [DIES, place, count, recipe]
        words = list(map(str, [*words, *self.arguments, "--output_dir", "run"]))
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DIE": json.dumps(die), "TOKENIZERS_PARALLELISM": "false",
                                    "PYTHONPATH": PATH}  # fmt: skip
        return Started(words, environment, folder, self.processes)

    def ready(self, folder: Path) -> Path:
        """An empty folder for one run."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.before(folder)
        return folder


class Started:
    """A program that runs, with what it prints in ``log``."""

    def __init__(self, words: list[str], environment: dict[str, str], folder: Path, processes: int):
        self.log = folder / "log"
        if processes == 1:
            self.process = warm.Process(*words, env=environment, cwd=folder, log=self.log, own_session=True)
        else:
            launch = [str(Path(sys.executable).parent / "accelerate"), "launch", "--num_processes", str(processes)]
            with self.log.open("ab") as file:
                self.process = subprocess.Popen(
                    [*launch, "--cpu", *words], env=environment, cwd=folder, stdout=file, stderr=file,
                    start_new_session=True,
                )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait(self, limit: float = LIMIT) -> int:
        """Its status; subprocess.TimeoutExpired, and its end, when it takes longer."""
        if isinstance(self.process, warm.Process):
            return self.process.finish(limit).returncode
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            raise

    def said(self) -> str:
        return self.log.read_text(errors="replace")


SMOKE = ROOT / "recipes/fourrooms/smoke.yaml"
VINES = (
    "--config", SMOKE, "--model", START / "fourrooms", "--task_horizon", "12", "--num_updates", "4",
    "--learning_rate", "1e-3", "--methods", "ucb", "spear", "alp", "novelty", "--method_args", "spear.share=0.25",
    "--disable_tqdm", "true", "--cpu_threads", "1",
)  # fmt: skip
TRIANGLE = (
    "--config", ROOT / "recipes/creativity/triangle/poly_epo_group_std.yaml", "--model", START / "triangle",
    "--num_updates", "4", "--num_seeds", "8", "--set_size", "4", "--per_device_train_batch_size", "16",
    "--num_start_states", "4", "--save_updates", "1", "--methods", "weighted_replay", "alp", "--learning_rate", "1e-3",
    "--disable_tqdm", "true", "--cpu_threads", "1",
)  # fmt: skip
EVALUATE = (
    "--policies", f"before={START / 'fourrooms'}", f"after={WORK / 'whole/vines/run'}", "--task_horizon", "12",
    "--num_start_states", "8", "--n", "8", "--max_branches", "16", "--report", "--cpu_threads", "1",
)  # fmt: skip
COMPARE = (
    "--methods", SMOKE, "--seeds", "1", "--set", "num_updates=2", "--task_horizon", "6", "--num_start_states", "4",
    "--model", START / "fourrooms", "--n", "2", "--workers", "1",
)  # fmt: skip
PRETRAIN = (
    "--num_demonstrations", "24", "--epochs", "2", "--batch_size", "5", "--eval_every", "3", "--eval_episodes", "6",
    "--task_horizon", "30", "--target_success", "1.0",
)  # fmt: skip
JOBS = (
    Job("vines", "finetune", VINES,
        {"rollout": 3, "scoring": 2, "critic": 2, "update": 3, "saving": 4, "rotation": 2, "final": 2}),
    Job("triangle", "finetune", TRIANGLE, {"rollout": 2, "scoring": 1, "update": 2, "saving": 2, "rotation": 1,
                                           "final": 2}),
    Job("two processes", "finetune", VINES, {"rollout": 2, "update": 2, "saving": 2, "final": 1}, processes=2),
    Job("pretrain", "pretrain", PRETRAIN, {"demonstrations": 1, "update": 1, "check": 1, "saving": 2, "final": 1}),
    Job("evaluate", "evaluate", EVALUATE, {"sampling": 2, "records": 1, "analysis": 1}),
    Job("export", "export", ("--policy", WORK / "whole/vines/run"), {"weights": 1, "proof": 1, "card": 1}),
    Job("compare", "compare", COMPARE, {"program": 2}),
)  # fmt: skip


def make_starts() -> None:
    """The policies that the runs begin with: a walker on FourRooms, and one that makes a triangle now and then."""
    if not (START / "fourrooms/config.json").exists():
        save_walker(START / "fourrooms", 1, 0.015)
    if not (START / "triangle/pretrain.json").exists():
        recipe = ROOT / "recipes/creativity/triangle/demo_pretrain.yaml"
        words = ["--config", recipe, "--target_success", "0.15", "--eval_episodes", "64"]
        subprocess.run(
            [sys.executable, ROOT / "recipes/pretrain.py", *words, "--output_dir", START / "triangle"], check=True
        )
