"""Creativity of evaluated policies, or of texts produced elsewhere: summary, table, plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from polytune.config import EvaluationConfig, TaskConfig
from polytune.evaluation.creativity import MEASURES, coverage, measure
from polytune.evaluation.plot import COLOURS, MARKERS
from polytune.evaluation.summary import aligned, as_text, counted
from polytune.policy.provenance import origin, write_json
from polytune.tasks import load_task
from polytune.tasks.creativity.tasks import CreativityTask

TITLES = {"raw_diversity": "diversity, raw strings", "raw_creativity": "creativity, raw strings"}


def of_records(
    task: CreativityTask, records: Sequence[Mapping[str, Any]], policy: str, *, level: float, seed: int = 0
) -> dict[str, Any]:
    """Creativity of one policy's records: of the first sample of each prompt, of its greedy answers, and what all of
    its samples cover."""
    own = [record for record in records if record["policy"] == policy]
    samples = sorted((r for r in own if not r["greedy"]), key=lambda r: (r["attempt"], r["start_seed"]))
    first = [record["actions"] for record in samples if record["attempt"] == 0]
    greedy = [record["actions"] for record in own if record["greedy"]]
    found = of_texts(task, first, [record["actions"] for record in samples], level=level, seed=seed)
    return found | ({"greedy": measure(task.structure, greedy, level=level, seed=seed)} if greedy else {})


def of_texts(
    task: CreativityTask, first: Sequence[str], every: Sequence[str], *, level: float, seed: int
) -> dict[str, Any]:
    """Creativity of ``first``, one completion for each prompt, and what ``every`` completion covers."""
    found = measure(task.structure, first, level=level, seed=seed)
    return found | {"coverage": coverage(task.structure, every, level=level, first=min(1024, len(first)))}


def read_completions(path: str | Path, question: str = "") -> tuple[list[str], list[str]]:
    """(first completion of each prompt, every completion) of a JSONL file of {"completion": str, "prompt": optional}.

    Lines without a prompt, or with nothing but the ``question`` (no seed conditioning), are prompts of their own.
    Raises ValueError naming file, line and value; FileNotFoundError.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no file {path}: give a JSONL file of lines like {{"completion": "<a_1>...</a>"}}')
    first: dict[Any, str] = {}
    every: list[str] = []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}): give a JSONL file") from error
    for number, line in enumerate(text.split("\n"), start=1):  # a text may hold what str.splitlines splits at
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not JSON ({error}): {line[:80]!r}") from error
        if not isinstance(row, dict) or not isinstance(row.get("completion"), str):
            raise ValueError(f'{where}: a line is {{"completion": text, "prompt": text, optional}}, got {line[:80]!r}')
        if not isinstance(row.get("prompt"), str | None):
            raise ValueError(f"{where}: prompt must be text, got {row['prompt']!r}")
        prompt = row.get("prompt")
        bare = prompt is None or prompt.strip() == question.strip()
        first.setdefault(number if bare else prompt, row["completion"])
        every.append(row["completion"])
    if not every:
        raise ValueError(f"{path} has no completions")
    return list(first.values()), every


def report(
    task: CreativityTask,
    records: Sequence[Mapping[str, Any]],
    summary: dict[str, Any],
    output_dir: Path,
    *,
    title: str,
    seed: int,
) -> None:
    """Add each policy's creativity to the summary of an evaluation, write it and the plot, print the table."""
    found = {name: of_records(task, records, name, level=summary["level"], seed=seed) for name in summary["policies"]}
    for name, own in found.items():
        own["validity_at_k"] = {str(k): summary["policies"][name][f"pass@{k}"] for k in summary["ks"]}
    summary["creativity"] = found
    _tell(task, found, summary, output_dir, title=title)


def score_file(task_config: TaskConfig, config: EvaluationConfig, *, command: Sequence[str]) -> None:
    """``recipes/evaluate.py --completions``: grade a file's texts and write the same files as for a policy.

    Raises:
        ValueError: the task is not a creativity task, or the file is damaged (:func:`read_completions`).
    """
    task = load_task(task_config.task, **task_config.task_options)
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


