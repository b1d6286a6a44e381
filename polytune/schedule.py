"""What changes over a run."""


def on_the_way(first: float, last: float | None, progress: float) -> float:
    """From ``first`` to ``last`` in a straight line, at a share ``progress`` of the run; None: ``first`` throughout."""
    return first if last is None else first + (last - first) * progress
