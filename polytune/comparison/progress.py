"""What a comparison says while it runs, and of the runs that failed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping

from polytune.comparison.runs import Run, read_note
from polytune.running.run_queue import Outcome, last_lines
from polytune.terminal import Bar, duration


class Progress:
    """A line for each of ``runs`` that ends: when, which, its success, what is left; on a terminal also a bar."""

    def __init__(self, runs: Mapping[str, Run]):
        self.runs, self.begun, self.ended = runs, time.monotonic(), 0

    def __enter__(self) -> Progress:
        self.bar = Bar("run", total=len(self.runs))
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.__exit__(*error)

    def tell(self, outcome: Outcome) -> None:
        """Print the line of a run that has ended."""
        self.ended += 1
        left = len(self.runs) - self.ended
        text = f"{time.strftime('%H:%M:%S')} {outcome.name}: "
        if outcome.error is None:
            text += f"success {self._success(self.runs[outcome.name])} after {duration(outcome.seconds)}"
            seconds = read_note(self.runs[outcome.name])["train_seconds"]
            text += f" (training {duration(seconds)} in all)" if seconds else ""
        else:
            text += f"FAILED after {duration(outcome.seconds)}: {outcome.error}"
        if left:
            text += f"; {left} left, about {duration((time.monotonic() - self.begun) / self.ended * left)}"
        self.bar.advance()
        self.bar.say(text)

    @staticmethod
    def _success(run: Run) -> str:
        summary = json.loads((run.folder / "evaluation" / "summary.json").read_text())
        return f"{summary['policies'][run.policy_name]['success']['estimate']:.3f}"


def tell_failures(failed: Mapping[str, Outcome]) -> None:
    """Each failed run with the end of its log, on stderr."""
    sys.stdout.flush()
    for name, outcome in failed.items():
        print(f"\n{name}: {outcome.error}", file=sys.stderr)
        if outcome.log is not None:
            print("\n".join(f"    {line}" for line in last_lines(outcome.log)), file=sys.stderr)
            print(f"  log: {outcome.log}", file=sys.stderr)
