"""Compare policies by pass@k on the same start states: n independent samples of each, every attempt kept.

    python recipes/evaluate.py --report                     # the quick start's two policies, with a page to look at
    python recipes/evaluate.py --policies before=outputs/quickstart/pretrained after=outputs/run \\
        --split unseen --n 32 --output_dir outputs/run/evaluation

    python recipes/evaluate.py --from_records outputs/run/evaluation --k 1 8 32 --level 0.9      # without sampling
    python recipes/evaluate.py --perturb start_room         # the same start states with the agent in another room, too

Writes records.jsonl (every attempt), summary.json (success, return, pass@k with intervals, distinct signatures, greedy
success, paired differences of each pair of policies, where their pass@k curves cross) and coverage.png, with --perturb
also perturbed.txt, with --report also report.html, one page that opens from disk. A run that was stopped continues
where it was, and --perturb adds to one that is finished: what is recorded stays in its tables.

Creativity tasks (sibling, triangle, circle, line) are measured on their test prompts by how many different valid and
unseen answers there are. Texts from elsewhere are scored, too: --task triangle --completions FILE.jsonl.
"""

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from polytune.app.cli import UsageError, parse, refuse_unused, run, set_cpu_threads
from polytune.places import command
from polytune.privacy import private
from polytune.terminal import Bar

#: where an evaluation goes that names no folder
OUTPUT_DIR = "outputs/quickstart/evaluation"


def main(argv: Sequence[str]) -> None:
    # ---------------------------------------------------------------- configuration
    from polytune.config import PolicyConfig, TaskConfig
    from polytune.evaluation.options import EvaluationConfig

    given: list[str] = []
    classes = (TaskConfig, PolicyConfig, EvaluationConfig)
    task_config, policy_config, config = parse(classes, argv, description=__doc__, given=given)
    refuse_unused(policy_config, {"model": "name the checkpoints with --policies"})
    set_cpu_threads(policy_config.cpu_threads)
    if config.from_records is not None or config.completions is not None:
        return _without_sampling(task_config, config, argv, config.seed if "seed" in given else None)
    output_dir = Path(config.output_dir or OUTPUT_DIR)
    paths = named_policies(config.policies)

    from polytune.evaluation import perturbed, records
    from polytune.policy import GeneratorsInTurn
    from polytune.report import analysis
    from polytune.running import provenance
    from polytune.running.ending import hold
    from polytune.running.identity import contents
    from polytune.tasks.splits import says_unseen
    from polytune.tasks.starts import starts_of, task_of

    # ---------------------------------------------------------------- task, start states, policies
    task, shown = task_of(task_config), provenance.demonstration_hashes
    split, starts = starts_of(
        task, task_config, levels_shown=lambda: [level for path in paths.values() for level in shown(path)]
    )
    tasks = perturbed.tasks_under(task, task_config, config.perturb, starts, seed=config.seed)
    models, renderers = _policies(task, starts, paths, task_config, policy_config, config)
    generators = GeneratorsInTurn(policy_config, models, paths, renderers, temperature=config.temperature or 1.0)
    hold(output_dir, name=records.LOCK_FILE)
    settings = {"task": task_config, "policy": policy_config, "evaluation": config}
    settings[provenance.CONTENT] = contents(task, starts)
    before = provenance.set_aside_other_run(
        output_dir, settings, {name: provenance.fingerprint(path) for name, path in paths.items()}
    )

    # ---------------------------------------------------------------- sample
    records_file = output_dir / provenance.RECORDS_FILE
    perturb = records.with_recorded(records_file, config.perturb)
    unbuilt = [name for name in perturb if name not in tasks]
    tasks |= perturbed.tasks_under(task, task_config, unbuilt, starts, seed=config.seed)
    planned = records.plan(list(paths), starts, config.n, perturb, greedy=config.greedy)
    seconds = _taken_over(before, records_file, planned)
    batches = records.cohorts(planned, policy_config.max_branches)
    done = records.continue_records(records_file, batches)
    print(f"{', '.join(paths)}: {len(planned):,} episodes of {task.name}, {sum(map(len, batches[:done])):,} of them "
          "recorded before", flush=True)  # fmt: skip
    if says_unseen(split) and (silent := [name for name, path in paths.items() if not shown(path)]):
        print(f"note: {', '.join(silent)} came without demonstrations.json: compared with the train split alone")
    _sample(tasks, renderers, generators, batches, done, config, output_dir, seconds)
    generators.shutdown()

    # ---------------------------------------------------------------- summarise, plot, say it
    asked = {"n": config.n, "temperature": config.temperature, "seed": config.seed, "task_args": task_config.task_args}
    more = provenance.origin(command("evaluate", argv))
    places = {name: str(Path(p).resolve()) if Path(p).is_dir() else p for name, p in paths.items()}
    more["policy_paths"] = private(places)
    more["settings"] = {"task": task.name, "horizon": task.horizon, "split": split, **asked}
    everything = records.read_records(records_file)
    records.check_repeats(everything)
    analysis.analyse(task, everything, config, output_dir, split=split, more=more, seconds=seconds)


