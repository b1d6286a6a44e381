"""What a disk does to a run: it is full, or read-only, takes a permission or a folder away, or damages files."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import kills
from jobs import DIES, JOBS, PATH, ROOT, WORK, outcomes

from polytune.running.checkpoints import VERSION_FILE, check_manifest, checkpoints, latest_checkpoint, write_manifest

SEED, FLIPS, CUTS = 24, 200, 50
VINES = JOBS[0]
PLACE = WORK / "storage"
NOBODY = 65534
#: a user without rights that reads all there is, so that the interpreter may lie in root's home
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=+dac_read_search",
             "--ambient-caps=+dac_read_search")  # fmt: skip


def trial(attempts) -> dict:
    """The record of a trial: ``attempts`` yields None for what went well, else what was wrong."""
    begun, found = time.monotonic(), list(attempts)
    bad = [text for text in found if text is not None]
    return {"tried": len(found), "survived": len(found) - len(bad), "problem": "; ".join(bad)[:800] or None,
            "seconds": round(time.monotonic() - begun, 1)}  # fmt: skip


def ends_equal(folder: Path) -> str | None:
    """Give the command once more; what is wrong with what it leaves."""
    started = VINES.start(folder)
    if started.wait() != 0:
        return f"the same command ended badly: {started.said()[-400:]}"
    try:
        outcomes.assert_same(outcomes.read(folder / "run"), outcomes.read(kills.whole(VINES) / "run"))
    except AssertionError as error:
        return str(error)[:300]
    return None


def told_once(text: str) -> str | None:
    """What is wrong with how a run said that it ended: one line, no traceback."""
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    if len(lines) != 1 or "Traceback" in text:
        return f"{len(lines)} lines of error{', a traceback' if 'Traceback' in text else ''}: {text[-400:]}"
    return None


@contextmanager
def small_disk(folder: Path, mib: int):
    """A file system of its own, in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=777", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def loop_disk(folder: Path, mib: int):
    """A small ext4 of its own on a loop device, for nobody."""
    image = folder.with_name(f"{folder.name}.img")
    folder.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(mib * 2**20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    try:
        os.chown(folder, NOBODY, NOBODY)
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
        image.unlink()


def as_nobody(folder: Path) -> tuple[int, str]:
    """Run the vines there as a user without rights; its status, and what it says."""
    words = [*AS_NOBODY, sys.executable, ROOT / "recipes/finetune.py", *VINES.arguments, "--output_dir", "run"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PATH, "HOME": "/tmp"}
    done = subprocess.run(list(map(str, words)), cwd=folder, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def when_there(path: Path, number: int, then, delay: float = 0.0) -> threading.Thread:
    """``then()`` as soon as a run has so many checkpoints behind it."""

    def watch():
        while not any(int(own.name.partition("-")[2]) >= 4 * number for own in checkpoints(path)):
            time.sleep(0.01)
        time.sleep(delay)
        then()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def full_disk():
    """Bytes run out in mid-run, at another write each time."""
    draw = random.Random(SEED)
    for number in range(6):
        folder = VINES.ready(PLACE / f"full-{number}")
        left = draw.randrange(0, 6_000_000)
        with small_disk(folder / "run", 64) as disk:

            def fill(disk=disk, left=left):
                free = shutil.disk_usage(disk).free
                (disk / "ballast").write_bytes(b"x" * max(0, free - left))

            when_there(disk, draw.choice((1, 2, 3)), fill)
            started = VINES.start(folder)
            status, text = started.wait(), started.said()
            (disk / "ballast").unlink(missing_ok=True)
            if status == 0:  # what was left was enough
                yield ends_equal(folder)
                continue
            yield told_once(text) or ends_equal(folder)


def size_limit():
    """A file may not be longer (RLIMIT_FSIZE), from a moment of the run on: each part of a checkpoint in turn."""
    for number, most in ((1, 12_000), (1, 400_000), (2, 2_000_000)):
        folder = VINES.ready(PLACE / f"size-{most}")
        started = VINES.start(folder)

        def limit(pid=started.pid, most=most):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))

        when_there(folder / "run", number, limit)
        status, text = started.wait(), started.said()
        yield (None if status == 1 else f"status {status}") or told_once(text) or ends_equal(folder)


