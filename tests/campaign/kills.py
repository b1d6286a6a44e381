"""The points at which programs are killed or told to end, drawn by a seed, and what becomes of each."""

import json
import random
import signal
import statistics
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs import WORK, Job, outcomes

#: signals beside SIGKILL, each tried once in every program; seconds that a program has then
TOLD, AT_ONCE = (signal.SIGTERM, signal.SIGINT), 5.0
SEED = 23


@dataclass(frozen=True)
class Point:
    """Where and how a program ends: at the ``count``-th time that it comes to ``place``, and ``after`` seconds.

    rank: which of several processes; family: whether what it has started dies with it.
    """

    job: str
    place: str
    count: int
    after: float
    signal: int = int(signal.SIGKILL)
    rank: int = 0
    family: bool = False

    @property
    def name(self) -> str:
        return f"{self.job} {self.place} {self.count} {self.after} {self.signal} {self.rank}".replace(" ", "_")


def whole(job: Job) -> Path:
    """The folder of the uninterrupted run, which is made when it is not there, in a Python of its own hash seed."""
    folder = WORK / "whole" / job.name.replace(" ", "_")
    times = folder / "times.json"
    if not (folder / "done").exists():
        job.ready(folder)
        started = job.start(folder, "times", 0, note=str(times))
        if started.wait() != 0:
            raise RuntimeError(f"the uninterrupted run of {job.name} failed:\n{started.said()[-3000:]}")
        (folder / "done").touch()
    return folder


def draw(job: Job, seed: int = SEED) -> list[Point]:
    """The kills of a program, then its other signals: a random visit of each place, and a random moment of it."""
    source = random.Random(f"{seed} {job.name}")
    times = json.loads((whole(job) / "times.json").read_text())
    places = [place for place, kills in job.places.items() for _ in range(kills)]
    signals = [signal.SIGKILL] * len(places) + list(TOLD)
    places += [source.choice(sorted(job.places)) for _ in TOLD]
    points = []
    for place, number in zip(places, signals, strict=True):
        count = source.randint(1, len(times[place]))
        after = round(source.uniform(0.0, times[place][count - 1]), 4)
        rank, family = source.randrange(job.processes), source.random() < 0.5 and number == signal.SIGKILL
        points.append(Point(job.name, place, count, after, int(number), rank, family and job.processes == 1))
    return points


def end_and_continue(job: Job, point: Point) -> dict:
    """What becomes of a program that ends at a point and is started again: ``struck`` (whether it was still running),
    ``seconds`` to its end, ``status``, ``said`` (its last line), ``problem`` (None: bit for bit as uninterrupted)."""
    folder = job.ready(WORK / "killed" / point.name)
    note = folder / "struck.json"
    die = {"after": point.after, "signal": point.signal, "rank": point.rank, "family": point.family}
    started = job.start(folder, point.place, point.count, note=str(note), **die)
    found = asdict(point) | {"problem": None}
    try:
        found["status"] = started.wait()
        found["struck"] = note.exists()
        found["seconds"] = round(time.time() - json.loads(note.read_text()), 2) if note.exists() else None
        found["said"] = [line for line in started.said().splitlines() if line.strip()][-12:]
        found["problem"] = _ended_badly(job, point, found, started.said())
        begun = time.monotonic()
        status = _continue(job, folder)
        found["seconds_to_continue"] = round(time.monotonic() - begun, 2)
        if status != 0:
            raise AssertionError(f"the same command ended with status {status}")
        outcomes.assert_same(outcomes.read(folder / "run"), outcomes.read(whole(job) / "run"))
    except subprocess.TimeoutExpired as error:
        found["problem"] = f"it had not ended after {error.timeout:.0f} s"
    except AssertionError as error:
        found["problem"] = str(error)[:500]
    return found


def _continue(job: Job, folder: Path) -> int:
    """The status of the same command; where programs that were left behind still hold the folder, of a later one."""
    deadline = time.monotonic() + 120
    while True:
        (folder / "log").rename(folder / "log.killed") if (folder / "log").exists() else None
        started = job.start(folder)
        status = started.wait()
        if status == 0 or "is in use" not in started.said() or time.monotonic() > deadline:
            return status
        time.sleep(2)


def _ended_badly(job: Job, point: Point, found: dict, said: str) -> str | None:
    """What was wrong with an end: too late, with a traceback, without the words that say how to go on."""
    if not found["struck"] or point.signal == signal.SIGKILL:
        slow = job.processes > 1 and found["struck"] and found["seconds"] > 60
        return f"the other process took {found['seconds']} s to end" if slow else None
    if found["seconds"] > AT_ONCE + (10.0 if job.processes > 1 else 0.0):
        return f"it took {found['seconds']} s to end"
    if job.processes == 1 and "Traceback" in said:
        return "it ended with a traceback"
    if found["status"] == 0:
        return None  # it was through
    return None if "the same command continues" in said or "begins anew" in said else "it did not say how to go on"


def table(found: list[dict]) -> list[dict]:
    """One row for each program and place (kills) or signal: tried, survived, seconds to end."""
    rows: dict[tuple[str, str], list[dict]] = {}
    for one in found:
        killed = one["signal"] == signal.SIGKILL
        what = one["place"] if killed else signal.Signals(one["signal"]).name
        rows.setdefault((one["job"], "SIGKILL" if killed else what, what), []).append(one)
    made = []
    for (job, number, place), own in rows.items():
        seconds = [one["seconds"] for one in own if one["seconds"] is not None]
        made.append({
            "program": job, "signal": number, "place": place if number == "SIGKILL" else "anywhere",
            "tried": sum(one["struck"] for one in own),
            "survived": sum(one["struck"] and one["problem"] is None for one in own),
            "seconds_median": round(statistics.median(seconds), 2) if seconds else None,
            "seconds_most": max(seconds, default=None),
        })  # fmt: skip
    return made


def all_points(jobs: list[Job]) -> list[tuple[Job, Point]]:
    """Of all programs, in turns, so that a campaign that is stopped has tried something of each."""
    queues = [[(job, point) for point in draw(job)] for job in jobs]
    return [queue[i] for i in range(max(map(len, queues), default=0)) for queue in queues if i < len(queue)]
