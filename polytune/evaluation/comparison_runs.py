"""The runs of a comparison: methods x seeds, what must agree between them, and each one's programs.

OUT/pretrained/evaluation, OUT/METHOD/seed_S (the run) and OUT/METHOD/seed_S/evaluation; the logs lie beside them. What
a run has finished is noted in its comparison_run.json, so that the same command goes on where it was.
"""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from polytune.config import ComparisonConfig, PolicyConfig, TaskConfig, require
from polytune.evaluation.run_queue import Launcher
from polytune.policy.provenance import check_same_run, fingerprint, write_json
from polytune.tasks import Task
from polytune.trainer.checks import check_branching, check_budget, check_signatures

PRETRAINED = "pretrained"
#: budgets may differ by so much: max / min - 1
TOLERANCE = 0.01
NOTE_FILE = "comparison_run.json"
#: fields of recipes/finetune.py that the comparison itself gives to every run
OWN_FIELDS = {field.name for part in (TaskConfig, PolicyConfig) for field in fields(part)} | {"output_dir", "seed"}
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


@dataclass(frozen=True)
class Run:
    """One cell of methods x seeds; ``method`` None is the pretrained policy, which is evaluated only."""

    folder: Path
    method: Method | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        return PRETRAINED if self.method is None else f"{self.method.name} seed {self.seed}"

    @property
    def policy_name(self) -> str:
        return PRETRAINED if self.method is None else f"{self.method.name}_s{self.seed}"

    @property
    def records(self) -> Path:
        return self.folder / "evaluation" / "records.jsonl"


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


def shared_flags(task: TaskConfig, policy: PolicyConfig) -> list[str]:
    """Task and policy fields as flags of both recipes, without ``model``; what is unset stays the recipes' default."""
    values = {field.name: getattr(part, field.name) for part in (task, policy) for field in fields(part)}
    return [word for key, value in values.items() if key != "model" and value not in (None, [])
            for word in (f"--{key}", *map(str, value if isinstance(value, list) else [value]))]  # fmt: skip


def override_flags(entries: Sequence[str]) -> list[str]:
    """``FIELD=VALUE`` ... as flags of recipes/finetune.py."""
    flags: list[str] = []
    for entry in entries:
        name, equals, value = entry.partition("=")
        require(bool(name) and bool(equals), f"set has {entry!r}: write FIELD=VALUE, as in --set num_updates=12.")
        require(
            name not in OWN_FIELDS,
            f"set has {entry!r}, but {name} is the comparison's own: "
            + ("every run has a folder and a seed of its own." if name in ("output_dir", "seed")
               else f"give it as --{name}."),
        )  # fmt: skip
        flags += [f"--{name}", value]
    return flags


