"""Fields that PolychromicConfig inherits from TRL and transformers: those that act here, and their ranges.

Whatever is not in ``ACTS`` must keep its default: a setting that does nothing, or something else than it says, is an
error that names what does the work. A field that a new version of TRL or transformers brings is refused until it
stands there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from transformers import get_scheduler
from trl import GRPOConfig

from polytune.checks import require, require_choice, require_integer, require_number, require_seed
from polytune.trainer.refused import INSTEAD, SECRET

if TYPE_CHECKING:
    from polytune.trainer.config import PolychromicConfig

#: optimisers of torch and transformers alone, which runs continue with
OPTIMISERS = ("adamw_torch_fused", "adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop")
#: schedules that an evaluation moves
BY_METRIC = ("reduce_lr_on_plateau", "greedy")
#: options of torch.utils.checkpoint
CHECKPOINTING = ("use_reentrant", "preserve_rng_state")

Check = Callable[[str, Any], None]


def _whole(minimum: int, maximum: int | None = None) -> Check:
    def check(name: str, value: Any) -> None:
        require_integer(name, value, minimum)
        require(maximum is None or value <= maximum, f"{name} must be at most {maximum}, got {value}: lower {name}.")

    return check


def _number(minimum: float, maximum: float = math.inf) -> Check:
    return partial(require_number, minimum=minimum, maximum=maximum)


def _above(bound: float, below: float = math.inf) -> Check:
    def check(name: str, value: Any) -> None:
        require_number(name, value, bound, below)
        ends = f"above {bound:g}" + ("" if below == math.inf else f" and below {below:g}")
        require(
            bound < value < below, f"{name} must be {ends}, got {value}: change {name} in the YAML or with --{name}."
        )

    return check


def _below_one(name: str, value: Any) -> None:
    require_number(name, value, 0.0, 1.0)
    require(value < 1.0, f"{name} must be at least 0 and below 1, got {value}: adam's means would never forget.")


def _choice(*choices: str) -> Check:
    return partial(require_choice, choices=choices)


def _flag(name: str, value: Any) -> None:
    require(isinstance(value, bool), f"{name} must be true or false, got {value!r}.")


def _anything(name: str, value: Any) -> None:
    """A text that only a tracker or a loader can judge, or a field that `PolychromicConfig` or `check_run` checks."""


def _unset_or(check: Check) -> Check:
    return lambda name, value: None if value is None else check(name, value)


def _mapping(known: tuple[str, ...] = ()) -> Check:
    """A mapping, also as JSON; ``known``: its keys, all of which switch something; (): whatever they are."""

    def check(name: str, value: Any) -> None:
        try:
            read = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            read = None
        require(isinstance(read, Mapping), f"{name} is {value!r}: give a mapping, as in '{{\"name\": 0.1}}'.")
        for key, own in read.items():
            require(
                not known or (key in known and isinstance(own, bool)),
                f"{name} has {key}: {own!r}, but takes true or false for {' and '.join(known)}.",
            )

    return check


def _warmup(name: str, value: Any) -> None:
    require_number(name, value, 0.0)
    require(
        value < 1 or value == int(value),
        f"{name} is {value}: give a whole number of optimiser steps, or a share of all of them below 1.",
    )


def _deepspeed(name: str, value: Any) -> None:
    require(find_spec("deepspeed") is not None, f"{name} is {value!r}, but it is not installed: pip install deepspeed.")


#: name -> ValueError unless the field may have this value
ACTS: dict[str, Check] = {
    # rows and steps
    "per_device_train_batch_size": _whole(1),
    "gradient_accumulation_steps": _whole(1),
    "steps_per_generation": _unset_or(_whole(1)),
    "num_generations": _unset_or(_whole(2)),
    "num_iterations": _whole(1),
    # the loss
    "loss_type": _choice("dapo", "bnpo", "dr_grpo", "grpo"),
    "epsilon": _above(0.0, 1.0),
    "epsilon_high": _unset_or(_above(0.0)),
    "delta": _unset_or(_above(1.0)),
    "max_completion_length": _whole(1),
    "importance_sampling_level": _choice("token", "sequence"),
    "top_entropy_quantile": _number(0.0, 1.0),
    "entropy_coef": _number(0.0),
    "use_adaptive_entropy": _flag,
    **dict.fromkeys(("entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"), _number(0.0)),
    "off_policy_mask_threshold": _unset_or(_above(0.0)),
    "router_aux_loss_coef": _unset_or(_number(0.0)),
    "vllm_importance_sampling_correction": _flag,
    "vllm_importance_sampling_clip_max": _above(0.0),
    "temperature": _above(0.0),
    # the optimiser
    "learning_rate": _above(0.0),
    "lr_scheduler_type": _anything,
    "lr_scheduler_kwargs": _unset_or(_mapping()),
    "warmup_steps": _warmup,
    "optim": _anything,
    "weight_decay": _number(0.0),
    "adam_beta1": _below_one,
    "adam_beta2": _below_one,
    "adam_epsilon": _above(0.0),
    "max_grad_norm": _number(0.0),
    # the machine
    "bf16": _unset_or(_flag),
    "tf32": _unset_or(_flag),
    "use_cpu": _flag,
    "gradient_checkpointing": _flag,
    "gradient_checkpointing_kwargs": _unset_or(_mapping(CHECKPOINTING)),
    "torch_empty_cache_steps": _unset_or(_whole(1)),
    "full_determinism": _flag,
    "disable_dropout": _flag,
    "deepspeed": _unset_or(_deepspeed),
    "local_rank": _anything,  # launchers set it
    "ddp_find_unused_parameters": _unset_or(_flag),
    "ddp_broadcast_buffers": _unset_or(_flag),
    "ddp_bucket_cap_mb": _unset_or(_whole(1)),
    "ddp_backend": _unset_or(_choice("nccl", "gloo", "mpi", "xccl", "hccl", "cncl", "mccl")),
    "ddp_timeout": _whole(1),
    # the run
    "seed": require_seed,
    "output_dir": _unset_or(_anything),
    "save_total_limit": _unset_or(_whole(1)),
    "trust_remote_code": _flag,
    "disable_tqdm": _unset_or(_flag),
    "log_level": _choice("detail", "debug", "info", "warning", "error", "critical", "passive"),
    "log_level_replica": _choice("detail", "debug", "info", "warning", "error", "critical", "passive"),
    **dict.fromkeys(("report_to", "run_name", "project", "trackio_space_id"), _anything),
    **dict.fromkeys(("trackio_bucket_id", "trackio_static_space_id"), _anything),
    # vLLM; `polytune.trainer.serving` knows which of them go together
    "vllm_mode": _choice("colocate", "server"),
    "vllm_enable_sleep_mode": _flag,
    "vllm_server_base_url": _anything,
    "vllm_server_host": _anything,
    "vllm_server_port": _whole(1, 65535),
    "vllm_server_timeout": _above(0.0),
    "vllm_group_port": _whole(1, 65535),
    "vllm_gpu_memory_utilization": _number(0.01, 1.0),
    "vllm_max_model_length": _unset_or(_whole(1)),
    "vllm_tensor_parallel_size": _whole(1),
    # refused with the fields that they contradict
    **dict.fromkeys(("sync_ref_model", "use_bias_correction_kl"), _flag),
}


def default_of(args: PolychromicConfig, name: str) -> Any:
    """What the run's class gives a field that nobody sets."""
    own = type(args).__dataclass_fields__[name]
    return own.default if own.default_factory is MISSING else own.default_factory()


