"""How a run trained, in words, with the names of its equations: a pure function of its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polytune.checks import parse_method_args
from polytune.lookup import is_path
from polytune.methods import build_methods
from polytune.objective import find_credit, find_diversity, find_objective, find_scaling
from polytune.rollout import find_branching

GROUPS = {
    "vines": "the vines of a rollout state",
    "seeds": "the episodes of a start state",
    "both": "the vines of a rollout state, and the episodes of a start state",
}
#: loss_type -> what the loss of its tokens becomes (TRL's ``compute_loss``)
LOSSES = {
    "dapo": "averaged over all tokens of a batch",
    "bnpo": "averaged over the tokens of each process's part of a batch",
    "grpo": "averaged over the tokens of each row, then over rows",
    "dr_grpo": "summed over the tokens of each row and divided by a constant, {max_completion_length}, then averaged "
    "over rows",
}


def method(run: Mapping[str, Any]) -> list[str]:
    """Points of a list, from the settings in ``run.json``."""
    objective, trainer, adapter = run["objective"], run["trainer"], run["adapter"]
    points = [_trees(run["rollout"]), *_sets(objective, run["rollout"])]
    if trainer["critic"] not in ("none", False):  # runs before the kinds had a yes or no
        where = "every action" if objective["set_scope"] == "none" else "the actions outside the sets' reach"
        points.append(
            f"{where[0].upper()}{where[1:]}: **GAE** (arXiv 1506.02438, equation 16) over turns from a learnt critic, "
            f"gamma {objective['gamma']:g}, lambda {objective['gae_lambda']:g}, "
            f"{_scaled('gae_normalise', objective)}."
        )
    elif objective["set_scope"] != "none":
        points.append("No critic: what no set scores is not trained.")
    points.append(_loss(trainer))
    if trainer["kl_coef"] > 0:
        pair = "behaviour policy || policy"
        if trainer["kl_reference"] == "pretrained":
            forward = trainer.get("kl_direction") == "forward"
            pair = "pretrained policy || policy" if forward else "policy || pretrained policy"
        points.append(f"**KL({pair})**, weight {trainer['kl_coef']:g}.")
    points += _methods(objective)
    if trainer.get("entropy_coef"):
        points.append(f"Entropy bonus, weight {trainer['entropy_coef']:g}.")
    if adapter["use_peft"]:
        scale = "alpha / sqrt(r), arXiv 2312.03732" if adapter["use_rslora"] else "alpha / r"
        points.append(
            f"**LoRA** (arXiv 2106.09685, equation 3): h = W x + s B A x, r {adapter['lora_r']}, alpha "
            f"{adapter['lora_alpha']}, s = {scale}, on {_modules(adapter)}; the base is frozen."
        )
    return points


def _loss(trainer: Mapping[str, Any]) -> str:
    """The clipped surrogate, and what it is a mean over; fields that came later may be missing."""
    low, high, name = trainer["epsilon"], trainer.get("epsilon_high"), trainer["loss_type"]
    clip = f"epsilon {low:g}" if high in (None, low) else f"epsilon {low:g} below and {high:g} above"
    if (delta := trainer.get("delta")) is not None:
        clip += f", ratios cut at {delta:g}"
    if trainer.get("importance_sampling_level", "token") == "sequence":
        clip += ", one ratio for all tokens of a row"
    mean = LOSSES[name].format_map(trainer) if name in LOSSES else "averaged"
    passes = "one pass" if trainer["num_iterations"] == 1 else f"{trainer['num_iterations']} passes"
    return (
        f"Loss: **PPO's clipped surrogate** (arXiv 1707.06347, equation 7), {clip}, {passes} over the rows of an "
        f"update, {mean} (`{name}`)."
    )


def _methods(objective: Mapping[str, Any]) -> list[str]:
    """What each method says of itself; of a user's own, which need not be importable here, its name and options."""
    if objective.get("ucb_coef"):  # runs before there were methods
        objective = {"methods": ["ucb"], "method_args": [f"ucb.coef={objective['ucb_coef']}"]}
    names = objective.get("methods", [])
    options = parse_method_args(names, objective.get("method_args", []))
    points = []
    for name in names:
        if is_path(name):
            told = ", ".join(f"{key} {value}" for key, value in options.get(name, {}).items())
            points.append(f"A method of its own, `{name}`" + (f" ({told})." if told else "."))
        else:
            points.append(build_methods([name], options)[name].says())
    return points


def _trees(rollout: Mapping[str, Any]) -> str:
    seeds, states, vines = rollout["num_seeds"], rollout["num_rollout_states"], rollout["num_vines"]
    start = f"From each start state {seeds} {'episode' if seeds == 1 else 'independent episodes'}"
    if states == 0:
        return f"Rollouts: {start[0].lower()}{start[1:]}."
    rule = rollout["rollout_states"]
    where = f"`{rule}`" if is_path(rule) else f"`{rule}`, {find_branching(rule).says}"
    return (
        f"Rollouts are **vine trees** (Poly-PPO, arXiv 2509.25424): {start[0].lower()}{start[1:]}, and {vines} vines "
        f"from each of {states} rollout states along {'it' if seeds == 1 else 'each of them'} "
        f"({where})."
    )


