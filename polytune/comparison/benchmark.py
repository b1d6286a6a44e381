"""The benchmark of methods: worlds, what is laid over their bases, and the runs, one after another in this process.

A world is recipes/methods_benchmark/NAME_compare.yaml, a comparison whose methods are the bases; its policy is
committed, so that any machine adds a method to the runs that are kept. A run is trained by recipes/finetune.py and
measured: a tabular world exactly, from the policy's table of probabilities, another one by recipes/evaluate.py, the
means over its start states. Its folder is then removed.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from polytune.checks import require
from polytune.comparison import methods
from polytune.comparison.figures import read_figures, read_metrics
from polytune.comparison.keep import portable
from polytune.comparison.methods import PRETRAINED, Method
from polytune.comparison.options import ComparisonConfig, parse_seeds
from polytune.comparison.overlay import lay
from polytune.comparison.run_store import BASE_ALONE, RunStore
from polytune.comparison.runs import Programs, Run
from polytune.config import PolicyConfig, TaskConfig
from polytune.digests import short_digest
from polytune.measures.passk import coverage_ks
from polytune.pictures.tabular import action_table
from polytune.policy import Renderer, load_policy
from polytune.running.identity import contents
from polytune.running.provenance import fingerprint
from polytune.tasks import Task
from polytune.tasks.creativity.tasks import CreativityTask
from polytune.tasks.tabular import exact
from polytune.tasks.tabular.worlds import PathWorld

WINNERS, DISTINCT = "distinct_winning_signatures", "distinct_valid"
#: fields of a run that do not decide what it finds
FREE = ("model", "output_dir", "seed")
#: runs a program of polytune.app in this process: name, words, log
Call = Callable[[str, Sequence[str], Path], None]
#: significant digits of a measured number
DIGITS = 6


@dataclass
class World:
    """One world with its bases and what is laid over them.

    laid: (base, name) -> the method that a run of it is, or the line that refuses it; name BASE_ALONE: the base.
    """

    name: str
    task_config: TaskConfig
    policy_config: PolicyConfig
    config: ComparisonConfig
    task: Task
    starts: Sequence[int]
    laid: dict[tuple[str, str], Method | str] = field(default_factory=dict)
    pretrained: str = ""  # fingerprint of the policy that all runs begin with

    @classmethod
    def read(cls, parse: Callable[..., tuple], recipe: Path, folder: Path) -> World:
        """From its recipe, its runs in ``folder``, which its name is; ``parse``: ``polytune.app.cli.parse``.

        Raises:
            ValueError: the recipe or one of its bases is wrong, or its policy is not there.
        """
        parts = (TaskConfig, PolicyConfig, ComparisonConfig)
        task_config, policy_config, config = parse(parts, ["--config", str(recipe)], description="")
        policy_config = replace(policy_config, cpu_threads=1)
        require(
            (Path(policy_config.model) / "config.json").is_file(),
            f"{recipe}: model {policy_config.model} is no checkpoint here: run it in a clone of the repository.",
        )
        config = replace(config, output_dir=str(folder))
        bases = methods.read_methods(parse, config, task_config, policy_config)
        methods.check_methods(bases, config, task_config, policy_config)
        task, starts, _ = methods.check_starts(bases, config, task_config)
        laid = {(base.name, BASE_ALONE): base for base in bases}
        policy = fingerprint(policy_config.model)
        return cls(folder.name, task_config, policy_config, config, task, starts, laid, policy)

    @property
    def folder(self) -> Path:
        """Where its runs lie."""
        return Path(self.config.output_dir)

    @property
    def seeds(self) -> list[int]:
        """Those that every method runs."""
        return parse_seeds(self.config.seeds)

    @property
    def bases(self) -> list[Method]:
        """The bases without a method."""
        return [self.laid[key] for key in self.laid if key[1] == BASE_ALONE]

    @property
    def names(self) -> list[str]:
        """Of the bases."""
        return [base.name for base in self.bases]

    @property
    def exact(self) -> bool:
        """Whether a policy's numbers are computed here, not sampled."""
        return isinstance(self.task, PathWorld)

    @property
    def coverage(self) -> str:
        """The measure of distinct winners: a creativity task has one answer a prompt and counts over all of them."""
        return DISTINCT if isinstance(self.task, CreativityTask) else WINNERS

    def lay(self, parse: Callable[..., tuple], overlays: Mapping[str, Mapping[str, Any]]) -> None:
        """Lay every method over every base; one that contradicts a base keeps the line that refuses it."""
        for base in self.bases:
            for name, fields in overlays.items():
                path = lay(dict(fields), base.config, self.folder / "recipes" / f"{base.name}+{name}.yaml")
                self.laid[base.name, name] = self._laid(parse, base, name, path)

    def _laid(self, parse: Callable[..., tuple], base: Method, name: str, path: Path) -> Method | str:
        own = f"{base.name}+{name}"
        try:
            [method] = methods.read_methods(
                parse, replace(self.config, methods=[f"{own}={path}"]), self.task_config, self.policy_config
            )
            methods.check_methods([base, method], self.config, self.task_config, self.policy_config)
            methods.check_task(method, self.task, self.starts)
        except ValueError as error:
            return _line(error, own, path)
        return method

    def programs(self) -> Programs:
        """The command lines of its runs."""
        return Programs(
            self.policy_config.model,
            methods.shared_flags(self.task_config, self.policy_config),
            methods.override_flags(self.config.set),
            self.config,
            self.content,
        )

    @cached_property
    def content(self) -> dict[str, str]:
        """What the numbers depend on beside the options: the files of its task and the code of a user's own modules,
        as both are when it is first asked for, after the methods are laid."""
        return contents(self.task)

    def identity(self, method: Method) -> str:
        """A digest of what decides a run beside its seed: its recipe, what all runs share, the policy that it begins
        with, the start states, what is measured. Fields that nobody gave stand at their defaults and are left out."""
        told = {name: value for name, value in method.yaml.items() if name not in FREE}
        common = [self.config.set, self.config.n, self.config.evaluation_seed, *self._shared]
        return short_digest(json.dumps([portable(told), common, self.pretrained, self.content],
                                       sort_keys=True, default=str).encode())  # fmt: skip

    @property
    def start_identity(self) -> str:
        """A digest of what decides the numbers of the policy that all runs begin with."""
        told = [self.pretrained, self.config.n, self.config.evaluation_seed, *self._shared]
        return short_digest(json.dumps(told, sort_keys=True, default=str).encode())

    @property
    def _shared(self) -> list[Any]:
        """What all runs are told of task and policy, and their start states; where the policy lies, ``pretrained`` says
        better."""
        plain = {**vars(TaskConfig()), **vars(PolicyConfig(model=self.policy_config.model, cpu_threads=1))}
        told = {**vars(self.task_config), **vars(self.policy_config)}
        return [portable({name: told[name] for name in sorted(told) if told[name] != plain[name]}), list(self.starts)]

    def line(self, store: RunStore, base: str, name: str, seed: int) -> dict[str, Any] | None:
        """What is known of a run as its recipe and its start policy are now."""
        return store.find(base, name, seed, self.identity(self.laid[base, name]))

    def start_line(self, store: RunStore) -> dict[str, Any] | None:
        """What is known of the policy that all runs begin with."""
        return store.find(PRETRAINED, BASE_ALONE, 0, self.start_identity)


