"""A page of every published method by its name: where it is, what tests its formula and its effect, what the benchmark
says. Rows, files, lines and verdicts are read; which test shows what stands here, and a test finds each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from families import family_of
from prose import cell, code, joined, table

from polytune.places import PACKAGE, RECIPES
from polytune.tables import METHODS

ROOT = PACKAGE.parent
KEPT = ROOT / "data/results/methods_benchmark.json"
WORLDS = {"bandit": "bandit", "two_step": "two-step tree", "triangle": "triangle", "fourrooms": "FourRooms"}
BASES = {"grpo": "GRPO", "poly_epo": "Poly-EPO"}


class Named(NamedTuple):
    """``run``: a row of METHODS, or a recipe of recipes/methods/ that has none; "": it is not here. ``formula`` and
    ``effect``: "test file:test", without test_ and its folder's path."""

    name: str
    run: str
    formula: str = ""
    effect: str = ""
    told: str = ""


def _of(file: str, name: str, run: str, formula: str, effect: str = "", told: str = "") -> Named:
    """Tests of one file, unless one names another; one that shows both stands once."""
    tests = [test if ":" in test else f"{file}:{test}" for test in (formula, effect or formula)]
    return Named(name, run, *tests, told)


LOSS, BONUS, START = "unit/loss_methods", "unit/bonus_methods", "unit/start_methods"
REPLAY, TOKEN, REFERENCE = "unit/replay_methods", "unit/token_methods", "unit/reference_methods"
GROWTH, CLOSED = "unit/growth_methods", "unit/objective_closed_forms"
HINT = f"{GROWTH}:what_only_the_hint_brings_about_is_learnt_without_it"
RARE_ARM = "integration/replay:a_rare_winning_arm_keeps_its_mass"

FIRST = (
    _of("unit/rep_exp", "RepExp", "rep_exp", "leverages_by_hand",
        "integration/hidden_states:a_rare_winning_arm_keeps_its_mass"),
    _of(BONUS, "RepExp as diversity", "hidden_signatures", "unit/diversity:leverage_by_hand_and_what_it_refuses",
        "hidden_states_become_signatures_that_sets_tell_apart", "`diversity: leverage`"),
    _of("unit/coreset", "RepExp as chooser", "", "the_choice_is_that_of_the_definition",
        "a_rare_way_to_win_is_chosen_more_often_than_at_random", "`polytune evaluate --coreset`"),
    _of(START, "DPH-RL", "dph_rl", "divergences_by_hand", "what_the_pretrained_policy_did_is_not_forgotten"),
    _of(CLOSED, "SubPO", "subpo", "enumerated_credits_equal_the_definition",
        "unit/credit_bias:greedy_credit_is_biased_and_points_the_right_way",
        "`credit: greedy`, `shapley`, `leave_one_out`"),
    _of("unit/covariance_methods", "Clip-Cov", "clip_cov", "covariance_by_hand",
        "integration/method_hooks:entropy_falls_more_slowly"),
    _of("unit/covariance_methods", "KL-Cov", "kl_cov", "kl_cov_by_hand",
        "integration/method_hooks:entropy_falls_more_slowly"),
    _of(TOKEN, "Lp-Reg", "lp_reg", "lp_reg_by_hand", "lp_reg_keeps_what_is_seldom_and_no_noise"),
    _of(TOKEN, "STEER", "steer", "the_estimate_is_the_change_of_entropy", "entropy_falls_more_slowly_with_steer"),
    _of(TOKEN, "THR", "thr", "influence_by_hand", "thr_below_0_keeps_more_entropy_than_above"),
    _of("unit/ead", "EAD", "ead", "temperatures_by_hand",
        "integration/tempered:ead_samples_first_tokens_hot_and_late_ones_cool"),
    _of(START, "Knapsack", "knapsack", "greedy_budgets_are_the_best_ones", "the_budget_moves_to_open_problems"),
    _of(START, "VAS", "vas", "scores_of_vas_by_hand", "vas_draws_start_states_where_outcomes_vary"),
    _of("unit/go_explore", "Go-Explore", "go_explore", "seldom_seen_states_of_the_due_start_state_come_first",
        "roots_lead_further_than_start_states_do_at_equal_environment_steps"),
    _of(START, "Intelligent Go-Explore", "judged_roots", "the_judge_chooses_among_texts_of_the_start_state",
        "the_judge_that_needs_no_model_takes_the_oddest_text"),
    _of("unit/spear", "SPEAR", "spear", "the_advantage_is_the_return_above_the_median_group_times_gamma", RARE_ARM),
)  # fmt: skip

