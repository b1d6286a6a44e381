"""Cross-checks between the parts of a run, before anything is loaded or rolled out."""

from __future__ import annotations

from polytune.config import ObjectiveConfig, RolloutConfig, check_sets, require, require_choice
from polytune.objective import CREDIT, check_enumerable, find_diversity, find_judge, find_objective
from polytune.rollout import BRANCHING
from polytune.tasks.base import Task
from polytune.trainer.config import PolychromicConfig

#: values of ``signature`` that need no judge
OWN_SIGNATURES = ("task", "actions")
#: objectives that are the best member's score: some set with the group's best holds any other member, too
BEST_OF_SET = ("pass_at_k", "max_at_k")


def check_run(args: PolychromicConfig, rollout: RolloutConfig, objective: ObjectiveConfig) -> None:
    """ValueError that names the fields which contradict each other, and the fix."""
    check_sets(rollout, objective)
    require_choice("credit", objective.credit, tuple(CREDIT))
    _check_scoring(rollout, objective)
    if objective.signature not in OWN_SIGNATURES:
        find_judge(objective.signature)
    require(
        objective.credit != "per_set" or args.loss_type == "dapo",
        f"credit 'per_set' corrects the clipped loss over all tokens, loss_type 'dapo', not {args.loss_type!r}.",
    )
    rule = BRANCHING[rollout.rollout_states]
    require(
        args.critic or rollout.num_rollout_states == 0 or not rule.needs_values,
        f"rollout_states is {rollout.rollout_states!r}, which asks the critic, but critic is off: switch it on, or set "
        "rollout_states to 'entropy', 'equally_spaced' or 'start'.",
    )
    require(
        args.num_generations == rollout.rows_per_prompt,
        f"num_generations is {args.num_generations}, but a tree has num_seeds * (1 + num_rollout_states * num_vines) = "
        f"{rollout.num_seeds} * (1 + {rollout.num_rollout_states} * {rollout.num_vines}) = {rollout.rows_per_prompt} "
        f"rows: set num_generations to {rollout.rows_per_prompt}.",
    )
    require(
        args.critic or objective.set_scope != "none",
        "critic is off and set_scope is 'none', so no action would be scored: switch one of them on.",
    )
    require(
        args.critic or objective.set_scope != "seeds" or rollout.num_rollout_states == 0,
        f"set_scope is 'seeds' and critic is off, so nobody would score the vines of {rollout.num_rollout_states} "
        "rollout states: set num_rollout_states to 0, or set_scope to 'both'.",
    )


def _check_scoring(rollout: RolloutConfig, objective: ObjectiveConfig) -> None:
    """Objective, diversity and credit: known, not at odds, and no enumeration that would never end."""
    goal, measure = find_objective(objective.objective), find_diversity(objective.diversity)
    require(
        objective.credit != "max" or objective.objective not in BEST_OF_SET or objective.set_size == 1,
        f"credit 'max' with objective {objective.objective!r} gives every member the score of the group's best set, so "
        "nothing tells actions apart: use credit 'mean' or 'leave_one_out'.",
    )
    read = measure.count_form is not None or not goal.reads_diversity
    closed = CREDIT[objective.credit].of_expectations is not None and goal.given_member is not None and read
    if objective.set_scope == "none" or objective.num_sets != "all" or closed:
        return
    for scope, members in (("vines", rollout.num_vines), ("seeds", rollout.num_seeds)):
        if objective.set_scope in (scope, "both"):
            check_enumerable(members, objective.set_size)


def check_signatures(task: Task, objective: ObjectiveConfig) -> None:
    """ValueError when the objective tells strategies apart and nothing gives it any."""
    require(
        objective.set_scope == "none"
        or objective.signature != "task"
        or task.gives_signatures
        or not find_objective(objective.objective).reads_signatures,
        f"task {task.name!r} gives no signatures, so objective {objective.objective!r} would see no diversity: write "
        "_place (or signature) in its episode class, set signature to 'actions' or to a judge, or set_scope to 'none'.",
    )
