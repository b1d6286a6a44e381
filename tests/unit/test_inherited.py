"""Every field that PolychromicConfig inherits acts within its range, or is refused before any work."""

import json
import os
from dataclasses import fields
from fnmatch import fnmatchcase

import pytest
from transformers import SchedulerType, Trainer
from trl import GRPOConfig

from polytune.trainer import PolychromicConfig
from polytune.trainer.inherited import ACTS, OPTIMISERS
from polytune.trainer.refused import INSTEAD

NAMES = [field.name for field in fields(GRPOConfig)]
REFUSED = [name for name in NAMES if name not in ACTS]
#: acting field -> values that it may not have
OUT_OF_RANGE = {
    "per_device_train_batch_size": [0, -1, True],
    "gradient_accumulation_steps": [0],
    "steps_per_generation": [0],
    "num_generations": [1],
    "num_iterations": [0],
    "loss_type": ["sapo", "luspo"],
    "epsilon": [0.0, 1.0, -0.2],
    "epsilon_high": [-0.5, 0.0],
    "delta": [0.5, 1.0],
    "importance_sampling_level": ["turn"],
    "top_entropy_quantile": [1.5, -0.1],
    "entropy_coef": [-0.01],
    "use_adaptive_entropy": ["sometimes"],
    **dict.fromkeys(("entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"), [-1.0, 0.7]),
    "off_policy_mask_threshold": [0.0, -2.0],
    "router_aux_loss_coef": [-0.001],
    "vllm_importance_sampling_correction": ["no way"],
    "vllm_importance_sampling_clip_max": [0.0, -3.0],
    "temperature": [0.0, -1.0],
    "learning_rate": [0.0, -1e-6],
    "lr_scheduler_type": ["reduce_lr_on_plateau", "greedy", "warmup_stable_decay", "steep"],
    "lr_scheduler_kwargs": ["min_lr", "{'min_lr': 0}", {"num_cycles": 3}],
    "warmup_steps": [-1, 2.5, 3],
    "optim": ["adamw_bnb_8bit", "paged_adamw_8bit", "adamw_torch_8bit", "galore_adamw", "lomo", "schedule_free_adamw"],
    "weight_decay": [-1.0],
    "adam_beta1": [1.0, 2.0, -0.1],
    "adam_beta2": [1.0, 2.0],
    "adam_epsilon": [0.0, -1e-8],
    "max_grad_norm": [-1.0],
    "gradient_checkpointing_kwargs": [{"use_reentrant": "yes"}, {"reentrant": True}, "use_reentrant"],
    "torch_empty_cache_steps": [0, -3],
    "ddp_bucket_cap_mb": [0],
    "ddp_backend": ["rpc"],
    "ddp_timeout": [0, -5],
    "seed": [-1, 2**32, 1.5],
    "save_total_limit": [0, -1],
    "log_level": ["loud"],
    "log_level_replica": ["loud"],
    "vllm_mode": ["serve"],
    "vllm_server_port": [0, 65536],
    "vllm_group_port": [-1, 70000],
    "vllm_server_timeout": [0.0],
    "vllm_gpu_memory_utilization": [0.0, 1.5],
    "vllm_max_model_length": [0],
    "max_completion_length": [0, 100],
    "vllm_tensor_parallel_size": [0, 2],
    "deepspeed": ["nowhere.json"],
    **dict.fromkeys(("bf16", "tf32", "use_cpu", "gradient_checkpointing", "full_determinism"), ["perhaps"]),
    **dict.fromkeys(("disable_dropout", "trust_remote_code", "disable_tqdm", "vllm_enable_sleep_mode"), ["perhaps"]),
    **dict.fromkeys(("ddp_find_unused_parameters", "ddp_broadcast_buffers"), ["perhaps"]),
    **dict.fromkeys(("sync_ref_model", "use_bias_correction_kl"), ["perhaps"]),
}
#: acting fields that only a tracker, a launcher or a server can judge
FREE = {
    "output_dir", "local_rank", "report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id",
    "trackio_static_space_id", "vllm_server_base_url", "vllm_server_host",
}  # fmt: skip


