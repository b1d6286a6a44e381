"""Checks of what sets are scored with: fields that leave them without signal, or that nothing reads."""

from __future__ import annotations

from dataclasses import replace

import torch

from polytune.checks import require
from polytune.config import ObjectiveConfig, RolloutConfig
from polytune.lookup import is_path
from polytune.methods import build_methods
from polytune.objective import (
    Credit,
    Diversity,
    Objective,
    check_enumerable,
    find_credit,
    find_diversity,
    find_objective,
    find_scaling,
)
from polytune.tasks.base import Task
from polytune.trainer.advantages import score_with
from polytune.trainer.config import PolychromicConfig

#: fields of sets that ask for what there is not without any; their sizes and scales may stay, so that ``set_scope``
#: alone turns sets of a recipe off
OF_SETS = ("objective", "diversity", "credit", "signature", "reward_shift", "set_size_end")


def check_scoring(args: PolychromicConfig, rollout: RolloutConfig, objective: ObjectiveConfig) -> None:
    """Objective, diversity, credit, scalings: known, not at odds, and no enumeration that would never end."""
    goal, measure = find_objective(objective.objective), find_diversity(objective.diversity)
    rule = find_credit(objective.credit)
    scalings = [find_scaling(field, getattr(objective, field)) for field in ("gae_normalise", "set_normalise")]
    for scaling in scalings:
        scaling.apply(torch.zeros(1), 0.0, 1.0)  # a user's own shows its faults here
    scalings[0].check(args, rollout, objective)
    if objective.set_scope == "none":
        _check_without_sets(objective)
        return
    _check_read(objective, goal, measure)
    for row in (goal, measure, rule, scalings[1]):
        row.check(args, rollout, objective)
    members = _members(rollout, objective)
    _check_tell_apart(objective, goal, measure, rule, members)
    closed = rule.of_expectations is not None and goal.closed_with(measure)
    if objective.num_sets == "all" and not closed:
        for number in members.values():
            for size in range(min(objective.set_sizes), max(objective.set_sizes) + 1):
                check_enumerable(number, size)


def _members(rollout: RolloutConfig, objective: ObjectiveConfig) -> dict[str, int]:
    """Field -> members of the groups that sets are taken from."""
    vines = {"num_vines": rollout.num_vines} if objective.set_scope in ("vines", "both") else {}
    return vines | ({"num_seeds": rollout.num_seeds} if objective.set_scope in ("seeds", "both") else {})


def _check_without_sets(objective: ObjectiveConfig) -> None:
    for name in OF_SETS:
        value, default = getattr(objective, name), getattr(ObjectiveConfig, name)
        require(
            value == default,
            f"{name} is {value!r}, but has no effect without sets: set set_scope to 'vines', 'seeds' or 'both'.",
        )


def _check_read(objective: ObjectiveConfig, goal: Objective, measure: Diversity) -> None:
    """The objective reads, or the log shows, what is given to it."""
    require(
        objective.diversity_coef == ObjectiveConfig.diversity_coef or is_path(objective.objective) or goal.reads_coef,
        f"diversity_coef is {objective.diversity_coef}, but objective {objective.objective!r} has no such weight: "
        "objectives 'additive', 'uncertain_max' and 'floored' have.",
    )
    require(
        goal.reads_diversity or measure.count_form is not None,
        f"diversity is {objective.diversity!r}, but objective {objective.objective!r} reads none, and it is not logged "
        "either: leave it out, or set objective to 'polychromic' or 'additive'.",
    )


def _check_tell_apart(
    objective: ObjectiveConfig, goal: Objective, measure: Diversity, rule: Credit, members: dict[str, int]
) -> None:
    """Sets tell members apart at every size that the run takes."""
    smallest, largest = min(objective.set_sizes), max(objective.set_sizes)
    whole = " and ".join(members)
    require(
        largest < max(members.values()) or not rule.needs_others,
        f"{_named(objective, largest)} {largest} takes all of {whole}: every set is the whole group, so "
        f"it is its own baseline, and every advantage is 0. Raise {whole}, lower set_size, or set credit "
        "to 'leave_one_out'.",
    )
    require(
        smallest > 1 or not measure.flat_alone or not goal.reads_diversity,
        f"diversity {objective.diversity!r} of a set of one is always the same, so {_named(objective, smallest)} 1 "
        f"leaves objective {objective.objective!r} without it: raise it, or use objective 'mean'.",
    )


def _named(objective: ObjectiveConfig, size: int) -> str:
    return "set_size" if size == objective.set_size else "set_size_end"


def check_signatures(task: Task, start_state: int, rollout: RolloutConfig, objective: ObjectiveConfig) -> None:
    """ValueError when the objective tells strategies apart and nothing gives it any, or cannot be scored at all."""
    methods = build_methods(objective.methods, objective.method_options).values()
    signs = [method.signs for method in methods if method.signs is not None]
    require(
        objective.set_scope == "none"
        or bool(signs)
        or objective.signature != "task"
        or task.gives_signatures
        or not find_objective(objective.objective).reads_signatures,
        f"task {task.name!r} gives no signatures, so objective {objective.objective!r} would see no diversity: write "
        "_place (or signature) in its episode class, set signature to 'actions' or to a judge, or set_scope to 'none'.",
    )
    if objective.set_scope == "none":
        return
    example = {"task": task.start(start_state).signature(), "actions": tuple(task.actions[:1])}.get(
        objective.signature, 0
    )
    example = signs[-1] if signs else example
    number = max(_members(rollout, objective).values())
    worth = 0.5 if task.answer_end is None else task.start(start_state).step("").reward  # what no answer earns
    for size in sorted({*objective.set_sizes}):
        score_with(replace(objective, set_size=size, set_size_end=None), [[worth + objective.reward_shift] * number],
                   [[example] * number], seed=0)  # fmt: skip