def _line(error: Exception, *own: object) -> str:
    """What a refusal says, without the names that the benchmark itself gave."""
    text = " ".join(str(error).split())
    for word in own:
        text = text.replace(f"method {word} ", "").replace(f"({word}): ", "")
    return portable(text)


def wanted(world: World, only: Mapping[str, set[str]] | None, asked: Iterable[str]) -> dict[str, set[str]]:
    """Base -> the methods that are ``asked`` for and, unless ``only`` is None, of ``only`` for that base, too."""
    names = set(asked)
    return {base: names if only is None else names & only.get(base, set()) for base in world.names}


def plan(
    world: World, only: Mapping[str, set[str]] | None = None, seeds: Sequence[int] | None = None
) -> Iterator[tuple[str, str, int]]:
    """(base, method, seed) of all runs that nothing refuses, seed by seed, so that what is done when it is stopped is
    balanced; the bases first. ``only``: of each base the methods that are run; ``seeds``: of the world's these alone.
    """
    for seed in (seed for seed in world.seeds if seeds is None or seed in seeds):
        for (base, name), method in world.laid.items():
            if isinstance(method, Method) and (name == BASE_ALONE or only is None or name in only.get(base, ())):
                yield base, name, seed


def run_one(world: World, base: str, name: str, seed: int, call: Call) -> dict[str, Any]:
    """Train and measure one run; its line for the :class:`RunStore`. Anything that it raises is in the line."""
    method = world.laid[base, name]
    folder = world.folder / base / (name or "alone") / f"seed_{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
    run, programs = Run(folder, method, seed), world.programs()
    line = {
        "base": base,
        "method": name,
        "seed": seed,
        "identity": world.identity(method),
    }
    began = time.process_time()
    try:
        call("finetune", programs.training(run)[4:], folder / "finetune.log")
        seconds = time.process_time() - began
        line |= {"values": measure(world, run, programs, call)}
        last = read_metrics(folder / "metrics.jsonl")[-1]
    except ValueError as error:
        return line | {"refused": _line(error, method.name)}
    except (Exception, SystemExit) as error:  # one run that fails does not end the others
        return line | {"failed": f"{type(error).__name__}: {_line(error, method.name)}"}
    shutil.rmtree(folder)
    steps = {"env_steps": int(last["rollout/env_steps"]), "gradient_steps": int(last["step"])}
    return line | steps | {"cpu_seconds": short(seconds)}


