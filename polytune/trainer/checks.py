"""Cross-checks between the parts of a run, before anything is loaded or rolled out."""

from __future__ import annotations

from collections.abc import Mapping

from polytune.checks import require
from polytune.config import ObjectiveConfig, RolloutConfig, check_sets
from polytune.methods import Method, build_methods
from polytune.objective import find_credit, find_judge, find_objective
from polytune.rollout import SeedView, find_branching
from polytune.tasks.base import Task
from polytune.trainer.config import PolychromicConfig
from polytune.trainer.replayed import wanted_rows
from polytune.trainer.set_checks import check_scoring

#: values of ``signature`` that need no judge
OWN_SIGNATURES = ("task", "actions")


def check_run(args: PolychromicConfig, rollout: RolloutConfig, objective: ObjectiveConfig) -> None:
    """ValueError that names the fields which contradict each other, and the fix. ``num_generations`` follows from the
    shape of the trees."""
    check_sets(rollout, objective)
    methods = build_methods(objective.methods, objective.method_options)
    for name, method in methods.items():
        require(
            not args.vine_values or not method.has("reward"),
            f"method {name!r} adds to rewards, and vine_values takes the task's returns for values: leave one out.",
        )
        method.check(args, rollout, objective)
    _check_apart(methods)
    _check_replacing(methods)
    _check_kl(args)
    check_scoring(args, rollout, objective)
    _check_beside_sets(methods, objective)
    if objective.signature not in OWN_SIGNATURES:
        find_judge(objective.signature)
    else:
        require(
            objective.judge_failure == "refuse",
            f"judge_failure is {objective.judge_failure!r}, but signature {objective.signature!r} asks no judge: leave "
            "it out, or name a judge.",
        )
    require(
        args.max_env_steps is None or args.averages_over_tokens,
        f"max_env_steps leaves rows blank, and loss_type {args.loss_type!r} averages over them: use 'dapo'"
        + (", with methods episode_mean for a mean over each episode." if args.loss_type == "grpo" else "."),
    )
    _check_rule(args, rollout, objective)
    args.set_tree(rollout)
    _check_wanted(args, methods)
    require(
        args.has_critic or objective.set_scope != "none",
        "critic is 'none' and set_scope is 'none', so no action would be scored: set critic to 'head', or set_scope.",
    )
    require(
        args.has_critic or objective.set_scope != "seeds" or rollout.num_rollout_states == 0,
        f"set_scope is 'seeds' and critic is 'none', so nobody would score the vines of {rollout.num_rollout_states} "
        "rollout states: set num_rollout_states to 0, or set_scope to 'both'.",
    )


def _check_apart(methods: Mapping[str, Method]) -> None:
    """Other weights sample an update's trees, and are put back before a second growth."""
    behaving, again = ([name for name, own in methods.items() if own.has(hook)] for hook in ("behave", "again"))
    require(
        not behaving or not again,
        f"method {', '.join(behaving)} samples the update's trees by other weights, and method {', '.join(again)} "
        "grows more of them by the policy's own: leave one out.",
    )


def _check_replacing(methods: Mapping[str, Method]) -> None:
    """One loss in the surrogate's place, one return in the task's, one reference, and nothing that changes advantages
    before they are put aside."""
    losses = [name for name, own in methods.items() if own.replaces == "loss"]
    weighing = [name for name, own in methods.items() if own.has("weight") and name not in losses]
    require(
        len(losses) < 2 and not (losses and weighing),
        f"method {losses[0] if losses else ''} puts a loss in the place of the clipped surrogate, which method "
        f"{', '.join([*losses[1:], *weighing])} replaces or weighs, too: leave one out.",
    )
    paying = [name for name, own in methods.items() if own.replaces == "return"]
    require(
        len(paying) < 2,
        f"methods {', '.join(paying)} each put another return in the place of an attempt's own, which would be taken "
        "away twice: leave one out.",
    )
    referring = [name for name, own in methods.items() if own.sets_reference]
    require(
        len(referring) < 2,
        f"methods {', '.join(referring)} each set the policy that the KL term refers to, so that the last one would "
        "win: leave one out.",
    )
    changing = [name for name, own in methods.items() if own.has("turn_advantage")]
    late = [name for name in changing[1:] if methods[name].replaces == "advantages"]
    require(
        not late,
        f"method {', '.join(late)} puts advantages in the place of those that method {', '.join(changing)} has changed "
        "before: name it first, and of several such methods one alone.",
    )