REST = (
    _of(LOSS, "EPO", "epo", "epo_by_hand", "the_lower_band_keeps_entropy"),
    _of(BONUS, "VERL", "verl", "effective_ranks_by_hand",
        "verl_raises_advantages_of_rising_rank_by_half_of_them_at_most"),
    _of(LOSS, "EMPG", "empg", "empg_by_hand", "empg_makes_confident_turns_count"),
    _of(BONUS, "InfiGUI", "efficiency", "efficiency_by_hand",
        "fewer_answers_are_worth_more_and_failing_with_few_costs_more"),
    _of(BONUS, "Novelty archive", "novelty", "novelty_by_hand", "what_was_never_done_earns_more_than_what_was"),
    _of(BONUS, "Archive of kinds", "archive", "the_archive_by_hand", "an_archive_keeps_ways_to_win_that_grpo_drops"),
    _of(BONUS, "B-STaR", "b_star", "the_controller_tries_all_and_keeps_the_best"),
    _of(BONUS, "Words as Beacons", "beacons", "beacons_pay_each_subgoal_once"),
    _of(REPLAY, "BC on demonstrations", "demonstrations",
        "demonstrations_are_drawn_and_their_loss_is_their_likelihood", "imitation_brings_in_what_was_hardly_tried"),
    _of(LOSS, "D3S", "d3s", "the_subset_of_largest_variance", "d3s_keeps_its_shares_and_more_of_them_later"),
    _of(START, "ALP-GMM", "alp_gmm", "a_mixture_finds_the_clusters_that_made_the_points",
        "the_teacher_goes_where_success_changes"),
    _of(REPLAY, "Trajectory weighting", "weighted_replay", "weighted_replay_draws_by_return",
        "weighted_replay_learns_a_seldom_success_sooner"),
    _of(REPLAY, "Swarm sharing", "swarm", "a_swarm_trains_on_what_others_left"),
    _of(GROWTH, "Early stopping", "early_stop", "when_an_episode_is_too_long_or_walks_in_circles",
        "steps_of_failures_are_saved_and_no_success_is_lost"),
    _of(GROWTH, "Context-conditioned rollouts", "context_rollouts",
        "hinted_attempts_join_the_group_and_rows_are_without_the_hint", HINT),
    _of(BONUS, "Duration weights", "duration", "long_actions_count_more"),
    _of(BONUS, "GRPO's mean over episodes", "episode_mean", "a_long_attempt_counts_as_much_as_a_short_one"),
    _of(BONUS, "OPO", "optimal_baseline", "a_groups_advantages_sum_to_0_over_its_tokens"),
    _of(BONUS, "Step-GRPO", "step_grpo", "steps_are_compared_step_by_step"),
    _of(LOSS, "REC", "rec", "rec_by_hand", "tau_holds_the_policy_and_the_shift_keeps_more_of_what_was_sampled"),
    _of(LOSS, "RED (REC family)", "rec", "red_drops_failures_until_they_are_no_more_than_successes"),
    _of(LOSS, "OPMD", "rec", "rec_by_hand", "tau_holds_the_policy_and_the_shift_keeps_more_of_what_was_sampled"),
    _of(LOSS, "AsymRE", "rec", "rec_by_hand", "tau_holds_the_policy_and_the_shift_keeps_more_of_what_was_sampled"),
    _of(LOSS, "BNPO", "bnpo", "beta_by_hand", "bnpo_divides_each_group_by_the_density_at_its_rate"),
    _of(LOSS, "MDPO", "mdpo", "mdpo_by_hand", "many_steps_on_an_update_end_where_mirror_descent_says"),
    _of(REPLAY, "ReMix", "remix", "remix_by_hand", "remix_learns_more_from_as_many_samples"),
    _of(LOSS, "NFT", "nft", "nft_by_hand", "nft_learns_and_without_negatives_more_slowly"),
    _of(LOSS, "CoPG", "copg", "copg_in_a_worked_group_to_the_pretrained_policy",
        "copg_stops_where_the_log_ratio_says"),
    _of(LOSS, "OREAL", "oreal", "oreal_by_hand", "oreal_learns_from_one_of_each"),
    _of(BONUS, "MRT", "mrt", "progress_by_hand_and_its_sum",
        "the_part_that_finds_the_way_earns_more_than_the_part_that_loses_it"),
    _of(BONUS, "Dynamic reward weights", "dynamic_rewards", "hypervolumes_by_hand",
        "a_second_objective_keeps_a_second_way_to_win"),
    _of(REPLAY, "HPT", "hpt", "hpt_imitates_where_attempts_failed"),
    _of(GROWTH, "Critique-GRPO", "critique_grpo", "failures_are_critiqued_and_refined", HINT),
    _of(BONUS, "f-DPG", "f_dpg", "f_dpg_by_hand", "right_answers_keep_their_shares_under_f_dpg"),
    _of(BONUS, "Chi-squared guard", "chi_squared", "the_guard_by_hand_and_what_it_does"),
    _of(REFERENCE, "SALSA", "salsa", "an_average_of_policies_by_hand",
        "integration/every_method:the_kl_pulls_towards_the_average_of_policies"),
    _of(REFERENCE, "Implicit-reward SFT", "implicit_sft", "the_loss_of_implicit_sft_by_hand", "it_imitates"),
    _of(REPLAY, "RED (recall-extend)", "recall_extend", "the_weight_of_demonstrations_by_hand",
        "red_brings_in_what_was_hardly_tried"),
    Named("L2M", "", told="[not here](not_here.md#l2m-learning-to-modulate-arxiv-230614884), and why"),
    _of("unit/props", "PROPS", "props", "the_loss_by_hand",
        "what_was_sampled_too_often_becomes_unlikelier_and_what_seldom_likelier"),
    _of(REFERENCE, "Nash Mirror Prox", "nash_mirror_prox", "win_rates_by_hand",
        "an_extragradient_step_ends_the_going_round_in_circles"),
    _of("unit/scale", "Lite PPO", "lite_ppo", "scalings_by_hand", "raw_and_applied_sizes_by_hand",
        "`set_normalise: std`"),
    _of(REFERENCE, "f-DPO", "f_dpo", "pulls_are_the_weights_of_pairs", "f_dpo_learns_and_keeps_both_ways_to_win"),
    _of(REFERENCE, "RPO", "rpo", "the_first_step_is_that_of_the_sum_over_pairs",
        "rpo_makes_successes_likelier_than_dpo_alone"),
    _of("unit/flat_success", "Tulu 3 RLVR", "tulu3_rlvr", "the_last_turn_of_a_success_makes_up_for_time",
        "unit/reference_kl:the_loss_has_the_value_and_the_gradient_of_the_divergence_that_is_named",
        "`flat_success`, `kl_reference: pretrained`"),
)  # fmt: skip