def measure(world: World, run: Run, programs: Programs, call: Call) -> dict[str, float]:
    """The numbers of a policy: exact ones of a tabular world, elsewhere means over start states."""
    if world.exact:
        return exact_values(world.task, world.policy_config.model if run.method is None else run.folder, world.config.n)
    call("evaluate", programs.evaluation(run)[4:], run.folder / "evaluate.log")
    own = run.records
    values = read_measures(run, world.task)
    own.unlink()
    return values


def read_measures(run: Run, task: Task) -> dict[str, float]:
    """The means of a run's figures over its start states, rounded."""
    return {name: short(fmean(own)) for name, own in read_figures(run, task).values.items()}


def exact_values(task: Task, folder: str | Path, n: int) -> dict[str, float]:
    """Success, pass@k up to ``n``, expected distinct winners among n samples, nats of an episode, without sampling."""
    model, tokenizer = load_policy(str(folder))
    world = exact.tabulate(task)
    table_S_A = action_table(model, Renderer(tokenizer, task), world)
    values = {"success": exact.success_rate(world, table_S_A)}
    values |= {f"pass@{k}": exact.pass_at_k(world, table_S_A, k) for k in coverage_ks(n) if k > 1}
    values |= {WINNERS: exact.distinct_wins(world, table_S_A, n), "entropy": exact.path_entropy(world, table_S_A)}
    return {name: short(value) for name, value in values.items()}


def short(value: float) -> float:
    """``value`` with few digits, for JSON."""
    return float(f"{value:.{DIGITS}g}")


def due(
    world: World,
    store: RunStore,
    only: Mapping[str, set[str]] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[tuple[str, str, int]]:
    """The runs that are not done; those that were refused or failed are among them."""
    found = []
    for base, name, seed in plan(world, only, seeds):
        line = world.line(store, base, name, seed)
        if line is None or "values" not in line:
            found.append((base, name, seed))
    return found


def measure_start(world: World, store: RunStore, call: Call) -> None:
    """The numbers of the policy that all runs begin with, once."""
    if world.start_line(store) is None:
        run = Run(world.folder / PRETRAINED)
        values = measure(world, run, world.programs(), call)
        line = {"base": PRETRAINED, "method": BASE_ALONE, "seed": 0, "identity": world.start_identity}
        store.add(line | {"values": values})


def open_store(world: World, kept: Mapping[str, Any]) -> RunStore:
    """The lines of a world: those of the result JSON, and those of its folder."""
    return RunStore(world.folder / "runs.jsonl", kept["runs"].get(world.name, []))


def current_lines(world: World, store: RunStore) -> list[dict[str, Any]]:
    """The lines that the cells are made of, in the order of the plan: none of an older recipe or start policy."""
    lines = [world.start_line(store), *(world.line(store, *key) for key in plan(world))]
    return [line for line in lines if line is not None]


def outdated(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> int:
    """How many runs that were kept ``before`` are no part of the result any more."""
    known = [{(line["base"], line["method"], line["seed"]) for line in lines} for lines in (before, now)]
    return len(known[0] - known[1])
