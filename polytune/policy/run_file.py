"""What a policy's folder says of the run that made it, in run.json; a `checkpoint-N` is spoken for by its run."""

import json
from pathlib import Path
from typing import Any

RUN_FILE = "run.json"


def of_run(checkpoint: str | Path, name: str) -> Path:
    """A file of a run's folder; a ``checkpoint-N`` in mid-run is spoken for by the folder of its run."""
    folder = Path(checkpoint)
    if not (folder / name).is_file() and folder.resolve().name.startswith("checkpoint-"):
        folder = folder.resolve().parent
    return folder / name


def task_fields(checkpoint: str | Path) -> dict[str, Any]:
    """The fields of the task that a policy's run was given, ``task`` among them; empty where that is not known."""
    try:
        fields = dict(json.loads(of_run(checkpoint, RUN_FILE).read_text())["task"])
        return fields if isinstance(fields["task"], str) else {}
    except (OSError, ValueError, LookupError, TypeError):
        return {}