def table(creativity: Mapping[str, Mapping[str, Any]]) -> str:
    """Measures down, policies across, as aligned text; counts and the ceiling below."""
    names = list(creativity)
    rows = [["", *names]]
    for name in MEASURES:
        rows.append([TITLES.get(name, name), *(as_text(own[name], "") for own in creativity.values())])
    rows.append(["ceiling of creativity", *(f"{own['ceiling']:.3f}" for own in creativity.values())])
    for name in ("distinct_valid", "distinct_unseen"):
        rows.append([name.replace("_", " "), *(f"{own['counts'][name]:,}" for own in creativity.values())])
    for index, m in enumerate(next(iter(creativity.values()))["coverage"]["samples"]):
        cells = []
        for own in creativity.values():
            share = own["coverage"]["unseen_share"][index]
            cells.append(f"{own['coverage']['unseen'][index]['estimate']:,.0f} ({100 * share:.1f} %)")
        rows.append([f"unseen in {counted(m, 'sample')}", *cells])
    for k in next(iter(creativity.values())).get("validity_at_k", {}):
        if k != "1":
            rows.append([f"validity@{k}", *(as_text(own["validity_at_k"][k], "") for own in creativity.values())])
    for name in ("validity", "diversity", "creativity"):
        if all("greedy" in own for own in creativity.values()):
            rows.append([f"{name}, greedy", *(as_text(own["greedy"][name], "") for own in creativity.values())])
    return aligned(rows)


def headline(task: CreativityTask, creativity: Mapping[str, Mapping[str, Any]]) -> str:
    prompts = next(iter(creativity.values()))["counts"]["generations"]
    structure = task.structure
    share = 100 * len(structure.seen) / structure.number_of_objects
    return (
        f"{counted(prompts, 'prompt')}, one sample each; of {structure.number_of_objects:,} objects "
        f"training shows {len(structure.seen):,} ({share:.0f} %), {structure.ceiling:,} are unseen"
    )


def plot(creativity: Mapping[str, Mapping[str, Any]], path: str | Path, *, title: str, ceiling: int) -> None:
    """Shares with intervals; unseen objects found against samples drawn, with the ceiling."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    shares, covered = figure.subplots(1, 2)
    shown = ("validity", "diversity", "creativity", "memorisation")
    for index, (policy, own) in enumerate(creativity.items()):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        width = 0.8 / len(creativity)
        places = [place + width * (index - (len(creativity) - 1) / 2) for place in range(len(shown))]
        cells = [own[name] for name in shown]
        heights = [cell["estimate"] or 0.0 for cell in cells]
        shares.bar(places, heights, width * 0.92, color=colour, label=policy)
        reach = [[0.0 if c[end] is None else abs(c[end] - c["estimate"]) for c in cells] for end in ("low", "high")]
        shares.errorbar(places, heights, reach, fmt="none", ecolor="#111827", elinewidth=1, capsize=2)
        curve = own["coverage"]
        estimates = [cell["estimate"] for cell in curve["unseen"]]
        covered.plot(curve["samples"], estimates, f"{marker}-", color=colour, markersize=4.5, clip_on=False)
        low, high = ([cell[end] for cell in curve["unseen"]] for end in ("low", "high"))
        covered.fill_between(curve["samples"], low, high, color=colour, alpha=0.15, linewidth=0)
    shares.set_xticks(range(len(shown)), shown)
    shares.set(ylim=(0, 1), title="One sample for each prompt")
    covered.set(xscale="log", xlabel="samples", ylabel="distinct valid objects not in training", ylim=(0, None))
    top = covered.get_ylim()[1]
    if ceiling <= 4 * top:
        covered.axhline(ceiling, color="#111827", linestyle="--", linewidth=1)
        covered.set_ylim(0, max(top, 1.08 * ceiling))
    covered.set_title(f"Coverage of the unseen, {ceiling:,} in all")
    samples = sorted({m for own in creativity.values() for m in own["coverage"]["samples"]})
    covered.set_xticks(samples, [f"{m:,}" for m in samples])
    covered.minorticks_off()
    for axes in (shares, covered):
        axes.grid(alpha=0.25, axis="y")
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = shares.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=min(len(labels), 4))
    figure.suptitle(title)
    figure.savefig(path, dpi=130)
