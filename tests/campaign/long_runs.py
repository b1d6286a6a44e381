"""Long runs, measured: memory of many updates, many start states, a report of many runs, a large records file.

    python tests/campaign/long_runs.py              # make long-runs: 2,000 updates, 1,000 MB, an hour on a core
    python tests/campaign/long_runs.py --parts records --megabytes 100

Writes what it measured and the command to ``data/results/long_runs.json``; the status is 1 where something grows that
should not: memory beyond the noise, checkpoints beyond ``save_total_limit``, updates without a line in metrics.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from polytune.places import start
from polytune.running.provenance import origin, write_json

RESULT = Path("data/results/long_runs.json")
MB = 2**20
#: a slope of memory is noise below this, over the whole run
MOST_GROWTH_MB = 40.0
#: seconds in which a report opens, and megabytes of memory for each megabyte of records
MOST_OPENING, MOST_MEMORY = 3.0, 0.15


def policy_of_bandit(folder: Path) -> Path:
    """An untrained policy that knows the bandit's words."""
    from polytune.policy import build_tiny
    from polytune.policy.rendering import PROMPT_WORD
    from polytune.tasks import load_task

    for part in build_tiny("tiny", [PROMPT_WORD, *load_task("bandit").vocabulary()]):
        part.save_pretrained(folder)
    return folder


def watched(command: list[str], lines: Path | None = None) -> tuple[float, np.ndarray]:
    """Run a command; seconds, and (lines of a file, resident MB) twice a second. RuntimeError when it fails."""
    begun, seen = time.monotonic(), []
    with tempfile.TemporaryFile() as said:
        process = psutil.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None:
            with_children = [process, *process.children(recursive=True)]
            try:
                resident = sum(p.memory_info().rss for p in with_children) / MB
            except psutil.NoSuchProcess:
                continue
            seen.append((lines.read_bytes().count(b"\n") if lines and lines.exists() else 0, resident))
            time.sleep(0.5)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {said.read()[-2000:].decode()}")
    return time.monotonic() - begun, np.array(seen)


def finetune(policy: Path, output_dir: Path, updates: int, split: str) -> list[str]:
    return [*start("finetune"), "--config", "recipes/tabular/mean.yaml", "--model", str(policy), "--output_dir",
            str(output_dir), "--num_updates", str(updates), "--save_updates", "10", "--split", split, "--cpu_threads",
            "1"]  # fmt: skip