def config(**given):
    given.setdefault("num_iterations", 2)
    return PolychromicConfig(use_cpu=given.pop("use_cpu", True), bf16=given.pop("bf16", False), **given)


def other_than(value):
    """A value of the same kind that is not the default."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else "odd"


def test_each_field_acts_or_is_refused_with_what_does_the_work():
    """A field that a new version brings has no place until somebody gives it one; no line is about a field of old."""
    assert set(ACTS) <= set(NAMES)
    for name in REFUSED:
        assert any(fnmatchcase(name, known) for known in INSTEAD), name
    assert all(any(fnmatchcase(name, known) for name in REFUSED) for known in INSTEAD)
    assert set(OUT_OF_RANGE) | FREE == set(ACTS)


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_act_is_one_line(name):
    with pytest.raises(ValueError, match=rf"^{name} is .*, but has no effect here, or a wrong one: .*Leave it out\.$"):
        config(**{name: other_than(PolychromicConfig.__dataclass_fields__[name].default)})


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in OUT_OF_RANGE for value in OUT_OF_RANGE[name]])
def test_what_acts_has_a_range(name, value, monkeypatch):
    monkeypatch.setattr("polytune.trainer.inherited.find_spec", lambda package: None)
    with pytest.raises(ValueError, match=f"{name}|SchedulerType") as error:
        config(**{name: value})
    assert "\n" not in str(error.value)


def test_a_token_is_not_shown():
    with pytest.raises(ValueError, match="^hub_token is set, but") as error:
        config(hub_token="hf_secret")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_optimisers_that_are_named_can_be_built(kind):
    args = config(optim=kind, weight_decay=0.1)
    built, options = Trainer.get_optimizer_cls_and_kwargs(args)
    assert built.__module__.startswith(("torch.optim", "transformers")) and options["lr"] == args.learning_rate


def test_betas_belong_to_adam():
    options = Trainer.get_optimizer_cls_and_kwargs(config(adam_beta1=0.0, adam_beta2=0.95))[1]
    assert options["betas"] == (0.0, 0.95)
    with pytest.raises(ValueError, match="adam_beta2 is 0.95, but has no effect with optim 'sgd'"):
        config(optim="sgd", adam_beta2=0.95)


@pytest.mark.parametrize(
    "given",
    [{"lr_scheduler_type": kind.value} for kind in SchedulerType
     if kind.value not in ("reduce_lr_on_plateau", "greedy", "warmup_stable_decay", "cosine_with_min_lr",
                           "cosine_warmup_with_min_lr")]
    + [{"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": json.dumps({"min_lr": 1e-7})},
       {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 5}},
       {"lr_scheduler_type": "linear", "warmup_steps": 0.1}],
)  # fmt: skip
def test_schedules_that_can_be_built_pass(given):
    assert config(**given).max_steps == 40


@pytest.mark.parametrize(("given", "message"), [
    ({"lr_scheduler_type": "cosine_with_min_lr"}, "makes no schedule of 40 steps: .*min_lr"),
    ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 1.0}}, "makes no schedule of 40 steps"),
    ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"cycles": 2}}, "makes no schedule of 40 steps: .*cycles"),
    ({"lr_scheduler_type": "constant_with_warmup", "lr_scheduler_kwargs": {"x": 2}}, "takes none: leave them out"),
])  # fmt: skip
def test_schedules_that_cannot_are_one_line_before_work(given, message):
    with pytest.raises(ValueError, match=message):
        config(**given)


def test_nothing_of_a_refused_run_is_left(tmp_path):
    with pytest.raises(ValueError, match="eval_strategy"):
        config(output_dir=str(tmp_path / "run"), eval_strategy="steps")
    assert os.listdir(tmp_path) == []
