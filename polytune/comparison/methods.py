"""The methods of a comparison: YAML files of recipes/finetune.py, and what must agree between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from polytune.checks import require, require_one_option
from polytune.comparison.options import ComparisonConfig
from polytune.config import PolicyConfig, TaskConfig
from polytune.evaluation.perturbed import tasks_under
from polytune.recipe import read_recipe
from polytune.run import RunConfig
from polytune.tasks import Task
from polytune.tasks.starts import TRAINING_SPLIT, starts_of, task_of
from polytune.trainer.checks import check_budget

PRETRAINED = "pretrained"
#: environment steps of single runs may differ by so much, max / min - 1: they end within about a tree of their budget,
#: and a tree without a win is a large one (of methods: ``budget_tolerance``)
RUN_TOLERANCE = 0.05
#: fields of recipes/finetune.py that the comparison itself gives to every run
OWN_FIELDS = {field.name for part in (TaskConfig, PolicyConfig) for field in fields(part)}
OWN_FIELDS |= {"output_dir", "seed", "config"}
#: what every run and evaluation is given where the comparison has it; where not, a method's YAML may not have another
#: value than each takes without one
ONE_FOR_ALL = {"split": TRAINING_SPLIT, "data_dir": None, "model_revision": None}
#: of these, what a method's YAML may not contradict: policies that are shown or sampled otherwise play another game
SAME_GAME = ("task_horizon", "task_args", "num_start_states", "generator", "max_action_tokens", "show_instructions",
             "chat", "thinking")  # fmt: skip


@dataclass(frozen=True)
class Method:
    """A YAML of recipes/finetune.py: its own mapping, and the settings that every run of it begins with."""

    name: str
    config: Path
    yaml: Mapping[str, Any]
    settings: Mapping[str, Any]


def named_methods(entries: Sequence[str]) -> dict[str, Path]:
    """``NAME=FILE.yaml`` or ``FILE.yaml`` (named after the file) -> {name: path}."""
    require(
        len(entries) > 0,
        "methods is empty: name the YAML files to compare, as in --methods recipes/fourrooms/ppo.yaml "
        "recipes/fourrooms/poly_ppo.yaml.",
    )
    paths: dict[str, Path] = {}
    for entry in entries:
        named = "=" in entry and not Path(entry).exists()
        name, _, path = entry.partition("=") if named else (Path(entry).stem, "", entry)
        require(
            re.fullmatch(r"[\w.+-]+", name) is not None and name not in (PRETRAINED, ".", "..") and bool(path),
            f"methods has {entry!r}, whose name {name!r} cannot name a folder of its own (letters, digits, . + - _; "
            f"not {PRETRAINED!r}): write NAME=FILE.yaml.",
        )
        require(
            name not in paths,
            f"methods names {name!r} twice ({paths.get(name)} and {path}): give one another name, as NAME={path}.",
        )
        paths[name] = Path(path)
    return paths


def shared_flags(task: TaskConfig, policy_config: PolicyConfig) -> list[str]:
    """Task and policy fields as flags of both recipes, without ``model``; what is unset stays the recipes' default."""
    values = {field.name: getattr(part, field.name) for part in (task, policy_config) for field in fields(part)}
    return [word for key, value in values.items() if key != "model" and value not in (None, [])
            for word in (f"--{key}", *map(str, value if isinstance(value, list) else [value]))]  # fmt: skip


def override_flags(entries: Sequence[str]) -> list[str]:
    """``FIELD=VALUE`` ... as flags of recipes/finetune.py."""
    flags: list[str] = []
    for entry in entries:
        require_one_option("set", entry)
        name, equals, value = entry.partition("=")
        name = name.replace("-", "_")  # programs take either
        require(bool(name) and bool(equals), f"set has {entry!r}: write FIELD=VALUE, as in --set num_updates=12.")
        require(
            name not in OWN_FIELDS,
            f"set has {entry!r}, but {name} is the comparison's own: "
            + ("every method has its own." if name == "config"
               else "every run has a folder and a seed of its own." if name in ("output_dir", "seed")
               else f"give it as --{name}."),
        )  # fmt: skip
        flags += [f"--{name}", value]
    return flags


def read_methods(
    parse: Callable[..., tuple], config: ComparisonConfig, task: TaskConfig, policy_config: PolicyConfig
) -> list[Method]:
    """Every method as recipes/finetune.py will take it; ``parse``: ``polytune.app.cli.parse``.

    Raises:
        ValueError: a YAML file is wrong; names the method.
    """
    flags = [*shared_flags(task, policy_config), *override_flags(config.set), "--model", policy_config.model]
    return [_read_method(parse, *entry, flags) for entry in named_methods(config.methods).items()]


