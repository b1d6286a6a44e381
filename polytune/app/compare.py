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

    from polytune.comparison import keep as comparison_keep
    from polytune.comparison import methods as comparison_methods
    from polytune.comparison import runs as comparison_runs

    comparison_keep.check_folder(config.keep)
    methods = comparison_methods.read_methods(parse, config, task_config, policy_config)
    notes = comparison_methods.check_methods(methods, config, task_config, policy_config)
    baseline = config.baseline or methods[0].name

    # ---------------------------------------------------------------- task, start states, policy
    from polytune.policy import load_policy
    from polytune.tasks.creativity.tasks import CreativityTask

    task, starts, more = comparison_methods.check_starts(methods, config, task_config)
    notes, split = [*notes, *more], task_config.split or task.default_split
    load_policy(policy_config.model, **policy_config.loading())
    programs = comparison_runs.Programs(
        policy_config.model,
        comparison_methods.shared_flags(task_config, policy_config),
        comparison_methods.override_flags(config.set),
        config,
    )
    runs = comparison_runs.plan_runs(methods, seeds, output_dir)
    for one in runs:
        programs.check(one)

    # ---------------------------------------------------------------- train and evaluate
    from polytune.comparison.progress import Progress, tell_failures
    from polytune.evaluation.summary import counted
    from polytune.running.run_queue import run_jobs

    due = {one.name: one for one in runs if not programs.is_done(one)}
    workers = config.workers or len(os.sched_getaffinity(0))
    print(f"{len(methods)} methods x {counted(len(seeds), 'seed')}, {len(starts):,} {task.starts} of {task.name}: "
          f"{len(runs) - len(due)} of {len(runs)} runs are done, {workers} at a time")  # fmt: skip
    for note in notes:
        print(f"note: {note}")
    with Progress(due) as progress:
        jobs = {name: programs.job(one) for name, one in due.items()}
        outcomes = run_jobs(jobs, workers=workers, folder=output_dir, on_outcome=progress.tell)
    failed = {name: outcome for name, outcome in outcomes.items() if outcome.error is not None}

    # ---------------------------------------------------------------- budgets, intervals, tables, plots, JSON
    from polytune import report
    from polytune.comparison import figures as comparison
    from polytune.comparison import perturbed as comparison_perturbed
    from polytune.comparison import plot as comparison_plot
    from polytune.comparison import table as comparison_table
    from polytune.running.provenance import write_json

    whole = [seed for seed in seeds if not any(one.name in failed for one in runs if one.method and one.seed == seed)]
    try:
        if whole and runs[0].name not in failed:
            read = partial(comparison.read_figures, task=task, level=config.level)
            by_method = {m.name: [read(one) for one in runs if one.method is m and one.seed in whole] for m in methods}
            comparison.check_budgets([f for own in by_method.values() for f in own], config.budget_tolerance)
            given = (read(runs[0]), by_method)
            common = {
                "baseline": baseline,
                "level": config.level,
                "seed": config.evaluation_seed,
                "starts": task.starts,
            }
            summary = comparison.compare(*given, **common)
            if config.perturb:
                summary["perturbed"] = comparison_perturbed.compare_perturbed(*given, config.perturb, **common)
            title = f"{task.name}, {split}"
            settings = (
                asdict(task_config) | asdict(policy_config) | asdict(config) | {"pretrained": programs.pretrained}
            )
            origin = comparison_keep.provenance(command("compare", argv), methods, settings)
            kept = comparison_keep.portable({"title": title, **origin, **summary, "failed": sorted(failed)})
            write_json(output_dir / "summary.json", kept)
            (output_dir / "table.md").write_text(comparison_table.report(summary, title))
            plots = comparison_plot
            draw = plots.plot_creativity if isinstance(task, CreativityTask) else plots.plot_coverage_curves
            draw(summary, output_dir / "coverage.png", title=title)
            for name, moved in summary.get("perturbed", {}).items():
                draw(moved, output_dir / f"coverage_{name}.png", title=f"{title}, {name}")
            comparison_plot.plot_training(by_method, output_dir / "training.png", title=title)
            print(f"\n{comparison_table.on_screen(summary, title)}\n")
            print(f"{output_dir}{os.sep}{{table.md,summary.json,coverage.png,training.png}}")
            if config.keep and not failed:
                write_json(Path(config.keep), kept)
                print(f"kept as {config.keep}")
            report.write_page(report.of_comparison.build(task, kept, *given), output_dir / report.REPORT_FILE)
            print(f"report: {output_dir / report.REPORT_FILE}")
    finally:
        tell_failures(failed)
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(runs)} runs failed ({', '.join(failed)}), the others are done: mend the cause and "
            "give the same command again."
        )


if __name__ == "__main__":
    run(main)