def _same(value: Any, default: Any) -> bool:
    """Whether nothing was changed: a command line has another word for what is off than the class."""
    off = (None, False, "", "no", [])
    return value == default or (value in off and default in off)


def check_inherited(args: PolychromicConfig) -> None:
    """ValueError for an inherited field that does not act here, or for a value out of its range."""
    for name in (field.name for field in fields(GRPOConfig)):
        value = getattr(args, name)
        if name in ACTS:
            ACTS[name](name, value)
        elif not _same(value, default_of(args, name)):
            shown = "set" if name in SECRET else repr(value)
            reason = next(
                (text for known, text in INSTEAD.items() if fnmatchcase(name, known)), "nothing here reads it"
            )
            raise ValueError(f"{name} is {shown}, but has no effect here, or a wrong one: {reason}. Leave it out.")
    for name in ("entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"):
        require(
            args.use_adaptive_entropy or getattr(args, name) == default_of(args, name),
            f"{name} is {getattr(args, name)}, but has no effect without use_adaptive_entropy: "
            "set entropy_coef, or use_adaptive_entropy to true.",
        )
    require(
        args.loss_type == "dr_grpo" or args.max_completion_length == default_of(args, "max_completion_length"),
        f"max_completion_length is {args.max_completion_length}, but has no effect here: it is the constant of "
        "loss_type 'dr_grpo', max_action_tokens bounds an action, task_horizon the turns of an episode. Leave it out.",
    )
    require(
        args.vllm_mode == "server" or args.vllm_tensor_parallel_size == 1,
        f"vllm_tensor_parallel_size is {args.vllm_tensor_parallel_size}, but each process has an engine of its own "
        "on one GPU: leave it at 1.",
    )
    _check_optimiser(args)


