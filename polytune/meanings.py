"""What the figures of ``metrics.jsonl`` mean: unit, healthy range, and what to do outside it.

Those of the trainer stand here, those of a method in its own class (``Method.logs``). Ranges are
those seen in runs of this repository that learnt (FourRooms, BabyAI, the answer tasks); they are no promise for another
task. Imports nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Metric(NamedTuple):
    """``healthy``: a range in words; ``otherwise``: what to do outside it, nothing where no value is wrong."""

    meaning: str
    unit: str = ""
    healthy: str = "any"
    otherwise: str = ""


_SHARE, _NATS, _COUNT, _REWARD, _SECONDS = "share", "nats", "count", "reward", "seconds"

ROLLOUTS: dict[str, Metric] = {
    "rollout/success": Metric(
        "share of the update's whole episodes from start states that succeed; vines do not count",
        _SHARE,
        "rises over the run, between .05 and .95 at its beginning",
        "near 0: pretrain longer, shorten the horizon, or sample hotter; near 1: there is nothing left to learn",
    ),
    "rollout/return": Metric("mean return of the same episodes, not discounted, without bonuses of methods", _REWARD),
    "rollout/turns": Metric(
        "mean turns of the same episodes", "turns", "below the horizon", "at the horizon: episodes are cut, raise it"
    ),
    "rollout/turns_won": Metric(
        "mean turns of those of them that succeed",
        "turns",
        "near rollout/turns",
        "far below: long failures outweigh successes in a mean over tokens, see method episode_mean",
    ),
    "rollout/env_steps": Metric(
        "environment steps of the run so far, over all processes", _COUNT, "ends within a tree of max_env_steps"
    ),
    "rollout/trees": Metric(
        "trees of the update", _COUNT, "4 or more", "fewer: raise per_device_train_batch_size, or lower the vines"
    ),
    "rollout/episodes": Metric("episodes of the update, seed trajectories and vines", _COUNT),
    "rollout/start_states": Metric("distinct start states that the run has met", _COUNT, "reaches those of the split"),
    "rollout/passes": Metric("mean attempts at a start state so far: how often its turn came", "attempts"),
    "actions/invalid_rate": Metric(
        "share of actions that the task could not read; they cost a turn",
        _SHARE,
        "below .05",
        "above: pretrain longer on demonstrations, or tell the actions in the instructions",
    ),
    "duplicates/observed": Metric(
        "share of attempts that repeat an earlier one of their group word by word",
        _SHARE,
        "near duplicates/expected, and not rising",
        "rising: the policy collapses, see groups/distinct_share; far above the expected share the run stops by itself",
    ),
    "duplicates/expected": Metric("what duplicates/observed should be by the attempts' own probabilities", _SHARE),
    "judge/failed": Metric(
        "share of the update's groups on which the judge of texts failed", _SHARE, "0", "mend the judge"
    ),
}

GROUPS: dict[str, Metric] = {
    "groups/without_signal": Metric(
        "share of groups whose sets all score alike: they teach nothing",
        _SHARE,
        "below .5",
        "above: see the three causes below; larger groups, rollout_states start, or another objective",
    ),
    "groups/without_signal_equal_rewards": Metric(
        "the part of groups/without_signal whose members all earned the same",
        _SHARE,
        "below .4",
        "tasks too easy or too hard for the policy: methods open_states, vas or knapsack, or other start states",
    ),
    "groups/without_signal_equal_signatures": Metric(
        "the part of it whose rewards differ, but not their signatures, while the objective asks for them",
        _SHARE,
        "below .2",
        "signatures too coarse (task_args signature, a judge), or the policy has collapsed",
    ),
    "groups/without_signal_ties": Metric(
        "the part of it whose rewards and signatures differ, and still all sets tie",
        _SHARE,
        "below .1",
        "sets as large as the group (set_size), or an objective that does not tell them apart",
    ),
    "groups/equal_rewards": Metric("share of groups whose members all earned the same", _SHARE, "below .5"),
    "groups/equal_signatures": Metric(
        "share of groups with one signature at most", _SHARE, "below .5", "rising: siblings do the same, see entropy"
    ),
    "groups/diversity": Metric("mean diversity d(G) of the sets of a group", "0 to 1", "does not fall to 0"),
    "groups/distinct_signatures": Metric(
        "mean distinct signatures of a group",
        "signatures",
        "above 1, at most the group's size",
        "near 1: raise entropy_coef or temperature, or begin vines earlier",
    ),
    "groups/distinct_share": Metric(
        "of the signatures that a group's members could add to the first, the share that they do",
        _SHARE,
        "above collapse_share",
        "below: the run warns of a collapse; kl_reference pretrained, entropy_coef, learning_rate",
    ),
    "groups/distinct_winning": Metric(
        "mean distinct signatures of a group's successes",
        "signatures",
        "rises, or stays, while success rises",
        "falls while success rises: strategies are lost; that is what set objectives are for",
    ),
}

_RAW = "before anything divides it: comparable between methods"
_APPLIED = "of what the loss gets: divided, times set_weight"
ADVANTAGES: dict[str, Metric] = {
    "advantages/set_mean_raw": Metric(f"mean of the advantages by sets, {_RAW}", _REWARD),
    "advantages/set_scale_raw": Metric(
        f"standard deviation of the advantages by sets, {_RAW}",
        _REWARD,
        "above .001",
        "0: no group has a signal, see groups/without_signal",
    ),
    "advantages/set_mean_applied": Metric(f"mean of the advantages by sets, {_APPLIED}", "advantage", "-.5 to .5"),
    "advantages/set_scale_applied": Metric(
        f"standard deviation of the advantages by sets, {_APPLIED}",
        "advantage",
        "about 1 where set_normalise divides",
        "far below 1 with set_normalise none: the learning rate has to make up for it",
    ),
    "advantages/gae_mean_raw": Metric(f"mean of the critic's advantages, {_RAW}", _REWARD),
    "advantages/gae_scale_raw": Metric(f"standard deviation of the critic's advantages, {_RAW}", _REWARD, "above .001"),
    "advantages/gae_mean_applied": Metric(f"mean of the critic's advantages, {_APPLIED}", "advantage", "-.5 to .5"),
    "advantages/gae_scale_applied": Metric(
        f"standard deviation of the critic's advantages, {_APPLIED}", "advantage", "about 1 where gae_normalise divides"
    ),
}

CRITIC: dict[str, Metric] = {
    "critic/explained_variance": Metric(
        "share of the variance of fresh returns that the critic told before it learnt from them",
        "at most 1",
        "above 0 after a few updates",
        "negative for long: raise critic_passes or critic_learning_rate, or larger updates; see bench_critic",
    ),
    "critic/value_mean": Metric("mean value that the critic gives to decisions", _REWARD, "near rollout/return"),
    "critic/loss": Metric("half the mean squared error in the critic's passes", "reward²", "falls, then stays"),
    "critic/grad_norm": Metric(
        "norm of the critic's gradient before it is clipped", "", "does not grow", "grows: lower critic_learning_rate"
    ),
}

LOSS: dict[str, Metric] = {
    "loss": Metric("the loss of the policy, mean over the update's own tokens", "", "near 0; it need not fall"),
    "policy_loss": Metric("the loss without the entropy bonus, where entropy_coef is not 0", "", "near 0"),
    "grad_norm": Metric(
        "norm of the policy's gradient before it is clipped at max_grad_norm",
        "",
        "of one size over the run",
        "grows: lower learning_rate; 0: nothing has a signal",
    ),
    "entropy": Metric(
        "mean entropy of the policy at its own tokens",
        "nats a token",
        "falls slowly, stays above half of its start",
        "halved: raise entropy_coef, kl_coef with kl_reference pretrained, or methods clip_cov, kl_cov, lp_reg",
    ),
    "entropy_coef": Metric("the entropy bonus' coefficient that was applied", "", "as configured"),
    "kl": Metric(
        "KL of the policy to kl_reference, where kl_coef is not 0: in the behaviour form to the policy that sampled",
        "nats a token",
        "behaviour: below .05; pretrained: grows slowly",
        "above: lower learning_rate, raise kl_coef",
    ),
    "clip_ratio/low_mean": Metric("share of own tokens that the lower clip cuts off", _SHARE, "below .1"),
    "clip_ratio/high_mean": Metric("share of own tokens that the upper clip cuts off", _SHARE, "below .1"),
    "clip_ratio/region_mean": Metric(
        "share of own tokens that either clip cuts off",
        _SHARE,
        "below .2",
        "above: the steps are too large, lower learning_rate or num_iterations",
    ),
    "clip_ratio/low_min": Metric("the row with the smallest share at the lower clip", _SHARE),
    "clip_ratio/high_max": Metric("the row with the largest share at the upper clip", _SHARE),
    "learning_rate": Metric("learning rate of the last optimiser step", "", "as configured"),
    "replay/rows": Metric("rows of earlier updates that join the update", "rows", "what the methods want"),
    "replay/ratio": Metric(
        "mean ratio of the policy to the one that sampled a replayed token",
        "ratio",
        ".5 to 2",
        "outside: rows are too old, lower the method's age or size",
    ),
}

SAMPLING: dict[str, Metric] = {
    "sampling/logprob_gap": Metric(
        "mean distance of the generator's logprobs from the trainer's, of the same tokens",
        _NATS,
        "below .001 in float32, below .01 in bfloat16",
        "above: stale weights, another temperature, or a sampler that cuts the distribution; above .1 the run stops",
    ),
    "sampling/canary_gap": Metric(
        "mean distance of the logprobs of one branch, the first that this process sampled, from the trainer's, asked "
        "of vLLM once it has new weights",
        _NATS,
        "below .001 in float32, below .01 in bfloat16",
        "above: the engine has not got the new weights",
    ),
    "sampling/importance_ratio": Metric(
        "mean ratio of the trainer's probability to vLLM's, of own tokens",
        "ratio",
        ".95 to 1.05",
        "outside: the engine's numbers differ too much, use its float32 or the transformers generator",
    ),
    "sampling/importance_truncated": Metric("share of own tokens whose ratio was cut at the cap", _SHARE, "below .01"),
    "sampling/temperature_factor": Metric("mean factor that methods put on the temperature", "factor", "as configured"),
}

COSTS: dict[str, Metric] = {
    "tokens/sampled": Metric("tokens that the generator sampled so far", "tokens"),
    "tokens/prefilled": Metric("tokens that it ran through the model so far: prompts, feedback, own tokens", "tokens"),
    "tokens/reused": Metric("prefix tokens of forks whose keys and values were shared, so far", "tokens"),
    "tokens/recomputed": Metric(
        "prefix tokens of forks that were computed again, so far", "tokens", "0 with the transformers generator"
    ),
    "num_tokens": Metric("tokens of the rows that TRL was given so far, padding left out", "tokens"),
    "update/tokens_computed": Metric("tokens that the update's passes ran", "tokens"),
    "update/tokens_distinct": Metric(
        "those of them without prefixes that rows share", "tokens", "near update/tokens_computed"
    ),
    "seconds/rollouts": Metric("of the update's rollouts", _SECONDS),
    "seconds/scoring": Metric("of its scoring, without rollouts and critic", _SECONDS),
    "seconds/critic": Metric("of the critic's passes", _SECONDS),
    "seconds/update": Metric("of the passes with gradients", _SECONDS),
    "seconds/saving": Metric("of the checkpoint before this update", _SECONDS),
    "speed/env_steps_per_second": Metric("environment steps a second, of the whole loop", "1/s", "does not fall"),
    "speed/tokens_per_second": Metric("tokens run a second, rollouts and update", "1/s", "does not fall"),
    "speed/peak_memory": Metric(
        "most memory that the main process has held since it began: of its GPU, on CPUs resident",
        "GiB",
        "level after a few updates",
        "rises: a leak; close to what there is: smaller per_device_train_batch_size, gradient_checkpointing",
    ),
    "speed/limit_share": Metric(
        "share of the arithmetic that the machine could have done",
        _SHARE,
        "above .2 for policies of 100 M and more",
        "lower: larger batches; tiny policies are bound by Python",
    ),
    "step_time": Metric("of a step, TRL's clock", _SECONDS),
    "step": Metric("optimiser steps of the run at the end of the update", _COUNT),
    "epoch": Metric("share of the run's room for trees that is used, TRL's count", _SHARE),
}

#: share of invalid actions above which success says little: a policy of random words wins worlds that wandering wins
MOST_INVALID = 0.2

#: everything that the trainer itself logs, by part
PARTS: dict[str, Mapping[str, Metric]] = {
    "Rollouts": ROLLOUTS,
    "Groups and sets": GROUPS,
    "Advantages": ADVANTAGES,
    "Critic": CRITIC,
    "Loss and policy": LOSS,
    "Sampling": SAMPLING,
    "Costs": COSTS,
}
METRICS: dict[str, Metric] = {name: metric for part in PARTS.values() for name, metric in part.items()}
