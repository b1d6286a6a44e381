"""Records -> summary, tables and plots: the second half of an evaluation, which can be done again without sampling."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polytune.config import EvaluationConfig, TaskConfig, require
from polytune.evaluation import creativity_report, perturbed
from polytune.evaluation.plot import plot_coverage
from polytune.evaluation.records import RECORDS_FILE, check_repeats, read_records, under
from polytune.evaluation.summary import as_table, counted, signature_table, summarise, verdict
from polytune.policy.provenance import EVALUATION_RUN_FILE, origin, write_json
from polytune.tasks import Task, load_task
from polytune.tasks.creativity.tasks import CreativityTask


def analyse(
    task: Task,
    records: Sequence[dict[str, Any]],
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
    names = list(dict.fromkeys(record["policy"] for record in records))
    moved = list(dict.fromkeys(r["perturb"] for r in records if r.get("perturb") is not None))
    unmoved, drawn = under(records, None), {"level": config.level, "seed": config.seed, "ks": config.k}
    summary = summarise(unmoved, names, **drawn)
    for name in seconds or {}:
        summary["policies"][name]["seconds"] = seconds[name]
    if moved:
        summary["perturbed"] = perturbed.summarise_perturbed(records, names, moved, **drawn)
    summary |= more
    counts = summary["policies"][names[0]]["counts"]
    starts, samples = counts["start_states"], counts["samples_per_start_state"]
    title = f"{task.name}, {split}: {starts:,} {task.starts} x {counted(samples, 'sample')}"
    if isinstance(task, CreativityTask):
        creativity_report.report(task, unmoved, summary, output_dir, title=title, seed=config.seed)
        return
    write_json(output_dir / "summary.json", summary)
    plot_coverage(summary, unmoved, output_dir / "coverage.png", title=title)
    print(f"\n{title}\n\n{as_table(summary)}\n\n{signature_table(summary)}\n")
    print("\n".join(verdict(summary, task.starts)))
    if moved:
        (output_dir / "perturbed.txt").write_text(perturbed.report(summary) + "\n")
        print(f"\n{perturbed.report(summary)}")
    print(f"\nrecords, summary and plot: {output_dir}{os.sep}{{{RECORDS_FILE},summary.json,coverage.png}}")


def again(task_config: TaskConfig, config: EvaluationConfig, command: Sequence[str]) -> None:
    """``recipes/evaluate.py --from_records``: analyse the records of an earlier evaluation, sampling nothing.

    The task and the split are those that the evaluation noted beside its records, else those of ``task_config``.

    Raises:
        ValueError: there are no records, they are damaged, or attempts repeat each other as samples do not.
    """
    path = Path(config.from_records)
    path = path / RECORDS_FILE if path.is_dir() else path
    require(
        path.is_file(),
        f"from_records is {config.from_records!r}, and there is no {path}: name the output_dir of an evaluation, or "
        "its records.jsonl.",
    )
    records = read_records(path)
    require(bool(records), f"{path} has no whole record: nothing can be analysed.")
    check_repeats(records)
    try:
        noted = json.loads((path.parent / EVALUATION_RUN_FILE).read_text())["settings"]
        task_config = TaskConfig(**noted["task"])
    except (OSError, ValueError, KeyError, TypeError):
        noted = {}
        print(f"note: no {EVALUATION_RUN_FILE} beside {path} says which task this was: taken to be {task_config.task}")
    task = load_task(task_config.task, **task_config.task_options)
    output_dir = Path(config.output_dir or path.parent)
    output_dir.mkdir(parents=True, exist_ok=True)
    own = {name: noted.get("evaluation", {}).get(name) for name in ("n", "temperature", "seed")}
    split = task_config.split or task.default_split
    settings = {"task": task.name, "horizon": task.horizon, "split": split, **own, "task_args": task_config.task_args}
    print(f"{path}: {len(records):,} episodes, nothing is sampled")
    analyse(task, records, config, output_dir, split=split, more=origin(command) | {"settings": settings})
