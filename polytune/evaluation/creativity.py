"""Creativity of evaluated policies, or of texts produced elsewhere: summary and table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polytune.evaluation.columns import Records
from polytune.evaluation.summary import aligned, as_text, counted
from polytune.measures.creativity import MEASURES, coverage, measure
from polytune.tasks.creativity.tasks import CreativityTask

TITLES = {"raw_diversity": "diversity, raw strings", "raw_creativity": "creativity, raw strings"}


def of_records(task: CreativityTask, records: Records, *, level: float, seed: int = 0) -> dict[str, Any]:
    """Creativity of one policy's records: of the first sample of each prompt, of its greedy answers, and what all of
    its samples cover."""
    samples, greedy = records.where(greedy=False), records.where(greedy=True).each("actions")
    samples = samples.taken(np.lexsort((samples.column("start_seed"), samples.column("attempt"))))
    first, every = samples.where(attempt=0).each("actions"), samples.each("actions")
    found = of_texts(task, first, every, level=level, seed=seed)
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
    """One line over a table of creativity: prompts, objects, what training shows of them."""
    prompts = next(iter(creativity.values()))["counts"]["generations"]
    structure = task.structure
    share = 100 * len(structure.seen) / structure.number_of_objects
    return (
        f"{counted(prompts, 'prompt')}, one sample each; of {structure.number_of_objects:,} objects "
        f"training shows {len(structure.seen):,} ({share:.0f} %), {structure.ceiling:,} are unseen"
    )
