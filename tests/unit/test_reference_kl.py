"""The KL terms against exact gradients: a softmax over four outcomes, the behaviour policy's probabilities in 16ths,
so that 16 rows are its distribution exactly."""

import collections
import types

import pytest
import torch
from trl import GRPOTrainer

from polytune.methods.behaviour_kl import behaviour_kl
from polytune.trainer.reference import HoldsReference, forward_kl

OLD = torch.tensor([8, 4, 3, 1], dtype=torch.float64) / 16
ROWS = torch.tensor([0] * 8 + [1] * 4 + [2] * 3 + [3])
REFERENCE = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
#: of the policy: that of the behaviour policy, and another one, as in later passes over the rows
STARTS = {"on the policy": OLD.log(), "off it": torch.tensor([0.7, -0.4, 0.2, -1.0], dtype=torch.float64)}


def exact(logits, direction):
    """Value and gradient of the divergence, by enumeration."""
    logits = logits.clone().requires_grad_()
    logprobs = logits.log_softmax(-1)
    if direction == "reverse":
        value = (logprobs.exp() * (logprobs - REFERENCE.log())).sum()
    elif direction == "forward":
        value = (REFERENCE * (REFERENCE.log() - logprobs)).sum()
    else:
        value = (OLD * (OLD.log() - logprobs)).sum()
    return value.detach(), torch.autograd.grad(value, logits)[0]


def estimated(logits, term):
    logits = logits.clone().requires_grad_()
    logprobs_B_C = logits.log_softmax(-1)[ROWS][:, None]
    value = term(logprobs_B_C).mean()
    return value.detach(), torch.autograd.grad(value, logits)[0]


class Tabular(HoldsReference, GRPOTrainer):
    """TRL's loss on a table of logits: everything that it reads and nothing else."""

    def __init__(self, direction, corrected=True):
        self.kl_recorded, self.model = [], types.SimpleNamespace(training=False)
        self.args = types.SimpleNamespace(
            kl_towards=direction, use_bias_correction_kl=corrected, delta=None, gradient_accumulation_steps=1,
            steps_per_generation=1,
        )  # fmt: skip
        self.accelerator = types.SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, *_, **__: x)
        self.beta, self.loss_type, self.importance_sampling_level = 1.0, "dapo", "token"
        self.top_entropy_quantile, self.off_policy_mask_threshold, self.use_vllm = 1.0, None, False
        self.epsilon_low = self.epsilon_high = 0.2
        self.aux_loss_enabled = self._entropy_bonus_enabled = self.use_adaptive_entropy = False
        self.entropy_coef = 0.0
        self._metrics = {"eval": collections.defaultdict(list)}

    def _get_per_token_logps_and_entropies(self, model, *args, **kwargs):
        logprobs_B_C = model.log_softmax(-1)[ROWS][:, None]
        self._pass_logprobs = logprobs_B_C
        return logprobs_B_C, torch.zeros_like(logprobs_B_C), None

    def _record_mean(self, name, values_B_C, mask_B_C):
        self.kl_recorded.append(float(values_B_C.detach().sum() / mask_B_C.sum()))

    def _normaliser(self, count):
        return count


def of_the_loss(logits, direction, corrected=True):
    logits = logits.clone().requires_grad_()
    ones = torch.ones(16, 1, dtype=torch.float64)
    inputs = {
        "prompt_ids": ones.long(), "prompt_mask": ones.long(), "completion_ids": ROWS[:, None],
        "completion_mask": ones.long(), "tool_mask": ones.long(), "advantages": 0 * ones,
        "old_per_token_logps": OLD.log()[ROWS][:, None], "sampling_per_token_logps": OLD.log()[ROWS][:, None],
        "ref_per_token_logps": REFERENCE.log()[ROWS][:, None], "num_items_in_batch": torch.tensor(16.0),
    }  # fmt: skip
    loss = Tabular(direction, corrected)._compute_loss(logits, inputs)
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_the_loss_has_the_value_and_the_gradient_of_the_divergence_that_is_named(start, direction):
    for own, true in zip(of_the_loss(STARTS[start], direction), exact(STARTS[start], direction), strict=True):
        torch.testing.assert_close(own, true, atol=1e-15, rtol=1e-12)


@pytest.mark.parametrize("start", STARTS)
def test_the_behaviour_term_is_its_divergence(start):
    old, ones = OLD.log()[ROWS][:, None], torch.ones(16, 1)
    found = estimated(STARTS[start], lambda logprobs: behaviour_kl(logprobs, old, ones))
    for own, true in zip(found, exact(STARTS[start], "behaviour"), strict=True):
        torch.testing.assert_close(own, true, atol=1e-15, rtol=1e-12)


def test_without_its_correction_trls_term_has_the_other_gradient():
    """Why use_bias_correction_kl False is refused: on the policy its value is reverse, its gradient forward."""
    value, gradient = of_the_loss(STARTS["on the policy"], "reverse", corrected=False)
    assert torch.isclose(value, exact(STARTS["on the policy"], "reverse")[0])
    forward, reverse = (exact(STARTS["on the policy"], name)[1] for name in ("forward", "reverse"))
    assert (gradient - forward).abs().max() < 1e-15 and (gradient - reverse).abs().max() > 0.1


def test_the_forward_term_is_never_negative_and_0_beyond_the_mask():
    generator = torch.Generator().manual_seed(0)
    logprobs, old, reference = (-3 * torch.rand(50, 7, generator=generator) for _ in range(3))
    mask = (torch.rand(50, 7, generator=generator) < 0.5).float()
    kl = forward_kl(logprobs, old, reference, mask)
    assert kl.min() > -1e-6 and kl[mask == 0].abs().max() == 0 and kl.max() > 0.1
    assert forward_kl(logprobs, old, logprobs, mask).abs().max() < 1e-6
