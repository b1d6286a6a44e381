"""Write a creativity task's data set: train.jsonl (prompt, completion), test.jsonl (prompt), README.md (its card).

Launch: python data/build_creativity.py --task triangle --size tiny
        python data/build_creativity.py --task triangle --size paper --output_dir outputs/data/triangle
Same arguments, same bytes, on every machine. The tasks generate the same lines by themselves, so training needs no
files: these are for reading, for other tools, and to hold the generators to what they were.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path

from polytune.places import DATA
from polytune.tasks import load_task
from polytune.tasks.creativity.tasks import CreativityTask
from polytune.tasks.splits import load_split

TASKS = ("sibling", "triangle", "circle", "line")
CARD = """---
license: apache-2.0
pretty_name: polytune {task}, {size}
language:
- en
task_categories:
- text-generation
size_categories:
- {category}
tags:
- algorithmic-creativity
- synthetic
configs:
- config_name: default
  data_files:
  - split: train
    path: train.jsonl
  - split: test
    path: test.jsonl
---

# polytune {task}, {size}

Algorithmic Creativity (arXiv 2504.15266), task `{task}`:

    {wanted}

| file | rows | columns |
|---|---|---|
| train.jsonl | {lines:,} | prompt, completion |
| test.jsonl | {prompts:,} | prompt |

A prompt begins with ten random characters that say nothing about its completion (seed conditioning){edges}.
A test prompt has no right answer: what counts is how many different valid completions a policy gives, and how many of
them the training set does not show. Of {objects:,} different objects it shows {seen:,} ({share:.1f} %);
{unseen:,} are unseen.

Sizes: {sizes}; structure_seed {seed}. All draws come from Python's `random.Random`. Made by

    {command}

Graders and metrics: `polytune.tasks.creativity`, `recipes/evaluate.py --task {task}{flag}`.
Generated, no source data.
"""


def write(task: CreativityTask, folder: Path, size: str, command: str) -> None:
    """The three files of one data set."""
    lines = [{"prompt": prompt, "completion": completion} for prompt, completion in task.training_lines()]
    prompts = [{"prompt": task.prompt(seed)} for seed in load_split(task, "test")]
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", lines), ("test", prompts)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8", newline="\n")
    structure = task.structure
    number = len(lines) + len(prompts)
    card = CARD.format(
        task=task.name,
        size=size,
        category="1K<n<10K" if number < 10_000 else "10K<n<100K",
        wanted="\n    ".join(textwrap.wrap(task.instructions, 110)),
        lines=len(lines),
        prompts=len(prompts),
        edges="; lines that show an edge begin with `edge:`" if task.name == "triangle" else "",
        objects=structure.number_of_objects,
        seen=len(structure.seen),
        share=100 * len(structure.seen) / structure.number_of_objects,
        unseen=structure.ceiling,
        sizes=", ".join(f"{name} {value}" for name, value in structure.sizes().items()),
        seed=structure.structure_seed,
        command=command,
        flag=" --task_args size=tiny" if size == "tiny" else "",
    )
    (folder / "README.md").write_text(card, encoding="utf-8", newline="\n")
    print(f"{folder}: {len(lines):,} lines, {len(prompts):,} test prompts, {structure.ceiling:,} unseen objects")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--size", default="tiny", choices=("tiny", "paper"))
    parser.add_argument("--structure_seed", type=int, default=0, help="another seed, another graph and training set")
    parser.add_argument("--output_dir", type=Path, help="unset: data/TASK_SIZE")
    arguments = parser.parse_args()
    task = load_task(arguments.task, size=arguments.size, structure_seed=arguments.structure_seed)
    folder = arguments.output_dir or DATA / f"{arguments.task}_{arguments.size}"
    seed = f" --structure_seed {arguments.structure_seed}" if arguments.structure_seed else ""
    write(
        task,
        folder,
        arguments.size,
        f"python data/build_creativity.py --task {task.name} --size {arguments.size}{seed}",
    )


if __name__ == "__main__":
    main()
