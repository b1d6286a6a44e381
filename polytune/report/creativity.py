"""Creativity of an evaluation's policies, or of texts from elsewhere, written down, drawn and said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polytune.config import TaskConfig
from polytune.evaluation.columns import Records
from polytune.evaluation.creativity import headline, of_records, of_texts, read_completions, table
from polytune.evaluation.options import EvaluationConfig
from polytune.pictures.creativity import plot
from polytune.running.provenance import origin, write_json
from polytune.tasks.creativity.tasks import CreativityTask
from polytune.tasks.starts import task_of


def report(
    task: CreativityTask,
    records: Records,
    summary: dict[str, Any],
    output_dir: Path,
    *,
    title: str,
    seed: int,
) -> None:
    """Add each policy's creativity to the summary of an evaluation, write it and the plot, print the table."""
    of_each = records.of_each(summary["policies"])
    found = {name: of_records(task, own, level=summary["level"], seed=seed) for name, own in of_each.items()}
    for name, own in found.items():
        own["validity_at_k"] = {str(k): summary["policies"][name][f"pass@{k}"] for k in summary["ks"]}
    summary["creativity"] = found
    _tell(task, found, summary, output_dir, title=title)


def score_file(task_config: TaskConfig, config: EvaluationConfig, *, command: Sequence[str]) -> None:
    """``recipes/evaluate.py --completions``: grade a file's texts and write the same files as for a policy.

    Raises:
        ValueError: the task is not a creativity task, or the file is damaged (:func:`read_completions`).
    """
    task = task_of(task_config)
    if not isinstance(task, CreativityTask):
        raise ValueError(
            f"completions are scored on sibling, triangle, circle and line, not on task {task.name!r}: name one of "
            "them with --task."
        )
    output_dir = Path(config.output_dir)
    if (output_dir / "records.jsonl").exists():
        raise ValueError(f"{output_dir} holds an evaluation of policies: give --output_dir another folder.")
    first, every = read_completions(config.completions, task.structure.question)
    name = Path(config.completions).stem
    title = f"{task.name}: {len(every):,} completions of {Path(config.completions).name}"
    found = {name: of_texts(task, first, every, level=config.level, seed=config.seed)}
    output_dir.mkdir(parents=True, exist_ok=True)
    settings = {"task": task.name, "task_args": task_config.task_args, "completions": str(config.completions)}
    summary = {**origin(command), "settings": settings, "level": config.level}
    _tell(task, found, summary, output_dir, title=title)


def _tell(task, found: dict[str, Any], summary: dict[str, Any], output_dir: Path, *, title: str) -> None:
    write_json(output_dir / "summary.json", {**summary, "creativity": found})
    plot(found, output_dir / "creativity.png", title=title, ceiling=task.structure.ceiling)
    print(f"\n{title}\n{headline(task, found)}\n\n{table(found)}\n\n{output_dir}/{{summary.json,creativity.png}}")
