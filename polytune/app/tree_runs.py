"""Programs of a work tree, this one or another commit's, run as a user runs them and timed while they run."""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

UPDATE = re.compile(r"update (\d+)/\d+: env steps ([\d,]+)")


def call(tree: Path, program: str, flags: str, output_dir: Path, *, launcher: Sequence[str] = ()) -> subprocess.Popen:
    """One of a tree's programs, on one thread unless the flags say otherwise."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    begin = ["-m", "polytune.app.plain_trl"] if program == "plain_trl" else [f"recipes/{program}.py"]
    command = [sys.executable, *launcher, *begin, *flags.split(), "--output_dir", str(output_dir)]
    return subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def cpu_seconds(pid: int) -> float:
    """Of a running process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def finetune(tree: Path, flags: str, output_dir: Path) -> dict:
    """Rates of the updates after the first, and what the run told of itself."""
    shutil.rmtree(output_dir, ignore_errors=True)
    process = call(tree, "finetune", f"{flags} --save_updates 100 --cpu_threads 1", output_dir)
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
    spent = cpu_ended - cpu_began  # nothing by a launcher, whose processes have CPU seconds of their own
    rates = {"per_second": (last - first) / (ended - began), "peak_mib": usage.ru_maxrss / 1024}
    return rates | ({"per_cpu_second": (last - first) / spent} if spent else {})


def pretrain(tree: Path, flags: str, output_dir: Path) -> dict:
    """Seconds that a pretraining takes, by the clock and of the core."""
    shutil.rmtree(output_dir, ignore_errors=True)
    began = time.perf_counter()
    process = call(tree, "pretrain", flags, output_dir)
    told = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{tree}: {' '.join(process.args)} ended with status {process.returncode}:\n{told[-2000:]}")
    return {"seconds": time.perf_counter() - began, "cpu_seconds": usage.ru_utime + usage.ru_stime}


def summary(runs: Sequence[dict]) -> dict:
    """Median, least and most of every number."""
    return {
        name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for name in runs[0]
        if (values := [found[name] for found in runs if name in found])
    }
