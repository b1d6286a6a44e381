"""polytune: RL fine-tuning of pretrained sequence policies that keeps their diversity.

``from polytune import pretrain, finetune, evaluate`` are the three programs as functions (`polytune.app.calls`); the
rooms beside them are imported by name, ``polytune.objective`` say. Importing polytune alone loads nothing.
"""

from typing import Any

#: the functions that are found here
CALLS = ("pretrain", "finetune", "evaluate")


def __getattr__(name: str) -> Any:
    if name not in CALLS:
        raise AttributeError(f"module 'polytune' has no attribute {name!r}")
    from polytune.app import calls

    return getattr(calls, name)
