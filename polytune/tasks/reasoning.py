"""Tasks of the package reasoning-gym, `--task reasoning-gym:NAME` (pip install 'polytune[worlds]'): it generates the
problems and scores the answers.

What is scored is the final answer: what lies in the last <answer>...</answer>, or the whole text without them. The
reward is the package's score as it is, partial credit included; 1 counts as solved. Problems are made and answers
graded in a process of its own (`polytune.tasks.limited`), since some scorers compute what an answer says: an answer
that takes too much, or makes its scorer raise, earns 0. That is a limit on time and memory, no sandbox. Run as a
script, this file is that process.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from polytune.lookup import unknown
from polytune.tasks.limited import CPU_SECONDS, GraderLostError, LimitedProcess, serve
from polytune.tasks.rows import RowTask

MISSING = "reasoning-gym is not installed: pip install 'polytune[worlds]'"
#: CPU seconds to make one problem; an answer has `limited.CPU_SECONDS`
MAKING_SECONDS = 60.0
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def final_answer(answer: str, row: Any = None) -> str | None:
    """What lies in the last <answer>...</answer>, else the whole text, stripped; None where that is empty."""
    end = answer.rfind("</answer>")  # behind it each <answer> would look for an end to the end of the text
    tagged = _TAGGED.findall(answer[: end + len("</answer>")]) if end >= 0 else []
    return (tagged[-1] if tagged else answer).strip() or None


class Problems(Sequence):
    """Problems `first` to `first + count - 1` of the process's dataset, each made when it is asked for, and kept."""

    def __init__(self, process: LimitedProcess, first: int, count: int):
        self.process, self.first, self.count = process, first, count
        self._made: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        if index not in self._made:
            self._made[index] = self.process.ask(["problem", self.first + index]) | {"index": self.first + index}
        return self._made[index]


class ReasoningGym(RowTask):
    """The problems of one dataset of reasoning-gym; problem i of the configuration and seed is always the same.

    Args:
        dataset: its name there.
        signature: dotted path of a function of (final answer, row), the row being the problem's metadata with
            `question`, `answer` and `index`; None: the final answer itself.
        train, test: how many problems the splits hold. Test problems come after those of training: other seeds, though
            a dataset of few problems may repeat itself.
        seed: of the dataset.
        max_tokens, answer_end, solved_at, instructions: as of `task: dataset`.
        config: whatever else the dataset's own configuration has (`min_numbers=3`, say).

    Raises:
        ValueError: reasoning-gym is not installed, it has no such dataset, or that one no such configuration.
    """

    column, answers = "question", "answer"

    def __init__(
        self,
        dataset: str = "",
        signature: str | None = None,
        train: int = 1000,
        test: int = 200,
        seed: int = 0,
        max_tokens: int = 256,
        answer_end: str = "",
        solved_at: float = 1.0,
        instructions: str = "Solve the problem. Write the final answer between <answer> and </answer>.",
        **config: Any,
    ):
        super().__init__()
        self.name = f"reasoning-gym:{dataset}"
        for option, value in (("train", train), ("test", test)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{option} of task {self.name!r} must be a whole number of at least 1, got {value!r}")
        if find_spec("reasoning_gym") is None:
            raise ValueError(MISSING)
        settings = json.dumps(config | {"seed": self.check_seed(seed), "size": train + test})
        self._process = LimitedProcess(__file__, dataset, settings, what="reasoning-gym")
        fault = self._process.ask(["fault"])
        if fault is not None:
            raise ValueError(f"task {self.name!r}: {fault}")
        self._grade_rows(
            {"train": Problems(self._process, 0, train), "test": Problems(self._process, train, test)},
            reward=self.score, signature=signature, solved_at=solved_at, max_tokens=max_tokens,
            answer_end=answer_end, instructions=instructions,
        )  # fmt: skip
        self.strategy("", 0)

    def score(self, answer: str, row: dict[str, Any]) -> float:
        """The package's score of an answer's final answer; 0 where the scorer raises, or takes too much."""
        try:
            return self._process.ask(["score", row["index"], final_answer(answer)])
        except GraderLostError:
            return 0.0

    def strategy(self, answer: str, seed: int) -> Any:
        """The signature function's, of the final answer; without one that answer."""
        final = final_answer(answer)
        return final if self.strategy_of is None else super().strategy(final or "", seed)

    def shown(self, seed: int) -> list[str]:
        """The answer that the package gives; none for problems that have several and name none."""
        answer = self.row(seed)["answer"]
        return [answer] if isinstance(answer, str) and answer else []


# ---------------------------------------------------------------- the process


def main(name: str, settings: str) -> None:
    """["fault"]: what is wrong with name or settings, null when nothing is; ["problem", i]; ["score", i, answer]."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    problems: dict[int, dict[str, Any]] = {}
    try:
        dataset, fault = reasoning_gym.create_dataset(name, **json.loads(settings)), None
    except Exception as error:  # whatever a configuration's own checks raise
        dataset, fault = None, f"{type(error).__name__}: {error}"
        if name not in DATASETS:
            fault = unknown("dataset of reasoning-gym", name, DATASETS)
        elif isinstance(error, TypeError):
            fault += f"; its options are {', '.join(DATASETS[name][1].__dataclass_fields__)}"

    def problem(index: int) -> dict[str, Any]:
        if index not in problems:
            signal.setitimer(signal.ITIMER_PROF, MAKING_SECONDS)
            problems[index] = dataset[index]
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        return problems[index]

    def answer_to(question: list[Any]) -> Any:
        if question[0] == "fault":
            return fault
        entry = problem(question[1])
        if question[0] == "problem":
            return entry["metadata"] | {"question": entry["question"], "answer": entry["answer"]}
        try:
            return float(dataset.score_answer(question[2], entry))
        except Exception:  # whatever a text does to the scorer: it is no answer
            return 0.0

    serve(answer_to)


if __name__ == "__main__":
    main(*sys.argv[1:])
