"""Graded diversity measures: bounds, order, monotonicity, and the fast forms against loops."""

import itertools
import math
import random

import numpy as np
import pytest
import torch

from polytune.objective import DIVERSITY, enumerate_set_advantages, find_diversity, score_groups, set_advantages
from polytune.objective.diversity.edit_distance import normalised_edit_distances
from polytune.objective.diversity.vendi import similarity_matrix, vendi_fraction


def levenshtein(a, b):
    """The textbook recursion, cell by cell."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        above, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def similarity(a, b):
    if a is None or b is None:
        return 0.0
    if isinstance(a, frozenset) and isinstance(b, frozenset):
        return len(a & b) / len(a | b) if a | b else 1.0
    if type(a) is type(b) and isinstance(a, str | tuple):
        return 1 - levenshtein(a, b) / max(len(a), len(b)) if a or b else 1.0
    return float(a == b)


def vendi(signatures):
    """exp of the entropy of the eigenvalues of K / m, over n, by numpy's general solver."""
    present = [s for s in signatures if s is not None]
    if not present:
        return 0.0
    matrix = np.array([[similarity(a, b) for b in present] for a in present]) / len(present)
    eigenvalues = np.maximum(np.linalg.eigvals(matrix).real, 0)
    shares = eigenvalues[eigenvalues > 0] / eigenvalues.sum()
    return math.exp(-(shares * np.log(shares)).sum()) / len(signatures)


def action_distance(signatures):
    pairs = list(itertools.combinations(signatures, 2))
    far = [levenshtein(a, b) / max(len(a), len(b)) for a, b in pairs if a is not None and b is not None and (a or b)]
    return sum(far) / len(pairs) if pairs else 0.0


def leverage(signatures):
    """From the definition, with the inverse of the covariance."""
    vectors = [torch.tensor(s, dtype=torch.float64) for s in signatures if s is not None]
    if len(signatures) < 2 or not vectors:
        return 0.0
    apart = [v - sum(vectors) / len(vectors) for v in vectors]
    inverse = torch.linalg.inv(0.01 * torch.eye(len(apart[0])).double() + sum(torch.outer(h, h) for h in apart))
    return sum(float(h @ inverse @ h) for h in apart) / (len(signatures) - 1)


REFERENCE = {"vendi": vendi, "action_distance": action_distance, "leverage": leverage}


def random_signature(rng, measure):
    if measure == "leverage":
        return None if rng.random() < 0.2 else tuple(rng.choice([0.0, 0.1, 1.0, -2.0]) for _ in range(3))
    kinds = [
        lambda: None,
        lambda: tuple(rng.choice(["left", "right", "forward"]) for _ in range(rng.randrange(6))),
        lambda: "".join(rng.choice("ab") for _ in range(rng.randrange(5))),
        lambda: frozenset(rng.sample(range(5), rng.randrange(5))),
        lambda: rng.randrange(3),
    ]
    return rng.choice(kinds if measure == "vendi" else kinds[:2])()


@pytest.mark.parametrize("measure", REFERENCE)
def test_measure_equals_its_loops(measure):
    rng = random.Random(0)
    for _ in range(400):
        signatures = [random_signature(rng, measure) for _ in range(rng.randrange(1, 7))]
        got = find_diversity(measure).of_set(signatures)
        assert got == pytest.approx(REFERENCE[measure](signatures), abs=1e-9), signatures
        assert 0 <= got <= 1 + 1e-12


@pytest.mark.parametrize("measure", REFERENCE)
def test_one_matrix_per_group_gives_the_same_advantages(measure):
    rng = random.Random(1)
    for credit in ("mean", "max", "leave_one_out", "per_set"):
        for num_members, size in ((1, 1), (5, 1), (6, 3), (6, 6), (8, 4)):
            signatures = [random_signature(rng, measure) for _ in range(num_members)]
            rewards = [rng.random() for _ in range(num_members)]
            for objective in ("polychromic", "additive"):
                chosen = {"objective": objective, "credit": credit}
                got = set_advantages(rewards, signatures, size, diversity=measure, **chosen)
                want = enumerate_set_advantages(rewards, signatures, size, diversity=REFERENCE[measure], **chosen)
                torch.testing.assert_close(got, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("measure", DIVERSITY)
def test_bounds_permutation_and_none(measure):
    rng = random.Random(2)
    of_set = find_diversity(measure).of_set
    for _ in range(200):
        kind = "leverage" if measure == "leverage" else "action_distance"
        signatures = [random_signature(rng, kind) for _ in range(rng.randrange(1, 7))]
        d = of_set(signatures)
        assert 0 <= d <= 1 + 1e-12
        assert of_set(rng.sample(signatures, len(signatures))) == pytest.approx(d, abs=1e-12)
        place = rng.randrange(len(signatures))
        without = [None if i == place else s for i, s in enumerate(signatures)]
        assert of_set(without) <= d + 1e-12  # a degenerate output never adds diversity
    assert of_set([None] * 4) == 0
    if measure == "leverage":
        alike, different = of_set([(1.0, 2.0)] * 4), of_set([tuple(1e3 * (i == j) for i in range(4)) for j in range(4)])
    else:
        alike, different = of_set([("a", "b")] * 4), of_set([("a",), ("b",), ("c",), ("d",)])
    assert alike < different == pytest.approx(1.0)


def test_vendi_agrees_with_the_distinct_fraction_on_classes_of_equal_size():
    plain = find_diversity("distinct_fraction").of_set
    for labels in ([1, 2, 3, 4], [1, 1, 2, 2], [5] * 4, [1, 2, 3, 1, 2, 3], [7], [1, 2, None, None], [None]):
        assert find_diversity("vendi").of_set(labels) == pytest.approx(plain(labels), abs=1e-12)
    uneven = find_diversity("vendi").of_set([1, 1, 1, 2])
    shares = (0.75, 0.25)
    assert uneven == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)) / 4) and uneven < 2 / 4


