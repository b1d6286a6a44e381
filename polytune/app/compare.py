"""Compare methods fairly: every method x seed from one pretrained policy, at equal environment and gradient steps.

    python recipes/compare.py                                        # recipes/fourrooms/compare.yaml
    python recipes/compare.py --methods recipes/fourrooms/ppo.yaml mine=my.yaml --seeds 3 --set num_updates=12 \\
        --model outputs/quickstart/pretrained --output_dir outputs/mine --keep data/results/mine.json

Trains each method with each seed (recipes/finetune.py) and samples each policy (recipes/evaluate.py), --workers runs
at a time, the first seed of every method first. Writes report.html (open it in a browser), table.md, summary.json,
coverage.png and training.png: measures with 95 % intervals over seeds and start states, paired differences, and how
many seeds would resolve those that are not. The table is refused when methods' budgets differ by over 1 %
(--budget_tolerance). The same command continues what was stopped and retries what failed; with fewer --seeds it shows
what is finished. With --perturb start_room every policy is evaluated under that perturbation as well: a table more, and
coverage_start_room.png.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from polytune.app.cli import parse, run
from polytune.places import RECIPES, command


def main(argv: Sequence[str]) -> None:
    # ---------------------------------------------------------------- configuration
    from polytune.comparison.options import ComparisonConfig, parse_seeds
    from polytune.config import PolicyConfig, TaskConfig

    flagged = {word.split("=")[0] for word in argv}
    task_config, policy_config, config = parse(
        (TaskConfig, PolicyConfig, ComparisonConfig),
        argv,
        description=__doc__,
        default_config=None if "--methods" in flagged else RECIPES / "fourrooms/compare.yaml",
    )
    policy_config.cpu_threads = policy_config.cpu_threads or 1
    seeds, output_dir = parse_seeds(config.seeds), Path(config.output_dir)

    from polytune.comparison import keep, kept, methods, runs

    keep.check_folder(config.keep)
    keep.check_folder(config.keep_runs and f"{config.keep_runs}/{runs.NOTE_FILE}", "keep_runs")
    compared = methods.read_methods(parse, config, task_config, policy_config)
    notes = methods.check_methods(compared, config, task_config, policy_config)

    # ---------------------------------------------------------------- task, start states, policy
    from polytune.policy import load_policy
    from polytune.running.identity import contents, digest_of_starts

    task, starts, more = methods.check_starts(compared, config, task_config)
    training = methods.training_starts(task, task_config)
    load_policy(policy_config.model, **policy_config.loading())
    programs = runs.Programs(
        policy_config.model,
        methods.shared_flags(task_config, policy_config),
        methods.override_flags(config.set),
        config,
        contents(task, starts) | {runs.TRAINING_STARTS: digest_of_starts(training)},
        starts,
    )
    planned = runs.plan_runs(compared, seeds, output_dir)
    for one in planned:
        programs.check(one)
    archive = kept.KeptRuns(config.keep_runs, programs) if config.keep_runs else None
    if archive:
        archive.settle(planned)

    # ---------------------------------------------------------------- train and evaluate
    from polytune.comparison.progress import tell_failures
    from polytune.evaluation.summary import counted

    told = f"{len(compared)} methods x {counted(len(seeds), 'seed')}, {len(starts):,} {task.starts} of {task.name}"
    failed = _run(programs, planned, archive, config, told, [*notes, *more])

    # ---------------------------------------------------------------- budgets, intervals, tables, plots, JSON
    whole = [
        seed for seed in seeds if not any(one.name in failed for one in planned if one.method and one.seed == seed)
    ]
    settings = asdict(task_config) | asdict(policy_config) | asdict(config) | {"pretrained": programs.pretrained}
    origin = keep.provenance(command("compare", argv), compared, settings)
    title = f"{task.name}, {task_config.split or task.default_split}"
    try:
        if whole and planned[0].name not in failed:
            _write_up(task, starts, title, config, compared, planned, whole, {**origin, "failed": sorted(failed)})
    finally:
        tell_failures(failed)
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(planned)} runs failed ({', '.join(failed)}), the others are done: mend the cause "
            "and give the same command again."
        )


def _run(programs, planned, archive, config, told: str, notes: Sequence[str]) -> dict[str, Any]:
    """Train and evaluate what is not done, and keep it (``archive``); name -> outcome of the runs that failed."""
    from polytune.comparison.progress import Progress
    from polytune.running.run_queue import run_jobs

    due = {one.name: one for one in planned if not programs.is_done(one)}
    workers = config.workers or len(os.sched_getaffinity(0))
    print(f"{told}: {len(planned) - len(due)} of {len(planned)} runs are done, {workers} at a time")
    for note in notes:
        print(f"note: {note}")
    with Progress(due) as progress:
        then = [archive.keep] if archive else []
        jobs = {name: programs.job(one, *then) for name, one in due.items()}
        outcomes = run_jobs(jobs, workers=workers, folder=Path(config.output_dir), on_outcome=progress.tell)
    return {name: outcome for name, outcome in outcomes.items() if outcome.error is not None}


def _write_up(
    task, starts: Sequence[int], title: str, config, compared, planned, whole: Sequence[int], more: dict[str, Any]
) -> None:
    """Tables, pictures, JSON and page of the seeds that every method has finished (``whole``)."""
    from polytune import report
    from polytune.comparison import figures, keep, perturbed, plot, table
    from polytune.running.provenance import write_json, write_text
    from polytune.tasks.creativity.tasks import CreativityTask

    output_dir = Path(config.output_dir)
    read = partial(figures.read_figures, task=task, level=config.level, starts=starts)
    by_method = {m.name: [read(one) for one in planned if one.method is m and one.seed in whole] for m in compared}
    figures.check_budgets([f for own in by_method.values() for f in own], config.budget_tolerance)
    given = (read(planned[0]), by_method)
    common = {"baseline": config.baseline or compared[0].name, "level": config.level, "seed": config.evaluation_seed,
              "starts": task.starts}  # fmt: skip
    summary = figures.compare(*given, **common)
    if config.perturb:
        summary["perturbed"] = perturbed.compare_perturbed(*given, config.perturb, **common)
    kept = keep.portable({"title": title, **more, **summary, "failed": more["failed"]})
    write_json(output_dir / "summary.json", kept)
    write_text(output_dir / "table.md", table.report(summary, title))
    draw = plot.plot_creativity if isinstance(task, CreativityTask) else plot.plot_coverage_curves
    draw(summary, output_dir / "coverage.png", title=title)
    for name, moved in summary.get("perturbed", {}).items():
        draw(moved, output_dir / f"coverage_{name}.png", title=f"{title}, {name}")
    plot.plot_training(by_method, output_dir / "training.png", title=title, level=config.level)
    print(f"\n{table.on_screen(summary, title)}\n")
    print(f"{output_dir}{os.sep}{{table.md,summary.json,coverage.png,training.png}}")
    if config.keep and not more["failed"]:
        write_json(Path(config.keep), kept)
        print(f"kept as {config.keep}")
    report.write_page(report.of_comparison.build(task, kept, *given), output_dir / report.REPORT_FILE)
    print(f"report: {output_dir / report.REPORT_FILE}")


if __name__ == "__main__":
    run(main)