def _sets(objective: Mapping[str, Any], rollout: Mapping[str, Any]) -> list[str]:
    if objective["set_scope"] == "none":
        return ["No sets: each action is credited with its own outcome (PPO, REINFORCE)."]
    name, size, diversity = objective["objective"], objective["set_size"], objective["diversity"]
    groups = GROUPS[objective["set_scope"]]
    score = f"an objective of its own, `{name}`" if is_path(name) else find_objective(name).says.format_map(objective)
    drawn = "all" if objective["num_sets"] == "all" else f"{objective['num_sets']} random"
    last = objective.get("set_size_end")
    falls = "" if last in (None, size) else f", by the end of the run {last},"
    first = f"Sets: {drawn} sets G of n = {size}{falls} among {groups} are scored by {score}"
    if is_path(name) or find_objective(name).reads_diversity:
        first += f", d = {f'`{diversity}`' if is_path(diversity) else find_diversity(diversity).says}"
    strategy = {"task": "the task's signature", "actions": "the sequence of actions"}
    judged = strategy.get(objective["signature"], f"the judge `{objective['signature']}`")
    window = objective["window"]
    credit = objective["credit"]
    credited = f"a rule of its own, `{credit}`" if is_path(credit) else find_credit(credit).says
    reach = "all of a member's actions" if window in (-1, None) else f"a member's first action and the next {window}"
    return [
        f"{first}; {judged} tells strategies apart.",
        f"Credit: {credited}. It acts on {reach}, {_scaled('set_normalise', objective)}"
        + (f", times {objective['set_weight']:g}." if objective["set_weight"] != 1 else "."),
    ]


def _scaled(field: str, objective: Mapping[str, Any]) -> str:
    name = objective[field]
    return f"scaled by `{name}`" if is_path(name) else find_scaling(field, name).says


def _modules(adapter: Mapping[str, Any]) -> str:
    names = adapter["lora_target_modules"]
    text = "every linear layer but the output head" if not names else ", ".join(f"`{name}`" for name in names)
    whole = adapter["lora_modules_to_save"]
    return text + (f", with {', '.join(f'`{name}`' for name in whole)} trained whole" if whole else "")


#: (part of run.json, field) of the table of hyperparameters
SHOWN = (
    ("trainer", "num_updates"), ("trainer", "max_env_steps"), ("trainer", "learning_rate"),
    ("trainer", "lr_scheduler_type"), ("trainer", "critic"), ("trainer", "critic_learning_rate"),
    ("trainer", "critic_passes"), ("trainer", "critic_minibatches"), ("trainer", "vine_values"),
    ("trainer", "kl_coef"), ("trainer", "kl_reference"), ("trainer", "kl_direction"), ("trainer", "loss_type"),
    ("trainer", "epsilon"), ("trainer", "epsilon_high"), ("trainer", "delta"), ("trainer", "importance_sampling_level"),
    ("trainer", "entropy_coef"), ("trainer", "value_coef"), ("trainer", "num_iterations"),
    ("trainer", "per_device_train_batch_size"), ("trainer", "steps_per_generation"),
    ("trainer", "gradient_accumulation_steps"), ("trainer", "max_grad_norm"), ("trainer", "temperature"),
    ("trainer", "seed"), ("trainer", "bf16"), ("trainer", "save_dtype"), ("policy", "dtype"), ("rollout", "num_seeds"),
    ("rollout", "num_rollout_states"), ("rollout", "num_vines"), ("rollout", "rollout_states"),
    ("objective", "objective"), ("objective", "diversity"), ("objective", "signature"), ("objective", "set_size"),
    ("objective", "set_size_end"), ("objective", "set_scope"), ("objective", "set_weight"), ("objective", "credit"),
    ("objective", "num_sets"),
    ("objective", "window"), ("objective", "set_normalise"), ("objective", "gae_normalise"), ("objective", "gamma"),
    ("objective", "gae_lambda"), ("objective", "methods"), ("objective", "method_args"), ("adapter", "lora_r"),
    ("adapter", "lora_alpha"), ("adapter", "use_rslora"),
)  # fmt: skip
#: of these, what a run without a critic does not read
OF_THE_CRITIC = (
    "critic_learning_rate", "critic_passes", "critic_minibatches", "vine_values", "value_coef", "gae_normalise",
    "gae_lambda",
)  # fmt: skip


def hyperparameters(run: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> value of the fields that decide what was learnt; those of LoRA, of methods and others that may stay unset
    only where they are set, those of a critic only where there is one."""
    skipped = () if run["adapter"]["use_peft"] else ("adapter",)
    idle = () if run["trainer"]["critic"] not in ("none", False) else OF_THE_CRITIC
    shown = {
        name: run[part][name] for part, name in SHOWN if part not in skipped and name in run[part] and name not in idle
    }
    return {name: value for name, value in shown.items() if value not in ([], None)}
