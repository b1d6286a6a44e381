"""d = sum of the leverages of a set's members / (n - 1), signatures being vectors (RepExp's kernel, arXiv 2510.11686).

    leverage of i = h_i^T (damping I + sum_j h_j h_j^T)^-1 h_i,   h: a vector less the set's mean;  damping 0.01
They sum to less than n - 1: d is about 1 for members that have nothing in common, 0 for members alike. With the Gram
matrix G of the h it is the trace of G (G + damping I)^-1, the effective dimension of the set, over n - 1.

Assumes that vectors tell strategies apart, and their scale: what is far below damping^1/2 counts as alike. Method
``hidden_signatures`` makes signatures of the policy's hidden states. Degenerate cases: a None member adds nothing, and
is none of those whose mean is taken away; n = 1 gives 0, so every advantage of f = reward * d vanishes.
"""

import torch

from polytune.objective.diversity.base import Diversity, PairForm, Signatures

DAMPING = 0.01


def gram_matrix(signatures: Signatures) -> torch.Tensor:
    """1 + h_i . h_j (N, N), 0 for None: the 1 tells a vector of zeros from None, and centring takes it away."""
    present = [index for index, signature in enumerate(signatures) if signature is not None]
    matrix = torch.zeros(len(signatures), len(signatures), dtype=torch.float64)
    if present:
        vectors = torch.tensor([_vector(signatures[index]) for index in present], dtype=torch.float64)
        rows = torch.tensor(present)
        matrix[rows[:, None], rows] = 1.0 + vectors @ vectors.T
    return matrix


def total_leverage(matrix_S_n_n: torch.Tensor) -> torch.Tensor:
    """d of each set, (S,)."""
    size = matrix_S_n_n.shape[-1]
    present_S_n = (matrix_S_n_n.diagonal(dim1=1, dim2=2) > 0).double()
    counts_S_1 = present_S_n.sum(dim=1, keepdim=True).clamp(min=1)
    mean_S_n_n = present_S_n[:, :, None] * present_S_n[:, None, :] / counts_S_1[:, :, None]
    centre_S_n_n = torch.diag_embed(present_S_n) - mean_S_n_n
    gram_S_n_n = centre_S_n_n @ matrix_S_n_n @ centre_S_n_n
    damped_S_n_n = gram_S_n_n + DAMPING * torch.eye(size, dtype=torch.float64)
    return torch.linalg.solve(damped_S_n_n, gram_S_n_n).diagonal(dim1=1, dim2=2).sum(dim=1).clamp(0, size - 1) / max(
        size - 1, 1
    )


def _vector(signature: object) -> tuple[float, ...]:
    if not isinstance(signature, tuple) or not all(isinstance(x, int | float) for x in signature):
        raise ValueError(
            f"diversity leverage needs vectors (tuples of numbers of one length), got {signature!r}: add method "
            "'hidden_signatures', or use vendi"
        )
    return signature


PAIRS = PairForm(gram_matrix, total_leverage)
LEVERAGE = Diversity(
    PAIRS.of_set, pair_form=PAIRS, says="leverages of the members' vectors / (n - 1) (arXiv 2510.11686)"
)
