"""Several processes: which ways of starting them work, and what is said of the others.

Weights are whole on every process (DDP, ZeRO-1 and 2) or sharded (FSDP2); a tree lives in one process either way.
"""

from __future__ import annotations

import os

from accelerate import PartialState
from accelerate.utils import DistributedType

from polytune.checks import require
from polytune.trainer.config import PolychromicConfig

#: options of FSDP2 -> why they are refused
FSDP_OFF = {
    "offload_params": "rollouts need the weights on the GPU",
    "cpu_ram_efficient_loading": "every process loads the policy itself",
    "activation_checkpointing": "the critic reads activations as they pass; gradient_checkpointing does the same",
}


#: variables that accelerate launch sets for what a run does not take from it -> what is as good as unset
LAUNCHED = {"ACCELERATE_DYNAMO_BACKEND": ("no", ""), "ACCELERATE_MIXED_PRECISION": ("no", "bf16", "")}


def _on(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true")


def check_processes(args: PolychromicConfig, generator: str = "transformers") -> None:
    """ValueError that names what does not work with the way the processes were started, and what does."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    require(
        args.world_size == started or started == 1,
        f"{started} processes were started, but each would train alone (world size {args.world_size}): start them with "
        "`accelerate launch`, or add --use_cpu true where there are no GPUs.",
    )
    _check_launched(args)
    if _on("ACCELERATE_USE_FSDP"):
        _check_fsdp(args, generator)
    if _on("ACCELERATE_USE_DEEPSPEED") or args.deepspeed:
        _check_deepspeed(args)
    require(
        not _on("ACCELERATE_USE_MEGATRON_LM") and not _on("ACCELERATE_USE_PARALLELISM_CONFIG"),
        "Megatron-LM, tensor and context parallelism are not supported: use recipes/accelerate/ddp.yaml or fsdp2.yaml.",
    )


def _check_launched(args: PolychromicConfig) -> None:
    """What accelerate was asked for on its own command line or in its file, and hands on by variables."""
    steps = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "")
    require(
        steps in ("", "1", "auto", str(args.gradient_accumulation_steps)),
        f"accelerate launch was given gradient_accumulation_steps {steps}, which the run does not take from it: put "
        f"--gradient_accumulation_steps {steps} behind recipes/finetune.py, or into its YAML (it is "
        f"{args.gradient_accumulation_steps} there).",
    )
    for name, nothing in LAUNCHED.items():
        value = os.environ.get(name, "")
        require(
            value.lower() in nothing,
            f"accelerate launch was given {name.removeprefix('ACCELERATE_').lower()} {value!r}, which polytune has not "
            "been tried with: leave it out; bf16 or dtype set the precision.",
        )


def _check_fsdp(args: PolychromicConfig, generator: str) -> None:
    instead = "use recipes/accelerate/fsdp2.yaml"
    require(
        os.environ.get("FSDP_VERSION", "1") == "2",
        f"FSDP1 flattens weights, which cannot be gathered for rollouts by layer: set fsdp_version: 2, or {instead}.",
    )
    require(
        PartialState().distributed_type != DistributedType.MULTI_CPU,
        "accelerate shards (FSDP2) on GPUs only and would run DDP on these CPUs: use `accelerate launch --cpu "
        "--num_processes 2`.",
    )
    require(
        args.world_size > 1, f"FSDP2 has nothing to share out with {args.world_size} process: set num_processes to 2."
    )
    state_dict = os.environ.get("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")
    require(
        state_dict == "FULL_STATE_DICT",
        f"fsdp_state_dict_type is {state_dict}, which leaves checkpoints without model.safetensors: set it to "
        f"FULL_STATE_DICT, or {instead}.",
    )
    require(
        args.critic_lora_r == 0,
        f"critic_lora_r is {args.critic_lora_r}, but the critic's adapter adds to whole layers, not to sharded ones "
        "(FSDP2): set it to 0, or use recipes/accelerate/ddp.yaml.",
    )
    for name, reason in FSDP_OFF.items():
        require(not _on(f"FSDP_{name.upper()}"), f"fsdp_{name} is on, but {reason}: switch it off, or {instead}.")
    require(
        generator == "transformers",
        f"generator {generator!r} cannot take sharded weights (FSDP2): use generator 'transformers', or "
        "recipes/accelerate/ddp.yaml.",
    )


def _check_deepspeed(args: PolychromicConfig) -> None:
    config = args.hf_deepspeed_config.config if args.deepspeed else {}
    stage = config.get("zero_optimization", {}).get("stage", os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
    require(
        str(stage) in ("0", "1", "2"),
        f"ZeRO-{stage} shards the weights, which rollouts need whole: use recipes/accelerate/zero2.yaml or fsdp2.yaml.",
    )
    require(
        not args.has_critic,
        "critic is on, but under DeepSpeed nobody has tried one: set critic to 'none', or use "
        "recipes/accelerate/fsdp2.yaml or ddp.yaml.",
    )