def _check_optimiser(args: PolychromicConfig) -> None:
    kind = getattr(args.optim, "value", args.optim)
    require(
        kind in OPTIMISERS,
        f"optim is {kind!r}, which polytune has not been tried with: use one of {', '.join(OPTIMISERS)}; LoRA "
        "(use_peft) makes an optimiser small.",
    )
    for name in ("adam_beta1", "adam_beta2"):
        require(
            kind.startswith("adamw") or getattr(args, name) == default_of(args, name),
            f"{name} is {getattr(args, name)}, but has no effect with optim {kind!r}: leave it out.",
        )
    schedule = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    require(
        schedule not in BY_METRIC,
        f"lr_scheduler_type {schedule!r} follows evaluations within a training, which there are none of: choose "
        "another, 'cosine' say.",
    )
    require(
        args.gradient_checkpointing or args.gradient_checkpointing_kwargs is None,
        f"gradient_checkpointing_kwargs is {args.gradient_checkpointing_kwargs!r}, but gradient_checkpointing is off: "
        "switch it on, or leave them out.",
    )


def check_schedule(args: PolychromicConfig) -> None:
    """ValueError for a learning rate schedule that cannot be built, or that is no number of at least 0 at every step of
    the run. Expects ``max_steps``, and what came as text to be read."""
    kind, options = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type), args.lr_scheduler_kwargs
    require(
        kind != "constant" or args.warmup_steps == 0,
        f"warmup_steps is {args.warmup_steps}, but lr_scheduler_type 'constant' has no warm-up: set it to "
        "'constant_with_warmup', or leave warmup_steps out.",
    )
    require(
        not (kind in ("constant", "constant_with_warmup") and options),
        f"lr_scheduler_kwargs is {options}, but lr_scheduler_type {kind!r} takes none: leave them out.",
    )
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate)
    told = f"lr_scheduler_type {kind!r} with warmup_steps {args.warmup_steps} and lr_scheduler_kwargs {options}"
    try:
        schedule = get_scheduler(
            kind, optimiser, args.get_warmup_steps(args.max_steps), args.max_steps, scheduler_specific_kwargs=options
        )
        rates = [schedule.lr_lambdas[0](step) for step in range(args.max_steps + 1)]
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{told} makes no schedule of {args.max_steps} steps: {error}. Set lr_scheduler_kwargs, or another type."
        ) from error
    require(
        all(isinstance(rate, int | float) and math.isfinite(rate) and rate >= 0.0 for rate in rates),
        f"{told} makes a learning rate that is negative or no number within {args.max_steps} steps: change them.",
    )