def test_vendi_grows_as_members_become_less_alike():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(50, 6, 4, generator=generator, dtype=torch.float64)
    kernel = torch.exp(-torch.cdist(points, points))  # positive definite, 1 on the diagonal
    identity = torch.eye(6, dtype=torch.float64)
    blends = [vendi_fraction(kernel * (1 - t) + identity * t) for t in (0.0, 0.3, 0.6, 0.9, 1.0)]
    for low, high in itertools.pairwise(blends):
        assert (high >= low - 1e-12).all()
    torch.testing.assert_close(blends[-1], torch.ones(50, dtype=torch.float64))
    rooms = [frozenset({1, 2, 3, 4})] * 3
    steps = [frozenset({1, 2, 3, 4}), frozenset({1, 2, 3, 5}), frozenset({1, 2, 6, 5}), frozenset({7, 8, 6, 5})]
    values = [find_diversity("vendi").of_set([*rooms, last]) for last in steps]
    assert values == sorted(values) and values[0] == pytest.approx(1 / 4) and values[-1] < 2 / 4


def test_vendi_reads_kinds_apart():
    mixed = [frozenset({1}), (1,), "1", 1, None]
    assert torch.equal(similarity_matrix(mixed), torch.diag(torch.tensor([1.0, 1, 1, 1, 0], dtype=torch.float64)))
    empty = similarity_matrix([frozenset(), frozenset(), (), (), "", ""])
    assert torch.equal(empty, torch.block_diag(*[torch.ones(2, 2, dtype=torch.float64)] * 3))


def test_a_similarity_that_is_no_kernel_stays_within_bounds():
    matrix = torch.tensor([[1, 0.9, 0], [0.9, 1, 0.9], [0, 0.9, 1]], dtype=torch.float64)
    assert torch.linalg.eigvalsh(matrix)[0] < 0
    assert 1 / 3 <= vendi_fraction(matrix[None]).item() <= 1


def test_action_distance_by_hand_and_growing_with_every_pair():
    of_set = find_diversity("action_distance").of_set
    left, right = ("left", "left"), ("left", "right", "right", "right")
    assert of_set([left, right]) == pytest.approx(3 / 4)
    assert of_set([left, left, right]) == pytest.approx((0 + 3 / 4 + 3 / 4) / 3)
    assert of_set([left, None, right]) == pytest.approx(1 / 4)
    assert of_set([left]) == of_set([(), ()]) == 0
    assert of_set([(), left]) == 1
    base = ("f",) * 6
    further = [base[:6], base[:5] + ("l",), base[:3] + ("l",) * 3, ("l",) * 6]
    values = [of_set([base, base, last]) for last in further]
    assert values == sorted(values) and values[0] == 0
    with pytest.raises(ValueError, match="needs sequences.*got frozenset.*use vendi"):
        set_advantages([1, 0], [frozenset({1}), ("a",)], 2, diversity="action_distance")


def test_edit_distances_of_long_sequences_equal_the_textbook():
    rng = random.Random(3)
    sequences = [tuple(rng.choice("lrf") for _ in range(rng.randrange(60, 101))) for _ in range(8)] + [(), ("l",)]
    got = normalised_edit_distances(sequences)
    for (i, a), (j, b) in itertools.product(enumerate(sequences), repeat=2):
        assert got[i, j] == pytest.approx(levenshtein(a, b) / max(len(a), len(b)) if a or b else 0.0, abs=1e-15)
    assert normalised_edit_distances([]).shape == (0, 0)
    assert normalised_edit_distances(["abc", "abc", "abd"])[0].tolist() == [0, 0, pytest.approx(1 / 3)]


def test_the_pairwise_matrix_is_computed_once_per_group(monkeypatch):
    from polytune.objective.diversity import Diversity, PairForm, action_distance

    calls = []

    def matrix(signatures):
        calls.append(len(signatures))
        return action_distance.distance_matrix(signatures)

    measure = Diversity(action_distance.PAIRS.of_set, pair_form=PairForm(matrix, action_distance.mean_pair))
    signatures = [[("l", "r"), ("l",), ("r",), None, ("f",)]] * 2
    found = score_groups([[1, 0, 1, 0, 1]] * 2, signatures, 3, diversity=measure, credit="leave_one_out")
    values = [measure.of_set(members) for members in itertools.combinations(signatures[0], 3)]
    assert calls == [5, 5] and found.diversity_P[0] == pytest.approx(sum(values) / len(values))


def test_leverage_by_hand_and_what_it_refuses():
    """Two vectors at +-a of their mean: a^2 / (.01 + 2 a^2) each. A None member is not in the mean."""
    of_set = find_diversity("leverage").of_set
    assert of_set([(3.0,), (1.0,)]) == pytest.approx(2 / 2.01)
    assert of_set([(3.0,), None, (1.0,)]) == pytest.approx(2 / 2.01 / 2)
    assert of_set([(3.0,)]) == 0 == of_set([(0.0, 0.0), (0.0, 0.0)])
    with pytest.raises(ValueError, match="leverage needs vectors .*got 'left': add method 'hidden_signatures'"):
        of_set(["left", "right"])