def _check_beside_sets(methods: Mapping[str, Method], objective: ObjectiveConfig) -> None:
    """What methods do to rewards and advantages: not at odds with what the objective and the credit rule take them
    for."""
    if objective.set_scope == "none":
        return
    paying = [name for name, method in methods.items() if method.pays_failures]
    require(
        not paying or not find_objective(objective.objective).wins_above_0,
        f"objective {objective.objective!r} takes a reward above 0 for a success, and method {', '.join(paying)} "
        "changes the rewards of failures, too: use objective 'polychromic' or 'mean', or leave the method out.",
    )
    changing = [
        name
        for name, method in methods.items()
        if method.rewrites or (method.has("turn_advantage") and not method.only_adds)
    ]
    require(
        not changing or find_credit(objective.credit).deductions is None,
        f"credit {objective.credit!r} keeps what sets give and take apart, and method {', '.join(changing)} changes "
        "their difference: set credit to 'mean', which is the same until clipping acts.",
    )


def _check_rule(args: PolychromicConfig, rollout: RolloutConfig, objective: ObjectiveConfig) -> None:
    """Where vines branch: known, at all, and not at odds with the critic."""
    require(
        rollout.num_rollout_states > 0 or rollout.rollout_states == RolloutConfig.rollout_states,
        f"rollout_states is {rollout.rollout_states!r}, but num_rollout_states is 0: no vine branches anywhere.",
    )
    require(
        rollout.num_rollout_states > 0 or rollout.branch_at == RolloutConfig.branch_at,
        f"branch_at is {rollout.branch_at!r}, but num_rollout_states is 0: no vine branches anywhere.",
    )
    rule = find_branching(rollout.rollout_states)
    rule.check(args, rollout, objective)
    require(
        rollout.num_rollout_states == 0 or rule.names_all or args.averages_over_tokens,
        f"rollout_states {rollout.rollout_states!r} may name fewer turns than num_rollout_states, which leaves rows "
        f"blank, and loss_type {args.loss_type!r} averages over them: use 'dapo'.",
    )
    if rollout.num_rollout_states:
        known = [[0.5] * 10 if needed else None for needed in (rule.needs_values, rule.needs_entropies)]
        rule.turns(
            SeedView(10, *known, most_turns=10), rollout.num_rollout_states
        )  # a user's own shows its faults here
    require(
        rollout.branch_at == "turn" or not rule.needs_values,
        f"branch_at is 'token' and rollout_states {rollout.rollout_states!r}, but the critic values turns: set "
        "rollout_states to 'entropy', 'equally_spaced' or 'start'.",
    )
    require(
        args.has_critic or rollout.num_rollout_states == 0 or not rule.needs_values,
        f"rollout_states is {rollout.rollout_states!r}, which asks the critic, but critic is 'none': set it to 'head', "
        "or rollout_states to 'entropy', 'equally_spaced' or 'start'.",
    )
    require(
        not args.vine_values or not rule.foresees,
        f"vine_values is true, but where rollout_states {rollout.rollout_states!r} puts vines depends on how the seed "
        "trajectory goes on, so their return there would bias it: set rollout_states to 'fixed' or 'start', or "
        "vine_values to false.",
    )
    require(
        not args.vine_values or (rollout.num_rollout_states > 0 and rollout.branch_at == "turn"),
        f"vine_values is true, but num_rollout_states is {rollout.num_rollout_states} and branch_at "
        f"{rollout.branch_at!r}, so no vine starts between turns: leave vine_values off.",
    )