NEIGHBOURS = (
    _of("unit/scale", "MaxRL", "maxrl", "group_mean_is_maxrl",
        "group_mean_is_the_gradient_of_the_log_of_the_success_rate", "`set_normalise: group_mean`"),
    _of(CLOSED, "SetPO", "setpo", "enumerated_credits_equal_the_definition",
        "leave_one_out_of_a_single_set_still_tells_members_apart", "`objective: additive`, `credit: leave_one_out`"),
    _of(START, "Unsolved problems only", "unsolved", "only_what_was_never_solved_grows"),
)  # fmt: skip

BESIDE = (
    _of("unit/ucb", "Visit counts", "ucb", "bonus_by_hand", "a_visit_is_an_observation_and_an_action"),
    _of(START, "ALP of each start state", "alp", "learning_progress_by_hand_and_where_it_sends"),
    _of("unit/open_states", "Open states", "open_states", "the_openest_state_by_hand",
        "more_groups_have_a_signal_than_from_start_states"),
    _of(BONUS, "Sets beside a critic", "set_bonus", "set_advantages_are_added_within_the_window",
        "a_rare_way_to_win_keeps_its_mass_beside_the_critic"),
    _of("unit/flat_success", "Flat success", "flat_success", "the_last_turn_of_a_success_makes_up_for_time"),
)  # fmt: skip

PARTS = {
    "The first": FIRST, "The rest": REST, "From neighbouring projects": NEIGHBOURS, "Beside them": BESIDE,
}  # fmt: skip


def pages() -> Iterator[tuple[str, str]]:
    """(path, Markdown) of the index of methods by name."""
    yield "methods/all.md", page()


def page() -> str:
    """The tables, part by part."""
    blocks = [
        "# Every method by its name",
        "Where each published method is, with the lines of its file, the tests of its formula and of the effect that "
        "it promises, and what [the benchmark](benchmark.md) says of it so far.",
        f"Benchmark: {', '.join(WORLDS.values())}, over {' / '.join(BASES.values())}; *not resolved* is no verdict.",
    ]
    head = ("method", "run by", "file", "lines", "test of the formula", "test of the effect", *WORLDS.values())
    for title, named in PARTS.items():
        blocks += [f"## {title}", table(head, [_row(one) for one in named])]
    return joined(*blocks)


def _row(one: Named) -> tuple[str, ...]:
    own = one.run in METHODS
    file = METHODS[one.run].path.partition(":")[0].replace(".", "/") + ".py" if own else ""
    run = f"[{one.run}]({family_of(one.run)}.md#{one.run})" if own else code(recipe(one.run)) if one.run else ""
    told = "; ".join(part for part in (run, one.told) if part)
    lines = str(len((ROOT / file).read_text().splitlines())) if file else ""
    tests = [code(path.partition(":")[2]) if path else "" for path in (one.formula, one.effect)]
    return (cell(one.name), told, code(file) if file else "", lines, *tests, *map(_verdicts(one.run).get, WORLDS))


def recipe(run: str) -> str:
    """The recipe that a name without a row stands for."""
    return f"recipes/{(RECIPES / 'methods' / f'{run}.yaml').relative_to(RECIPES)}"


def _verdicts(run: str) -> dict[str, str]:
    """World -> what the benchmark says over each base."""
    worlds = json.loads(KEPT.read_text())["worlds"]
    return {world: " / ".join(_verdict(worlds.get(world, {}), base, run) for base in BASES) for world in WORLDS}


def _verdict(world: dict, base: str, run: str) -> str:
    found = world.get("bases", {}).get(base, {}).get("methods", {}).get(run)
    if found is None:
        return "not run" if run else "-"
    return "does not apply" if "refused" in found else found.get("verdict", "not run")


def test_of(path: str) -> tuple[str, str]:
    """(file, function) of a test as it is written here."""
    file, _, name = path.partition(":")
    folder, _, stem = file.partition("/")
    return f"tests/{folder}/test_{stem}.py", f"def test_{name}("