def check_methods(
    methods: Sequence[Method], config: ComparisonConfig, task: TaskConfig, policy: PolicyConfig
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
            common = getattr(task, name, None) if hasattr(task, name) else getattr(policy, name)
            require(
                name not in method.yaml or method.yaml[name] == common,
                f"{method.config} sets {name} to {method.yaml.get(name)!r}, the comparison to {common!r}: it applies "
                f"to every run and evaluation, so give it to the comparison (--{name} {method.yaml.get(name)}) or "
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
        return ["max_env_steps is unset, so runs spend what their episodes take: the table is refused if that differs "
                "by more than 1 %"]  # fmt: skip
    return []


def check_task(method: Method, task: Task, starts: Sequence[int]) -> list[str]:
    """Refuse what a run of the method would refuse once it knows the task; notes on budgets too small to be met."""
    trainer, rollout, objective = (method.settings[name] for name in ("trainer", "rollout", "objective"))
    try:
        check_budget(trainer, rollout, task)
        check_branching(task, rollout)
        check_signatures(task, starts[0], rollout, objective)
    except ValueError as error:
        raise ValueError(f"method {method.name} ({method.config}): {error}") from error
    largest = rollout.rows_per_prompt * task.horizon
    if trainer.max_env_steps is None or largest / 2 <= TOLERANCE * trainer.max_env_steps:
        return []
    return [
        f"{method.name}: trees of up to {largest:,} environment steps may miss the budget of "
        f"{trainer.max_env_steps:,} by more than {TOLERANCE:.0%}, and then the table is refused"
    ]


def plan_runs(methods: Sequence[Method], seeds: Sequence[int], output_dir: Path) -> list[Run]:
    """The pretrained policy, then seed by seed all methods: what is done when a comparison is stopped is balanced."""
    runs = [Run(output_dir / method.name / f"seed_{seed}", method, seed) for seed in seeds for method in methods]
    return [Run(output_dir / PRETRAINED), *runs]


class Programs:
    """The commands of each run, and what of them is done.

    Args:
        recipes: folder of finetune.py and evaluate.py.
        model: the pretrained checkpoint.
        shared: flags that all runs and evaluations have in common.
        overrides: flags that all trainings have in common.
    """

    def __init__(self, recipes: Path, model: str, shared: list[str], overrides: list[str], config: ComparisonConfig):
        self.recipes, self.model, self.shared, self.overrides, self.config = recipes, model, shared, overrides, config
        self.pretrained = fingerprint(model)

    def training(self, run: Run) -> list[str]:
        own = ["--model", self.model, "--seed", str(run.seed), "--output_dir", str(run.folder)]
        config = ["--config", str(run.method.config)]
        return [sys.executable, str(self.recipes / "finetune.py"), *config, *self.shared, *self.overrides, *own]

    def sampling(self) -> list[str]:
        """What decides an evaluation's records, beside its policy; perturbations come last, they only add records."""
        perturb = ["--perturb", *self.config.perturb] if self.config.perturb else []
        return [*self.shared, "--n", str(self.config.n), "--seed", str(self.config.evaluation_seed), *perturb]

    def evaluation(self, run: Run) -> list[str]:
        path = self.model if run.method is None else run.folder
        own = ["--policies", f"{run.policy_name}={path}", "--level", str(self.config.level)]
        out = ["--output_dir", str(run.folder / "evaluation")]
        return [sys.executable, str(self.recipes / "evaluate.py"), *self.sampling(), *own, *out]

    def check(self, run: Run) -> None:
        """Refuse a folder whose run has other settings or comes from another pretrained policy.

        Raises:
            ValueError: says what differs.
        """
        if run.method is None:
            return
        note = read_note(run)
        settings = dict(run.method.settings)
        settings["trainer"] = copy.copy(settings["trainer"])
        settings["trainer"].seed, settings["trainer"].output_dir = run.seed, str(run.folder)
        check_same_run(run.folder, settings, complete=note["trained"] is not None)
        begun = note["trained"] is not None or bool(list(run.folder.glob("checkpoint-*")))
        require(
            not begun or note["pretrained"] in (None, self.pretrained),
            f"{run.folder} was trained from another pretrained policy (fingerprint {note['pretrained']}, {self.model} "
            f"now has {self.pretrained}): choose another output_dir, or remove the folder to train it anew.",
        )

    def is_trained(self, run: Run) -> bool:
        return read_note(run)["trained"] == fingerprint(run.folder)

    def is_evaluated(self, run: Run) -> bool:
        policy = self.pretrained if run.method is None else fingerprint(run.folder)
        sampled, of = read_note(run)["evaluated"] or ([], None)
        asked = self.sampling()
        more = sampled[len(asked) :]  # perturbations beyond those asked for
        only_more = not more or "--perturb" in (more[0], *asked)
        return run.records.is_file() and of == policy and sampled[: len(asked)] == asked and only_more

    def is_done(self, run: Run) -> bool:
        return (run.method is None or self.is_trained(run)) and self.is_evaluated(run)

    def job(self, run: Run) -> Callable[[Launcher], None]:
        """Train, then evaluate, whichever is not done yet."""

        def work(launcher: Launcher) -> None:
            if run.method is not None and not self.is_trained(run):
                begun = bool(list(run.folder.glob("checkpoint-*")))
                before = read_note(run)["train_seconds"] if begun else 0.0
                write_note(run, pretrained=self.pretrained, train_seconds=before, trained=None, evaluated=None)
                launcher.call(
                    self.training(run),
                    run.folder / "finetune.log",
                    on_time=lambda seconds: write_note(run, train_seconds=before + seconds),
                )
                write_note(run, trained=fingerprint(run.folder))
            if not self.is_evaluated(run):
                launcher.call(self.evaluation(run), run.folder / "evaluate.log")
                policy = self.pretrained if run.method is None else fingerprint(run.folder)
                write_note(run, pretrained=self.pretrained, evaluated=[self.sampling(), policy])

        return work


def read_note(run: Run) -> dict[str, Any]:
    """What a run has finished; a file that cannot be read says nothing, and the programs look for themselves."""
    note = {"pretrained": None, "train_seconds": 0.0, "trained": None, "evaluated": None}
    try:
        found = json.loads((run.folder / NOTE_FILE).read_text())
        return note | {key: found[key] for key in note if key in found}
    except (FileNotFoundError, ValueError, TypeError):
        return note


def write_note(run: Run, **changes: Any) -> None:
    write_json(run.folder / NOTE_FILE, read_note(run) | changes)