def updates(folder: Path, count: int) -> dict[str, Any]:
    """Memory of the second half of a run of the bandit: its slope against updates by least squares, its middle in each
    tenth of the run, and what the files are."""
    policy, run = policy_of_bandit(folder / "policy"), folder / "run"
    seconds, seen_T_2 = watched(finetune(policy, run, count, "seeds:0-0"), run / "metrics.jsonl")
    late = seen_T_2[(seen_T_2[:, 0] >= count / 2) & (seen_T_2[:, 0] < count)]  # at the end it gives memory back
    slope, first = np.polyfit(late[:, 0], late[:, 1], 1)
    rest = late[:, 1] - (slope * late[:, 0] + first)
    error = rest.std() / (late[:, 0].std() * np.sqrt(len(late)))
    tenths = [seen_T_2[(seen_T_2[:, 0] * 10 // count).clip(max=9) == tenth, 1] for tenth in range(10)]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    checkpoints = sorted(run.glob("checkpoint-*"))
    grown = slope * np.ptp(late[:, 0])
    return {
        "updates": count, "seconds": round(seconds), "rss_mb": round(float(late[:, 1].mean()), 1),
        "slope_kb_per_update": round(1024 * slope, 3),
        "slope_error_kb_per_update": round(1024 * error, 3),
        "rss_mb_by_tenth": [round(float(np.median(own)), 1) if len(own) else None for own in tenths],
        "grown_mb": round(float(grown), 2),
        "metrics_lines": len(lines), "checkpoints": len(checkpoints),
        "files_mb": round(sum(p.stat().st_size for p in run.rglob("*") if p.is_file()) / MB, 1),
        "held": bool(grown < MOST_GROWTH_MB and len(lines) == count and len(checkpoints) <= 2),
    }  # fmt: skip


def start_states(folder: Path, count: int) -> dict[str, Any]:
    """A run of two updates over many start states."""
    policy = policy_of_bandit(folder / "policy")
    seconds, seen_T_2 = watched(finetune(policy, folder / "run", 2, f"seeds:0-{count - 1}"))
    metrics = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    return {"start_states": count, "seconds": round(seconds), "peak_rss_mb": round(float(seen_T_2[:, 1].max())),
            "held": len(metrics) == 2}  # fmt: skip


def report(folder: Path, count: int) -> dict[str, Any]:
    """Training curves of many runs on one page: seconds until a browser shows it, and has drawn them all; its seconds
    of a core, which do not count what else the machine does."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    from polytune.report import Page, parts, write_page
    from polytune.report import runs as run_files

    methods, by_method = max(1, count // 10), {}
    for number in range(count):
        line = dict.fromkeys(run_files.CURVES, 0.5 + 0.001 * number)
        lines = [{**line, "step": step, run_files.STEPS: 100.0 * step} for step in range(1, 501)]
        own = run_files.RunFiles(f"method{number % methods}", folder, number // methods, lines)
        by_method.setdefault(own.name, []).append(own)
    page, place = Page(f"{count} runs", "500 updates each"), folder / "report.html"
    parts.training(page, by_method, list(by_method))
    write_page(page, place)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    with webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver"))) as browser:
        begun = time.monotonic()
        browser.get(place.as_uri())
        loaded = time.monotonic() - begun
        drawn = "return document.documentElement.dataset.charts === 'drawn'"
        WebDriverWait(browser, 300, 0.05).until(lambda b: b.execute_script(drawn))
        seconds = time.monotonic() - begun
        processes = psutil.Process(browser.service.process.pid).children(recursive=True)
        cores = sum(sum(process.cpu_times()[:2]) for process in processes)
    return {"runs": count, "mb": round(place.stat().st_size / MB, 2), "seconds_until_shown": round(loaded, 2),
            "seconds_until_drawn": round(seconds, 2), "core_seconds": round(cores, 2),
            "held": loaded < MOST_OPENING}  # fmt: skip


def write_records(path: Path, megabytes: int) -> tuple[int, int]:
    """Records of FourRooms' length until the file has so many megabytes; start states and samples of each."""
    samples, said = 64, " ".join(["forward", "left", "right"] * 33)
    one = {"policy": "a", "perturb": None, "start_seed": 0, "attempt": 0, "greedy": False, "success": False,
           "return": 0.0, "turns": 99, "stop_reason": "horizon", "signature": [0, 1, 2], "invalid_actions": 0,
           "logprob": -98.765, "said": "", "actions": said}  # fmt: skip
    starts = max(1, megabytes * MB // (samples * (len(json.dumps(one)) + 20)))
    with path.open("w") as file:
        for seed in range(starts):
            for attempt in range(samples):
                won = (seed + attempt) % 3 == 0
                own = {"start_seed": seed, "attempt": attempt, "success": won, "signature": [attempt % 4, 5],
                       "return": float(won), "stop_reason": "success" if won else "horizon",
                       "said": f"{seed * 64 + attempt:016x}", "logprob": -90.0 - attempt}  # fmt: skip
                file.write(json.dumps(one | own) + "\n")
    return starts, samples


def records(folder: Path, megabytes: int) -> dict[str, Any]:
    """Peak memory of going on with a large records file, and of analysing it, each in a process of its own."""
    path = folder / "records.jsonl"
    starts, samples = write_records(path, megabytes)
    size = path.stat().st_size / MB
    found: dict[str, Any] = {"mb": round(size), "records": starts * samples}
    for part in ("nothing", "continue", "analyse"):
        command = [sys.executable, __file__, "--one", part, str(path), str(starts), str(samples)]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        found[part] = told
    own = {part: found[part]["peak_rss_mb"] - found["nothing"]["peak_rss_mb"] for part in ("continue", "analyse")}
    return found | {"above_nothing_mb": own, "held": max(own.values()) < MOST_MEMORY * size}


def one(part: str, path: str, starts: int, samples: int) -> None:
    """What ``records`` measures, in this process."""
    from polytune.evaluation import summarise
    from polytune.evaluation.records import check_repeats, cohorts, continue_records, plan, read_records

    begun = time.monotonic()
    if part == "continue":
        batches = cohorts(plan(["a"], range(starts), samples, greedy=False), 256)
        assert continue_records(path, batches) == len(batches)
    if part == "analyse":
        found = read_records(path)
        check_repeats(found)
        assert len(summarise(found, ["a"], ks=(1, samples))["policies"]) == 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_rss_mb": round(peak), "seconds": round(time.monotonic() - begun, 1)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["updates", "start_states", "report", "records"])
    for name, default in (("updates", 2000), ("start_states", 10_000), ("runs", 100), ("megabytes", 1000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        return one(asked.one[0], asked.one[1], int(asked.one[2]), int(asked.one[3]))
    measure = {"updates": (updates, asked.updates), "start_states": (start_states, asked.start_states),
               "report": (report, asked.runs), "records": (records, asked.megabytes)}  # fmt: skip
    kept = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in asked.parts:
        work, size = measure[name]
        with tempfile.TemporaryDirectory() as folder:
            made = origin(["tests/campaign/long_runs.py", "--parts", name, *(["--" + _flag(name), str(size)])])
            kept[name] = work(Path(folder), size) | made | {"load": round(os.getloadavg()[0], 1)}
        print(name, json.dumps(kept[name]), flush=True)
        write_json(RESULT, kept)
    raise SystemExit(0 if all(kept[name]["held"] for name in asked.parts) else 1)


def _flag(part: str) -> str:
    return {"report": "runs", "records": "megabytes"}.get(part, part)


if __name__ == "__main__":
    main()
