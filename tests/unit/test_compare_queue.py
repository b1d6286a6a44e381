"""The queue of programs: order, failures, signals, its lock."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from polytune.comparison.progress import Progress, duration, tell_failures
from polytune.running.ending import lock
from polytune.running.run_queue import JobFailed, Outcome, last_lines, run_jobs

SLOW = "import time; time.sleep(60)"


def program(code, log, ticks=None):
    """A job that runs one Python program."""

    def work(launcher):
        launcher.call([sys.executable, "-c", code], log, on_time=(ticks if ticks is not None else []).append)

    return work


def test_a_failure_does_not_end_the_others(tmp_path):
    ticks, told = [], []
    jobs = {
        "bad": program("import sys; print('on its way'); sys.exit('no luck')", tmp_path / "bad" / "run.log"),
        "good": program("print('fine')", tmp_path / "good.log", ticks),
        "bug": lambda launcher: {}["nothing"],
        "last": program("import os; os.kill(os.getpid(), 9)", tmp_path / "last.log"),
    }
    outcomes = run_jobs(jobs, workers=1, folder=tmp_path, on_outcome=told.append)
    assert [outcome.name for outcome in told] == list(jobs)
    assert outcomes["good"].error is None and (tmp_path / "good.log").read_text() == "fine\n"
    assert isinstance(outcomes["bad"].error, JobFailed) and "status 1" in str(outcomes["bad"].error)
    assert isinstance(outcomes["bug"].error, KeyError) and outcomes["bug"].log is None
    assert "signal 9" in str(outcomes["last"].error)
    assert last_lines(outcomes["bad"].log) == ["on its way", "no luck"]
    assert len(ticks) == 1 and 0 < ticks[0] < 60


def test_logs_are_appended_to(tmp_path):
    for _ in range(2):
        run_jobs({"a": program("print('x')", tmp_path / "log")}, workers=1, folder=tmp_path, on_outcome=print)
    assert (tmp_path / "log").read_text() == "x\nx\n"


def test_as_many_at_a_time_as_workers(tmp_path):
    running, most, guard = set(), [], threading.Lock()

    def job(name):
        def work(launcher):
            with guard:
                running.add(name)
                most.append(len(running))
            time.sleep(0.05)
            with guard:
                running.discard(name)

        return work

    run_jobs({str(i): job(str(i)) for i in range(7)}, workers=3, folder=tmp_path, on_outcome=lambda outcome: None)
    assert max(most) == 3 and len(most) == 7


def test_a_folder_has_one_queue(tmp_path):
    held = lock(tmp_path, what="another")
    with pytest.raises(ValueError, match=f"{tmp_path} is in use: another comparison, or runs that it left behind"):
        run_jobs({}, workers=1, folder=tmp_path, on_outcome=lambda outcome: None)
    os.close(held)
    assert run_jobs({}, workers=1, folder=tmp_path, on_outcome=lambda outcome: None) == {}


QUEUE = """
import signal
import sys
from pathlib import Path
from polytune.running.run_queue import run_jobs
folder = Path(sys.argv[1])
signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup and & may have had them ignored
signal.signal(signal.SIGHUP, signal.SIG_DFL)
child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
job = lambda launcher: launcher.call([sys.executable, "-c", child], folder / "log")
try:
    run_jobs({"a": job, "b": job, "c": job}, workers=2, folder=folder, on_outcome=print)
except KeyboardInterrupt:
    sys.exit(130)
"""


def sessions_below(pid):
    """Processes that descend from ``pid``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if parent == pid:
                found += [int(entry.name), *sessions_below(int(entry.name))]
    return found


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_signals_end_the_programs_and_their_children(tmp_path, number):
    queue = subprocess.Popen([sys.executable, "-c", QUEUE, str(tmp_path)], stdout=subprocess.DEVNULL)
    wait_until(lambda: len(sessions_below(queue.pid)) == 4)  # two programs, each with a child
    below = sessions_below(queue.pid)
    queue.send_signal(number)
    status = queue.wait(timeout=20)
    if number == signal.SIGKILL:  # nothing can end them then, but nobody starts the same runs beside them
        assert all(alive(pid) for pid in below)
        with pytest.raises(ValueError, match="is in use"):
            lock(tmp_path, what="another")
        for pid in below:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(alive(pid) for pid in below))
        time.sleep(0.1)
    else:
        assert status == 130
        wait_until(lambda: not any(alive(pid) for pid in below))
    os.close(lock(tmp_path, what="another"))


@pytest.mark.parametrize(("seconds", "text"), [(48.2, "48 s"), (89, "89 s"), (600, "10 min"), (11100, "3 h 05 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_line_for_each_run_that_ends(tmp_path, capsys):
    log = tmp_path / "x.log"
    log.write_text("first\n\nerror: no such world\n")
    failed = Outcome("b", 30.0, JobFailed("finetune.py", log, 1))
    with Progress({"a": None, "b": None}) as progress:
        progress.begun -= 120
        progress.tell(failed)
    line = capsys.readouterr().out
    assert "b: FAILED after 30 s: finetune.py ended with status 1; 1 left, about 2 min" in line
    tell_failures({"b": failed})
    text = capsys.readouterr().err
    assert "b: finetune.py ended with status 1" in text and "    error: no such world" in text and str(log) in text


ATTACHED = """
import sys
from polytune.running.run_queue import run_attached
try:
    sys.exit(run_attached([sys.executable, "-c", sys.argv[1]]))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_an_attached_program_ends_with_its_status_or_with_us():
    run = [sys.executable, "-c", ATTACHED]
    assert subprocess.run([*run, "raise SystemExit(7)"]).returncode == 7
    for number, to_all in ((signal.SIGTERM, False), (signal.SIGINT, True)):
        interruptible = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # the tests may run in the background
        queue = subprocess.Popen(
            [*run, "import time; time.sleep(60)"], start_new_session=True, preexec_fn=interruptible
        )
        wait_until(lambda queue=queue: len(sessions_below(queue.pid)) == 1)
        [child] = sessions_below(queue.pid)
        time.sleep(0.3)
        os.killpg(queue.pid, number) if to_all else queue.send_signal(number)
        assert queue.wait(timeout=20) == 130 and not alive(child)
