"""Mathematical equality by `math-verify`, in a process of its own with a limit on what one answer may take
(`polytune.tasks.limited`): one that takes too much is wrong. Run as a script, this file is that process."""

from __future__ import annotations

from importlib.util import find_spec

from polytune.tasks.limited import GraderLostError, LimitedProcess, serve

#: characters of an answer's end that are read: its final result is there
TAIL = 2000
MISSING = "math-verify is not installed: pip install 'polytune[maths]'"


class Verifier:
    """Asks the process, which begins with the first question.

    Raises:
        ImportError: math-verify is not installed, or cannot be imported.
    """

    def __init__(self) -> None:
        self._process = LimitedProcess(__file__, what="math-verify")

    def equal(self, reference: str, answer: str) -> bool:
        """Whether the final result of `answer` is `reference`; one that takes too much is not."""
        if find_spec("math_verify") is None:
            raise ImportError(MISSING)
        try:
            return self._process.ask([reference, answer[-TAIL:]])
        except GraderLostError:
            return False


def main() -> None:
    """The process: whether an answer is the reference, [reference, answer]."""
    from math_verify import parse, verify

    def equal(question: list[str]) -> bool:
        reference, answer = question
        try:
            result = parse(answer, parsing_timeout=None)
            return bool(verify(parse(f"${reference}$", parsing_timeout=None), result, timeout_seconds=None))
        except Exception:  # whatever a text does to the parser: it is not the reference
            return False

    serve(equal)


if __name__ == "__main__":
    main()
