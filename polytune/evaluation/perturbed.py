"""Policies under perturbations of their start states, which are the same start states with something moved.

Every policy is sampled as often under a perturbation as without, from the same seeds; differences are paired by start
state: perturbed - unperturbed of one policy, and one policy - the first under the perturbation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polytune.checks import require
from polytune.config import TaskConfig
from polytune.evaluation.columns import Records
from polytune.evaluation.summary import aligned, as_table, as_text, summarise, summarise_each, verdict
from polytune.tasks import Task, load_task
from polytune.tasks.starts import options_of

#: what the table of changes leaves out: pass@1 is the success rate
NOT_SHOWN = ("counts", "seconds", "pass@1")


def check_perturbations(task: Task, config: TaskConfig, names: Sequence[str]) -> None:
    """Refuse perturbations that the task does not offer, or that ``task_args`` set already.

    Raises:
        ValueError: names the value and the fix.
    """
    for name in names:
        task.check_perturbation(name, 0)
    own = [f"{name}={value}" for name, value in options_of(config).items() if name in ("perturb", "perturb_seed")]
    require(
        not names or not own,
        f"perturb is {' '.join(names)}, but task_args sets {' '.join(own)} for every start state: name perturbations "
        "in one place (their seed is the evaluation's).",
    )


def tasks_under(
    task: Task, config: TaskConfig, names: Sequence[str], seeds: Sequence[int], *, seed: int
) -> dict[str | None, Task]:
    """The task as it is (None) and under each perturbation, all start states of which are built once.

    Args:
        seeds: the start states; ``seed``: of the perturbations.

    Raises:
        ValueError: a perturbation is unknown, set twice, or impossible at a start state.
    """
    check_perturbations(task, config, names)
    options = {**options_of(config), "perturb_seed": seed}
    tasks = {name: load_task(config.task, **options, perturb=name) for name in names}
    for name, perturbed in tasks.items():
        impossible = {}
        for start in seeds:
            try:
                perturbed.start(start)
            except ValueError as error:
                impossible[start] = error
        if impossible:
            raise ValueError(
                f"perturbation {name!r} is impossible at {len(impossible)} of {len(seeds)} {task.starts} (seeds "
                f"{', '.join(map(str, [*impossible][:5]))}; {next(iter(impossible.values()))}): leave these out with a "
                "--split of the others, or do without the perturbation."
            )
    return {None: task, **tasks}


def summarise_perturbed(
    records: Records,
    policies: Sequence[str],
    names: Sequence[str],
    *,
    level: float,
    seed: int,
    ks: Sequence[int] = (),
) -> dict[str, Any]:
    """``{name: {...}}``: the summary of a perturbation's records, and ``changes``, each policy's perturbed -
    unperturbed."""
    found = {}
    for name in names:
        moved = records.where(perturb=name)
        found[name] = summarise(moved, policies, level=level, seed=seed, ks=ks)
        found[name]["changes"] = {}
        for policy in policies:
            sides = {"unperturbed": records.where(policy=policy, perturb=None), "perturbed": moved.where(policy=policy)}
            pair = summarise_each(sides, level=level, seed=seed, ks=ks, crossings=False)
            found[name]["changes"][policy] = pair["differences"]["perturbed"]
    return found


def change_table(summary: dict[str, Any], name: str) -> str:
    """Aligned text: each policy's measures without and with the perturbation, and the paired difference."""
    perturbed = summary["perturbed"][name]
    rows = [["", "", "unperturbed", name, f"{name} - unperturbed"]]
    for policy, changes in perturbed["changes"].items():
        both = [own["policies"][policy] for own in (summary, perturbed)]
        shown = [name for name in changes if name not in NOT_SHOWN and all(name in own for own in both)]
        for index, measure in enumerate(shown):
            cells = [as_text(own[measure], "") for own in both]
            rows.append([policy if index == 0 else "", measure, *cells, as_text(changes[measure])])
    return aligned(rows)


def report(summary: dict[str, Any], starts: str = "start states") -> str:
    """Of each perturbation: what it changes for every policy, and the policies compared under it."""
    parts = []
    for name, perturbed in summary.get("perturbed", {}).items():
        parts += [f"under {name}", change_table(summary, name)]
        if perturbed["differences"]:
            parts += [as_table(perturbed), "\n".join(f"under {name}: {line}" for line in verdict(perturbed, starts))]
    return "\n\n".join(parts)
