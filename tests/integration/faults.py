"""`faults:Faults`: Doors, in which one process goes wrong as soon as the run has a checkpoint. FAULT says how:
"kill 1 FOLDER" (process 1, the run in FOLDER), "hang ..." or "engine ..."; unset: not at all."""

import os
import signal
import time
from pathlib import Path

from doors import Doors

from polytune.policy import TransformersGenerator
from polytune.policy.engine import EngineError


class Faults(Doors):
    def start(self, seed):
        kind, rank, folder = os.environ.get("FAULT", "none -1 none").split()
        if os.environ.get("RANK", "0") == rank and list(Path(folder).glob("checkpoint-*")):
            Path(folder, "fault").write_text(str(time.time()))
            {"kill": kill, "hang": hang, "engine": break_engine}[kind]()
        return super().start(seed)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def hang():
    while True:
        time.sleep(1)


def break_engine():
    def sample(self, branches, turns):
        raise EngineError("the engine failed (test). The run stops here; its checkpoints are intact.")

    TransformersGenerator.sample = sample
