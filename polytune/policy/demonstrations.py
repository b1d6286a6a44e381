"""What a policy is pretrained on, as a ``datasets`` dataset of token ids: expert episodes, or a task's own lines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from datasets import Dataset, load_from_disk

from polytune.policy.rendering import Renderer
from polytune.tasks.base import Task

COLUMNS = ("input_ids", "action_mask", "start_seed", "level_hash", "success")


def demonstrate(task: Task, renderer: Renderer, seed: int) -> dict[str, object]:
    """One expert episode: token ids, a mask of 1 on the tokens of actions, and where it began.

    The episode is rendered exactly as a generator will see it, so cloning and sampling share one format.
    """
    episode = task.start(seed)
    ids = list(renderer.prompt_ids(episode.observation()))
    mask = [0] * len(ids)
    while True:
        action = task.expert(episode)
        action_ids = renderer.action_ids(action)
        step = episode.step(action)
        feedback = () if step.done else renderer.feedback_ids(episode.observation(), action_ids)
        ids += [*action_ids, *feedback]
        mask += [1] * len(action_ids) + [0] * len(feedback)
        if step.done:
            break
    return {
        "input_ids": ids,
        "action_mask": mask,
        "start_seed": seed,
        "level_hash": task.start_hash(seed),
        "success": step.stop_reason == "success",
    }


def build_demonstrations(task: Task, renderer: Renderer, seeds: Iterable[int]) -> tuple[Dataset, int]:
    """Demonstrations from ``seeds``; the expert's failures are dropped.

    Returns:
        the dataset with columns :data:`COLUMNS`, and the number of failures dropped.
    """
    rows = [demonstrate(task, renderer, seed) for seed in seeds]
    kept = [row for row in rows if row["success"]]
    if not kept:
        raise ValueError(f"the expert of task {task.name!r} solved none of {len(rows)} start states: nothing to clone.")
    return Dataset.from_list(kept), len(rows) - len(kept)


def tokenize_lines(renderer: Renderer, lines: Iterable[tuple[str, str]]) -> Dataset:
    """(prompt, answer) lines as rows with columns ``input_ids`` and ``action_mask`` (1 on the answer).

    Raises:
        ValueError: a line has a word that the tokenizer does not know.
    """
    rows = [(renderer.prompt_ids(prompt), renderer.action_ids(answer)) for prompt, answer in lines]
    return Dataset.from_dict(
        {
            "input_ids": [[*prompt, *answer] for prompt, answer in rows],
            "action_mask": [[0] * len(prompt) + [1] * len(answer) for prompt, answer in rows],
        }
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


def load_demonstrations(folder: str | Path) -> Dataset | None:
    """Demonstrations saved by an earlier sitting of the same run, or None when there are none that can be read."""
    try:
        dataset = load_from_disk(str(folder))
    except (FileNotFoundError, OSError, ValueError):
        return None  # not written yet, or cut short by a kill: they are built again, deterministically
    return dataset if set(COLUMNS) <= set(dataset.column_names) else None
