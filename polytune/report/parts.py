"""Sections that the report of an evaluation and that of a comparison share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polytune.config import TaskConfig
from polytune.evaluation.columns import Records
from polytune.evaluation.summary import counted
from polytune.measures.intervals import resolved_sign
from polytune.report import runs as files
from polytune.report import tracks
from polytune.report.page import Html, Page, command, folded, grid, paragraphs, part, table
from polytune.tasks import Task
from polytune.tasks.starts import task_of

#: on sections that the two reports have both
CREATIVITY_LEAD = (
    "Of one answer to each prompt: validity, the share that is valid; diversity, distinct valid objects / prompts; "
    "creativity, distinct valid objects that training does not show / prompts, which ends at the dashed ceiling."
)
PERTURBED_LEAD = "The same start states with something moved, sampled as often."
#: runs whose trees a report steps through
SHOWN_RUNS = 12


def number(value: float | None, sign: str = "") -> str:
    """Three digits after the point below 1, two below 100, none above; a dash for what is not known."""
    if value is None:
        return "–"
    size = abs(value)
    digits = 3 if size < 1 else 2 if size < 100 else 0
    return f"{value:{sign},.{digits}f}"


def interval(value: Mapping[str, Any] | None, sign: str = "") -> Html:
    """The estimate, its interval below it in small type."""
    if value is None or value["estimate"] is None:
        return Html("–")
    ends = [] if value["low"] is None else [number(value[end], sign) for end in ("low", "high")]
    return part("interval", number(value["estimate"], sign), ends)


def gap(value: Mapping[str, Any]) -> Html:
    """A paired difference: coloured where its interval excludes 0."""
    kind = {1: "up", -1: "down", 0: "open"}[resolved_sign(value["low"], value["high"])]
    return part("gap", kind, interval(value, "+"))


def cards(named: Mapping[str, Sequence[tuple[str, Any]]]) -> Html:
    """A card for each policy with its headline figures."""
    return part("cards", named)


def training(page: Page, by_method: Mapping[str, Sequence[files.RunFiles]], names: Sequence[str]) -> None:
    """Training curves, and what the groups taught; sections stay empty where no run logged anything."""
    curves = page.section(
        "training",
        "Training",
        "Each update's rollouts against the environment steps that the run had taken."
        + (" Thin lines: single seeds." if any(len(runs) > 1 for runs in by_method.values()) else ""),
    )
    made = files.training_charts(by_method, names)
    if made:
        curves.parts += [
            legend(names, [n for n, own in by_method.items() if any(run.metrics for run in own)]),
            grid([page.chart(spec) for spec in made]),
        ]
    signal = page.section(
        "signal",
        "Signal and collapse",
        "A group whose sets all score alike gives its members no set advantage. Signatures and entropy that fall while "
        "success rises are the collapse that set objectives are to prevent.",
    )
    told, blind = files.warnings(by_method), files.without_groups(by_method)
    rows = [["", *files.ENDS.values()]]
    for own in files.first_and_last(by_method):
        pairs = (own[metric] for metric in files.ENDS)
        rows.append([own["policy"], *("–" if p is None else f"{number(p[0])} → {number(p[1])}" for p in pairs)])
    if len(rows) > 1:
        if told:
            signal.parts.append(paragraphs(told, kind="warnings"))
        elif len(blind) < len(rows) - 1:
            signal.parts.append(paragraphs(["No sign of collapse in the groups of the runs."], kind="fine"))
        if blind:
            line = f"{', '.join(blind)}: training forms no groups, so how alike siblings became was not measured there."
            signal.parts.append(part("lead", line))
        signal.parts.append(table(rows, caption="first update → last update, means over seeds"))
        signal.parts.append(grid([page.chart(spec) for spec in files.signal_charts(by_method)]))


def coverage_lead(starts: str, level: float, samples: int) -> str:
    """How to read the charts of coverage; ``starts``: what the mean is over."""
    if samples == 1:
        return "One sample of each: there is no curve."
    return (
        f"pass@k: the chance that at least one of k independent samples succeeds, a mean over {starts}. Bands: "
        f"{100 * level:.4g} % intervals. Click a name below a chart to pick it out."
    )


def legend(names: Sequence[str], shown: Sequence[str]) -> Html:
    """The colours of those policies that are shown."""
    return part("legend", names, shown)


def maps(
    page: Page, task: Task, tables: Mapping[str, Any], of_each: Mapping[str, Records], *, whose: str = ""
) -> list[str]:
    """Every policy's sampled paths on some start states, coloured by signature; returns what could not be shown.

    Args:
        tables: policy -> `summary.per_start`.
        of_each: unperturbed records of these policies; ``whose``: which of several runs they are from.
    """
    starts = tracks.start_states_to_show(tables)
    every, kind = next(iter(tables.values())), "most distinct winning signatures are"
    if len(tables) > 1:
        kind = "the policies differ most in distinct winning signatures, so they show more difference than there is"
        kind += " on average"
    strategy = "A colour is a signature, what counts as one strategy (on grids: the places visited, named on the map)"
    chosen = (
        "all start states"
        if len(starts) == len(every)
        else f"{counted(len(starts), 'start state')}: those where {kind}"
    )
    section = page.section(
        "maps",
        "Where they went",
        f"Sampled episodes{whose} on {chosen}. {strategy}; a full line with a star succeeds, a dashed one with a cross "
        "fails. Tap a signature to pick it out.",
    )
    if not starts or not tracks.has_map(task, starts[0]):
        return []
    shown, notes = [], []
    for start in starts:
        own = {name: list(records.where(start_seed=start, greedy=False)) for name, records in of_each.items()}
        try:
            found = tracks.paths_at(task, start, own)
        except tracks.OtherLevel as error:
            notes.append(f"{error}: no map of it")
            continue
        if found is None:
            return ["no maps: the records do not hold what each turn did, so it cannot be acted out again"]
        shown.append(found)
    if shown:
        section.parts.append(page.widget("maps", shown))
    return notes


def vines(page: Page, runs: Sequence[files.RunFiles]) -> list[str]:
    """The trees that the runs kept; returns what could not be shown."""
    section = page.section(
        "vines",
        "Rollout trees",
        "What an update tried from one start state, and what it was credited. Vines leave their seed trajectory at its "
        "rollout states (numbers on the thick line); whole episodes from a start state are a group of their own. Step "
        "through the turns with the buttons, the slider or the arrow keys.",
    )
    found, notes = [], []
    for run in (run for run in runs if run.trees):
        try:
            task, signed = task_of(TaskConfig(**run.settings["task"])), _is_signed_by_task(run)
            trees = list(tracks.trees_of(task, run.trees, signed=signed))
        except (KeyError, TypeError, ValueError, AttributeError, ImportError) as error:
            notes.append(f"the trees of {run.folder} cannot be shown ({type(error).__name__}: {error})")
            continue
        found.append({"name": run.label, "trees": trees})
    found.sort(key=lambda own: not any(tree["seed"] for tree in own["trees"]))  # those with vines first
    if len(found) > SHOWN_RUNS:
        notes.append(f"trees of {SHOWN_RUNS} of {len(found)} runs are shown")
    if found:
        section.parts.append(page.widget("vines", found[:SHOWN_RUNS]))
    return notes


def _is_signed_by_task(run: files.RunFiles) -> bool:
    return run.settings["objective"]["signature"] == "task"


def origin(page: Page, summary: Mapping[str, Any], runs: Sequence[files.RunFiles], notes: Sequence[str]) -> None:
    """How everything came about: commands, versions, seeds, settings of each run."""
    section = page.section(
        "origin",
        "How this was made",
        "Commands (without a launcher as accelerate launch), versions and seeds as they ran.",
    )
    sampled = summary.get("sampled_by", {})
    section.parts += [command(made["command"]) for made in (sampled, summary) if made]
    trained = [command(run.settings["origin"]["command"]) for run in runs if "origin" in run.settings]
    if trained:
        section.parts.append(folded(f"Commands of the training ({len(trained)})", trained))
    section.parts.append(_versions(summary, runs))
    settings = summary.get("settings", {})
    section.parts.append(folded("Settings of the evaluation", [_settings(settings)]))
    for run in runs:
        own = {f"{part}.{name}": value for part, fields in run.settings.items() if part not in ("origin", "trainer")
               for name, value in fields.items()}  # fmt: skip
        own |= {name: value for name, value in run.settings.get("trainer", {}).items() if name in TRAINER_FIELDS}
        if own:
            section.parts.append(folded(f"Settings of {run.label} ({run.folder})", [_settings(own)]))
    missing = [f"{run.name}: {run.folder} holds no training metrics" for run in runs if not run.metrics]
    told = [*notes, *(note for run in runs for note in run.notes), *missing]
    if told:
        section.parts.append(folded("What this report could not show", [paragraphs(told)]))


#: of transformers' and TRL's fields, those that a reader asks for; run.json has all
TRAINER_FIELDS = (
    "learning_rate", "critic", "critic_learning_rate", "critic_passes", "critic_minibatches", "vine_values",
    "num_updates", "max_env_steps", "num_generations", "per_device_train_batch_size", "steps_per_generation",
    "num_iterations", "epsilon", "epsilon_high", "kl_coef", "kl_reference", "kl_direction", "max_grad_norm",
    "loss_type", "seed", "bf16", "temperature",
)  # fmt: skip


def _versions(summary: Mapping[str, Any], runs: Sequence[files.RunFiles]) -> Html:
    """The versions that the evaluation ran with, and of training those that differ."""
    found = {"this analysis": summary["versions"]}
    others = {"sampling": summary.get("sampled_by", {})}
    others |= {f"training of {run.name}": run.settings.get("origin", {}) for run in runs}
    for title, made in others.items():
        if made and made["versions"] not in found.values():
            found[title] = made["versions"]
    names = list(dict.fromkeys(name for own in found.values() for name in own))
    rows = [["", *found], *([name, *(own.get(name, "–") for own in found.values())] for name in names)]
    return table(rows, caption="versions")


def _settings(settings: Mapping[str, Any]) -> Html:
    shown = [[name, "unset" if value is None else value] for name, value in settings.items()]
    return table([["field", "value"], *shown])


def as_rows(cells: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> list[list[Any]]:
    """Measures down, policies across: ``cells`` is policy -> measure -> interval."""
    rows: list[list[Any]] = [["", *cells]]
    rows += [[title, *(interval(own.get(name)) for own in cells.values())] for name, title in titles.items()]
    return rows