def small_ext4():
    """A real file system fills up under a user who has no part in what root reserves of it."""
    draw = random.Random(SEED)
    for number in (1, 2):
        folder = VINES.ready(PLACE / f"ext4-{number}")
        with loop_disk(folder / "run", 40) as disk:
            left = draw.randrange(0, 5_000_000)

            def fill(disk=disk, left=left):
                (disk / "ballast").write_bytes(b"x" * max(0, shutil.disk_usage(disk).free - left))

            when_there(disk, number, fill)
            status, text = as_nobody(folder)
            (disk / "ballast").unlink(missing_ok=True)
            yield (told_once(text) if status else None) or ends_equal(folder)  # 0: what was left was enough


def unprivileged():
    """Nobody runs it: in a folder of another user, and in one that is given to another in mid-run."""
    folder = VINES.ready(PLACE / "nobody-0")
    status, text = as_nobody(folder)
    yield (None if status == 1 else f"status {status}") or told_once(text) or ends_equal(folder)
    for number in (1, 2):
        folder = VINES.ready(PLACE / f"nobody-{number}")
        os.chown(folder, NOBODY, NOBODY)
        take = ["chown", "-R", "root:root", folder / "run"]
        when_there(folder / "run", number, lambda take=take: subprocess.run(take, check=False))
        status, text = as_nobody(folder)
        yield (None if status == 1 else f"status {status}") or told_once(text) or ends_equal(folder)


def read_only():
    """The file system can be read only: a run that begins, and one that would go on."""
    for begun in (False, True):
        folder = VINES.ready(PLACE / f"read_only-{begun}")
        with small_disk(folder / "run", 64) as disk:
            if begun:
                VINES.start(folder, "update", 10).wait()
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            started = VINES.start(folder)
            status, text = started.wait(), started.said()
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
            yield (None if status == 1 else f"status {status}") or told_once(text) or ends_equal(folder)


def permission_lost():
    """The run's folder, or all that is in it, is made unchangeable in mid-run (root passes over modes, not this)."""
    for number, deep in ((1, []), (2, []), (1, ["-R"]), (2, ["-R"])):
        folder = VINES.ready(PLACE / f"permission-{number}{''.join(deep)}")
        freeze = ["chattr", *deep, "+i", folder / "run"]
        watch = when_there(folder / "run", number, lambda freeze=freeze: subprocess.run(freeze, check=False))
        started = VINES.start(folder)
        status, text = started.wait(), started.said()
        watch.join(5)
        subprocess.run(["chattr", "-R", "-i", folder / "run"], check=False, stderr=subprocess.DEVNULL)
        yield (None if status == 1 else f"status {status}") or told_once(text) or ends_equal(folder)


def folder_gone():
    """Somebody removes the run's folder under it: it ends, or begins the files anew, and says so."""
    for number in (1, 2):
        folder = VINES.ready(PLACE / f"gone-{number}")
        when_there(folder / "run", number, lambda run=folder / "run": shutil.rmtree(run, ignore_errors=True))
        started = VINES.start(folder)
        status, text = started.wait(), started.said()
        yield (told_once(text) if status else "it went on without a word") or ends_equal(folder)


def killed_after(folder: Path, updates: int) -> Path:
    """A run that was killed in the update after so many; its folder."""
    VINES.ready(folder)
    VINES.start(folder, "update", 4 * updates + 2).wait()
    return folder / "run"


def flips():
    """Every file of a checkpoint, one bit somewhere: found, or (what is nowhere read) harmless."""
    run = killed_after(PLACE / "flips", 3)
    draw, newest = random.Random(SEED), checkpoints(run)[-1]
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    for number in range(FLIPS):
        path = files[number % len(files)]
        content = path.read_bytes()
        broken = bytearray(content)
        broken[draw.randrange(len(broken))] ^= 1 << draw.randrange(8)
        path.write_bytes(broken)
        found = check_manifest(newest)
        problem = ends_equal_aside(run) if found is None else None
        path.write_bytes(content)
        yield problem if problem is None else f"a flip in {path.name} was not found, and {problem}"
    if check_manifest(newest) is not None:
        yield "the checkpoint was not restored"


def ends_equal_aside(run: Path) -> str | None:
    """As ends_equal, in a copy."""
    folder = VINES.ready(PLACE / "aside")
    shutil.copytree(run, folder / "run")
    return ends_equal(folder)


