"""``PolychromicTrainer``: TRL's ``GRPOTrainer`` on rollout trees.

TRL keeps prompts, minibatches, the clipped surrogate, optimiser, checkpointing, logging, PEFT and distribution. The
changes are four: rollouts are vine trees (``rollout_func``), advantages are per token and come from sets and a critic
(``_generate_and_score_completions``), the loss gains the terms of methods (``hooks.py``), KL to the behaviour policy
among them, of rows that they replay (``replayed.py``), and the value loss of a critic that shares the policy's trunk
(``valued.py``), and a checkpoint also holds the critic, the counters and what methods remember.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from polytune.checks import require
from polytune.config import ObjectiveConfig, PolicyConfig, RolloutConfig
from polytune.digests import number_from
from polytune.meanings import MOST_INVALID
from polytune.objective import find_judge
from polytune.policy import build_renderer
from polytune.policy.loading import check_pad_token
from polytune.policy.weights import check_embeddings
from polytune.rollout import RolloutError, Tree
from polytune.running.checkpoints import AtomicCheckpoints
from polytune.running.watchdog import Watched, stage
from polytune.tasks.base import Task
from polytune.terminal import say_warning
from polytune.trainer.advantages import TurnAdvantages, turn_advantages
from polytune.trainer.behaving import SamplesApart
from polytune.trainer.callbacks import MetricsFile, replace_progress
from polytune.trainer.checks import OWN_SIGNATURES
from polytune.trainer.clock import Timed
from polytune.trainer.config import PolychromicConfig
from polytune.trainer.gradients import MustMove
from polytune.trainer.hooks import CallsMethods, methods_of
from polytune.trainer.metrics import rollout_metrics, rollout_sums
from polytune.trainer.minibatches import WholeTrees
from polytune.trainer.observed import ReadsRollouts
from polytune.trainer.precision import MasterWeights
from polytune.trainer.recorded import RecordsEpisodes
from polytune.trainer.reference import HoldsReference, RenewsReference
from polytune.trainer.replayed import ReplaysRows
from polytune.trainer.rollouts import GrowsTrees
from polytune.trainer.run_checks import check_fields, check_world
from polytune.trainer.scaling import scale_populations
from polytune.trainer.schedule import StartSchedule, blank_prompts
from polytune.trainer.scored import ScoresRows
from polytune.trainer.serving import build_sampler
from polytune.trainer.sharding import ShardedPolicy
from polytune.trainer.tempered import TempersTokens
from polytune.trainer.tree_log import TREES_FILE, TreeLog
from polytune.trainer.value_features import with_vine_values
from polytune.trainer.valued import LearnsValues

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is pinned with TRL and covered by a contract test
from trl import GRPOTrainer  # noqa: E402

STATE_FILE = "polytune_state.json"
#: mean |logprob of the sampler - logprob of the trainer| in nats beyond which ratios would be wrong; bf16 stays below
MAX_LOGPROB_GAP = 0.1


def episode_return(prompts, completions, episode_return, **kwargs) -> list[float]:
    """TRL's reward function: the return that the rollout measured."""
    return episode_return


#: gets the trainer, the update's trees of its process and their advantages; must keep none of them
TreesObserver = Callable[["PolychromicTrainer", list[Tree], TurnAdvantages], None]


