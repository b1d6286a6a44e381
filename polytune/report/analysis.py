"""Records -> summary, tables and plots: the second half of an evaluation, which can be done again without sampling."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from polytune.checks import require
from polytune.config import TaskConfig
from polytune.evaluation import perturbed
from polytune.evaluation.cautions import cautions
from polytune.evaluation.chosen import chosen_table, has_vectors, summarise_chosen
from polytune.evaluation.columns import Records
from polytune.evaluation.options import EvaluationConfig
from polytune.evaluation.records import PACKED, check_repeats, read_records
from polytune.evaluation.summary import as_table, counted, signature_table, summarise, verdict
from polytune.pictures.plot import plot_coverage
from polytune.report import creativity
from polytune.report.runs import budget_of
from polytune.running.provenance import (
    EVALUATION_RUN_FILE,
    RECORDS_FILE,
    fingerprint,
    noted_policies,
    origin,
    write_json,
    write_text,
)
from polytune.tasks import Task
from polytune.tasks.creativity.tasks import CreativityTask
from polytune.tasks.starts import starts_of, task_of
from polytune.terminal import say_warning


def analyse(
    task: Task,
    records: Records,
    config: EvaluationConfig,
    output_dir: Path,
    *,
    split: str,
    more: Mapping[str, Any],
    seconds: Mapping[str, float] | None = None,
) -> None:
    """Write summary.json and the plot of an evaluation's records into ``output_dir``, and print the tables.

    Args:
        records: of every policy, perturbed ones included, in the order of their file.
        config: level, seed of the bootstrap, k.
        more: what the summary keeps besides (command, versions, paths, settings).
        seconds: of sampling, by policy.

    Raises:
        ValueError: a k is above the samples of a start state; the policies have not the same start states.
    """
    names, moved = records.policies(), records.perturbations()
    unmoved, drawn = records.where(perturb=None), {"level": config.level, "seed": config.seed, "ks": config.k}
    creative = isinstance(task, CreativityTask)
    summary = summarise(unmoved, names, **drawn, crossings=not creative)
    for name in seconds or {}:
        summary["policies"][name]["seconds"] = seconds[name]
    if moved:
        summary["perturbed"] = perturbed.summarise_perturbed(records, names, moved, **drawn)
    if has_vectors(unmoved):
        told = summarise_chosen(unmoved, names, ks=config.k, level=config.level, seed=config.seed)
        summary["coreset"] = told
    summary |= more
    if not creative:
        budgets = {name: budget_of(path) for name, path in more.get("policy_paths", {}).items()}
        summary["cautions"] = cautions(summary, _different(task, unmoved), task.starts, budgets)
    counts = summary["policies"][names[0]]["counts"]
    starts, samples = counts["start_states"], counts["samples_per_start_state"]
    title = f"{task.name}, {split}: {starts:,} {task.starts} x {counted(samples, 'sample')}"
    if creative:
        creativity.report(task, unmoved, summary, output_dir, title=title, seed=config.seed)
        _write_report(task, unmoved, summary, config, output_dir, title)
        return
    write_json(output_dir / "summary.json", summary)
    plot_coverage(summary, unmoved, output_dir / "coverage.png", title=title)
    print(f"\n{title}\n\n{as_table(summary)}\n\n{signature_table(summary)}\n")
    print("\n".join(verdict(summary, task.starts)))
    for line in summary["cautions"]:
        say_warning(line)
    if "coreset" in summary:
        print(f"\n{chosen_table(summary['coreset'])}")
    (output_dir / "perturbed.txt").unlink(missing_ok=True)
    if moved:
        text = perturbed.report(summary, task.starts)
        write_text(output_dir / "perturbed.txt", text + "\n")
        print(f"\n{text}")
    print(f"\nsummary and plot: {output_dir}{os.sep}{{summary.json,coverage.png}}")
    _write_report(task, unmoved, summary, config, output_dir, title)


def _different(task: Task, records: Records) -> int:
    """How many different levels the start states are; those of another task than the records' are all different."""
    seeds = np.unique(records.column("start_seed")).tolist()
    try:
        return len({task.start_hash(seed) for seed in seeds})
    except (ValueError, LookupError):
        return len(seeds)


def _write_report(
    task: Task, records: Records, summary: dict[str, Any], config: EvaluationConfig, folder: Path, title: str
):
    """With ``report``: the page, from the same records and summary."""
    if config.report:
        from polytune import report

        report.write_page(report.of_evaluation.build(task, records, summary, title=title), folder / report.REPORT_FILE)
        print(f"report: {folder / report.REPORT_FILE}")


