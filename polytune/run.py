"""A run of fine-tuning: its six parts read, checked and recorded as one.

``run.json`` holds every field of the parts, what a folder is compared with when a run goes on; ``run.yaml`` those that
were given, as a recipe: ``--config run.yaml`` does the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from polytune.config import AdapterConfig, ObjectiveConfig, PolicyConfig, RolloutConfig, TaskConfig
from polytune.privacy import private
from polytune.running.provenance import CONTENT, record_run, write_text
from polytune.tasks.base import Task
from polytune.trainer.config import PolychromicConfig
from polytune.trainer.precision import check_save_dtype
from polytune.trainer.process_checks import check_processes
from polytune.trainer.run_checks import check_fields, check_world

RUN_YAML = "run.yaml"


@dataclass(frozen=True)
class RunConfig:
    """The parts of a run. ``given``: the fields that a recipe or a flag named, the others have their defaults."""

    task: TaskConfig
    policy: PolicyConfig
    adapter: AdapterConfig
    rollout: RolloutConfig
    objective: ObjectiveConfig
    trainer: PolychromicConfig
    given: tuple[str, ...] = ()

    @classmethod
    def read(cls, parse: Callable[..., tuple], argv: Sequence[str], **options: Any) -> RunConfig:
        """From a command line; ``parse``: ``polytune.app.cli.parse``, which ``options`` go to.

        Raises:
            ValueError: the command line or its recipe is wrong, or fields contradict each other.
        """
        given: list[str] = []
        run = cls(*parse(PARTS, argv, given=given, **options), given=tuple(given))
        run.check()
        return run

    def check(self) -> None:
        """ValueError that names fields which contradict each other, and the fix, before anything is loaded."""
        check_fields(
            self.trainer,
            self.rollout,
            self.objective,
            generator=self.policy.generator,
            adapted=self.adapter.use_peft,
        )
        check_save_dtype(self.trainer, self.adapter.use_peft)
        check_processes(self.trainer, self.policy.generator)

    def check_world(self, task: Task, start_state: int) -> None:
        """ValueError for what the task cannot give to this run."""
        check_world(task, start_state, self.rollout, self.objective)

    @property
    def settings(self) -> dict[str, Any]:
        """Name -> part."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "given"}

    def recipe(self) -> dict[str, Any]:
        """The given fields by name, in the order in which they were given."""
        values = {field.name: getattr(part, field.name) for part in self.settings.values() for field in fields(part)}
        return {name: values[name] for name in self.given}

    def record(self, command: Sequence[str], content: Mapping[str, str]) -> None:
        """Write run.json and run.yaml into the run's folder; ``content``: of `polytune.running.identity.contents`."""
        folder = Path(self.trainer.output_dir)
        record_run(folder, self.settings | {CONTENT: content}, command)
        write_text(folder / RUN_YAML, as_yaml(self.recipe()))


PARTS = (TaskConfig, PolicyConfig, AdapterConfig, RolloutConfig, ObjectiveConfig, PolychromicConfig)


def as_yaml(settings: dict[str, Any]) -> str:
    """A recipe that reads back as ``settings``."""
    head = (
        "# The fields of a run: `accelerate launch recipes/finetune.py --config` with this file does the same again.\n"
    )
    return head + yaml.safe_dump({name: private(_plain(value)) for name, value in settings.items()}, sort_keys=False)


def _plain(value: Any) -> Any:
    """What YAML has a word for; anything else as its text."""
    if isinstance(value, dict):
        return {str(key): _plain(own) for key, own in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(own) for own in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    return str(getattr(value, "value", value))  # transformers turns words into enumerations
