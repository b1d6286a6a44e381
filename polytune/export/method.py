"""How a run trained, in words, with the names of its equations: a pure function of its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polytune.config import parse_method_args
from polytune.lookup import is_path
from polytune.methods import build_methods

OBJECTIVES = {
    "polychromic": "the **polychromic objective** f(G) = mean reward of G x d(G) (Poly-PPO, arXiv 2509.25424; "
    "Poly-EPO, arXiv 2604.17654)",
    "mean": "the **mean reward** of G, which is standard RL",
    "pass_at_k": "**pass@k**: f(G) = 1 when a member of G succeeds, else 0 (PKPO, arXiv 2505.15201)",
    "max_at_k": "**max@k**: f(G) = highest reward in G (PKPO, arXiv 2505.15201)",
    "additive": "the **additive bonus** f(G) = mean reward of G + {diversity_coef:g} d(G)",
    "coverage": "**coverage**: f(G) = distinct signatures among the winning members of G / n",
}
CREDITS = {
    "mean": "**marginal set advantage** (Poly-EPO, arXiv 2604.17654): a member's advantage is the mean score of the "
    "sets that hold it, less the mean over all sets",
    "leave_one_out": "**leave-one-out credit**: a member's advantage is the mean over its sets G of f(G) - f(G without "
    "it)",
    "per_set": "**one clipped row per set** (Poly-PPO, arXiv 2509.25424): a member's advantage is the mean score of "
    "its sets less the baseline, and each set is clipped on its own",
    "max": "**best-set credit**: a member's advantage is that of its best set, less the mean over all sets",
}
DIVERSITIES = {
    "distinct_fraction": "distinct signatures / n",
    "zero_if_identical": "distinct signatures / n, and 0 when all members are alike",
    "excess": "(distinct signatures - 1) / (n - 1)",
    "vendi": "Vendi score / n (arXiv 2210.02410)",
    "action_distance": "mean edit distance of the action sequences",
}
GROUPS = {
    "vines": "the vines of a rollout state",
    "seeds": "the episodes of a start state",
    "both": "the vines of a rollout state, and the episodes of a start state",
}
NORMALISED = {
    "std": "divided by their standard deviation over the update (their mean, where that is larger)",
    "mean_std": "standardised over the update",
    "group_std": "centred and divided by each group's standard deviation",
    "none": "not scaled",
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
            f"{NORMALISED[objective['gae_normalise']]}."
        )
    elif objective["set_scope"] != "none":
        points.append("No critic: what no set scores is not trained.")
    points.append(
        f"Loss: **PPO's clipped surrogate** (arXiv 1707.06347, equation 7), epsilon {trainer['epsilon']:g}, "
        f"{trainer['num_iterations']} passes over the rows of an update, averaged over tokens ({trainer['loss_type']})."
    )
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
    return (
        f"Rollouts are **vine trees** (Poly-PPO, arXiv 2509.25424): {start[0].lower()}{start[1:]}, and {vines} vines "
        f"from each of {states} rollout states along {'it' if seeds == 1 else 'each of them'} "
        f"(`{rollout['rollout_states']}`)."
    )


def _sets(objective: Mapping[str, Any], rollout: Mapping[str, Any]) -> list[str]:
    if objective["set_scope"] == "none":
        return ["No sets: each action is credited with its own outcome (PPO, REINFORCE)."]
    name, size, diversity = objective["objective"], objective["set_size"], objective["diversity"]
    groups = GROUPS[objective["set_scope"]]
    score = OBJECTIVES.get(name, f"an objective of its own, `{name}`").format_map(objective)
    drawn = "all" if objective["num_sets"] == "all" else f"{objective['num_sets']} random"
    first = f"Sets: {drawn} sets G of n = {size} among {groups} are scored by {score}"
    if "d(G)" in score or name not in OBJECTIVES:
        first += f", d = {DIVERSITIES.get(diversity, f'`{diversity}`')}"
    strategy = {"task": "the task's signature", "actions": "the sequence of actions"}
    judged = strategy.get(objective["signature"], f"the judge `{objective['signature']}`")
    window = objective["window"]
    reach = "all of a member's actions" if window in (-1, None) else f"a member's first action and the next {window}"
    return [
        f"{first}; {judged} tells strategies apart.",
        f"Credit: {CREDITS.get(objective['credit'], objective['credit'])}. It acts on {reach}, "
        f"{NORMALISED[objective['set_normalise']]}"
        + (f", times {objective['set_weight']:g}." if objective["set_weight"] != 1 else "."),
    ]


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
    ("trainer", "kl_coef"), ("trainer", "kl_reference"), ("trainer", "kl_direction"), ("trainer", "epsilon"),
    ("trainer", "num_iterations"),
    ("trainer", "per_device_train_batch_size"), ("trainer", "steps_per_generation"),
    ("trainer", "gradient_accumulation_steps"), ("trainer", "max_grad_norm"), ("trainer", "temperature"),
    ("trainer", "seed"), ("trainer", "bf16"), ("trainer", "save_dtype"), ("policy", "dtype"), ("rollout", "num_seeds"),
    ("rollout", "num_rollout_states"), ("rollout", "num_vines"), ("rollout", "rollout_states"),
    ("objective", "objective"), ("objective", "diversity"), ("objective", "signature"), ("objective", "set_size"),
    ("objective", "set_scope"), ("objective", "credit"), ("objective", "num_sets"), ("objective", "window"),
    ("objective", "set_normalise"), ("objective", "gae_normalise"), ("objective", "gamma"),
    ("objective", "gae_lambda"), ("objective", "methods"), ("objective", "method_args"), ("adapter", "lora_r"),
    ("adapter", "lora_alpha"), ("adapter", "use_rslora"),
)  # fmt: skip


def hyperparameters(run: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> value of the fields that decide what was learnt; LoRA's and methods' only where there are any."""
    skipped = () if run["adapter"]["use_peft"] else ("adapter",)
    shown = {name: run[part][name] for part, name in SHOWN if part not in skipped and name in run[part]}
    return {name: value for name, value in shown.items() if value != []}
