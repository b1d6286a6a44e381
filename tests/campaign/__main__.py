"""The campaign: every program is killed at random points, told to end, and given damaged or refused storage.

    make campaign                                      # continues where it was stopped; an hour on 2 cores
    python tests/campaign --new                        # begins anew
    python tests/campaign --only vines export          # some of its programs (`storage` and `engines` are two, too)

Each point is drawn from a seed. A program that ended there is started again by the same command, and survives when all
that it leaves is, bit for bit but for the times, what an uninterrupted run leaves. What was tried stands in
outputs/campaign/tried.jsonl; the table is printed, and kept in data/results/campaign.json, from which
tests/campaign/page.py writes the tables of docs/results/faults.md.
"""

import argparse
import datetime
import hashlib
import json
import os
import platform
import shutil
import time
from importlib.metadata import version

import engines
import kills
import page
import storage
from jobs import JOBS, ROOT, WORK, make_starts

TRIED = WORK / "tried.jsonl"
KEPT = ROOT / "data/results/campaign.json"


def code() -> str:
    """What was tried with other code counts for nothing."""
    digest = hashlib.sha256()
    for path in sorted([*ROOT.glob("polytune/**/*.py"), *ROOT.glob("recipes/**/*.yaml")]):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def begin(new: bool) -> dict[str, dict]:
    """What this code has tried before, by name."""
    WORK.mkdir(parents=True, exist_ok=True)
    if not new and TRIED.exists():
        first, *lines = [json.loads(line) for line in TRIED.read_text().splitlines()]
        if first["code"] == code():
            return {line["name"]: line for line in lines}
        print("polytune has changed since: the campaign begins anew")
    for name in ("whole", "killed", "storage"):
        shutil.rmtree(WORK / name, ignore_errors=True)
    TRIED.write_text(json.dumps({"code": code()}) + "\n")
    return {}


def due(only: list[str]) -> list[tuple[str, object]]:
    """(name, what tries it) of everything, in the order in which it is tried."""

    def wanted(name):
        return not only or name.replace(" ", "_") in only

    points = [(point.name, lambda job=job, point=point: kills.end_and_continue(job, point))
              for job, point in kills.all_points([job for job in JOBS if wanted(job.name)])]  # fmt: skip
    others = [(f"{part} {name}", trial) for part, trials in (("storage", storage.TRIALS), ("engines", engines.TRIALS))
              if wanted(part) for name, trial in trials.items()]  # fmt: skip
    return [*points, *others]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new", action="store_true", help="Forget what was tried before.")
    parser.add_argument("--only", nargs="+", default=[], help="Programs to try, `storage`, `engines` (unset: all).")
    asked = parser.parse_args()
    found = begin(asked.new)
    make_starts()
    trials = due(asked.only)
    left = [(name, trial) for name, trial in trials if name not in found]
    print(f"{len(trials)} trials, {len(trials) - len(left)} of them done before", flush=True)
    begun = time.monotonic()
    for number, (name, trial) in enumerate(left, start=1):
        found[name] = {"name": name} | trial()
        with TRIED.open("a") as file:
            file.write(json.dumps(found[name]) + "\n")
        took = (time.monotonic() - begun) / number
        verdict = found[name]["problem"] or "survived"
        print(f"{number}/{len(left)} {name}: {verdict}; {took * (len(left) - number) / 60:.0f} min left", flush=True)
    found = begin(False)  # also what another campaign beside this one has tried
    kept = {
        "made": {"date": datetime.date.today().isoformat(), "cores": len(os.sched_getaffinity(0)),
                 "versions": {name: version(name) for name in ("polytune", "torch", "transformers", "trl")},
                 "python": platform.python_version(), "seed": kills.SEED, "code": code()},
        "ends": kills.table([one for one in found.values() if "signal" in one]),
        "others": [{"trial": name, "tried": one["tried"], "survived": one["survived"], "seconds": one["seconds"]}
                   for name, one in found.items() if "tried" in one],
        "problems": {name: one["problem"] for name, one in found.items() if one["problem"]},
    }  # fmt: skip
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    print(page.tables(kept))
    raise SystemExit(1 if kept["problems"] else 0)


if __name__ == "__main__":
    main()
