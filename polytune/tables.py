"""Everything that a run can name: a row says where it lies, and in a few words what it is.

Imports nothing, so that configurations, ``--help`` and completion know all names at once; what a name stands for is
loaded by ``polytune.lookup`` where a run asks for it, and brings the rest: its words for the card, its brute-force
reference, the fields that it contradicts. A file and a row here are all that a new one needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Entry(NamedTuple):
    """``path``: "package.module:name". ``told``: for ``--help``, after the name."""

    path: str
    told: str = ""


#: f(G) of a set: `polytune.objective.set_objectives.base`
OBJECTIVES: dict[str, Entry] = {
    "polychromic": Entry("polytune.objective.set_objectives.polychromic:POLYCHROMIC"),
    "mean": Entry("polytune.objective.set_objectives.mean:MEAN"),
    "pass_at_k": Entry("polytune.objective.set_objectives.pass_at_k:PASS_AT_K"),
    "max_at_k": Entry("polytune.objective.set_objectives.max_at_k:MAX_AT_K"),
    "additive": Entry("polytune.objective.set_objectives.additive:ADDITIVE"),
    "coverage": Entry("polytune.objective.set_objectives.coverage:COVERAGE"),
    "qd_score": Entry("polytune.objective.set_objectives.qd_score:QD_SCORE"),
    "uncertain_max": Entry("polytune.objective.set_objectives.uncertain_max:UNCERTAIN_MAX"),
    "floored": Entry("polytune.objective.set_objectives.floored:FLOORED"),
}

#: d(G) in [0, 1]: `polytune.objective.diversity.base`
DIVERSITY: dict[str, Entry] = {
    "distinct_fraction": Entry("polytune.objective.diversity.distinct_fraction:DISTINCT_FRACTION"),
    "zero_if_identical": Entry("polytune.objective.diversity.zero_if_identical:ZERO_IF_IDENTICAL"),
    "excess": Entry("polytune.objective.diversity.excess:EXCESS"),
    "vendi": Entry("polytune.objective.diversity.vendi:VENDI"),
    "leverage": Entry("polytune.objective.diversity.leverage:LEVERAGE", "of vectors"),
    "action_distance": Entry("polytune.objective.diversity.action_distance:ACTION_DISTANCE"),
}

#: from the scores of sets to a number per member: `polytune.objective.credit.base`
CREDIT: dict[str, Entry] = {
    "mean": Entry("polytune.objective.credit.mean:MEAN"),
    "max": Entry("polytune.objective.credit.max:MAX"),
    "per_set": Entry("polytune.objective.credit.per_set:PER_SET"),
    "leave_one_out": Entry("polytune.objective.credit.leave_one_out:LEAVE_ONE_OUT"),
    "shapley": Entry("polytune.objective.credit.shapley:SHAPLEY"),
    "greedy": Entry("polytune.objective.credit.greedy:GREEDY"),
}

#: clusters of texts, for `signature`: `polytune.objective.judge`
JUDGES: dict[str, Entry] = {"ngram": Entry("polytune.objective.ngram_judge:NGramJudge")}

#: how advantages are scaled: `polytune.objective.normalise`; the critic's belong to no group
GAE_NORMALISE: dict[str, Entry] = {
    "none": Entry("polytune.objective.normalise:NONE"),
    "std": Entry("polytune.objective.normalise:STD", "unit size over the update"),
    "mean_std": Entry("polytune.objective.normalise:MEAN_STD", "the mean is taken away, too"),
}
SET_NORMALISE: dict[str, Entry] = GAE_NORMALISE | {
    "group_std": Entry(
        "polytune.objective.normalise:GROUP_STD",
        "each group centred and by its own, as in GRPO; credit mean, per_set or greedy",
    ),
    "group_mean": Entry("polytune.objective.normalise:GROUP_MEAN", "each group by its mean score, as in MaxRL"),
}

#: which turns of a seed trajectory become rollout states: `polytune.rollout.branching`
BRANCHING: dict[str, Entry] = {
    "equally_spaced": Entry("polytune.rollout.branching:EQUALLY_SPACED", "the paper"),
    "uncertain": Entry("polytune.rollout.branching:UNCERTAIN", "the critic sees an open outcome"),
    "entropy": Entry("polytune.rollout.branching:ENTROPY", "the policy hesitates"),
    "fixed": Entry("polytune.rollout.branching:FIXED", "the same turns of every episode, as far as it goes"),
    "start": Entry("polytune.rollout.branching:START", "whole episodes"),
}

#: what else changes an update: `polytune.methods.base`
METHODS: dict[str, Entry] = {
    "ucb": Entry("polytune.methods.ucb:UCB", "exploration bonus from visit counts"),
    "clip_cov": Entry("polytune.methods.clip_cov:ClipCov", "against loss of entropy"),
    "kl_cov": Entry("polytune.methods.kl_cov:KLCov", "against loss of entropy"),
    "rep_exp": Entry("polytune.methods.rep_exp:RepExp", "bonus for unlike hidden states"),
    "go_explore": Entry("polytune.methods.go_explore:GoExplore", "trees from states reached before"),
    "open_states": Entry("polytune.methods.open_states:OpenStates", "groups from kept states whose outcome is open"),
    "spear": Entry("polytune.methods.spear:SPEAR", "successes of earlier updates once more"),
    "ead": Entry("polytune.methods.ead:EAD", "first tokens of an answer hotter than later ones"),
    "dph_rl": Entry("polytune.methods.dph_rl:DPHRL", "answers of the pretrained policy are not forgotten"),
    "lp_reg": Entry("polytune.methods.lp_reg:LpReg", "unlikely tokens that are no noise are kept"),
    "steer": Entry("polytune.methods.steer:STEER", "tokens that change the entropy most count less"),
    "thr": Entry("polytune.methods.thr:THR", "tokens that help other right answers count more or less"),
    "knapsack": Entry("polytune.methods.knapsack:Knapsack", "attempts go where they are worth most"),
    "vas": Entry("polytune.methods.vas:VAS", "start states where outcomes vary, more often"),
    "unsolved": Entry("polytune.methods.unsolved:Unsolved", "start states that are not solved yet, alone"),
    "judged_roots": Entry(
        "polytune.methods.judged_roots:JudgedRoots", "trees from states that a judge of texts chooses"
    ),
    "epo": Entry("polytune.methods.epo:EPO", "entropy held within a band of its history"),
    "empg": Entry("polytune.methods.empg:EMPG", "confident turns count more (against diversity)"),
    "d3s": Entry("polytune.methods.d3s:D3S", "attempts that vary most, tokens that matter most"),
    "rec": Entry("polytune.methods.rec:REC", "REINFORCE off its policy: REC, OPMD, AsymRE, RED"),
    "bnpo": Entry("polytune.methods.bnpo:BNPO", "advantages over a Beta density of success rates"),
    "mdpo": Entry("polytune.methods.mdpo:MDPO", "mirror descent: KL to the last policy, no clip"),
    "nft": Entry("polytune.methods.nft:NFT", "likelihood of successes, and of what failures leave"),
    "copg": Entry("polytune.methods.copg:CoPG", "squared differences of return and log ratio"),
    "oreal": Entry("polytune.methods.oreal:OREAL", "imitates a success, descends on a failure"),
    "alp": Entry("polytune.methods.alp:ALP", "start states where success changes, more often"),
    "demonstrations": Entry(
        "polytune.methods.demonstrations:Demonstrations", "an expert's episodes are imitated beside"
    ),
    "hpt": Entry("polytune.methods.hpt:HPT", "imitates where it fails, reinforces elsewhere"),
    "weighted_replay": Entry("polytune.methods.weighted_replay:WeightedReplay", "good episodes come back more often"),
    "remix": Entry("polytune.methods.remix:ReMix", "rows of the policies before, truncated ratios"),
    "props": Entry("polytune.methods.props:PROPS", "samples what the rows of the last update had too little of"),
    "novelty": Entry("polytune.methods.novelty:Novelty", "bonus for what no earlier update did"),
    "archive": Entry("polytune.methods.archive:Archive", "bonus for kinds that the run has seldom found"),
    "beacons": Entry("polytune.methods.beacons:Beacons", "bonus for subgoals in words"),
    "chi_squared": Entry(
        "polytune.methods.chi_squared:ChiSquared", "what moves far from the pretrained policy earns less"
    ),
    "f_dpg": Entry("polytune.methods.f_dpg:FDPG", "towards the pretrained policy restricted to success"),
    "verl": Entry("polytune.methods.verl:VERL", "advantages by the rank of hidden states"),
    "set_bonus": Entry("polytune.methods.set_bonus:SetBonus", "set advantages beside the critic's"),
    "step_grpo": Entry("polytune.methods.step_grpo:StepGRPO", "rewards compared step by step"),
    "duration": Entry("polytune.methods.duration:Duration", "long actions count more"),
    "episode_mean": Entry("polytune.methods.episode_mean:EpisodeMean", "each attempt counts the same, long or short"),
    "optimal_baseline": Entry("polytune.methods.optimal_baseline:OptimalBaseline", "a group's mean weighted by length"),
    "b_star": Entry("polytune.methods.b_star:BStaR", "temperature by right and different answers"),
    "mrt": Entry("polytune.methods.mrt:MRT", "parts of an episode earn by their progress"),
    "efficiency": Entry("polytune.methods.efficiency:Efficiency", "of several answers in one, fewer are worth more"),
    "swarm": Entry("polytune.methods.swarm:Swarm", "rows that other runs left"),
    "hidden_signatures": Entry(
        "polytune.methods.hidden_signatures:HiddenSignatures", "sets scored by hidden states: diversity leverage"
    ),
    "early_stop": Entry(
        "polytune.methods.early_stop:EarlyStop", "rollouts that are far too long, or walk in circles, end"
    ),
    "context_rollouts": Entry(
        "polytune.methods.context_rollouts:ContextRollouts", "attempts that read a hint, trained on without it"
    ),
    "critique_grpo": Entry(
        "polytune.methods.critique_grpo:CritiqueGRPO", "failures tried again with a critique, trained on without it"
    ),
    "salsa": Entry("polytune.methods.salsa:SALSA", "the KL refers to an average of policies"),
    "nash_mirror_prox": Entry("polytune.methods.nash_mirror_prox:NashMirrorProx", "self-play on preferences"),
    "f_dpo": Entry("polytune.methods.f_dpo:FDPO", "successes preferred to failures, by any f-divergence"),
    "rpo": Entry("polytune.methods.rpo:RPO", "the same by DPO, with the successes' likelihood"),
    "implicit_sft": Entry(
        "polytune.methods.implicit_sft:ImplicitSFT", "imitates by an f-divergence to the pretrained policy"
    ),
    "recall_extend": Entry("polytune.methods.recall_extend:RecallExtend", "imitates as demonstrations' entropy falls"),
    "dynamic_rewards": Entry(
        "polytune.methods.dynamic_rewards:DynamicRewards", "several rewards, more for a new front"
    ),
    "alp_gmm": Entry("polytune.methods.alp_gmm:ALPGMM", "start states near parameters where success changes"),
    "flat_success": Entry("polytune.methods.flat_success:FlatSuccess", "a success returns the same whenever it comes"),
}


def listed(table: Mapping[str, Entry], *, of: str = "package.module:name") -> str:
    """For ``--help``: all names with what is told of them; ``of``: the form of a user's own."""
    rows = [f"{name} ({entry.told})" if entry.told else name for name, entry in table.items()]
    return f"{', '.join(rows)}, or your own as {of}"
