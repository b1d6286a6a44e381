"""KL to the policy that sampled the update: a term of the loss, ``kl_coef`` with ``kl_reference: behaviour``.

    loss += coef * mean over own tokens of (r - 1 - log r),   r = pi_theta / pi_beta of the sampled token
This is KL(pi_beta || pi_theta) per sampled token, estimator k3 (Schulman, "Approximating KL divergence", 2020): never
negative, unbiased for samples of pi_beta, its gradient that of the KL. Poly-PPO (arXiv 2509.25424) has it in its loss,
per visited state. Assumes that pi_beta sampled the tokens. Degenerate case: at r = 1 the term and its gradient are 0.
"""

from dataclasses import dataclass

import torch

from polytune.methods.base import Method, Minibatch


@dataclass
class BehaviourKL(Method):
    """The term as a loss of a minibatch; ``kl_coef`` with ``kl_reference: behaviour`` brings it."""

    coef: float

    def loss(self, batch: Minibatch) -> torch.Tensor:
        kl_b_C = behaviour_kl(batch.logprobs_b_C, batch.old_b_C, batch.mask_b_C)
        batch.record("kl", kl_b_C, batch.mask_b_C)
        return self.coef * kl_b_C.sum()


def behaviour_kl(logprobs_B_C: torch.Tensor, old_B_C: torch.Tensor, mask_B_C: torch.Tensor) -> torch.Tensor:
    """r - 1 - log r per token, (B, C); 0 where the mask is 0."""
    log_ratio_B_C = (logprobs_B_C - old_B_C) * mask_B_C
    return (log_ratio_B_C.exp() - 1 - log_ratio_B_C) * mask_B_C
