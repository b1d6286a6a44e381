"""A folder has one program at a time, and one that is told to end does so once, and says what it leaves."""

import errno
import fcntl
import os
import platform
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from polytune.app.cli import run
from polytune.policy.engine import EngineError
from polytune.running import ending, processes
from polytune.running.checkpoints import hold_run
from polytune.running.ending import CONTINUES, as_a_part, ends_when_told, hold, let_go, lock, what_is_left
from polytune.running.watchdog import stage, stage_of


def test_a_folder_is_held_by_one_and_free_when_that_one_is_gone(tmp_path):
    child = os.fork()
    if child == 0:  # it dies with the lock in its hand
        lock(tmp_path / "run", what="another")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    told = (tmp_path / "run/.lock").read_text()
    assert told == f"process {child} of {platform.node()}\n"
    # as after a start of the machine, when another process has that number
    (tmp_path / "run/.lock").write_text(f"process {os.getppid()} of {platform.node()}\n")
    hold(tmp_path / "run")
    with pytest.raises(
        ValueError, match=rf"run is in use by another \(process {os.getpid()} of .*\): wait for that to end"
    ):
        lock(tmp_path / "run", what="another")
    os.close(lock(tmp_path / "run", what="another", name=".evaluation.lock"))  # of another kind
    let_go()
    os.close(lock(tmp_path / "run", what="another"))
    hold(tmp_path / "new")
    let_go()
    hold(tmp_path / "used")
    (tmp_path / "used/run.json").touch()
    let_go()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "used"]  # nothing came of the new one


def test_a_part_of_a_program_lets_go_of_its_own_and_says_nothing_for_it(tmp_path):
    """A benchmark whose runs begin anew continues where it was, and holds no folder of a run that has ended."""
    hold(tmp_path / "whole")
    try:
        with pytest.raises(ZeroDivisionError), as_a_part():
            hold(tmp_path / "part", lambda: "There is no checkpoint yet: the same command begins anew.")
            assert what_is_left() == CONTINUES
            raise ZeroDivisionError
        assert what_is_left() == CONTINUES and not (tmp_path / "part").exists()  # nothing came of it
        os.close(lock(tmp_path / "part", what="another"))
        with pytest.raises(ValueError, match="whole is in use by another"):
            lock(tmp_path / "whole", what="another")
    finally:
        let_go()
    os.close(lock(tmp_path / "whole", what="another"))


def test_where_nothing_can_be_locked_it_says_so_and_goes_on(tmp_path, monkeypatch, capsys):
    def refuse(number):
        def flock(descriptor, how):
            raise OSError(number, os.strerror(number))

        return flock

    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
    os.close(lock(tmp_path, what="another"))
    assert (
        "nothing can be locked ([Errno 37] No locks available): give it to one program at a time"
        in capsys.readouterr().out
    )
    monkeypatch.setattr(fcntl, "flock", refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        lock(tmp_path, what="another")


@pytest.fixture
def told(monkeypatch):
    """What would have left the process at once."""
    left = []
    monkeypatch.setattr(ending, "_leave", left.append)
    monkeypatch.setattr(ending, "_told", [])
    monkeypatch.setattr(ending, "PATIENCE", 0.05)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]  # the tests may run in the background
    yield left
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_interrupts_once_and_what_stays_is_left(told, number):
    with ends_when_told():
        pass
    assert signal.getsignal(number) == signal.SIG_DFL  # nothing has come
    with pytest.raises(KeyboardInterrupt), ends_when_told(), ends_when_told():
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)  # while it ends: nothing more
            time.sleep(0.3)
    signal.raise_signal(number)  # nor while the interpreter does
    assert told == ["interrupted; the same command continues where it was."]


def test_an_import_ends_at_once(tmp_path):
    """A compiled module that is being imported may end the process over an exception, as torch does."""
    (tmp_path / "compiled.py").write_text(
        "import os, signal, time\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(20)\n"
        "except KeyboardInterrupt:\n    os.abort()\n"
    )
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "from polytune.running import ending\n"
        "with ending.ends_when_told():\n    ending.hold('new')\n    import compiled\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (130, "interrupted; the same command continues where it was.\n")
    assert not (tmp_path / "new").exists()


def test_what_is_ignored_stays_ignored_and_threads_change_nothing(told):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ends_when_told():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    thread = threading.Thread(target=lambda: ends_when_told().__enter__())
    thread.start()
    thread.join()
    assert told == []


def test_the_last_line_names_the_checkpoint_and_the_folder_is_free(tmp_path, capsys, told):
    (tmp_path / "checkpoint-8").mkdir()

    def main(argv):
        hold_run(tmp_path)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as end:
        run(main, [])
    line = f"interrupted; {tmp_path}/checkpoint-8 is intact: the same command continues from there.\n"
    assert end.value.code == 130 and capsys.readouterr().err == line
    os.close(lock(tmp_path, what="another"))


def test_what_a_killed_writer_of_weights_left_goes_with_the_next_start(tmp_path):
    """Written here by safetensors itself, in a child that dies at a random moment of it."""
    for _ in range(40):
        child = os.fork()
        if child == 0:
            for number in range(10_000):
                save_file({"a": np.zeros(200_000)}, tmp_path / f"model-{number % 2}.safetensors")
            os._exit(1)
        time.sleep(random.uniform(0.01, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if list(tmp_path.glob(".tmp*")):
            break
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".tmp")], "no kill hit a write"
    (tmp_path / ".tmpfolder").mkdir()
    (tmp_path / "own.tmp").touch()
    hold_run(tmp_path)
    let_go()
    own = {".lock", ".tmpfolder", "own.tmp"}
    assert {path.name for path in tmp_path.iterdir()} - {"model-0.safetensors", "model-1.safetensors"} == own


def test_an_error_says_its_stage(capsys):
    def main(argv):
        with stage("update"), stage("rollouts"):
            raise EngineError("the engine is gone.")

    assert processes.stage_of(ValueError()) == ""
    with pytest.raises(SystemExit) as end:
        run(main, [])
    assert end.value.code == 1 and stage_of(end.value.__cause__) == "update > rollouts"
    assert capsys.readouterr().err == "error: the engine is gone. (in stage 'update > rollouts')\n"
