"""Compare policies by pass@k on the same start states: n independent samples of each, every attempt kept.

    python recipes/evaluate.py                              # the quick start's two policies
    python recipes/evaluate.py --policies before=outputs/quickstart/pretrained after=outputs/run \\
        --split unseen --n 32 --output_dir outputs/run/evaluation

Writes records.jsonl (every attempt), summary.json (success, return, pass@k with intervals, distinct signatures, greedy
success, paired differences to the first policy) and coverage.png. A run that was stopped continues where it was.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from polytune.cli import UsageError, parse, run, set_cpu_threads


def main(argv: Sequence[str]) -> None:
    # ---------------------------------------------------------------- configuration
    from polytune.config import EvaluationConfig, PolicyConfig, TaskConfig

    task_config, policy_config, config = parse((TaskConfig, PolicyConfig, EvaluationConfig), argv, description=__doc__)
    set_cpu_threads(policy_config.cpu_threads)
    paths = named_policies(config.policies)
    output_dir = Path(config.output_dir)

    from tqdm.auto import tqdm

    from polytune.evaluation import as_table, summarise, verdict
    from polytune.evaluation.plot import plot_coverage
    from polytune.evaluation.records import continue_records, plan, read_records, sample_records
    from polytune.policy import Renderer, TransformersGenerator, load_policy
    from polytune.policy.provenance import demonstration_hashes, fingerprint, set_aside_other_run, write_json
    from polytune.rollout import RolloutCounters
    from polytune.tasks import load_task
    from polytune.tasks.splits import load_split

    # ---------------------------------------------------------------- task, start states, policies
    task = load_task(task_config.task, **task_config.task_options)
    unseen_of = [h for path in paths.values() for h in demonstration_hashes(path)]
    seeds = load_split(
        task,
        task_config.split,
        data_dir=task_config.data_dir,
        unseen_of=unseen_of if task_config.split == "unseen" else (),
    )[: task_config.num_start_states]
    policies = {name: load_policy(path) for name, path in paths.items()}
    output_dir.mkdir(parents=True, exist_ok=True)
    settings = {"task": task_config, "policy": policy_config, "evaluation": config}
    set_aside_other_run(output_dir, settings, {name: fingerprint(path) for name, path in paths.items()})

    # ---------------------------------------------------------------- sample
    attempts = plan(list(paths), seeds, config.n)
    records_file = output_dir / "records.jsonl"
    done = continue_records(records_file, attempts)
    seconds = dict.fromkeys(paths, 0.0)
    with (
        records_file.open("a") as file,
        tqdm(total=len(attempts), initial=done, unit="episode", disable=None) as progress,
    ):
        for name, (model, tokenizer) in policies.items():
            renderer = Renderer(tokenizer, task, show_instructions=policy_config.show_instructions)
            for greedy in (True, False):
                due = [a for a in attempts[done:] if a.policy == name and (a.attempt < 0) == greedy]
                progress.set_description(f"{name}{' (greedy)' if greedy else ''}")
                generator = TransformersGenerator(
                    model,
                    temperature=config.temperature,
                    max_action_tokens=policy_config.max_action_tokens,
                    stop_ids=renderer.stop_ids,
                    greedy=greedy,
                )
                start = time.perf_counter()
                for cohort in sample_records(
                    task,
                    renderer,
                    generator,
                    due,
                    run_seed=config.seed,
                    max_branches=policy_config.max_branches,
                    counters=RolloutCounters(),
                    on_episode=progress.update,
                ):
                    file.writelines(json.dumps(record) + "\n" for record in cohort)
                    file.flush()
                seconds[name] += time.perf_counter() - start

    # ---------------------------------------------------------------- summarise, plot, say it
    records = read_records(records_file)
    summary = summarise(records, list(paths), level=config.level, seed=config.seed)
    for name in paths:
        summary["policies"][name]["seconds"] = seconds[name]
    summary["command"] = " ".join([Path(sys.argv[0]).name, *argv])
    summary["policy_paths"] = {name: str(path) for name, path in paths.items()}
    summary["settings"] = {"task": task.name, "horizon": task.horizon, "split": task_config.split, "n": config.n,
                           "temperature": config.temperature, "seed": config.seed}  # fmt: skip
    summary["versions"] = {"python": platform.python_version()} | {
        name: version(name) for name in ("polytune", "torch", "transformers", "trl", "minigrid", "numpy")
    }
    write_json(output_dir / "summary.json", summary)
    title = f"{task.name}, {task_config.split}: {len(seeds)} start states x {config.n} samples"
    plot_coverage(summary, records, output_dir / "coverage.png", title=title)
    print(f"\n{title}\n\n{as_table(summary)}\n")
    print("\n".join(verdict(summary)))
    print(f"\nrecords, summary and plot: {output_dir}{os.sep}{{records.jsonl,summary.json,coverage.png}}")


def named_policies(entries: Sequence[str]) -> dict[str, str]:
    """``NAME=PATH`` or ``PATH`` (named after its folder) -> {name: path}."""
    paths: dict[str, str] = {}
    for entry in entries:
        name, _, path = entry.partition("=") if "=" in entry else (Path(entry).name, "", entry)
        if not name or not path or name in paths:
            raise UsageError(f"policies has {entry!r}: give each policy a path and a name of its own, as NAME=PATH.")
        paths[name] = path
    return paths


if __name__ == "__main__":
    run(main)
