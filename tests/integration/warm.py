"""Processes of their own that need not import torch and TRL again, which is most of a short run.

``Process(FILE, *WORDS)`` is ``subprocess.Popen([sys.executable, FILE, *WORDS])`` but for where its interpreter comes
from: it is forked from a process that has imported the libraries and nothing of polytune, and has done nothing yet. It
has a process id, files, signals and an end of its own, and imports polytune. All of them share one hash seed: where a
test claims that runs are alike, one of the runs starts a Python of its own. What the libraries read from the
environment when they are imported (HF_HUB_OFFLINE) is as it was for the first of them.
"""

import atexit
import multiprocessing
import os
import random
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["torch.distributed", "torch._dynamo", "trl.trainer.grpo_trainer", "transformers.trainer",
     "transformers.models.qwen3.modeling_qwen3", "peft", "datasets", "matplotlib.pyplot", "scipy.stats"]
)  # fmt: skip


def _become(words, environment, folder, outputs, own_session):
    """The forked process: what ``python WORDS`` would be."""
    if own_session:
        os.setsid()
    for number, path in enumerate(outputs, start=1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    if environment.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)
    os.chdir(folder)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    if environment.get("OMP_NUM_THREADS"):
        sys.modules["torch"].set_num_threads(int(environment["OMP_NUM_THREADS"]))
    random.seed()  # as after a start: unlike in any other process
    sys.modules["numpy"].random.seed()
    try:
        if "-m" in words[:2]:
            sys.argv = words[words.index("-m") + 1 :]
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words[1:] if words[0] == "-P" else words
            if words[0] != "-P":
                sys.path.insert(0, str(Path(words[0]).resolve().parent))
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves without


class Process:
    """``python WORDS`` (a file, or ``-m`` and a module, also after ``-P``); ``log``: a file for both outputs."""

    def __init__(self, *words, env=None, cwd=None, log=None, own_session=False):
        self._files = tempfile.TemporaryDirectory()
        self._outputs = [Path(log or f"{self._files.name}/{name}") for name in ("out", "err")]
        for path in self._outputs:
            path.touch()
        outputs = [str(path.resolve()) for path in self._outputs]
        given = (list(map(str, words)), dict(env or os.environ), str(cwd or Path.cwd()), outputs, own_session)
        self._process = _CONTEXT.Process(target=_become, args=given)
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        return self._process.exitcode

    returncode = property(poll)

    def finish(self, timeout=300):
        """Wait for it; the result as of ``subprocess.run``. One that takes longer is killed."""
        self._process.join(timeout)
        if self.poll() is None:
            self._process.kill()
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return subprocess.CompletedProcess(self.pid, self.poll(), *(path.read_text() for path in self._outputs))


def run(*words, **options):
    """``subprocess.run([sys.executable, *words], capture_output=True, text=True)``."""
    return Process(*words, **options).finish()


def _popen(command, *, stdout, env, **options):
    assert command[0] == sys.executable and options["start_new_session"] and options["stderr"] == subprocess.STDOUT
    return Process(*command[1:], env=env, log=stdout.name, own_session=True)


def _run(command, *, env, cwd, **options):
    assert command[0] == sys.executable and options == {"capture_output": True, "text": True}
    return run(*command[1:], env=env, cwd=cwd)


#: in the place of ``subprocess`` in polytune/export/proof.py
FOR_THE_PROOF = SimpleNamespace(run=_run)
#: in the place of ``subprocess`` in polytune/running/run_queue.py: its programs are such processes, without its lock
FOR_THE_QUEUE = SimpleNamespace(Popen=_popen, STDOUT=subprocess.STDOUT, DEVNULL=subprocess.DEVNULL)
