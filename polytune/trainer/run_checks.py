"""What a run's fields, and then its task, must not contradict: one list of checks for programs and trainer."""

from __future__ import annotations

from polytune.config import ObjectiveConfig, RolloutConfig
from polytune.methods import build_methods
from polytune.tasks.base import Task
from polytune.trainer.behaving import check_behaving
from polytune.trainer.checks import check_branching, check_run
from polytune.trainer.config import PolychromicConfig
from polytune.trainer.critic_adapter import check_critic_adapter
from polytune.trainer.serving import check_vllm_mode
from polytune.trainer.set_checks import check_signatures
from polytune.trainer.tempered import check_tempering


def check_fields(
    args: PolychromicConfig, rollout: RolloutConfig, objective: ObjectiveConfig, *, generator: str, adapted: bool
) -> None:
    """ValueError that names fields which contradict each other, and the fix; nothing is loaded for it.

    Args:
        generator: what samples.
        adapted: whether the policy is an adapter on frozen weights.
    """
    check_run(args, rollout, objective)
    check_critic_adapter(args, adapted)
    check_vllm_mode(args, generator)
    methods = build_methods(objective.methods, objective.method_options)
    check_tempering(methods, rollout, generator)
    check_behaving(methods, generator)


def check_world(task: Task, start_state: int, rollout: RolloutConfig, objective: ObjectiveConfig) -> None:
    """ValueError for what the task cannot give to these fields."""
    check_branching(task, rollout)
    check_signatures(task, start_state, rollout, objective)