def _taken_over(before, records_file: Path, planned) -> dict[str, float]:
    """The seconds of each policy's records, after those of policies that stay have come over from a file that was set
    aside."""
    if before.aside is None:
        return before.seconds
    from polytune.evaluation.records import take_over

    shares = take_over(before.aside, records_file, before.alike, planned)
    if taken := [name for name in before.seconds if shares.get(name)]:
        gone = "" if before.aside.exists() else ", which is removed: nothing else was in it"
        print(f"{', '.join(taken)}: records taken over from {before.aside.name}{gone}")
    return {name: seconds * shares.get(name, 0.0) for name, seconds in before.seconds.items()}


def _without_sampling(task_config, config, argv: Sequence[str], seed: int | None) -> None:
    """Records of an earlier evaluation, or texts from elsewhere; ``seed``: the one that is asked for."""
    if config.from_records is not None:
        unused = ("policies", "completions", "n", "perturb", "temperature", "greedy", "trust_remote_code", "coreset")
        refuse_unused(config, dict.fromkeys(unused, "records are analysed as they are"))
        from polytune.report.analysis import analyse_recorded

        return analyse_recorded(task_config, config, command("evaluate", argv), seed)
    unused = ("policies", "n", "k", "temperature", "greedy", "perturb", "report", "coreset")
    refuse_unused(config, dict.fromkeys(unused, "completions are scored as they are"))
    refuse_unused(task_config, dict.fromkeys(("split", "num_start_states"), "completions bring their own prompts"))
    from polytune.report.creativity import score_file

    config.output_dir = config.output_dir or OUTPUT_DIR
    return score_file(task_config, config, command=command("evaluate", argv))


def _policies(
    task, starts: Sequence[int], paths: Mapping[str, str], task_config, policy_config, config
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(models, renderers) by name; one that cannot play this task is refused before another one is sampled."""
    from polytune.policy import build_renderer, load_policy
    from polytune.policy.generators import set_aside_warps
    from polytune.policy.loading import positions_of
    from polytune.running.provenance import other_horizon, other_task_args

    loading = policy_config.loading(config.trust_remote_code)
    policies = {name: load_policy(path, **loading) for name, path in paths.items()}
    renderers = {name: build_renderer(tokenizer, task, policy_config) for name, (_, tokenizer) in policies.items()}
    for name, path in paths.items():
        trained = other_task_args(path, task.name, task_config.task_args)
        if trained is not None:
            print(f"note: {name} was trained with task_args {trained}, it is evaluated with {task_config.task_args}")
        horizon = other_horizon(path, task.name, task.horizon)
        if horizon is not None:
            print(f"note: {name} was trained on episodes of {horizon} turns, it is evaluated on ones of {task.horizon}")
        renderers[name].check_vocabulary()
        longest = policy_config.max_action_tokens or renderers[name].longest_action()
        renderers[name].check_prompts(starts, positions_of(policies[name][0]), longest)
        if asked := set_aside_warps(policies[name][0]):
            print(f"note: {name}'s generation_config.json asks for {asked}, left aside: pass@k is of the whole "
                  f"distribution at temperature {config.temperature:g}")  # fmt: skip
    return {name: model for name, (model, _) in policies.items()}, renderers


def _sample(tasks, renderers, generators, batches, done: int, config, output_dir: Path, seconds) -> None:
    """The cohorts that are not recorded yet, each written whole; ``seconds`` by policy grows along."""
    from polytune.digests import beginning_digest
    from polytune.evaluation.chosen import attempt_vectors
    from polytune.evaluation.records import sample_records
    from polytune.running.provenance import RECORDS_FILE, record_progress

    episodes, had = sum(map(len, batches)), sum(map(len, batches[:done]))
    with (output_dir / RECORDS_FILE).open("a+b") as file, Bar("episode", total=episodes, done=had) as bar:
        written = beginning_digest(file, file.tell())
        record_progress(output_dir, seconds, file.tell(), written.hexdigest())
        for number, cohort in enumerate(batches[done:], start=done + 1):
            (name, moved), greedy = cohort[0].part, cohort[0].attempt < 0
            bar.describe(f"{name}{f', {moved}' if moved else ''}{' (greedy)' if greedy else ''}")
            start, generator = time.perf_counter(), generators.of(name, greedy=greedy or not config.temperature)
            vectors = None
            if config.coreset:
                vectors = partial(attempt_vectors, generator.model, tasks[moved], renderers[name])
            lines = sample_records(tasks[moved], renderers[name], generator, cohort, run_seed=config.seed,
                                   on_episode=bar.advance, vectors=vectors)  # fmt: skip
            content = "".join(json.dumps(line) + "\n" for line in lines).encode()
            file.write(content)
            file.flush()
            written.update(content)
            seconds[name] += time.perf_counter() - start
            record_progress(output_dir, seconds, file.tell(), written.hexdigest())
            had += len(cohort)
            last = number == len(batches) or batches[number][0].part != cohort[0].part
            bar.tell(f"{name}: {had:,} of {episodes:,} episodes, {seconds[name]:.0f} s", now=last)


def named_policies(entries: Sequence[str]) -> dict[str, str]:
    """``NAME=PATH`` or ``PATH`` (named after its folder) -> {name: path}."""
    paths: dict[str, str] = {}
    for entry in entries:
        named = "=" in entry and not Path(entry).exists()  # a folder may be called lr=1e-3
        name, _, path = entry.partition("=") if named else (Path(entry).name, "", entry)
        if not name or not path or name in paths:
            raise UsageError(f"policies has {entry!r}: give each policy a path and a name of its own, as NAME=PATH.")
        paths[name] = path
    return paths


if __name__ == "__main__":
    run(main)
