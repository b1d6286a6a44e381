"""Graders in a process of their own, with a limit on what one question may take.

An answer such as 9^{9^{9^{9}}} would be computed for ever, and no timeout within a process ends it: the power is one
call into C. So the kernel ends the grader's process (a timer of CPU time, and a limit of memory), and the next question
gets a new one. A grader is a script that ends with `serve(answer_to)`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

#: CPU seconds and bytes that one question may take
CPU_SECONDS, MEMORY = 3.0, 4 * 2**30


class GraderLostError(RuntimeError):
    """The process ended over a question."""


class LimitedProcess:
    """Asks a grader; any thread may. Starts it with the first question, and again when a question has ended it.

    Args:
        script: a file that ends with `serve`.
        arguments: what it is given.
        what: what it needs, for the message where it cannot begin.
    """

    def __init__(self, script: str, *arguments: str, what: str):
        self.command, self.what = [sys.executable, "-P", script, *arguments], what
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, question: Any) -> Any:
        """The answer to a question, both JSON.

        Raises:
            GraderLostError: the question took too much.
            ImportError: the process cannot begin.
        """
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                self._end()  # killed between two questions
            process = self._process = self._process or self._begin()
            try:
                process.stdin.write(json.dumps(question) + "\n")
                process.stdin.flush()
                said = process.stdout.readline()
            except BaseException:  # interrupted: its answer would be taken for the next one's
                self._end()
                raise
            if not said.endswith("\n"):
                self._end()
                raise GraderLostError(f"a question to {self.what} took too much time or memory")
            return json.loads(said)

    def _begin(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if process.stdout.readline() != "ready\n":
            process.wait()
            raise ImportError(f"{self.what} cannot be imported (exit status {process.returncode}, its reason is above)")
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def serve(answer_to: Callable[[Any], Any]) -> None:
    """Answer questions until there are no more: JSON, one line each; what JSON does not know becomes text."""
    import resource
    import signal

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
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        said = answer_to(json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(said, default=str, skipkeys=True) + "\n")
        answers.flush()