def _read_method(parse: Callable[..., tuple], name: str, path: Path, flags: Sequence[str]) -> Method:
    try:
        job = RunConfig.read(parse, ["--config", str(path), *flags], description="")
        if job.trainer.vllm_mode != "colocate":
            raise ValueError("vllm_mode 'server' is for one run, whose weights the server holds: use 'colocate'.")
    except ValueError as error:
        raise ValueError(f"method {name} ({path}): {error}") from error
    return Method(name, path, read_recipe(path), job.settings)


def check_methods(
    methods: Sequence[Method], config: ComparisonConfig, task: TaskConfig, policy_config: PolicyConfig
) -> list[str]:
    """Refuse methods that cannot be compared, before any work is spent; notes on what cannot be known yet.

    Raises:
        ValueError: names the value and the fix.
    """
    names = [method.name for method in methods]
    require(
        config.baseline is None or config.baseline in names,
        f"baseline is {config.baseline!r}, which is none of the methods {', '.join(names)}: choose one of them.",
    )
    for method in methods:
        for name in SAME_GAME:
            common = getattr(task, name, None) if hasattr(task, name) else getattr(policy_config, name)
            require(
                name not in method.yaml or method.yaml[name] == common,
                f"{method.config} sets {name} to {method.yaml.get(name)!r}, the comparison to {common!r}: it applies "
                f"to every run and evaluation, so give it to the comparison (--{name} {method.yaml.get(name)}) or "
                "remove it from the YAML.",
            )
        for name, unset in ONE_FOR_ALL.items():
            given = getattr(task, name) if hasattr(task, name) else getattr(policy_config, name)
            require(
                given is not None or method.yaml.get(name) in (None, unset),
                f"{method.config} sets {name} to {method.yaml.get(name)!r}, and the comparison leaves it unset, so "
                f"evaluations would take another one: give it to the comparison (--{name} {method.yaml.get(name)}) or "
                "remove it from the YAML.",
            )
    for name, get in (
        ("gradient steps (num_updates x steps_per_generation x num_iterations / gradient_accumulation_steps)",
         lambda trainer: trainer.max_steps),
        ("max_env_steps", lambda trainer: trainer.max_env_steps),
    ):  # fmt: skip
        found = {method.name: get(method.settings["trainer"]) for method in methods}
        require(
            len(set(found.values())) == 1,
            f"methods differ in {name}: {', '.join(f'{n} {v}' for n, v in found.items())}. Equal budgets make them "
            "comparable: let the YAMLs agree, or give all of them one value with --set num_updates=... "
            "steps_per_generation=... max_env_steps=...",
        )
    if methods[0].settings["trainer"].max_env_steps is None:
        return ["max_env_steps is unset, so runs spend what their episodes take: the table is refused if methods "
                f"differ by more than {config.budget_tolerance:.0%}"]  # fmt: skip
    return []


def check_task(method: Method, task: Task, starts: Sequence[int]) -> list[str]:
    """Refuse what a run of the method would refuse once it knows the task; notes on budgets too small to be met."""
    run = RunConfig(**method.settings)
    trainer, rollout = run.trainer, run.rollout
    try:
        check_budget(trainer, rollout, run.objective, task)
        run.check_world(task, starts[0])
    except ValueError as error:
        raise ValueError(f"method {method.name} ({method.config}): {error}") from error
    largest = rollout.rows_per_prompt * task.horizon
    if trainer.max_env_steps is None or largest <= RUN_TOLERANCE * trainer.max_env_steps:
        return []
    return [
        f"{method.name}: trees of up to {largest:,} environment steps may miss the budget of "
        f"{trainer.max_env_steps:,} by more than {RUN_TOLERANCE:.0%}, and then the table is refused"
    ]


def training_starts(task: Task, task_config: TaskConfig) -> list[int]:
    """The start states that every run trains on; without a ``split`` they may be others than those of evaluations."""
    return starts_of(task, task_config, default_split=TRAINING_SPLIT)[1]


def check_starts(
    methods: Sequence[Method], config: ComparisonConfig, task_config: TaskConfig
) -> tuple[Task, list[int], list[str]]:
    """The task and the start states of a comparison, and notes, with what every run and evaluation would refuse there.

    Raises:
        ValueError: names the value and the fix.
    """
    task = task_of(task_config)
    _, starts = starts_of(task, task_config)
    tasks_under(task, task_config, config.perturb, starts, seed=config.evaluation_seed)
    return task, starts, [note for method in methods for note in check_task(method, task, starts)]
