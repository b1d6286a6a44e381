"""The Poly-PPO paper's Table 1, its perturbation table and its pass@k curves, beside ours, from one command a task.

    python recipes/reproduce.py --task fourrooms --scale tiny       # minutes: does everything work?
    python recipes/reproduce.py --task fourrooms --scale cpu        # two hours on 2 cores
    python recipes/reproduce.py --task babyai-goto --scale paper    # the paper's size, on a GPU

A scale is two YAML files, recipes/reproduce/TASK/SCALE_{pretrain,compare}.yaml. Stages: recipes/pretrain.py makes the
policy that all methods begin with, if it is not there; recipes/compare.py trains REINFORCE, PPO and Poly-PPO (its
published fields, and ours), with and without UCB, at equal budgets, and samples them; then report.md and report.json
say which of the paper's orderings hold, are reversed or are not resolved. The same command continues what was stopped.
"""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path

from polytune.app.cli import UsageError, load_yaml, parse, run
from polytune.places import RECIPES, command, start


def main(argv: Sequence[str]) -> None:
    # ---------------------------------------------------------------- configuration
    from polytune.comparison.options import ReproductionConfig

    (config,) = parse((ReproductionConfig,), argv, description=__doc__)

    from polytune.comparison import keep as comparison_keep
    from polytune.comparison import reproduce, reproduce_report
    from polytune.comparison.published import PUBLISHED, SOURCE
    from polytune.running.provenance import origin, write_json, write_text

    output_dir = Path(config.output_dir or f"outputs/reproduce/{config.task}_{config.scale}")
    recipes = reproduce.find_recipes(Path(config.recipes or RECIPES / "reproduce"), config.task, config.scale)
    if config.task not in PUBLISHED:
        raise UsageError(
            f"task is {config.task!r}, of which nothing is published: choose one of {', '.join(PUBLISHED)}."
        )
    published = PUBLISHED[config.task]
    comparison_keep.check_folder(config.keep)

    # ---------------------------------------------------------------- what both stages will do, checked before any work
    flags = ["--model", str(output_dir / "pretrained"), "--output_dir", str(output_dir / "comparison")]
    flags += ["--seeds", *config.seeds] if config.seeds else []
    flags += ["--workers", str(config.workers)] if config.workers is not None else []
    compare = ["--config", str(recipes.compare), *flags]
    pretrain = ["--config", str(recipes.pretrain), "--output_dir", str(output_dir / "pretrained")]
    comparison, task = check_stages(config.task, recipes, pretrain, compare)

    # ---------------------------------------------------------------- pretrain, compare
    run_stage("pretrain", pretrain)
    run_stage("compare", compare)

    # ---------------------------------------------------------------- beside the paper
    folder = output_dir / "comparison"
    summary = json.loads((folder / "summary.json").read_text())
    figures = reproduce.figures_of(folder, summary)
    found = reproduce.orderings(published, figures, level=comparison.level, seed=comparison.evaluation_seed)
    content = {
        **origin(command("reproduce", argv)),
        "date": datetime.date.today().isoformat(),
        "task": config.task,
        "scale": config.scale,
        "horizon": task.horizon,
        "env_steps": max(own["cost"]["env_steps"] for own in summary["policies"].values() if "cost" in own),
        "pretraining": json.loads((output_dir / "pretrained/pretrain.json").read_text()) | load_yaml(recipes.pretrain),
        "published": {"source": SOURCE, **vars(published)},
        "orderings": found,
        "counts": reproduce.counts(found),
        "comparison": summary,
    }
    content = comparison_keep.portable(content)
    write_json(output_dir / "report.json", content)
    text = reproduce_report.report(content, published)
    write_text(output_dir / "report.md", text)
    print(f"\n{text}\n{output_dir}/{{report.md,report.json}}, {folder}/{{table.md,coverage.png,training.png}}")
    if config.keep is not None:
        write_json(Path(config.keep), content)
        print(f"kept as {config.keep}")


def check_stages(name: str, recipes, pretrain: Sequence[str], compare: Sequence[str]) -> tuple:
    """The comparison's fields and the task; an error for what either stage would refuse later."""
    from polytune.app.pretrain import PretrainConfig
    from polytune.comparison import methods as comparison_methods
    from polytune.comparison.options import ComparisonConfig
    from polytune.config import AdapterConfig, PolicyConfig, TaskConfig

    task_config, policy_config, comparison = parse(
        (TaskConfig, PolicyConfig, ComparisonConfig), compare, description=""
    )
    cloned, _, _ = parse((TaskConfig, AdapterConfig, PretrainConfig), pretrain, description="")
    for path, named in ((recipes.compare, task_config.task), (recipes.pretrain, cloned.task)):
        if named != name:
            raise UsageError(f"{path} is for task {named!r}, not {name!r}: mend the YAML.")
    methods = comparison_methods.read_methods(parse, comparison, task_config, policy_config)
    comparison_methods.check_methods(methods, comparison, task_config, policy_config)
    task, _, _ = comparison_methods.check_starts(methods, comparison, task_config)
    return comparison, task


def run_stage(stage: str, words: Sequence[str]) -> None:
    """One of the ordinary recipes in a process of its own."""
    from polytune.running.run_queue import run_attached

    print(f"== {stage}: python {' '.join(command(stage, words))}", flush=True)
    status = run_attached([*start(stage), *words])
    if status != 0:
        raise ValueError(
            f"recipes/{stage}.py ended with status {status}: mend what it says above and give the same command again."
        )


if __name__ == "__main__":
    run(main)
