"""``PolychromicConfig``: TRL's ``GRPOConfig`` plus the critic, the KL term and the budgets of Poly-PPO."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from trl import GRPOConfig

from polytune.checks import require, require_choice, require_finite, require_integer, require_number
from polytune.config import RolloutConfig
from polytune.privacy import private
from polytune.trainer.critic import KINDS
from polytune.trainer.inherited import check_inherited, check_schedule


@dataclass
class PolychromicConfig(GRPOConfig):
    """Fields beyond ``GRPOConfig``'s, and other defaults where set RL on small policies needs them.

    A run is counted in *updates*: one update grows trees from ``prompts per update`` start states, splits their rows
    into ``steps_per_generation`` minibatches of ``per_device_train_batch_size`` rows and passes over them
    ``num_iterations`` times. ``max_steps``, ``save_steps`` and ``logging_steps`` follow from it.
    """

    output_dir: str | None = field(default="outputs/quickstart/finetuned", metadata={"help": "Where the run goes."})
    num_updates: int = field(default=20, metadata={"help": "Updates of the run (each begins with fresh rollouts)."})
    max_env_steps: int | None = field(
        default=None,
        metadata={
            "help": "Environment steps of the run, spread evenly over num_updates: an update grows as many trees "
            "as fit. Unset: all of them, whatever they take."
        },
    )
    save_updates: int = field(default=1, metadata={"help": "Updates between two checkpoints."})
    critic: str = field(
        default="head",
        metadata={
            "help": "What values decisions: 'head' reads the policy's features, 'shared' too, and its loss moves the "
            "policy's trunk, 'own' has a trunk of its own, 'none': nothing outside a set is scored."
        },
    )
    critic_learning_rate: float | None = field(
        default=None,
        metadata={"help": "The critic's learning rate (AdamW); unset: 1e-3, with a trunk of its own 1e-4."},
    )
    critic_passes: int | None = field(
        default=None,
        metadata={"help": "Its passes over an update's decisions; unset: 10, with a trunk of its own 1."},
    )
    critic_minibatches: int = field(default=8, metadata={"help": "Its optimiser steps in a pass."})
    critic_width: int = field(default=256, metadata={"help": "Width of the critic's hidden layers."})
    critic_lora_r: int = field(
        default=0,
        metadata={
            "help": "With LoRA (use_peft), rank of the adapter on the frozen base that is the trunk of critic 'own'."
        },
    )
    value_coef: float = field(
        default=0.5, metadata={"help": "Critic 'shared': weight of the value loss in the policy's loss."}
    )
    vine_values: bool = field(
        default=False,
        metadata={
            "help": "Where vines start, take their mean return as the value and as the critic's target, on the seed "
            "trajectory; with rollout_states 'fixed' or 'start'."
        },
    )
    kl_coef: float = field(default=0.02, metadata={"help": "Weight of the KL term."})
    hang_timeout: float = field(
        default=1200.0,
        metadata={
            "help": "Seconds without progress after which a process says in which stage it is, with the stacks of all "
            "threads, again at doubling intervals; 0: never. Processes that wait for it end by ddp_timeout."
        },
    )
    vllm_weights_dir: str | None = field(
        default=None,
        metadata={
            "help": "With vllm_mode 'server': folder through which weights go to the server, which must see it under "
            "the same path. Unset: over NCCL, from GPU to GPU."
        },
    )
    kl_reference: str = field(
        default="behaviour",
        metadata={
            "help": "Of the KL term: 'behaviour', what sampled the update's rollouts, KL(behaviour || policy), which "
            "bounds an update; or 'pretrained', the policy that the run began with, which holds the run, in the "
            "direction of kl_direction."
        },
    )
    kl_direction: str | None = field(
        default=None,
        metadata={
            "help": "With kl_reference 'pretrained': 'reverse', KL(policy || pretrained), r (u - 1 - log u) as TRL has "
            "it (arXiv 2512.02556), or 'forward', KL(pretrained || policy), r (u log u - u + 1); r = policy / "
            "behaviour, u = pretrained / policy. Unset: reverse."
        },
    )
    save_dtype: str = field(
        default="float32",
        metadata={
            "help": "Type of the whole weights that the end of a run saves: 'float32' or 'bfloat16'. Checkpoints and "
            "adapters are float32."
        },
    )

    num_generations: int | None = field(
        default=None, metadata={"help": "Rows of a tree; unset: num_seeds * (1 + num_rollout_states * num_vines)."}
    )
    num_iterations: int = field(default=2, metadata={"help": "PPO epochs over the rows of an update."})
    loss_type: str = field(default="dapo", metadata={"help": "TRL's loss type; 'dapo' averages over all tokens."})
    learning_rate: float = field(default=1e-5, metadata={"help": "The policy's learning rate."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Learning rate schedule."})
    max_grad_norm: float = field(default=0.5, metadata={"help": "Gradients are clipped to this norm."})
    scale_rewards: str = field(default="none", metadata={"help": "Must stay 'none': set_normalise scales advantages."})
    disable_dropout: bool = field(default=True, metadata={"help": "Rows must be scored as they were sampled."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Trade compute for memory."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})
    report_to: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={"help": "Trackers beside metrics.jsonl: tensorboard, trackio, wandb or another of transformers'."},
    )
    figure_updates: int = field(
        default=5,
        metadata={
            "help": "Updates between two pairs of figures (vines, coverage) for tensorboard, trackio and wandb, the "
            "first and the last update in any case; 0: never."
        },
    )
    vllm_importance_sampling_clip_max: float = field(
        default=3.0, metadata={"help": "With vLLM: tokens are weighed by min(trainer's / sampler's probability, this)."}
    )
    top_k: int = field(default=0, metadata={"help": "Must stay 0: ratios assume samples of the whole distribution."})

    def to_dict(self) -> dict[str, Any]:
        """What trackers and records are told of the run: no credentials, no home folder."""
        return private(super().to_dict())

    def __post_init__(self) -> None:
        require_finite(self)
        self._check_numbers()
        check_inherited(self)
        if self.kl_reference == "pretrained":
            self.beta = self.kl_coef
        if self.bf16 is None:
            self.bf16 = False  # the policy's dtype says what is computed in, on every machine
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.cuda.is_available()
        self._check_batches()
        self._check_kl()
        self.max_steps = self.num_updates * self.steps_per_update
        self.logging_strategy, self.logging_steps = "steps", self.steps_per_update
        self.save_strategy, self.save_steps = "steps", self.save_updates * self.steps_per_update
        rows = self.num_generations
        self.num_generations = self.rows_per_process  # TRL wants a divisor of these; the tree's follow in set_tree
        super().__post_init__()
        self.bf16 = self.mixed_precision == "bf16"  # accelerate's launcher may have set it
        self.num_generations = rows
        require_finite(self)  # mappings that came as text
        check_schedule(self)

    def _check_numbers(self) -> None:
        """Fields of our own."""
        for name in ("num_updates", "save_updates", "critic_width", "critic_minibatches"):
            require_integer(name, getattr(self, name), 1)
        require_integer("critic_lora_r", self.critic_lora_r, 0)
        require_integer("figure_updates", self.figure_updates, 0)
        self._check_critic()
        if self.max_env_steps is not None:
            require_integer("max_env_steps", self.max_env_steps, 1)
        for name in ("value_coef", "kl_coef", "hang_timeout"):
            require_number(name, getattr(self, name), 0.0)
        rate = self.critic_learning_rate
        require(rate is None or rate > 0.0, f"critic_learning_rate must be above 0, got {rate}.")
        require_choice("kl_reference", self.kl_reference, ("behaviour", "pretrained"))
        require_choice("kl_direction", self.kl_direction, (None, "reverse", "forward"))
        require_choice("save_dtype", self.save_dtype, ("float32", "bfloat16"))

    @property
    def averages_over_tokens(self) -> bool:
        """Whether the loss is a mean over tokens, to which blank rows are nothing; others count rows."""
        return self.loss_type in ("dapo", "bnpo")

    def set_tree(self, rollout: RolloutConfig) -> None:
        """Take ``num_generations`` from the shape of the trees.

        Raises:
            ValueError: another number was given, or an update's rows would split a tree.
        """
        rows = rollout.rows_per_prompt
        require(
            self.num_generations in (None, rows),
            f"num_generations is {self.num_generations}, but a tree has num_seeds * (1 + num_rollout_states * "
            f"num_vines) = {rollout.num_seeds} * (1 + {rollout.num_rollout_states} * {rollout.num_vines}) = {rows} "
            "rows: leave num_generations out.",
        )
        require(rows >= 2, f"a tree has num_seeds * (1 + num_rollout_states * num_vines) = {rows} row, and nothing to "
                "compare it with: raise num_seeds to 2.")  # fmt: skip
        require(
            self.rows_per_process % rows == 0,
            f"a process would get {self.rows_per_process} rows per update, which splits a tree of {rows} rows "
            f"(num_seeds * (1 + num_rollout_states * num_vines)): make per_device_train_batch_size "
            f"({self.per_device_train_batch_size}) * steps_per_generation ({self.minibatches}) a multiple of {rows}.",
        )
        self.num_generations = rows

    def _check_critic(self) -> None:
        require(
            self.critic in KINDS,
            f"critic is {self.critic!r}: it is one of {', '.join(KINDS)} (once false: none, true: head).",
        )
        if self.critic_passes is not None:
            require_integer("critic_passes", self.critic_passes, 1)
        require(
            self.critic == "own" or self.critic_lora_r == 0,
            f"critic_lora_r is {self.critic_lora_r}, but critic is {self.critic!r}: set critic to 'own', or "
            "critic_lora_r to 0.",
        )
        require(
            not self.gradient_checkpointing or self.critic_lora_r == 0,
            f"critic_lora_r is {self.critic_lora_r}, but gradient_checkpointing would recompute the critic's pass "
            "without its adapter: switch gradient_checkpointing off, or set critic_lora_r to 0.",
        )
        defaults = {f.name: f.default for f in fields(self)}
        unused = [] if self.critic == "shared" else ["value_coef"]
        if self.critic == "none":
            unused += ["critic_learning_rate", "critic_passes", "critic_minibatches", "critic_width", "vine_values"]
        for name in unused:
            require(
                getattr(self, name) == defaults[name],
                f"{name} is {getattr(self, name)!r}, but has no effect with critic {self.critic!r}: leave it out.",
            )

    @property
    def has_critic(self) -> bool:
        """Whether decisions are valued."""
        return self.critic != "none"

    @property
    def rows_per_process(self) -> int:
        """Rows of an update in one process."""
        return self.per_device_train_batch_size * self.minibatches

    def _check_batches(self) -> None:
        minibatches = self.steps_per_generation or self.gradient_accumulation_steps
        require(
            minibatches * self.num_iterations % self.gradient_accumulation_steps == 0,
            f"steps_per_generation ({minibatches}) * num_iterations ({self.num_iterations}) must be a multiple of "
            f"gradient_accumulation_steps ({self.gradient_accumulation_steps}): an update ends with an optimiser step.",
        )

    def _check_kl(self) -> None:
        """The behaviour policy is the policy until the first optimiser step of an update, where their KL is flat."""
        require(
            self.kl_coef == 0.0 or self.kl_reference == "pretrained" or self.steps_per_update > 1,
            f"kl_coef is {self.kl_coef} with kl_reference 'behaviour', but an update is one optimiser step, at which "
            "the behaviour policy is the policy and the KL's gradient 0: set kl_coef to 0, kl_reference to "
            "'pretrained', or num_iterations to 2.",
        )

    @property
    def device(self) -> torch.device:
        """The parent's, but on CPUs without the process's number: torch restores no checkpoint onto "cpu:1"."""
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device

    @property
    def kl_towards(self) -> str:
        """Direction of the KL term: "reverse", KL(policy || reference), or "forward", KL(reference || policy)."""
        return self.kl_direction or ("forward" if self.kl_reference == "behaviour" else "reverse")

    @property
    def minibatches(self) -> int:
        """Minibatches of an update, per epoch."""
        return self.steps_per_generation or self.gradient_accumulation_steps

    @property
    def steps_per_update(self) -> int:
        """Optimiser steps of one update."""
        return self.minibatches * self.num_iterations // self.gradient_accumulation_steps

    @property
    def prompts_per_update(self) -> int:
        """Trees that the rows of one update would hold, over all processes."""
        return self.per_device_train_batch_size * self.minibatches * self.world_size // self.num_generations
