"""Processes that are slow, stop or die, and servers that err: bounded time, the stage named, and the run goes on."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import kills
import psutil
from jobs import JOBS, PATH, ROOT, WORK, Job, outcomes, warm
from storage import trial

sys.path[:0] = [str(ROOT / "tests/unit")]

from served import Served  # noqa: E402

SEED = 25
TWO = next(job for job in JOBS if job.processes == 2)
VINES = JOBS[0]
PLACE = WORK / "engines"


def workers(pid: int, program: str = "finetune") -> list[psutil.Process]:
    """The processes of a run, in the order of their ranks; torchrun and its children are told apart by RANK."""
    found = {}
    for process in psutil.Process(pid).children(recursive=True):
        try:
            rank = process.environ().get("RANK")
        except psutil.Error:
            continue
        if rank is not None and program in " ".join(process.cmdline()):
            found.setdefault(rank, process)
    return [found[rank] for rank in sorted(found)]


def when_two(folder: Path, started, after: float) -> list[psutil.Process]:
    """Both processes, as soon as the run has a checkpoint, and ``after`` seconds later."""
    while started.process.poll() is None and not list((folder / "run").glob("checkpoint-*")):
        time.sleep(0.02)
    time.sleep(after)
    return workers(started.pid)


def equal(folder: Path, job: Job) -> str | None:
    try:
        outcomes.assert_same(outcomes.read(folder / "run"), outcomes.read(kills.whole(job) / "run"))
    except AssertionError as error:
        return str(error)[:300]
    return None


def slow_or_stopped():
    """One of two processes stands still half of the time, or for seven seconds: nothing changes but the time."""
    draw = random.Random(SEED)
    for number, (times, seconds) in enumerate(((20, 0.2), (1, 7.0), (1, 7.0))):
        folder = TWO.ready(PLACE / f"slow-{number}")
        started = TWO.start(folder)
        own = when_two(folder, started, draw.uniform(0.0, 1.0))
        for _ in range(times):
            if started.process.poll() is None and own:
                try:
                    own[number % 2].suspend()
                    time.sleep(seconds)
                    own[number % 2].resume()
                    time.sleep(seconds)
                except psutil.NoSuchProcess:
                    break
        status = started.wait()
        yield (None if status == 0 else f"status {status}: {started.said()[-400:]}") or equal(folder, TWO)


def stopped_for_good():
    """One of two processes never goes on: the other ends after ddp_timeout, says why, and the run continues."""
    folder = TWO.ready(PLACE / "stopped")
    job = Job(TWO.name, TWO.program, (*TWO.arguments, "--ddp_timeout", "8", "--hang_timeout", "4"), {}, processes=2)
    started = job.start(folder)
    own = when_two(folder, started, 0.2)
    own[1].suspend()
    begun = time.monotonic()
    status, text = started.wait(), started.said()
    took = time.monotonic() - begun
    for process in own:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
    if status == 0 or took > 150 or "longer than ddp_timeout allows" not in text or "in stage" not in text:
        yield f"status {status} after {took:.0f} s: {text[-600:]}"
    else:
        yield (None if TWO.start(folder).wait() == 0 else "it did not go on") or equal(folder, TWO)


def servers():
    """A server that errs, hangs, hangs up, or was started again between the weights and the samples."""
    from transformers import AutoModelForCausalLM

    packages = PLACE / "packages"
    (packages / "vllm").mkdir(parents=True, exist_ok=True)
    (packages / "vllm/__init__.py").touch()  # the client imports nothing of it
    told = {
        "error": "refused /v1/completions (500)",
        "hang": "did not answer /v1/completions within 3 s",
        "gone": "is gone (/v1/completions",
        "restarted": "nats from those of the weights that it was sent",
    }
    model = AutoModelForCausalLM.from_pretrained(VINES.arguments[3])
    env = os.environ | {"OMP_NUM_THREADS": "1",
                        "PYTHONPATH": os.pathsep.join([PATH, str(packages)])}  # fmt: skip
    with Served(model) as server:
        folder = VINES.ready(PLACE / "server")
        asks = ["--generator", "vllm", "--vllm_mode", "server", "--vllm_server_base_url", server.url,
                "--vllm_weights_dir", folder / "weights", "--vllm_server_timeout", "3"]  # fmt: skip

        def run(name):
            words = [ROOT / "recipes/finetune.py", *VINES.arguments, *asks, "--output_dir", name]
            return warm.run(*words, env=env, cwd=folder)  # TRL is loaded, and saw that there is no vLLM

        first = run("whole")
        if first.returncode:
            yield first.stderr[-500:]
            return
        for fault, line in told.items():
            server.model.load_state_dict(server.begun)
            server.fault, server.due, begun = fault, 100, time.monotonic()
            died = run(fault)
            bad = died.returncode != 1 or line not in died.stderr or "Traceback" in died.stderr
            if bad or "in stage 'training > update > scoring > rollouts'" not in died.stderr:
                yield f"{fault}: status {died.returncode} after {time.monotonic() - begun:.0f} s: {died.stderr[-400:]}"
                continue
            server.fault = None
            again = run(fault)
            try:
                assert again.returncode == 0, again.stderr[-300:]
                outcomes.assert_same(
                    _but_where(outcomes.read(folder / fault)), _but_where(outcomes.read(folder / "whole"))
                )
                yield None
            except AssertionError as error:
                yield f"{fault}: {error}"


def _but_where(outcome: dict) -> dict:
    """An outcome without the records of the folder's own name, and without the gap of the canary: each process has its
    own, the branch that it sampled first."""
    return {name: _without_gap(content) for name, content in outcome.items() if name not in ("run.json", "run.yaml")}


def _without_gap(content):
    if isinstance(content, dict):
        return {name: _without_gap(own) for name, own in content.items() if name != "sampling/canary_gap"}
    return [_without_gap(own) for own in content] if isinstance(content, list) else content


def told_to_end_twice():
    """Ctrl-C, and again: one line."""
    folder = VINES.ready(PLACE / "twice")
    started = VINES.start(folder)
    while started.process.poll() is None and not list((folder / "run").glob("checkpoint-*")):
        time.sleep(0.02)
    for _ in range(2):
        os.kill(started.pid, signal.SIGINT)
        time.sleep(0.05)
    begun, status = time.monotonic(), started.wait()
    text = started.said()
    fine = status == 130 and text.count("interrupted; ") == 1 and "Traceback" not in text
    yield None if fine and time.monotonic() - begun < 5 else f"status {status}: {text[-400:]}"


TRIALS = {
    what: lambda own=own: trial(own())
    for what, own in {
        "a process that is slow or stands still": slow_or_stopped, "Ctrl-C twice": told_to_end_twice,
        "a server that fails": servers, "a process that never goes on": stopped_for_good,
    }.items()
}  # fmt: skip
