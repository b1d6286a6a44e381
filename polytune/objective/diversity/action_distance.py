"""d = mean over the pairs of a set of lev(a, b) / max(len(a), len(b)): how different the action sequences are.

Assumes that a signature is the sequence of actions (a tuple; a string counts as a sequence of characters), and that
edits matter alike wherever they happen. Grows with every pair's distance; 1 only when no two members share an action
at any aligned place. Degenerate cases: a pair with a None member has distance 0; n = 1 has no pair and gives 0, so
every advantage of f = reward * d vanishes; two empty sequences are equal.
"""

import torch

from polytune.objective.diversity.base import Diversity, PairForm, Signatures
from polytune.objective.diversity.edit_distance import normalised_edit_distances


def distance_matrix(signatures: Signatures) -> torch.Tensor:
    """Normalised edit distances (N, N), 0 for None. ValueError for a signature that is no tuple or string."""
    for signature in signatures:
        if signature is not None and not isinstance(signature, tuple | str):
            kind = type(signature).__name__
            raise ValueError(
                "diversity action_distance needs sequences (tuples of actions, or strings), "
                f"got {kind}: {signature!r}; for sets of things use vendi"
            )
    present = [index for index, signature in enumerate(signatures) if signature is not None]
    matrix = torch.zeros(len(signatures), len(signatures), dtype=torch.float64)
    distances = normalised_edit_distances([signatures[index] for index in present])
    rows = torch.tensor(present, dtype=torch.int64)
    matrix[rows[:, None], rows] = torch.from_numpy(distances)
    return matrix


def mean_pair(matrix_S_n_n: torch.Tensor) -> torch.Tensor:
    """Mean over the pairs of each set, (S,); 0 without pairs."""
    size = matrix_S_n_n.shape[-1]
    return matrix_S_n_n.sum(dim=(1, 2)) / max(size * (size - 1), 1)


PAIRS = PairForm(distance_matrix, mean_pair)
ACTION_DISTANCE = Diversity(PAIRS.of_set, pair_form=PAIRS, says="mean edit distance of the action sequences")