def cuts():
    """Files of a checkpoint that end too early, or are empty."""
    run = killed_after(PLACE / "cuts", 3)
    draw, newest = random.Random(SEED + 1), checkpoints(run)[-1]
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    for number in range(CUTS):
        path = files[number % len(files)]
        content = path.read_bytes()
        path.write_bytes(content[: draw.randrange(len(content))])
        yield None if check_manifest(newest) is not None else f"{path.name}, cut short, was taken for whole"
        path.write_bytes(content)


def damaged_then_continued():
    """One damaged checkpoint of two: the older one is taken, named, and the run ends the same. Both: it begins anew."""
    for number, damaged in enumerate((1, 2)):
        run = killed_after(PLACE / f"damaged-{number}", 3)
        for own in checkpoints(run)[-damaged:]:
            path = own / "optimizer.pt"
            path.write_bytes(path.read_bytes()[:1000])
        had = checkpoints(run)[-1 - damaged] if len(checkpoints(run)) > damaged else None
        started = VINES.start(run.parent)
        status, text = started.wait(), started.said()
        told = f"continuing from run/{had.name}" if had else "training 4 start states"
        if status != 0 or "is damaged (optimizer.pt has 1000 bytes" not in text or told not in text:
            yield f"status {status}: {text[-400:]}"
        else:
            yield ends_equal(run.parent)


def other_version():
    """A checkpoint of a polytune that wrote another format."""
    run = killed_after(PLACE / "version", 2)
    before = {
        path: path.read_bytes() for own in checkpoints(run) for path in (own / VERSION_FILE, own / "manifest.json")
    }
    for own in checkpoints(run):
        (own / VERSION_FILE).write_text(json.dumps({"format": 99, "polytune": "9.9"}))

        write_manifest(own)
    started = VINES.start(run.parent)
    status, text = started.wait(), started.said()
    for path, content in before.items():
        path.write_bytes(content)
    named = "polytune 9.9 (format 99), and this is polytune" in text
    yield (
        (None if status == 1 and named else f"status {status}: {text[-300:]}")
        or told_once(text)
        or ends_equal(run.parent)
    )


def two_at_once():
    """The second run in a folder is refused; the lock of one that was killed is in nobody's way."""
    folder = VINES.ready(PLACE / "two_at_once")
    first = VINES.start(folder)
    watch = when_there(folder / "run", 1, lambda: os.kill(first.pid, signal.SIGSTOP))
    watch.join(120)
    log = (folder / "log").read_text()
    second = VINES.start(folder)
    status, text = second.wait(), (folder / "log").read_text()[len(log) :]
    yield None if status == 1 and "run is in use by another program (process" in text and not told_once(text) else text
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    (folder / "run/.lock").write_text(f"process {os.getpid()} of {os.uname().nodename}\n")  # a process id of today's
    yield ends_equal(folder)


def clocks_that_jump():
    """Time is set back an hour, again and again: nothing is negative, and the outcome is the same."""
    folder = VINES.ready(PLACE / "clock")
    words = [sys.executable, DIES.with_name("clock_jumps.py"), ROOT / "recipes/finetune.py", *VINES.arguments,
             "--output_dir", "run"]  # fmt: skip
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PATH}
    done = subprocess.run(list(map(str, words)), cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        yield done.stderr[-400:]
        return
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    clocks = {k: v for line in lines for k, v in line.items() if any(c in k for c in ("seconds", "speed", "time"))}
    negative = [f"{name} {value}" for name, value in clocks.items() if value < 0]
    yield "; ".join(negative) or None
    yield ends_equal(folder)
    assert latest_checkpoint(folder / "run").name == "checkpoint-16"


TRIALS = {
    what: lambda own=own: trial(own())
    for what, own in {
        "a full disk": full_disk, "a limit of a file's size": size_limit, "a small ext4, as nobody": small_ext4,
        "folders of another user, as nobody": unprivileged, "a read-only file system": read_only,
        "a permission that is lost": permission_lost,
        "a folder that is removed": folder_gone, "bits of a checkpoint flipped": flips,
        "files of a checkpoint cut short": cuts, "a run whose checkpoints are damaged": damaged_then_continued,
        "a checkpoint of another version": other_version, "two runs in a folder": two_at_once,
        "clocks that jump": clocks_that_jump,
    }.items()
}  # fmt: skip
