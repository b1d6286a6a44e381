"""Runs a program and sends itself a signal at a named place, so that a test or the campaign can kill it where it wants.

    python tests/integration/run_and_die.py PLACE N PROGRAM.py [arguments]

The signal comes at the N-th time (1, 2, ...) that the program comes to PLACE. DIE in the environment says more, as
JSON: ``after``, seconds from there, whatever the program does by then (unset: at once); ``signal`` (9); ``rank``, which
of several processes (the first); ``note``, a file that is told when; ``family``, true: the programs that it has started
die first. PLACE ``times`` ends nothing: ``note`` is told each time that the program comes to each of its places, and
the seconds that it spends there.
"""

import json
import os
import runpy
import signal
import sys
import threading
import time
from importlib import import_module
from pathlib import Path

from polytune.app.cli import start_processes

#: place -> (module, object within it, None for the module itself, what is called there)
PLACES = {
    "finetune": {
        "rollout": ("polytune.policy", "TransformersGenerator", "sample"),
        "scoring": ("polytune.trainer.polychromic", None, "turn_advantages"),
        "critic": ("polytune.trainer", "PolychromicTrainer", "_learn_values"),
        "update": ("polytune.trainer", "PolychromicTrainer", "_compute_loss"),
        "saving": ("polytune.trainer", "PolychromicTrainer", "_save_checkpoint"),
        "staged": ("polytune.trainer", "PolychromicTrainer", "_save_optimizer_and_scheduler"),
        "manifest": ("polytune.running.checkpoints", None, "write_manifest"),
        "renamed": ("polytune.running.checkpoints", None, "checkpoints"),
        "rotation": ("polytune.trainer", "PolychromicTrainer", "_discard"),
        "final": ("polytune.trainer", "PolychromicTrainer", "save_policy"),
    },
    "pretrain": {
        "demonstrations": ("polytune.tasks.demonstrations", None, "act_out"),
        "listing": ("polytune.policy.demonstrations", None, "save_demonstrations"),
        "update": ("polytune.trainer", "CloningTrainer", "training_step"),
        "check": ("polytune.trainer.cloning", None, "sample"),
        "saving": ("polytune.trainer", "CloningTrainer", "_save_checkpoint"),
        "staged": ("polytune.running.checkpoints", None, "write_manifest"),
        "evaluation": ("polytune.trainer", "CloningTrainer", "evaluate"),
        "final": ("polytune.trainer", "CloningTrainer", "save_model"),
    },
    "evaluate": {
        "sampling": ("polytune.evaluation.records", None, "sample_records"),
        "records": ("polytune.running.provenance", None, "record_progress"),
        "analysis": ("polytune.report.analysis", None, "analyse"),
    },
    "compare": {
        "program": ("polytune.running.run_queue", "Launcher", "call"),
        "tables": ("polytune.app.compare", None, "_write_up"),
    },
    "export": {
        "weights": ("polytune.export.folder", None, "write_policy"),
        "proof": ("polytune.export.proof", None, "prove"),
        "card": ("polytune.export.facts", None, "gather"),
    },
}


def wrap(place, before):
    """Have ``before`` called with the call that is to be made at a place, which it makes itself."""
    module, holder, name = place
    owner = import_module(module)
    owner = owner if holder is None else getattr(owner, holder)
    original = getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: before(lambda: original(*args, **kwargs)))


def arm(place, count, *, after=None, family=False, note=None, number=signal.SIGKILL):
    calls = 0

    def come(call):
        nonlocal calls
        calls += 1
        if calls != count:
            return call()
        if after is not None:
            threading.Thread(target=strike, args=(after,), daemon=True).start()
            return call()
        result = call() if place[2] == "write_manifest" else None  # written, not renamed
        strike(0.0)
        return result if place[2] == "write_manifest" else call()

    def strike(seconds):
        time.sleep(seconds)
        if note:
            Path(note).write_text(json.dumps(time.time()))
        if family:
            import psutil

            for child in psutil.Process().children(recursive=True):
                child.kill()
        os.kill(os.getpid(), number)

    wrap(place, come)


def note_times(places, note):
    found = {name: [] for name in places}

    def noted(name):
        def come(call):
            begun = time.perf_counter()
            try:
                return call()
            finally:
                found[name].append(time.perf_counter() - begun)
                Path(note).write_text(json.dumps(found))

        return come

    for name, place in places.items():
        wrap(place, noted(name))


def main():
    start_processes()  # of several that accelerate starts, each comes by here
    place, count, program, *words = sys.argv[1:]
    more = json.loads(os.environ.pop("DIE", "{}"))
    places = PLACES[Path(program).stem]
    if os.environ.get("RANK", "0") == str(more.pop("rank", 0)):
        if place == "times":
            note_times(places, more["note"])
        else:
            number = more.pop("signal", signal.SIGKILL)
            arm(places[place], int(count), number=number, **more)
    sys.argv = [program, *words]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