def analyse_recorded(
    task_config: TaskConfig, config: EvaluationConfig, command: Sequence[str], seed: int | None = None
) -> None:
    """``recipes/evaluate.py --from_records``: analyse the records of an earlier evaluation, sampling nothing.

    Task and split are those that the evaluation noted beside its ``records.jsonl``; without a note, those given. So is
    the seed of the bootstrap, unless one is asked for (``seed``).

    Raises:
        ValueError: there are no records, they are damaged, unfinished, without texts where the task needs them, or
            repeat each other as samples do not; the output folder holds another evaluation.
    """
    path = Path(config.from_records)
    path = path / RECORDS_FILE if path.is_dir() else path
    packed = path.with_name(path.name + PACKED)
    path = packed if packed.is_file() and not path.exists() else path
    require(
        path.is_file(),
        f"from_records is {config.from_records!r}, and there is no {path}: name the output_dir of an evaluation, or "
        "its records.jsonl.",
    )
    output_dir = _output_dir(path, config.output_dir)
    note = _note(path)
    if note:
        given = [f.name for f in fields(task_config) if getattr(task_config, f.name) != getattr(TaskConfig(), f.name)]
        noted = path.parent / EVALUATION_RUN_FILE
        require(not given, f"{', '.join(given)} cannot be given: {noted} says which task the records are of.")
        task_config = TaskConfig(**note["settings"]["task"])
    else:
        print(f"note: nothing beside {path} says which task this was: taken to be {task_config.task}")
    task = task_of(task_config)
    records = read_records(path)
    require(bool(records), f"{path} has no whole record: nothing can be analysed.")
    check_repeats(records)
    split = task_config.split or task.default_split
    starts = starts_of(task, task_config)[1] if note else None
    sampled = note.get("settings", {}).get("evaluation", {})
    config.seed = sampled.get("seed", config.seed) if seed is None else seed
    records = _finished(path, records, starts, sampled.get("n"))
    require(
        not isinstance(task, CreativityTask) or bool(records.column("has actions").all()),
        f"{path} does not hold what was said (actions), which {task.name} grades: evaluate the policies again.",
    )
    more = origin(command)
    with suppress(OSError, ValueError, KeyError):
        before = json.loads((path.parent / "summary.json").read_text())
        more["policy_paths"] = _unchanged(before["policy_paths"], note)
        more["sampled_by"] = before.get("sampled_by") or {name: before[name] for name in ("command", "versions")}
    own = {name: sampled.get(name) for name in ("n", "temperature", "seed")}
    own |= {"split": split, "task_args": task_config.task_args}
    more["settings"] = {"task": task.name, "horizon": task.horizon, **own}
    output_dir.mkdir(parents=True, exist_ok=True)
    print(f"{path}: {len(records):,} episodes, nothing is sampled")
    analyse(task, records, config, output_dir, split=split, more=more, seconds=note.get("seconds"))


def _unchanged(paths: Mapping[str, str], note: Mapping[str, Any]) -> dict[str, str]:
    """The policies that still are where they were, with the weights that were sampled."""
    now = {name: fingerprint(path) for name, path in paths.items()}
    had = noted_policies(note, now.values())
    moved = [name for name, own in now.items() if own != had.get(name)]
    if moved:
        print(f"note: {', '.join(moved)}: not there any more, or other weights; nothing is said of the training")
    return {name: path for name, path in paths.items() if name not in moved}


def _output_dir(path: Path, given: str | None) -> Path:
    """Where the analysis goes: beside the evaluation's own records, or into a folder without other ones."""
    require(
        given is not None or path.name == RECORDS_FILE,
        f"{path.name} is packed, or was set aside when another evaluation took its folder, whose summary would be "
        "overwritten: give an --output_dir.",
    )
    folder = path.parent if given is None else Path(given)
    other = folder / RECORDS_FILE
    require(
        not other.exists() or other.resolve() == path.resolve(),
        f"output_dir {folder} holds another evaluation, whose summary would be overwritten: choose another one.",
    )
    return folder


def _note(path: Path) -> dict[str, Any]:
    """What an evaluation noted beside its records; empty for files that were set aside, and without a note."""
    noted = path.parent / EVALUATION_RUN_FILE
    if path.name not in (RECORDS_FILE, RECORDS_FILE + PACKED) or not noted.is_file():
        return {}
    try:
        found = json.loads(noted.read_text())
        TaskConfig(**found["settings"]["task"])
    except (ValueError, KeyError, TypeError) as error:
        print(f"note: {noted} cannot be read ({type(error).__name__}: {error})")
        return {}
    return found


def _finished(path: Path, records: Records, seeds: Sequence[int] | None, samples: int | None) -> Records:
    """The records without perturbations that were not finished; refuses an evaluation that was not finished itself, or
    of other start states.

    ``seeds``, ``samples``: the start states, and how many samples of each, there were to be; None: what there is.
    """
    begun = np.unique(records.column("start_seed")).tolist()
    other = [] if seeds is None else sorted(set(begun) - set(seeds))
    require(
        not other,
        f"{path} has attempts at {len(other):,} start states that its split does not have now (seed {other[:1]}): the "
        "split's file was changed, so restore it, or evaluate again.",
    )
    policies, perturbs = records.policies(), dict.fromkeys(perturb for _, perturb in records.parts())
    counts = {
        (perturb, policy): np.unique(own.column("start_seed"), return_counts=True)[1]
        for perturb in perturbs
        for policy, own in records.where(perturb=perturb, greedy=False).of_each(policies).items()
    }
    starts = len(begun if seeds is None else seeds)
    samples = samples or max((int(own.max()) for own in counts.values() if len(own)), default=0)
    missing: dict[str | None, list[str]] = {}
    for (perturb, policy), own in counts.items():
        if (whole := int((own == samples).sum())) < starts:
            missing.setdefault(perturb, []).append(f"{policy} has {samples} samples of {whole} of {starts}")
    require(
        None not in missing,
        f"{path} is not finished: {'; '.join(missing.get(None, []))} start states. Give the evaluation's own command "
        "again, which continues it.",
    )
    for perturb, told in missing.items():
        print(f"note: {perturb} is not finished and left out: {'; '.join(told)} start states")
    return records.where(perturb=[perturb for perturb in perturbs if perturb not in missing])
