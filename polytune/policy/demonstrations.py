"""What a policy is pretrained on, as a ``datasets`` dataset: expert episodes, or a task's own lines."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, load_from_disk

from polytune.checks import require
from polytune.policy.rendering import Renderer
from polytune.tasks.base import Task
from polytune.tasks.demonstrations import summary
from polytune.tasks.rows import RowTask

COLUMNS = ("start_seed", "level_hash", "observations", "actions", "success", "turns")
SUMMARY_FILE = "summary.json"

_CARD = """---
license: apache-2.0
pretty_name: polytune {name} demonstrations
task_categories:
- reinforcement-learning
tags:
- gridworld
- text-policy
- demonstrations
---

# polytune {name} demonstrations

{rows:,} expert episodes of the task `{name}`{options}. {episodes:,} were begun, {failures:,} failed and are not here
({gave_up:,} given up by the expert), {leaked:,} were left out because their levels are in the unseen split.
{within:,} of the {successes:,} successes ({share:.1%} of what was begun) took no more than the {horizon} turns of an
episode; of the longer ones the first {horizon} turns are here.{lengths}

Start seeds of the rows: {seeds}.

| column | type | meaning |
|---|---|---|
| `start_seed` | int | gives the start state: `load_task({call}).start(start_seed)` |
| `level_hash` | str | names it |
| `observations` | list of str | what the expert saw before each action |
| `actions` | list of str | what it did |
| `success` | bool | always true |
| `turns` | int | that the expert took in all |

Load with `datasets.load_from_disk`. Built by `{command}`; the same versions of minigrid and numpy give the same rows.
"""


def keep_successes(
    rows: Iterable[Mapping[str, Any]], task: Task, forbidden: Collection[str] = ()
) -> tuple[Dataset, dict]:
    """Recorded episodes (:func:`polytune.tasks.demonstrations.act_out`) as a dataset with columns :data:`COLUMNS`.

    Failures are dropped, and levels whose hash is in ``forbidden``.

    Returns:
        the dataset, and the counts that its card tells.

    Raises:
        ValueError: nothing is left.
    """
    rows = list(rows)
    kept = [row for row in rows if row["success"] and row["level_hash"] not in forbidden]
    counts = summary(rows, task.horizon)
    if not counts["successes"]:
        raise ValueError(f"the expert of task {task.name!r} solved none of {len(rows)} start states: nothing to clone.")
    if not kept:
        raise ValueError(f"the levels of all {counts['successes']} successes are in the unseen split: use other seeds.")
    counts["leaked"] = counts["successes"] - len(kept)
    columns = {name: [row[name] for row in kept] for name in COLUMNS}
    return Dataset.from_dict(columns), counts


def save_demonstrations(
    folder: str | Path, dataset: Dataset, counts: dict, task: Task, options: Mapping[str, Any], command: str
) -> None:
    """``save_to_disk``, with a card and the counts beside the data; the folder, which replaces an earlier one, is there
    whole or not at all. ``options``: those of ``load_task`` that gave ``task``."""
    folder = Path(folder)
    spread = counts["turns_percentiles"]
    card = _CARD.format(
        **counts, rows=len(dataset), name=task.name, seeds=_ranges(dataset["start_seed"][:]),
        options=f" ({' '.join(f'{name}={value}' for name, value in options.items())})" if options else "",
        call=", ".join([repr(task.name), *(f"{name}={value!r}" for name, value in options.items())]),
        failures=counts["episodes"] - counts["successes"], within=counts["successes_within_horizon"],
        share=counts["successes_within_horizon"] / counts["episodes"], command=command,
        lengths=f" The expert took {counts['turns_mean']:.1f} turns on average: half of the episodes took "
        f"{spread[50]} at most, 80 % {spread[80]}, 95 % {spread[95]}.",
    )  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as own:  # a name nobody else has
        building = Path(own) / folder.name
        dataset.save_to_disk(building)
        (building / SUMMARY_FILE).write_text(json.dumps(counts, indent=2) + "\n")
        (building / "README.md").write_text(card)
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)


def _ranges(seeds: Iterable[int]) -> str:
    """Sorted, those that follow each other as "3 to 5"."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1][1:] = [seed]
        else:
            runs.append([seed])
    return ", ".join(" to ".join(map(str, run)) for run in runs)


def load_demonstrations(folder: str | Path) -> Dataset | None:
    """Demonstrations saved by an earlier sitting of the same run, or None when there are none that can be read."""
    try:
        dataset = load_from_disk(str(folder))
    except (FileNotFoundError, OSError, ValueError):
        return None  # not written yet, or cut short by a kill: they are built again, deterministically
    return dataset if set(COLUMNS) <= set(dataset.column_names) else None


