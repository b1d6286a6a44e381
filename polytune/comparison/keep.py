"""One JSON that keeps a comparison: how it was made, on what, and all that it found; no path of this machine in it."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from polytune.comparison.methods import Method
from polytune.running.provenance import origin

#: fields that differ from run to run, or are nobody's business
PER_RUN = {"seed", "output_dir", "logging_dir", "run_name", "hub_token"}
#: what `polytune.privacy` made of the home folder
_HOME = re.compile(r"(?<![\w.~/-])~(?=/)")
_ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:[^\s/,;:'\"]+/)+[^\s,;:'\"]*")


def check_folder(path: str | None, name: str = "keep") -> None:
    """Make the folder of ``keep``, or another field of that ``name``, before any work is spent; ValueError where that
    cannot be done."""
    if path is None:
        return
    folder = Path(path).resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK) and not Path(path).is_dir()
    except OSError:
        usable = False
    if not usable:
        raise ValueError(
            f"{name} is {path!r}, and nothing can be written there: choose another file, or mend {folder}."
        )


def portable(value: Any, root: Path | None = None) -> Any:
    """``value`` with absolute paths made relative to ``root`` (unset: the working folder), or cut to their name."""
    root = Path.cwd() if root is None else root

    def shorten(match: re.Match[str]) -> str:
        path = Path(match[0])
        return str(path.relative_to(root)) if path.is_relative_to(root) else path.name

    if isinstance(value, str):
        return _ABSOLUTE.sub(shorten, _HOME.sub(os.path.expanduser("~"), value))
    if isinstance(value, Mapping):
        return {portable(str(key), root): portable(item, root) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item, root) for item in value]
    return value


def method_settings(method: Method) -> dict[str, Any]:
    """Every field of polytune's own; of TRL's and transformers' those that the YAML names or that are not at default.

    Seed and output folder differ from run to run and are left out.
    """
    kept = {}
    for config in method.settings.values():
        values = config.to_dict() if hasattr(config, "to_dict") else asdict(config)
        defaults = {f.name: f.default for f in fields(config)}
        ours = type(config).__annotations__  # TRL's and transformers' fields are inherited
        for name, value in json.loads(json.dumps(values, default=str)).items():
            changed = name in method.yaml or value != defaults.get(name)
            if name not in PER_RUN and not isinstance(value, dict) and (name in ours or (changed and value != [])):
                kept[name] = value
    return kept


def provenance(command: Sequence[str], methods: Sequence[Method], common: Mapping[str, Any]) -> dict[str, Any]:
    """Command, date, versions, machine, settings."""
    return {
        **origin(command),
        "date": datetime.date.today().isoformat(),
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine(), "system": platform.system()},
        "settings": dict(common),
        "methods": {method.name: {"config": str(method.config), **method_settings(method)} for method in methods},
    }
