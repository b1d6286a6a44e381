"""Mathematical equality by `math-verify`, in a process of its own with a limit on what one answer may take.

An answer such as 9^{9^{9^{9}}} would be computed for ever, and no timeout within the process ends it: the power is one
call into C. So the kernel ends the process instead (a timer of CPU time, and a limit of memory), the answer counts as
wrong, and the next one gets a new process. Run as a script, this file is that process; it imports nothing of polytune.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from importlib.util import find_spec

#: CPU seconds and bytes that one answer may take
CPU_SECONDS, MEMORY = 3.0, 4 * 2**30
#: characters of an answer's end that are read: its final result is there
TAIL = 2000
MISSING = "math-verify is not installed: pip install 'polytune[maths]'"


class Verifier:
    """Asks the process; any thread may. Starts it with the first question, and again when an answer has ended it.

    Raises:
        ImportError: math-verify is not installed, or cannot be imported.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def equal(self, reference: str, answer: str) -> bool:
        """Whether the final result of `answer` is `reference`; one that takes too much is not."""
        with self._lock:
            process = self._process = self._process or self._begin()
            try:
                process.stdin.write(json.dumps([reference, answer[-TAIL:]]) + "\n")
                process.stdin.flush()
                said = process.stdout.readline()
            except BaseException:  # interrupted: its answer would be taken for the next one's
                self._end()
                raise
            if not said.endswith("\n"):
                self._end()
                return False
            return json.loads(said)

    def _begin(self) -> subprocess.Popen[str]:
        if find_spec("math_verify") is None:
            raise ImportError(MISSING)
        process = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if process.stdout.readline() != "ready\n":
            process.wait()
            raise ImportError(f"math-verify cannot be imported (exit status {process.returncode}, its reason is above)")
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def serve() -> None:
    """One line a question, [reference, answer] as JSON; one line an answer, true or false."""
    import logging
    import os
    import resource
    import signal

    from math_verify import parse, verify

    logging.disable(logging.WARNING)
    answers = os.fdopen(os.dup(1), "w")
    answers.write("ready\n")
    answers.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # parsers print what they do not understand
    os.dup2(1, 2)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for line in sys.stdin:
        reference, answer = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            result = parse(answer, parsing_timeout=None)
            equal = bool(verify(parse(f"${reference}$", parsing_timeout=None), result, timeout_seconds=None))
        except Exception:  # whatever a text does to the parser: it is not the reference
            equal = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(equal) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
