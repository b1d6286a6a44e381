"""How processes are started: what accelerate was asked for, the YAML files, what is refused and why."""

from types import SimpleNamespace

import psutil
import pytest
import torch
from accelerate import PartialState
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from polytune.app.cli import _asked_of_accelerate
from polytune.places import RECIPES
from polytune.running.watchdog import Watchdog, read_progress, stage
from polytune.trainer import PolychromicConfig, check_processes

ACCUMULATION = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}
ZERO2 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("python /bin/accelerate launch --num_processes 2 --cpu recipes/finetune.py --config launch", 2),
        ("python /bin/accelerate launch --cpu --num_processes=3 recipes/finetune.py --num_processes 7", 3),
        ("python -m accelerate.commands.launch --cpu --num_processes 2 recipes/finetune.py", 2),
        ("python /bin/accelerate-launch --cpu recipes/finetune.py", 1),
        ("/bin/bash launch accelerate", 1),
        ("make quickstart", None),
    ],
)
def test_what_accelerate_was_asked_for(words, number, monkeypatch):
    parent = SimpleNamespace(cmdline=words.split)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(parent=lambda: parent))
    assert _asked_of_accelerate() == number


def environment_of(name, script="recipes/finetune.py"):
    """What accelerate sets for the processes that it starts with one of the YAML files."""
    path = RECIPES / f"accelerate/{name}.yaml"
    args = launch_command_parser().parse_args(["--config_file", str(path), script])
    args, defaults, _ = _validate_launch_command(args)
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        return args, prepare_deepspeed_cmd_env(args)[1]
    return args, prepare_multi_gpu_env(args)


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2"])
def test_every_yaml_starts_processes_that_are_not_refused(name, monkeypatch):
    args, environment = environment_of(name)
    assert args.num_processes == 2 and args.mixed_precision == "bf16"
    assert (args.multi_gpu, args.use_fsdp, args.use_deepspeed) == (name == "ddp", name == "fsdp2", name == "zero2")
    check(monkeypatch, environment, has_critic=name != "zero2")
    assert environment.get("FSDP_VERSION") == ("2" if name == "fsdp2" else None)


def check(monkeypatch, environment, *, world_size=2, kind=DistributedType.MULTI_GPU, generator="transformers", **args):
    for name in (*FSDP2, *ZERO2, "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(PartialState, "_shared_state", {"_cpu": True, "distributed_type": kind})
    defaults = {"world_size": world_size, "deepspeed": None, "has_critic": True, "critic_lora_r": 0}
    defaults["gradient_accumulation_steps"] = 2
    check_processes(SimpleNamespace(**(defaults | args)), generator)


@pytest.mark.parametrize(
    ("environment", "options", "message"),
    [
        ({"WORLD_SIZE": "2"}, {"world_size": 1}, "2 processes were started, but each would train alone"),
        (FSDP2 | {"FSDP_VERSION": "1"}, {}, "FSDP1 flattens weights.* set fsdp_version: 2"),
        (FSDP2 | {"FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}, {}, "without model.safetensors: set it to FULL"),
        (FSDP2 | {"FSDP_OFFLOAD_PARAMS": "true"}, {}, "fsdp_offload_params is on, but rollouts need the weights"),
        (FSDP2 | {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, {}, "fsdp_cpu_ram_efficient_loading is on"),
        (FSDP2 | {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, {}, "gradient_checkpointing does the same"),
        (FSDP2, {"kind": DistributedType.MULTI_CPU}, "on GPUs only and would run DDP on these CPUs"),
        (FSDP2, {"world_size": 1}, "nothing to share out"),
        (FSDP2, {"critic_lora_r": 4}, "critic_lora_r is 4, but the critic's adapter adds to whole layers.*ddp.yaml"),
        (FSDP2, {"generator": "vllm"}, "generator 'vllm' cannot take sharded weights"),
        (ZERO2 | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, {"has_critic": False}, "ZeRO-3 shards the weights"),
        (ZERO2, {}, "critic is on, but under DeepSpeed nobody has tried one: set critic to 'none'"),
        ({ACCUMULATION: "4"}, {}, "given gradient_accumulation_steps 4, .* put --gradient_accumulation_steps 4 behind"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, {}, "was given dynamo_backend 'INDUCTOR'.*leave it out"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, {}, "was given mixed_precision 'fp16'.*bf16 or dtype"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, {}, "Megatron-LM, tensor and context parallelism"),
    ],
)
def test_what_does_not_work_is_refused_with_the_reason_and_the_fix(environment, options, message, monkeypatch):
    with pytest.raises(ValueError, match=message):
        check(monkeypatch, environment, **options)


@pytest.mark.parametrize("environment", [{ACCUMULATION: "2"}, {ACCUMULATION: "1"}, {"ACCELERATE_DYNAMO_BACKEND": "NO"}])
def test_what_a_launcher_sets_of_its_own_accord_passes(environment, monkeypatch):
    check(monkeypatch, environment)


def test_progress_keeps_the_watchdog_quiet_and_none_makes_it_speak(tmp_path, capfd):
    counters, ticks = [0], []

    def read():
        ticks.append(counters[0])
        counters[0] += len(ticks) < 8  # moves eight times, then stands still
        return (f"count {counters[0]}",)

    read_progress(read)
    watchdog = Watchdog(0.2, "process 0 of 1", str(tmp_path))
    with stage("first"), stage("second"):
        watchdog.start()
        while "end of the stacks" not in (said := capfd.readouterr().err):
            pass
        watchdog.stop()
    read_progress(tuple)
    assert "no progress for 0 s in stage 'first > second' of process 0 of 1 (count 7)" in said
    assert "There is no checkpoint yet" in said and len(ticks) > 8


def test_what_is_computed_in_follows_dtype_and_launcher_not_the_machine(monkeypatch, tmp_path):
    """float32, the default of ``dtype``, is float32 beside a GPU as well; ``accelerate launch`` may say bfloat16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *given: True)
    made = dict(output_dir=str(tmp_path), num_generations=2, per_device_train_batch_size=4, use_cpu=True)
    args = PolychromicConfig(**made)
    assert (args.bf16, args.mixed_precision) == (False, "no")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    args = PolychromicConfig(**made)
    assert (args.bf16, args.mixed_precision) == (True, "bf16")
