"""``PolychromicTrainer``: TRL's ``GRPOTrainer`` on rollout trees.

TRL keeps prompts, minibatches, the clipped surrogate, optimiser, checkpointing, logging, PEFT and distribution. The
changes are four: rollouts are vine trees (``rollout_func``), advantages are per token and come from sets and a critic
(``_generate_and_score_completions``), the loss gains KL to the behaviour policy and the value loss (``_compute_loss``),
and a checkpoint also holds the critic and the counters.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from polytune.config import ObjectiveConfig, PolicyConfig, RolloutConfig, check_sets, require, require_choice
from polytune.objective import CREDIT, DIVERSITY, OBJECTIVES, rescale
from polytune.policy import Renderer, TransformersGenerator
from polytune.policy.loading import check_pad_token
from polytune.rollout import RolloutCounters, Start, grow_trees, tree_rows
from polytune.tasks.base import Task
from polytune.trainer.advantages import TurnAdvantages, turn_advantages
from polytune.trainer.callbacks import ClearCriticGradients, EnvStepBudget, MetricsFile, replace_progress
from polytune.trainer.checkpoints import AtomicCheckpoints
from polytune.trainer.config import PolychromicConfig
from polytune.trainer.critic import Critic, explained_variance, variance_sums
from polytune.trainer.metrics import rollout_metrics, rollout_sums
from polytune.trainer.schedule import start_state_schedule
from polytune.trainer.scoring import SCORED_ROWS, behaviour_kl, length_chunks

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is pinned with TRL and covered by a contract test
from trl import GRPOTrainer  # noqa: E402

STATE_FILE = "polytune_state.json"


def episode_return(prompts, completions, episode_return, **kwargs) -> list[float]:
    """TRL's reward function: the return that the rollout measured."""
    return episode_return


