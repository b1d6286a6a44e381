"""recipes/maths/poly_epo_released.yaml is Poly-EPO as its public code trains it: its fields, its advantages."""

import itertools
from pathlib import Path

import pytest
import torch

from polytune.app.cli import parse
from polytune.config import AdapterConfig, ObjectiveConfig, PolicyConfig, RolloutConfig, TaskConfig
from polytune.objective import set_advantages
from polytune.tasks.starts import options_of
from polytune.trainer import PolychromicConfig, check_run

ROOT = Path(__file__).resolve().parents[2]
PARTS = (TaskConfig, PolicyConfig, AdapterConfig, RolloutConfig, ObjectiveConfig, PolychromicConfig)


@pytest.fixture
def released(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("polytune.config.find_spec", lambda name: True)  # vllm need not be installed
    parts = parse(PARTS, ["--config", "recipes/maths/poly_epo_released.yaml"], description="test")
    check_run(parts[5], parts[3], parts[4])
    return parts


def test_every_field_is_the_released_codes(released):
    task, policy, adapter, rollout, objective, args = released
    assert (policy.model, adapter.use_peft) == ("Qwen/Qwen3-4B-Base", False)
    assert (rollout.num_seeds, objective.set_size, objective.num_sets) == (8, 4, "all")
    assert (objective.set_normalise, objective.judge_failure) == ("none", "all_distinct")
    assert (args.epsilon, args.epsilon_high, args.max_grad_norm) == (0.2, 0.28, 0.3)
    assert (args.learning_rate, args.kl_coef, args.entropy_coef) == (1e-6, 0.0, 0.0)
    assert (args.temperature, args.num_iterations, args.loss_type) == (1.0, 1, "dr_grpo")
    assert args.max_completion_length == options_of(task)["max_tokens"], "the constant of the loss"
    processes, answers = 8, 128 * 8
    assert processes * args.per_device_train_batch_size * args.steps_per_generation == answers
    minibatch = processes * args.per_device_train_batch_size * args.gradient_accumulation_steps
    assert answers == 4 * minibatch


def as_released(rewards, clusters, n):
    """Mean reward x clusters / n of all sets, a set's mean over all taken away, averaged over the sets of a member."""
    sets = list(itertools.combinations(range(len(rewards)), n))
    scores = [
        sum(rewards[i] for i in s) / n * len({clusters[i] for i in s if clusters[i] != "degenerate"}) / n for s in sets
    ]
    mean = sum(scores) / len(scores)
    return [
        sum(score - mean for s, score in zip(sets, scores, strict=True) if i in s) / sum(i in s for s in sets)
        for i in range(len(rewards))
    ]


@pytest.mark.parametrize("rewards, clusters, worked", [
    ([1, 1, 1, 1, 0, 0, 0, 0], "AABBCCDD", [0.05] * 4 + [-0.05] * 4),
    ([1, 0, 0, 0, 0, 0, 0, 0], "ABBBBCDE", [0.1018] + [-0.0214] * 4 + [-0.0054] * 3),
    ([1, 1, 0, 0, 0, 1, 0, 0], ["A", "B", "degenerate", "B", "degenerate", "degenerate", "C", "A"], None),
    ([0.5, 1, 0, 0, 0.25, 1, 0, 1], "ABCDEFGH", None),
    ([1] * 8, "AAAAAAAA", [0.0] * 8),
])  # fmt: skip
def test_advantages_are_the_released_codes(released, rewards, clusters, worked):
    objective = released[4]
    signatures = [None if cluster == "degenerate" else cluster for cluster in clusters]
    found = set_advantages(
        [float(r) for r in rewards], signatures, objective.set_size, objective=objective.objective,
        diversity=objective.diversity, credit=objective.credit,
    )  # fmt: skip
    expected = torch.tensor(as_released(rewards, clusters, 4), dtype=found.dtype)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    if worked is not None:
        torch.testing.assert_close(found, torch.tensor(worked, dtype=found.dtype), atol=5e-5, rtol=0)
