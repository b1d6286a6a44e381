"""What samples a run; ``vllm_mode: server``: which fields go with it, how the trainer's weights reach the server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from transformers import PreTrainedModel

from polytune.checks import require, require_choice
from polytune.config import PolicyConfig
from polytune.policy import Generator, Renderer, build_generator
from polytune.policy.engine import EngineError, merged_weights
from polytune.policy.vllm_generator import EngineSettings
from polytune.policy.vllm_server import VLLMServer, VLLMServerGenerator, through_folder
from polytune.privacy import private
from polytune.trainer.config import PolychromicConfig

#: fields of an engine in this process -> the server's own flags
ENGINE_FIELDS = {
    "vllm_gpu_memory_utilization": "--gpu-memory-utilization",
    "vllm_tensor_parallel_size": "--tensor-parallel-size",
    "vllm_enable_sleep_mode": "none: its GPU is its own",
}
SERVER_FIELDS = (
    "vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout", "vllm_group_port",
    "vllm_weights_dir",
)  # fmt: skip


def check_vllm_mode(args: PolychromicConfig, generator: str) -> None:
    """ValueError for fields of ``vllm_mode`` that have no effect, or for a server that could not be given weights."""
    require_choice("vllm_mode", args.vllm_mode, ("colocate", "server"))
    defaults = {field.name: field.default for field in fields(args)}
    changed = {name for name in (*ENGINE_FIELDS, *SERVER_FIELDS) if getattr(args, name) != defaults[name]}
    if args.vllm_mode == "colocate":
        for name in SERVER_FIELDS:
            require(
                name not in changed,
                f"{name} is {getattr(args, name)!r}, but has no effect on an engine in this process: set vllm_mode to "
                "'server', or leave it.",
            )
        return
    require(
        generator == "vllm",
        f"vllm_mode is 'server', but generator {generator!r} samples in this process: set generator to 'vllm', or "
        "vllm_mode to 'colocate'.",
    )
    for name, flag in ENGINE_FIELDS.items():
        require(
            name not in changed,
            f"{name} is {getattr(args, name)!r}, but has no effect on a server (its own flag: {flag}): leave it.",
        )
    for name in ("vllm_server_host", "vllm_server_port"):
        require(
            args.vllm_server_base_url is None or name not in changed,
            f"{name} has no effect beside vllm_server_base_url ({private(args.vllm_server_base_url)}): leave one out.",
        )
    require(args.vllm_server_timeout > 0, f"vllm_server_timeout must be above 0, got {args.vllm_server_timeout}.")
    if args.vllm_weights_dir is not None:
        require(
            "vllm_group_port" not in changed,
            "vllm_group_port has no effect beside vllm_weights_dir, through which no NCCL runs: leave one of them.",
        )
        return
    require(
        torch.cuda.is_available() and not args.use_cpu,
        "vllm_mode is 'server', whose weights travel by NCCL (TRL's client), and NCCL needs a GPU in the trainer's "
        "process: set vllm_weights_dir to a folder that the server sees under the same path, or use vllm_mode "
        "'colocate' or generator 'transformers'.",
    )


def build_sampler(
    model: PreTrainedModel,
    args: PolychromicConfig,
    policy_config: PolicyConfig,
    renderer: Renderer,
    device: torch.device,
    dtype: torch.dtype,
) -> Generator:
    """What samples the rollouts: a generator in this process, or, with ``vllm_mode: server``, one that asks a server.

    ``dtype``: what an engine computes in; weights that train are float32 whatever it is.

    Raises:
        EngineError: no engine for this policy; no server, or one with other settings than rollouts need.
    """
    sampling: dict[str, Any] = {
        "temperature": args.temperature,
        "max_action_tokens": policy_config.max_action_tokens or renderer.longest_action(),
        "stop_ids": renderer.stop_ids,
    }
    if args.vllm_mode == "colocate":
        settings = EngineSettings(
            gpu_memory_utilization=args.vllm_gpu_memory_utilization,
            max_model_length=args.vllm_max_model_length,
            sleep=args.vllm_enable_sleep_mode,
        )
        return build_generator(
            policy_config.generator, model, path=policy_config.model, settings=settings, dtype=dtype, **sampling
        )
    url = args.vllm_server_base_url or f"http://{args.vllm_server_host}:{args.vllm_server_port}"
    server = VLLMServer(url, args.vllm_server_timeout)
    transfers, positions = args.vllm_weights_dir is None, args.vllm_max_model_length
    server.check(model, transfers=transfers, positions=positions, dtype=dtype)
    if args.vllm_weights_dir is not None:
        send = through_folder(server, args.vllm_weights_dir)
    else:
        send = over_nccl(server, args.vllm_group_port, device)
    return VLLMServerGenerator(model, server=server, send=send, dtype=dtype, **sampling)


def over_nccl(server: VLLMServer, group_port: int, device: torch.device) -> Callable[[PreTrainedModel], None]:
    """Sends weights by TRL's client: the server's workers and this process form a group when the first ones are due."""
    client, announced = None, None

    def send(model: PreTrainedModel) -> None:
        nonlocal client, announced
        try:
            if client is None:
                from trl.generation.vllm_client import VLLMClient

                client = VLLMClient(base_url=server.url, group_port=group_port, connection_timeout=server.timeout)
                client.init_communicator(device=device)
                # the server wants to know what comes before the first tensor is sent
                announced = [
                    (name, str(weight.dtype).removeprefix("torch."), list(weight.shape))
                    for name, weight in merged_weights(model)
                ]
            client.update_named_params(announced, ((name, w.contiguous()) for name, w in merged_weights(model)))
        except Exception as error:  # TRL's client raises bare ones
            raise EngineError(
                f"the weights did not reach the vLLM server at {server.shown} over NCCL ({type(error).__name__}: "
                f"{error}). Its machine must reach this one's port {group_port} (vllm_group_port); without NCCL "
                "between them, set vllm_weights_dir."
            ) from error

    return send
