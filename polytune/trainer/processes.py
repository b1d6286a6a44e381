"""Several processes: what starts, what is refused, who watches.

Weights are whole on every process (DDP, ZeRO-1 and 2) or sharded (FSDP2); a tree lives in one process either way.
"""

from __future__ import annotations

import os
import signal

import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType

from polytune.config import require
from polytune.trainer.config import PolychromicConfig
from polytune.trainer.peers import Peers, keep_timeout
from polytune.trainer.watchdog import Watchdog, stacks_on_demand

#: options of FSDP2 -> why they are refused
FSDP_OFF = {
    "offload_params": "rollouts need the weights on the GPU",
    "cpu_ram_efficient_loading": "every process loads the policy itself",
    "activation_checkpointing": "the critic reads activations as they pass; gradient_checkpointing does the same",
}

_peers: Peers | None = None
_watchdog: Watchdog | None = None


def supervise(args: PolychromicConfig) -> None:
    """Watch this process (``hang_timeout``) and the others of the run until :func:`release`; call it in all of them."""
    global _peers, _watchdog
    if hasattr(signal, "SIGUSR1"):
        stacks_on_demand()
    if args.hang_timeout:
        who = f"process {args.process_index} of {args.world_size} (pid {os.getpid()})"
        _watchdog = Watchdog(args.hang_timeout, who, args.output_dir)
        _watchdog.start()
    if args.world_size > 1:
        keep_timeout(args.ddp_timeout)
        _peers = Peers(args.process_index, args.world_size, args.output_dir)


def settle() -> None:
    """After an error: where another process has caused it, this one ends here and says so."""
    if _peers is not None:
        _peers.settle()


def release(failure: str | None) -> None:
    """The run is over for this process, with an error or without: nobody watches it any more, the others know why."""
    global _peers, _watchdog
    peers, watchdog, _peers, _watchdog = _peers, _watchdog, None, None
    if watchdog is not None:
        watchdog.stop()
    if peers is not None:
        peers.leave(failure)


def waited_too_long(error: BaseException) -> str | None:
    """The line for a collective operation that timed out, None for any other error."""
    text = str(error).lower()
    if _peers is None or not dist.is_initialized() or not isinstance(error, RuntimeError):
        return None
    if "timed out" not in text and "timeout" not in text:
        return None
    return (
        f"this process waited for another one longer than ddp_timeout allows ({' '.join(str(error).split())[:200]}): "
        "one of them hangs, and says where after hang_timeout, or is that much slower. The same command continues from "
        "the last checkpoint."
    )


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
    if _on("ACCELERATE_USE_FSDP"):
        _check_fsdp(args, generator)
    if _on("ACCELERATE_USE_DEEPSPEED") or args.deepspeed:
        _check_deepspeed(args)
    require(
        not _on("ACCELERATE_USE_MEGATRON_LM") and not _on("ACCELERATE_USE_PARALLELISM_CONFIG"),
        "Megatron-LM, tensor and context parallelism are not supported: use recipes/accelerate/ddp.yaml or fsdp2.yaml.",
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