def forget_demonstrations(folder: str | Path, *, of_a_run: bool) -> None:
    """Remove what another run left behind, which must not pass for this one's.

    Raises:
        ValueError: no run says that it wrote them (``of_a_run`` is false), so they are somebody's own.
    """
    require(
        of_a_run or not Path(folder).exists(),
        f"{folder} is in the way: demonstrations of the run belong there, and no run has written it. Move it, or "
        "choose another output_dir.",
    )
    shutil.rmtree(folder, ignore_errors=True)


def tokenize_episode(renderer: Renderer, observations: Iterable[str], actions: Iterable[str]) -> dict[str, list[int]]:
    """Token ids of an episode, and a mask of 1 on the tokens of its actions.

    The episode is rendered exactly as a generator will see it, so cloning and sampling share one format. It ends with
    its last action.
    """
    ids: list[int] = []
    mask: list[int] = []
    said: tuple[int, ...] | None = None
    for observation, action in zip(observations, actions, strict=True):
        seen = renderer.prompt_ids(observation) if said is None else renderer.feedback_ids(observation, said)
        said = renderer.action_ids(action)
        ids += [*seen, *said]
        mask += [0] * len(seen) + [1] * len(said)
    return {"input_ids": ids, "own": mask}


def tokenize_demonstrations(renderer: Renderer, dataset: Dataset) -> Dataset:
    """Columns ``input_ids`` and ``own`` beside where each episode began."""
    rows = [tokenize_episode(renderer, row["observations"], row["actions"]) for row in dataset]
    where = {name: dataset[name][:] for name in ("start_seed", "level_hash")}
    return Dataset.from_dict({name: [row[name] for row in rows] for name in ("input_ids", "own")} | where)


def tokenize_lines(renderer: Renderer, lines: Iterable[tuple[str, str]]) -> Dataset:
    """(prompt, answer) lines as rows with columns ``input_ids`` and ``own`` (1 on the answer).

    Raises:
        ValueError: a line has a word that the tokenizer does not know, or an answer of the renderer's task one that it
            cannot write.
    """
    if isinstance(renderer.task, RowTask):
        check_written(renderer, renderer.task)
    rows = [tokenize_episode(renderer, [prompt], [answer]) for prompt, answer in lines]
    return Dataset.from_dict({name: [row[name] for row in rows] for name in ("input_ids", "own")})


def check_lengths(renderer: Renderer, rows: Dataset, checked: Iterable[int], positions: int | None) -> None:
    """ValueError for a row to clone, or the prompt of a start state among ``checked`` with its answer, that does not
    fit into ``positions`` tokens (None: any does)."""
    renderer.check_prompts(checked, positions, renderer.longest_action())
    tokens = max(map(len, rows["input_ids"]))
    require(
        positions is None or tokens <= positions,
        f"the longest row to clone has {tokens} tokens, but the policy has only {positions} positions: shorten it or "
        "leave it out (a shorter --task_horizon, where rows are episodes), or use a base with a longer context.",
    )


def check_written(renderer: Renderer, task: RowTask, most: int = 100) -> None:
    """ValueError for an answer shown by one of the first ``most`` training rows that earns less as the policy would
    write it: a tokenizer of words has no spaces between them, say."""
    for seed in task.splits["train"][:most]:
        for answer in task.shown(seed):
            written = task.parse_action(renderer.action_text(renderer.action_ids(f"{answer}{task.answer_end}")))
            if written == answer:
                continue
            before, after = task.earned(answer, seed), task.earned(written, seed)
            if after < before:
                raise ValueError(
                    f"row {seed}: the policy's tokenizer writes the answer {answer[:80]!r} as {written[:80]!r}, which "
                    f"earns {after:g} in place of {before:g}: a preset's knows no spaces within free text. Begin with "
                    "a --base_model, or have the reward take what is written."
                )


def split_by_level(demonstrations: Dataset) -> tuple[Dataset, Dataset]:
    """80 % to train, 20 % held out, by level in order of appearance: no level is in both, whatever its seeds."""
    hashes = demonstrations["level_hash"][:]
    levels = list(dict.fromkeys(hashes))
    if len(levels) < 2:
        raise ValueError(
            f"the {len(hashes)} demonstrations show a single level, so none can be held out: raise num_demonstrations, "
            "or give the task start states that differ from seed to seed."
        )
    held = set(levels[-max(1, len(levels) // 5) :])
    rows = {inside: [i for i, level in enumerate(hashes) if (level in held) == inside] for inside in (False, True)}
    return demonstrations.select(rows[False]), demonstrations.select(rows[True])