class PolychromicTrainer(AtomicCheckpoints, GRPOTrainer):
    """Set RL on vine trees; see the module docstring for what differs from ``GRPOTrainer``.

    Args:
        model: the policy, a causal transformer.
        args: TRL's fields plus ours.
        task: the world.
        start_seeds: start states to train on.
        rollout, objective, policy: shape of the trees, set objective, sampling.
        processing_class: the policy's tokenizer.

    Raises:
        ValueError: fields that contradict each other (``num_generations`` against the tree, sets that the tree cannot
            fill, a tokenizer without a pad token), before anything is rolled out.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: PolychromicConfig,
        task: Task,
        start_seeds: list[int],
        rollout: RolloutConfig,
        objective: ObjectiveConfig,
        policy: PolicyConfig,
        processing_class: PreTrainedTokenizerBase,
        **kwargs,
    ):
        check_run(args, rollout, objective)
        check_pad_token(processing_class, getattr(model, "name_or_path", "the policy"))
        require(bool(start_seeds), "there are no start states to train on: check split and num_start_states.")
        require(
            objective.set_scope == "none" or task.gives_signatures,
            f"task {task.name!r} gives no signatures, so every set would have diversity 0 and no signal: write _place "
            "(or signature) in its episode class, or set set_scope to 'none'.",
        )
        self.task, self.rollout, self.objective, self.policy = task, rollout, objective, policy
        self.env_steps = 0
        self._completion_width: int | None = None  # set while rows are being scored, read by the critic's hook
        super().__init__(
            model=model,
            reward_funcs=episode_return,
            args=args,
            train_dataset=start_state_schedule(
                task,
                start_seeds,
                updates=args.num_updates,
                prompts_per_update=args.prompts_per_update,
                run_seed=args.seed,
            ),
            processing_class=processing_class,
            rollout_func=lambda prompts, trainer: trainer._roll_out(prompts),
            **kwargs,
        )
        self.shuffle_dataset = False  # the schedule is the order
        unwrapped = self.accelerator.unwrap_model(self.model)
        self.critic = None
        if args.critic:
            critic = Critic(unwrapped.config.get_text_config().hidden_size, args.critic_width, seed=args.seed)
            self.critic = self.accelerator.prepare_model(critic)
            self.add_callback(ClearCriticGradients(self.critic))
        backbone = unwrapped.get_base_model() if hasattr(unwrapped, "get_base_model") else unwrapped
        backbone.base_model.register_forward_hook(self._read_values)
        self.renderer = Renderer(processing_class, task, show_instructions=policy.show_instructions)
        self.generator = TransformersGenerator(
            unwrapped,
            temperature=args.temperature,
            max_action_tokens=policy.max_action_tokens,
            stop_ids=self.renderer.stop_ids,
        )
        replace_progress(self, args.steps_per_update)
        self.add_callback(MetricsFile(Path(args.output_dir) / "metrics.jsonl"))
        if args.max_env_steps is not None:
            self.add_callback(EnvStepBudget(self, args.max_env_steps, args.steps_per_update))

    # ------------------------------------------------------------------ rollouts

    def _roll_out(self, prompts: list[str]) -> dict[str, list]:
        """TRL's ``rollout_func``: ``self._starts`` holds this process's start states, one per tree."""
        self.generator.reset()  # the weights have changed since the last rollouts
        counters = RolloutCounters()
        with self.accelerator.autocast():  # rows are scored under it, too
            self._trees = grow_trees(
                self.task,
                self.renderer,
                self.generator,
                self._starts,
                self.rollout,
                run_seed=self.args.seed,
                max_branches=self.policy.max_branches,
                counters=counters,
            )
        self.generator.reset()
        self._rows = [row for tree in self._trees for row in tree_rows(tree)]
        self._counters = counters
        return {
            "prompt_ids": [row.prompt_ids for row in self._rows],
            "completion_ids": [row.completion_ids for row in self._rows],
            "logprobs": [row.logprobs for row in self._rows],
            "env_mask": [row.env_mask for row in self._rows],
            "episode_return": [t.discounted_return() for tree in self._trees for t in tree.trajectories()],
        }

    def _starts_of(self, inputs: list[dict]) -> list[Start]:
        """The start states of a batch; refuses one that splits a tree over processes."""
        size = self.num_generations
        starts = [Start(row["start_seed"], row["attempt"]) for row in inputs]
        for index in range(0, len(starts), size):
            if len(starts[index : index + size]) < size or len(set(starts[index : index + size])) != 1:
                raise ValueError(
                    f"process {self.accelerator.process_index} got rows of different start states where one tree of "
                    f"{size} rows was due: make per_device_train_batch_size * steps_per_generation a multiple of "
                    f"{size}, so that a tree lives in one process."
                )
        return starts[::size]

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, torch.Tensor]:
        self._starts = self._starts_of(inputs)
        self._scored = None
        output = super()._generate_and_score_completions(inputs)
        turn_index_B_C = self._turn_index(output["completion_ids"])
        values_B_T, first_B_C = None, self._first_tokens(turn_index_B_C)
        if self.critic is not None:
            if "old_per_token_logps" not in output:  # TRL needed no pass of the policy over the rows, the critic does
                self._scored = None
                self._score_rows(output)
            values_B_T = self._per_turn(self._scored[1], first_B_C, turn_index_B_C)
        turns = turn_advantages(self._trees, self.objective, values_B_T, seed=self._draw_seed())
        self._scale(turns)
        index_B_C = turn_index_B_C.clamp(min=0)
        own_B_C = turn_index_B_C >= 0
        advantages_B_T = turns.advantages_B_T.float().to(index_B_C.device)
        output["advantages"] = torch.where(own_B_C, advantages_B_T.gather(1, index_B_C), 0.0)
        if self.critic is not None:
            returns_B_T = turns.returns_B_T.float().to(index_B_C.device)
            output["value_targets"] = torch.where(first_B_C, returns_B_T.gather(1, index_B_C), 0.0)
            output["value_mask"] = first_B_C
            output["num_decisions"] = self.accelerator.gather(first_B_C.sum()).sum()
        self._log_rollouts(turns, values_B_T)
        del self._trees, self._rows
        return output

    def _score_rows(self, output: dict[str, torch.Tensor]) -> None:
        """One pass over the rows without gradients, for the critic's values."""
        input_ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        attention_mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        with torch.no_grad():
            self._get_per_token_logps_and_entropies(
                self.model, input_ids, attention_mask, output["completion_ids"].size(1)
            )

    # ------------------------------------------------------------------ tokens and turns

    def _turn_index(self, completion_ids_B_C: torch.Tensor) -> torch.Tensor:
        """Own turn of each completion token, -1 for the environment's, the prefix's and padding."""
        index_B_C = torch.full_like(completion_ids_B_C, -1)
        for row, data in enumerate(self._rows):
            index_B_C[row, : len(data.turn_index)] = torch.tensor(data.turn_index)
        return index_B_C

    @staticmethod
    def _first_tokens(turn_index_B_C: torch.Tensor) -> torch.Tensor:
        """True at the first token of each own action: the decision that the critic values."""
        before = torch.nn.functional.pad(turn_index_B_C[:, :-1], (1, 0), value=-1)
        return (turn_index_B_C >= 0) & (turn_index_B_C != before)

    @staticmethod
    def _per_turn(values_B_C: torch.Tensor, first_B_C: torch.Tensor, turn_index_B_C: torch.Tensor) -> torch.Tensor:
        """Values (B, T) of the turns from values (B, C) of the tokens, on the CPU in float64."""
        turns = int(turn_index_B_C.max()) + 1
        values_B_T = torch.zeros(len(values_B_C), turns, dtype=torch.float64)
        rows, columns = first_B_C.cpu().nonzero(as_tuple=True)
        values_B_T[rows, turn_index_B_C.cpu()[rows, columns]] = values_B_C.double().cpu()[rows, columns]
        return values_B_T

    def _draw_seed(self) -> int:
        """Seed of random sets: another one in every run, update and process."""
        key = f"{self.args.seed} {self.state.global_step} {self.accelerator.process_index}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "little")

    def _scale(self, turns: TurnAdvantages) -> None:
        """Scale the two populations apart, over all processes, and note their sizes."""
        for name, mask_B_T, mode, weight in (
            ("set", turns.set_mask_B_T, self.objective.set_normalise, self.objective.set_weight),
            ("gae", turns.gae_mask_B_T, self.objective.gae_normalise, 1.0),
        ):
            values = turns.advantages_B_T[mask_B_T]
            count, total, squares = self._sum([len(values), float(values.sum()), float((values**2).sum())])
            mean = total / max(count, 1)
            std = max(squares / max(count, 1) - mean**2, 0.0) ** 0.5
            turns.advantages_B_T[mask_B_T] = rescale(values, mean, std, mode) * weight
            if count:
                self._record(f"advantages/{name}_scale", std)
                self._record(f"advantages/{name}_mean", mean)

    def _sum(self, numbers: list[float]) -> list[float]:
        """Sums over all processes."""
        tensor = torch.tensor(numbers, dtype=torch.float64, device=self.accelerator.device)
        return self.accelerator.reduce(tensor, reduction="sum").tolist()

    def _record(self, name: str, value: float) -> None:
        self._metrics["train" if self.model.training else "eval"][name].append(value)

    def _log_rollouts(self, turns: TurnAdvantages, values_B_T: torch.Tensor | None) -> None:
        seeds = [seed for tree in self._trees for seed in tree.seeds]
        sums = self._sum(rollout_sums(seeds, self._counters, turns.groups))
        self.env_steps += int(sums[0])
        for name, value in rollout_metrics(sums, self.env_steps).items():
            self._record(name, value)
        tokens = self.generator.counters.as_dict()
        self._tokens = dict(zip(tokens, map(int, self._sum(list(tokens.values()))), strict=True))
        for name, value in self._tokens.items():
            self._record(f"tokens/{name}", value)
        if values_B_T is not None:
            mask = turns.turns_mask_B_T
            sums = self._sum(variance_sums(values_B_T[mask], turns.returns_B_T[mask]))
            self._record("critic/explained_variance", explained_variance(sums))
            self._record("critic/value_mean", sums[1] / sums[0])

    # ------------------------------------------------------------------ loss

    def _read_values(self, module, args, output) -> None:
        """Hook on the backbone: the critic's value at the token before each completion token, shape (b, C)."""
        if self._completion_width is not None and self.critic is not None:
            hidden = output.last_hidden_state
            self._values_b_C = self.critic(hidden[:, -self._completion_width - 1 : -1])

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, **kwargs
    ):
        """TRL's pass over rows, in chunks of rows of like length without their common padding: same numbers, less work.

        Also leaves ``self._scored = (logprobs (B, C), values (B, C) or None)`` for the loss and the advantages.
        """
        results = []
        # with gradients, DDP takes one forward pass for each backward pass
        one_pass = self.accelerator.num_processes > 1 and torch.is_grad_enabled()
        chunks = length_chunks(attention_mask, None if one_pass else SCORED_ROWS)
        for rows_b, left, right in chunks:
            self._completion_width, self._values_b_C = logits_to_keep - right, None
            columns = slice(left, input_ids.size(1) - right)
            try:
                logprobs, entropies, aux_loss = super()._get_per_token_logps_and_entropies(
                    model, input_ids[rows_b, columns], attention_mask[rows_b, columns], self._completion_width, **kwargs
                )
            finally:
                self._completion_width = None
            widened = [None if x is None else torch.nn.functional.pad(x, (0, right))
                       for x in (logprobs, entropies, self._values_b_C)]  # fmt: skip
            results.append((*widened, aux_loss))
        order = torch.cat([rows_b for rows_b, _, _ in chunks]).argsort()
        logprobs, entropies, values = (
            None if parts[0] is None else torch.cat(parts)[order] for parts in list(zip(*results, strict=True))[:3]
        )
        aux_losses = [result[3] for result in results if result[3] is not None]
        if self._scored is None:  # the policy is scored first, the reference after it
            self._scored = (logprobs, values)
        return logprobs, entropies, torch.stack(aux_losses).mean() if aux_losses else None

    def _compute_loss(self, model, inputs):
        self._scored = None
        loss = super()._compute_loss(model, inputs)
        logprobs_B_C, values_B_C = self._scored
        mask_B_C = inputs["completion_mask"] * inputs["tool_mask"]
        if self.beta == 0.0 and self.args.kl_coef > 0.0:
            old_B_C = inputs.get("old_per_token_logps", inputs["sampling_per_token_logps"])
            kl_B_C = behaviour_kl(logprobs_B_C, old_B_C, mask_B_C)
            loss = loss + self.args.kl_coef * kl_B_C.sum() / self._normaliser(inputs["num_items_in_batch"])
            self._record_mean("kl", kl_B_C, mask_B_C)
        if self.critic is not None:
            error_B_C = 0.5 * (values_B_C - inputs["value_targets"]) ** 2 * inputs["value_mask"]
            loss = loss + self.args.value_coef * error_B_C.sum() / self._normaliser(inputs["num_decisions"])
            self._record_mean("critic/loss", error_B_C, inputs["value_mask"])
        return loss

    def _normaliser(self, count: torch.Tensor) -> torch.Tensor:
        """What a sum over a minibatch is divided by, so that a step's gradient is that of a mean over its share of
        ``count`` (tokens or decisions of the update, over all processes), however it is split."""
        share = count.clamp(min=1) / self.accelerator.num_processes
        if self.model.training:
            share = share * self.current_gradient_accumulation_steps / self.args.steps_per_generation
        return share

    def _record_mean(self, name: str, values_B_C: torch.Tensor, mask_B_C: torch.Tensor) -> None:
        """Log a mean over the masked entries of all processes."""
        total, count = self._sum([float(values_B_C.detach().sum()), float(mask_B_C.sum())])
        self._record(name, total / max(count, 1.0))

    # ------------------------------------------------------------------ optimiser and checkpoints

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """TRL's ``train``; a checkpoint that had reached ``max_env_steps`` is loaded and nothing more."""
        if resume_from_checkpoint is not None and self.args.max_env_steps is not None:
            state = json.loads((Path(resume_from_checkpoint) / STATE_FILE).read_text())
            if state["env_steps"] >= self.args.max_env_steps:
                self._load_from_checkpoint(resume_from_checkpoint)
                self.state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / TRAINER_STATE_NAME))
                return None
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def create_optimizer(self, model=None):
        optimizer = super().create_optimizer(model) if model is not None else super().create_optimizer()
        if self.critic is not None and not getattr(self, "_critic_in_optimizer", False):
            optimizer.add_param_group(
                {"params": list(self.critic.parameters()), "lr": self.args.critic_learning_rate, "weight_decay": 0.0}
            )
            self._critic_in_optimizer = True
        return optimizer

    def _clip_grad_norm(self, model):
        if self.critic is not None:
            norm = self.accelerator.clip_grad_norm_(self.critic.parameters(), self.args.max_grad_norm)
            self._record("critic/grad_norm", float(norm))
        return super()._clip_grad_norm(model)

    def _save_extra_state(self, folder: Path) -> None:
        if self.critic is not None:
            self.accelerator.unwrap_model(self.critic).save(folder)
        state = {"env_steps": self.env_steps, "tokens": self._tokens}
        (folder / STATE_FILE).write_text(json.dumps(state))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        folder = Path(resume_from_checkpoint)
        if self.critic is not None:
            self.accelerator.unwrap_model(self.critic).load(folder)
        state = json.loads((folder / STATE_FILE).read_text())
        self.env_steps = state["env_steps"]
        if self.is_world_process_zero():  # totals over all processes: one of them goes on with them
            self.generator.counters = type(self.generator.counters)(**state["tokens"])


def check_run(args: PolychromicConfig, rollout: RolloutConfig, objective: ObjectiveConfig) -> None:
    """Cross-checks between the parts of a run, before anything is loaded or rolled out."""
    check_sets(rollout, objective)
    for name, table in (("objective", OBJECTIVES), ("diversity", DIVERSITY), ("credit", CREDIT)):
        require_choice(name, getattr(objective, name), tuple(table))
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
