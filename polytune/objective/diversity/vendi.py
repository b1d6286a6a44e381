"""d = V / n with the Vendi score V = exp(-sum_k l_k log l_k), l the eigenvalues of K / m (arXiv 2210.02410).

K is the similarity matrix of the set's m members other than None: of two sets |A & B| / |A | B| (Jaccard), of two
sequences (tuples, strings) 1 - edit distance / longer length, of anything else, and across kinds, 1 if equal else 0.
V is the effective number of strategies: u for u classes of equal size under 0/1 similarity, where d = u / n as in
`distinct_fraction`; less when the sizes are unequal, and less the more alike the members are.
Assumes that the similarity means something: name clusters by ints, since "cluster 1" and "cluster 2" are strings that
look alike. Degenerate cases: all members alike give 1/n; only None members 0; n = 1 gives 1. Edit similarity need not
be positive semi-definite: negative eigenvalues are set to 0 and the others rescaled to sum to 1, so V stays in [1, m].
"""

from typing import Any

import torch

from polytune.objective.diversity.base import Diversity, PairForm, Signatures
from polytune.objective.diversity.edit_distance import normalised_edit_distances


def similarity_matrix(signatures: Signatures) -> torch.Tensor:
    """K of N signatures, (N, N) float64 in [0, 1]; 0 in the rows and columns of None.

    >>> similarity_matrix([frozenset({"red", "blue"}), frozenset({"red"}), None])[0].tolist()
    [1.0, 0.5, 0.0]
    """
    matrix = torch.zeros(len(signatures), len(signatures), dtype=torch.float64)
    kinds: dict[str, list[int]] = {}
    for index, signature in enumerate(signatures):
        if signature is not None:
            kinds.setdefault(_kind(signature), []).append(index)
    for kind, members in kinds.items():
        rows = torch.tensor(members)
        matrix[rows[:, None], rows] = KERNELS[kind]([signatures[index] for index in members])
    return matrix


def vendi_fraction(matrix_S_n_n: torch.Tensor) -> torch.Tensor:
    """V / n of each set, (S,).

    >>> vendi_fraction(torch.stack([torch.ones(2, 2), torch.eye(2)])).tolist()  # alike, unlike
    [0.5, 1.0]
    """
    eigenvalues_S_n = torch.linalg.eigvalsh(matrix_S_n_n).clamp(min=0)
    weight_S_1 = eigenvalues_S_n.sum(dim=1, keepdim=True)
    entropy_S = torch.special.entr(eigenvalues_S_n / weight_S_1.clamp(min=1e-300)).sum(dim=1)
    score_S = torch.where(weight_S_1[:, 0] > 0, entropy_S.exp(), 0.0)
    return score_S / matrix_S_n_n.shape[-1]


def _kind(signature: Any) -> str:
    kinds = {"set": frozenset, "text": str, "sequence": tuple}
    return next((kind for kind, types in kinds.items() if isinstance(signature, types)), "label")


def _jaccard(sets: list[frozenset]) -> torch.Tensor:
    names = {name: column for column, name in enumerate(frozenset().union(*sets))}
    holds = torch.zeros(len(sets), len(names), dtype=torch.float64)
    for row, members in enumerate(sets):
        holds[row, [names[name] for name in members]] = 1.0
    shared, sizes = holds @ holds.T, holds.sum(dim=1)
    union = sizes[:, None] + sizes - shared
    return torch.where(union > 0, shared / union, 1.0)  # two empty sets are equal


def _edit_similarity(sequences: list) -> torch.Tensor:
    return torch.from_numpy(1 - normalised_edit_distances(sequences))


def _same(signatures: list) -> torch.Tensor:
    index: dict[Any, int] = {}
    ids = torch.tensor([index.setdefault(signature, len(index)) for signature in signatures])
    return (ids[:, None] == ids).double()


KERNELS = {"set": _jaccard, "text": _edit_similarity, "sequence": _edit_similarity, "label": _same}
PAIRS = PairForm(similarity_matrix, vendi_fraction, flat_alone=False)
VENDI = Diversity(PAIRS.of_set, pair_form=PAIRS, says="Vendi score / n (arXiv 2210.02410)")
