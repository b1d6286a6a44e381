"""Rows moved to the left for scoring, against the rows themselves."""

import pytest
import torch

from polytune.trainer.scoring import length_chunks

ROWS = {
    "unlike prompts": [(5, 3), (1, 4), (3, 1), (2, 2), (5, 4)],
    "nothing completed": [(4, 0), (2, 0), (1, 0)],
    "some completed nothing": [(5, 0), (1, 4), (2, 0), (3, 2)],
    "one row": [(3, 2)],
    "every row is full": [(4, 4), (4, 4)],
}


def padded(lengths, width):
    """Ids that tell every token apart (100 x row + column of the row, from 1 on), and the mask; padding is -1."""
    prompt = max(p for p, _ in lengths)
    ids, mask = -torch.ones(len(lengths), prompt + width, dtype=torch.long), torch.zeros(len(lengths), prompt + width)
    for row, (before, after) in enumerate(lengths):
        own = slice(prompt - before, prompt + after)
        ids[row, own], mask[row, own] = 100 * row + 1 + torch.arange(before + after), 1
    return ids, mask.long()


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("rows_per_chunk", [None, 1, 2, 100])
@pytest.mark.parametrize("more", [0, 2])
def test_every_token_is_scored_in_its_place(name, rows_per_chunk, more):
    lengths = ROWS[name]
    width = max(max(after for _, after in lengths), 1) + more
    ids, mask = padded(lengths, width)
    chunks = length_chunks(mask, width, rows_per_chunk)
    assert sorted(torch.cat([chunk.rows_b for chunk in chunks]).tolist()) == list(range(len(lengths)))
    if rows_per_chunk is None:
        assert len(chunks) == 1 and chunks[0].rows_b.tolist() == list(range(len(lengths)))
    for chunk in chunks:
        assert len(chunk.rows_b) <= (rows_per_chunk or len(lengths))
        moved = ids[chunk.rows_b].gather(1, chunk.moved_b_L)
        for row, tokens, counted in zip(chunk.rows_b.tolist(), moved, chunk.mask_b_L, strict=True):
            total = sum(lengths[row])
            assert tokens[:total].tolist() == [100 * row + 1 + column for column in range(total)]
            assert counted.tolist() == [1] * total + [0] * (len(tokens) - total)  # a router counts no token twice
        scored = moved[:, -chunk.scored_width :]  # a token's score is the token itself
        found = chunk.completions(scored, width)
        assert found.shape == (len(chunk.rows_b), width)
        for row, values in zip(chunk.rows_b.tolist(), found, strict=True):
            before, after = lengths[row]
            assert values[:after].tolist() == [100 * row + 1 + before + column for column in range(after)]


def test_a_chunk_is_as_long_as_its_longest_row():
    ids, mask = padded([(9, 1), (2, 1), (3, 2)], 6)
    sizes = {tuple(chunk.rows_b.tolist()): chunk.moved_b_L.size(1) for chunk in length_chunks(mask, 6, 2)}
    assert sizes == {(1, 2): 5, (0,): 10}