def _check_wanted(args: PolychromicConfig, methods: Mapping[str, Method]) -> None:
    """A process grows a tree at least beside the rows that methods want."""
    rows, tree = args.rows_per_process, args.num_generations
    wanted = {name: method.wanted_rows(rows) for name, method in methods.items()}
    told = ", ".join(f"{name} {count}" for name, count in wanted.items() if count)
    require(min(wanted.values(), default=0) >= 0, f"methods want {told} rows: wanted_rows must return 0 or more.")
    require(
        not sum(wanted.values()) or args.averages_over_tokens,
        f"methods want {told} rows for replay, which are blank to loss_type {args.loss_type!r}, and it averages over "
        "them: use 'dapo'.",
    )
    require(
        rows - sum(wanted.values()) >= tree,
        f"of the {rows} rows that a process has in an update, methods want {told} for replay, which leaves none of the "
        f"{tree} that a tree takes: let them want fewer (method_args), or make per_device_train_batch_size "
        f"({args.per_device_train_batch_size}) * steps_per_generation ({args.minibatches}) larger.",
    )


def _check_kl(args: PolychromicConfig) -> None:
    """Direction and reference of the KL term: not at odds, and nothing of TRL's that would turn it into another."""
    pretrained = args.kl_reference == "pretrained"
    require(
        args.kl_direction is None or args.kl_coef > 0.0,
        f"kl_direction is {args.kl_direction!r}, but kl_coef is 0, so there is no KL term: raise kl_coef, or leave "
        "kl_direction out.",
    )
    require(
        args.kl_direction != "forward" or args.loss_type == "dapo",
        f"kl_direction 'forward' is a mean over all tokens, as loss_type 'dapo', not {args.loss_type!r}.",
    )
    require(
        pretrained or args.kl_direction != "reverse",
        "kl_direction is 'reverse', but with kl_reference 'behaviour' the term is KL(behaviour || policy): leave "
        "kl_direction out, or set kl_reference to 'pretrained'.",
    )
    require(
        args.use_bias_correction_kl,
        "use_bias_correction_kl is False, which makes TRL's term neither of the two divergences: leave it at True, and "
        "set kl_direction to 'forward' for KL(pretrained || policy).",
    )
    require(
        not args.sync_ref_model,
        "sync_ref_model would move the reference away from the policy that the run began with, and a resumed run would "
        "not know where to: leave it off, kl_reference 'behaviour' moves along.",
    )
    require(
        not (pretrained and args.kl_coef > 0.0 and args.importance_sampling_level != "token"),
        f"importance_sampling_level is {args.importance_sampling_level!r}, which would weigh the tokens' KL by whole "
        "episodes: leave it at 'token', or set kl_reference to 'behaviour'.",
    )


def check_budget(args: PolychromicConfig, rollout: RolloutConfig, objective: ObjectiveConfig, task: Task) -> None:
    """ValueError for environment steps that the batches cannot hold even if every episode takes the whole horizon.

    For comparisons, whose runs must spend their budget; a run by itself warns.
    """
    methods, rows = build_methods(objective.methods, objective.method_options), args.rows_per_process
    trees = (rows - wanted_rows(methods.values(), rows)) // rollout.rows_per_prompt * args.world_size
    most = trees * rollout.rows_per_prompt * task.horizon * args.num_updates
    require(
        args.max_env_steps is None or args.max_env_steps <= most,
        f"max_env_steps is {args.max_env_steps}, but {args.num_updates} updates of {trees} trees of "
        f"{rollout.rows_per_prompt} episodes of {task.horizon} turns take {most} at most: raise "
        "per_device_train_batch_size or num_updates.",
    )


def check_branching(task: Task, rollout: RolloutConfig) -> None:
    """ValueError for branches within an answer in a world of many turns."""
    require(
        rollout.branch_at == "turn" or task.answer_end is not None,
        f"branch_at is 'token', but task {task.name!r} takes many turns, each of its actions a word: set branch_at to "
        "'turn'.",
    )