class PolychromicTrainer(
    Timed, TempersTokens, SamplesApart, ReadsRollouts, GrowsTrees, LearnsValues, CallsMethods, ReplaysRows, ScoresRows,
    RenewsReference, AtomicCheckpoints, RecordsEpisodes, ShardedPolicy, Watched, MustMove, WholeTrees, MasterWeights,
    HoldsReference, GRPOTrainer,
):  # fmt: skip
    """Set RL on vine trees; see the module docstring for what differs from ``GRPOTrainer``.

    Args:
        model: the policy, a causal transformer.
        args: TRL's fields plus ours.
        task: the world.
        start_states: those to train on.
        rollout, objective, policy_config: shape of the trees, set objective, sampling.
        processing_class: the policy's tokenizer.

    ``on_trees`` lists observers of an update's trees, which every process calls once an update, before it trains.

    Raises:
        ValueError: fields that contradict each other (``num_generations`` against the tree, sets that the tree cannot
            fill, a tokenizer without a pad token), before anything is rolled out.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: PolychromicConfig,
        task: Task,
        start_states: list[int],
        rollout: RolloutConfig,
        objective: ObjectiveConfig,
        policy_config: PolicyConfig,
        processing_class: PreTrainedTokenizerBase,
        **kwargs,
    ):
        adapted = kwargs.get("peft_config") is not None or isinstance(model, PeftModel)
        check_fields(args, rollout, objective, generator=policy_config.generator, adapted=adapted)
        check_pad_token(processing_class, getattr(model, "name_or_path", "the policy"))
        check_embeddings(model, processing_class, getattr(model, "name_or_path", "the policy"))
        require(bool(start_states), "there are no start states to train on: check split and num_start_states.")
        check_world(task, start_states[0], rollout, objective)
        self.task, self.rollout, self.objective, self.policy_config = task, rollout, objective, policy_config
        own = objective.signature in OWN_SIGNATURES
        self.judge = None if own else find_judge(objective.signature, objective.judge_failure)
        self.methods = methods_of(args, objective)
        self.on_trees: list[TreesObserver] = []
        self._trees = self._rows = None  # those of the update that is being rolled out
        self._collapsed = self._said_unspent = False
        self.env_steps = 0
        self.schedule = StartSchedule(start_states, args.seed)
        self._steps_per_tree: float | None = None  # mean of the last update
        super().__init__(
            model=model,
            reward_funcs=episode_return,
            args=args,
            train_dataset=blank_prompts(args.num_updates * args.prompts_per_update),
            processing_class=processing_class,
            rollout_func=lambda prompts, trainer: trainer._roll_out(prompts),
            **kwargs,
        )
        self.shuffle_dataset = False
        unwrapped = self.accelerator.unwrap_model(self.model)
        self._watch_trunk(unwrapped.get_base_model() if isinstance(unwrapped, PeftModel) else unwrapped)
        self._build_critic(unwrapped, args)
        self.renderer = build_renderer(processing_class, task, policy_config)
        self.generator = build_sampler(
            unwrapped, args, policy_config, self.renderer, self.accelerator.device, self.forward_dtype
        )
        self._observe_rollouts()
        replace_progress(self, args.steps_per_update)
        self.add_callback(MetricsFile(Path(args.output_dir) / "metrics.jsonl"))
        trees = TreeLog(Path(args.output_dir) / TREES_FILE)
        self.add_callback(trees)
        self.on_trees.append(trees)

    def _send_telemetry(self) -> None:
        """Nothing: TRL's trainers tell its makers that they were built."""

    # ------------------------------------------------------------------ advantages

    @stage("scoring")
    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, torch.Tensor]:
        self._pass_logprobs = self._first_B_C = None
        with self._whole_weights():
            return self._roll_out_and_score(inputs)

    def _roll_out_and_score(self, inputs: list[dict]) -> dict[str, torch.Tensor]:
        output = super()._generate_and_score_completions(inputs)
        self._drop_row_means()
        if "old_per_token_logps" not in output:
            self._pass_logprobs = None  # a pass of the reference is none of the policy
        turn_index_B_C = self._turn_index(output["completion_ids"])
        values_B_T, first_B_C = None, self._first_tokens(turn_index_B_C)
        other_sampler = self.policy_config.generator != "transformers"
        reads_policy = bool(self._probes) or self._behaves or (self.critic is not None and self.args.critic != "own")
        if (reads_policy and not self.observes or other_sampler) and "old_per_token_logps" not in output:
            self._score_rows(output)  # TRL needed no pass of the policy over the rows, these do
        if self.critic is not None:
            decisions = self._decisions(output, first_B_C)
            values_B_T = self._values(decisions)
        scored_B_C = output.get("old_per_token_logps", self._pass_logprobs)
        if scored_B_C is not None and not self.observes:
            self._check_sampler(output["sampling_per_token_logps"], scored_B_C, turn_index_B_C >= 0)
        if self._behaves:
            self._take_for_own(output, scored_B_C, turn_index_B_C >= 0)
        known_B_T = values_B_T
        if self.args.vine_values:
            known_B_T = with_vine_values(self._trees, values_B_T, self.objective.gamma)
        update = self._see_update(output, turn_index_B_C)
        objective = self.objective.at(update.progress)
        turns = turn_advantages(self._trees, objective, known_B_T, seed=update.seed, bonus_B_T=self._bonus(update))
        self._scale(turns)
        self._change_turns(update, turns)
        output["advantages"] = self._per_token(turns.advantages_B_T, turn_index_B_C)
        self._change_tokens(update, output)
        if turns.deductions_B_T is not None:
            output["set_deductions"] = self._per_token(turns.deductions_B_T, turn_index_B_C)
        if other_sampler:
            self._correct_sampler(output, scored_B_C, turn_index_B_C >= 0)
        if self.critic is not None:
            self._log_values(turns, values_B_T)
            self._learn_values(output, decisions, turns)
        self._learn_methods(update)
        self._note_signal(output)
        self._log_rollouts(turns)
        self._trees = self._rows = self._first_B_C = None
        return output

    def _drop_row_means(self) -> None:
        """TRL's means over rows take vines and blank rows for whole episodes; ``rollout/*`` holds what they mean."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name in [name for name in metrics if name.startswith(("reward", "frac_reward", "completions/"))]:
            del metrics[name]

    def _check_sampler(self, sampled_B_C: torch.Tensor, scored_B_C: torch.Tensor, own_B_C: torch.Tensor) -> bool:
        """Log how far the sampler's logprobs are from the trainer's; refuse those of another distribution. False: there
        are no tokens, in any process."""
        gaps = (sampled_B_C - scored_B_C)[own_B_C].abs().double()
        total, count = self._sum([float(gaps.sum()), float(len(gaps))])
        if not count:
            return False
        gap = total / count
        self._record("sampling/logprob_gap", gap)
        if gap > MAX_LOGPROB_GAP and not self._behaves:
            raise RolloutError(
                f"the generator's logprobs are {gap:.3g} nats from the trainer's on average (limit {MAX_LOGPROB_GAP}): "
                "it samples another distribution than the ratios assume. Check its temperature, and that it has the "
                "current weights."
            )
        return True

    def _correct_sampler(
        self, output: dict[str, torch.Tensor], scored_B_C: torch.Tensor, own_B_C: torch.Tensor
    ) -> None:
        """Weigh each own token by min(pi_trainer / pi_sampler, cap), the truncated importance ratio (Ionides 2008, J.
        Comput. Graph. Stat. 17:295): what was sampled by another engine counts as if the trainer's policy had.

        The clipped surrogate is linear in positive weights of the advantages, so those carry it.
        """
        output["old_per_token_logps"] = scored_B_C
        if not self.args.vllm_importance_sampling_correction:
            return
        ratio_B_C = (scored_B_C - output["sampling_per_token_logps"]).exp()
        cap = self.args.vllm_importance_sampling_clip_max
        weight_B_C = torch.where(own_B_C, ratio_B_C.clamp(max=cap), 0.0)
        for name in ("advantages", "set_deductions"):
            if name in output:
                output[name] = output[name] * weight_B_C
        own = ratio_B_C[own_B_C].double()
        total, cut, count = self._sum([float(own.sum()), float((own > cap).sum()), float(len(own))])
        self._record("sampling/importance_ratio", total / max(count, 1.0))
        self._record("sampling/importance_truncated", cut / max(count, 1.0))

    def _draw_seed(self) -> int:
        """Seed of random sets: another one in every run, update and process."""
        key = f"{self.args.seed} {self.state.global_step} {self.accelerator.process_index}".encode()
        return number_from(key, 7)

    def _scale(self, turns: TurnAdvantages) -> None:
        """Scale the two populations apart, over all processes, and note their sizes."""
        for name, value in scale_populations(turns, self.objective, self._sum, self._largest).items():
            self._record(name, value)

    def _sum(self, numbers: list[float]) -> list[float]:
        """Sums over all processes."""
        tensor = torch.tensor(numbers, dtype=torch.float64, device=self.accelerator.device)
        return self.accelerator.reduce(tensor, reduction="sum").tolist()

    def _largest(self, number: float) -> float:
        """The largest of all processes."""
        tensor = torch.tensor([number], dtype=torch.float64, device=self.accelerator.device)
        return self.accelerator.gather(tensor).max().item()

    def _record(self, name: str, value: float) -> None:
        self._metrics["train" if self.model.training else "eval"][name].append(value)

    def _log_rollouts(self, turns: TurnAdvantages) -> None:
        seeds = [seed for tree in self._trees if tree.root is None for seed in tree.seeds]
        sums = self._sum(rollout_sums(len(self._trees), seeds, self._counters, turns.groups))
        self.env_steps += int(sums[0])
        self._steps_per_tree = sums[0] / sums[1]
        metrics = rollout_metrics(sums, self.env_steps)
        metrics |= {"rollout/start_states": self.schedule.met, "rollout/passes": self.schedule.passes}
        for name, value in metrics.items():
            self._record(name, value)
        self._warn_of_collapse(metrics.get("groups/distinct_share"), metrics["actions/invalid_rate"])
        tokens = self.generator.counters.as_dict()
        self._tokens = dict(zip(tokens, map(int, self._sum(list(tokens.values()))), strict=True))
        for name, value in self._tokens.items():
            self._record(f"tokens/{name}", value)
        for observe in self.on_trees:
            observe(self, self._trees, turns)

    def _warn_of_collapse(self, share: float | None, invalid_rate: float) -> None:
        """One line when (distinct signatures - 1) / (members - 1) of a group falls under ``collapse_share``: siblings
        that do the same, or nothing."""
        collapsed = share is not None and share < self.objective.collapse_share
        told = collapsed and not self._collapsed and self.is_world_process_zero()
        if told and invalid_rate > MOST_INVALID:
            say_warning(
                f"{invalid_rate:.0%} of the turns are no action of {self.task.name}, so siblings hardly differ: "
                "pretrain the policy further (a higher target_success), or tell it the actions in the instructions."
            )
        elif told:
            say_warning(
                f"collapse: of the signatures that a group's members could add to the first, {share:.2f} are "
                f"left, below collapse_share {self.objective.collapse_share}: siblings do the same. Raise "
                "entropy_coef, set kl_reference to 'pretrained' with a kl_coef (the behaviour policy moves along and "
                "holds nothing), lower learning_rate, or branch elsewhere (rollout_states)."
            )
        self._collapsed = collapsed

    # ------------------------------------------------------------------ checkpoints

    def _save_extra_state(self, folder: Path) -> None:
        super()._save_extra_state(folder)
        state = {"env_steps": self.env_steps, "steps_per_tree": self._steps_per_tree, "tokens": self._tokens}
        state["start_states_taken"] = self.schedule.cursor
        (folder / STATE_FILE).write_text(json.dumps(state))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Also what the parent does not know; DeepSpeed, too, comes by here (it loads weights in a way of its own)."""
        if checkpoint is None:
            return super()._load_optimizer_and_scheduler(checkpoint)
        folder = Path(checkpoint)
        state = json.loads((folder / STATE_FILE).read_text())
        require(
            "start_states_taken" in state,
            f"{folder / STATE_FILE} does not say how many start states were taken: an older version wrote it, so train "
            "from the start in another output_dir.",
        )
        super()._load_optimizer_and_scheduler(checkpoint)
        self.schedule.cursor = state["start_states_taken"]
        self.env_steps, self._steps_per_tree = state["env_steps"], state["steps_per_tree"]
        if self.is_world_process_zero():  # totals over all processes: one of them goes on with them
            self.generator.counters = type(self.generator.counters)(**state["tokens"])
