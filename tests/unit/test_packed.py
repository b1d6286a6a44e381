"""Rows packed, prefixes computed once: hidden states and gradients against the rows one by one, in float64.

Llama's norms and rotary angles are float32 whatever the model is, so hidden states agree to their rounding; GPT-2's are
not, and agree to float64's.
"""

import re

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from polytune.policy import build_tiny
from polytune.policy.packed import SHORT, find_segments, pack
from polytune.policy.packer import Packer, find_packer
from polytune.trainer.scoring import packed_rows

WORDS = 40


def llama(**fields):
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                 intermediate_size=48, max_position_embeddings=1024)  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, **(sizes | fields)))


def tokens(seed, length):
    return np.random.default_rng(seed).integers(0, WORDS, length)


def branch(row, at, seed, length):
    return np.concatenate([row[:at], tokens(seed, length)])


def nested():
    """A seed trajectory, a vine, a vine of that vine (Go-Explore roots), another far into the first."""
    trunk = tokens(0, 180)
    vine = branch(trunk, 60, 1, 140)
    return [trunk, vine, branch(vine, 150, 2, 30), branch(trunk, 170, 3, 90)]


PROMPT = tokens(9, 30)
FORESTS = {
    "whole episodes": [tokens(i, 90 + 40 * i) for i in range(4)],
    "vines": [tokens(0, 200), *(branch(tokens(0, 200), at, at + i, 60 + 9 * i) for at in (70, 140) for i in range(3))],
    "nested": nested(),
    "one prompt": [np.concatenate([PROMPT, tokens(i, 3 + i % 5)]) for i in range(20)],
    "equal rows and prefixes": [tokens(0, 50), tokens(0, 50), tokens(0, 50)[:30], tokens(0, 150), tokens(0, 150)],
    "branches at a token": [np.concatenate([tokens(0, 140), [token], tokens(1, 12)]) for token in range(8)],
    "single tokens": [np.array([3]), np.array([3]), np.array([4])],
}


def one_by_one(model, rows, reads):
    hidden = [
        model.base_model(input_ids=torch.from_numpy(row)[None], use_cache=False).last_hidden_state[0] for row in rows
    ]
    return torch.cat([h[torch.from_numpy(columns)] for h, columns in zip(hidden, reads, strict=True)])


def in_a_pack(packer, rows, reads, last_layer):
    packed = pack(rows, [int(columns.max()) + 1 for columns in reads], reads, last_layer=last_layer)
    numbers = torch.cat([torch.full((len(columns),), i) for i, columns in enumerate(reads)])
    hidden = packer.run(packed)
    return packed.read(hidden, numbers, torch.from_numpy(np.concatenate(reads)))


def gradients(model, hidden):
    """Of a loss that gives each hidden state a weight of its own."""
    model.zero_grad()
    weights = torch.linspace(-1, 2, hidden.numel(), dtype=hidden.dtype).view_as(hidden)
    (weights * hidden.tanh()).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_alike(found, expected, rounding=1e-6):
    assert found.keys() == expected.keys()
    for name in expected:
        scale = expected[name].abs().max()
        assert (found[name] - expected[name]).abs().max() <= rounding * scale + 1e-12, name


@pytest.mark.parametrize("every", [1, 4], ids=["all tokens", "some tokens"])
@pytest.mark.parametrize("forest", FORESTS)
def test_hidden_states_and_gradients_are_those_of_the_rows(forest, every):
    model, rows = llama().double().train(), FORESTS[forest]
    packer, reason = find_packer(model)
    assert packer is not None, reason
    reads = [np.arange(len(row) % every, len(row), every) if len(row) > every else np.arange(len(row)) for row in rows]
    plain = one_by_one(model, rows, reads)
    expected = gradients(model, plain)
    for last_layer in (-1, packer.last_layer):
        found = in_a_pack(packer, rows, reads, last_layer)
        torch.testing.assert_close(found, plain, atol=1e-6, rtol=1e-6)
        assert_alike(gradients(model, found), expected)


def test_the_first_token_after_a_branch_counts():
    """Siblings that differ in the token they branch with are read at the same hidden state, and both pull at it."""
    model, rows = llama().double(), FORESTS["branches at a token"]
    packer, _ = find_packer(model)
    reads = [np.array([139]) for _ in rows]
    found = in_a_pack(packer, rows, reads, packer.last_layer)
    assert (found == found[0]).all()
    expected = gradients(model, one_by_one(model, rows, reads))
    assert_alike(gradients(model, in_a_pack(packer, rows, reads, packer.last_layer)), expected)


def test_a_policys_adapter_and_recomputed_activations():
    model = llama().double()
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    adapted.double()
    rows = FORESTS["nested"]
    reads = [np.arange(20, len(row), 7) for row in rows]
    expected = gradients(adapted, one_by_one(model, rows, reads))
    assert expected and all("lora" in name for name in expected)
    packer, reason = find_packer(model)
    assert packer is not None, reason
    assert_alike(gradients(adapted, in_a_pack(packer, rows, reads, packer.last_layer)), expected)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    assert packer.last_layer == -1, "hooks would not know what is recomputed"
    assert_alike(gradients(adapted, in_a_pack(packer, rows, reads, packer.last_layer)), expected)


def test_a_model_without_a_known_last_layer_computes_everywhere():
    torch.manual_seed(0)
    sizes = dict(n_positions=512, n_embd=32, n_layer=2, n_head=2, attn_pdrop=0, resid_pdrop=0, embd_pdrop=0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, bos_token_id=0, eos_token_id=0, **sizes)).double()
    packer, reason = find_packer(model)
    assert packer is not None and packer.last_layer == -1, reason
    rows = FORESTS["nested"]
    reads = [np.arange(20, len(row), 7) for row in rows]
    plain = one_by_one(model, rows, reads)
    found = in_a_pack(packer, rows, reads, packer.last_layer)
    torch.testing.assert_close(found, plain, atol=1e-11, rtol=1e-9)
    assert_alike(gradients(model, found), gradients(model, plain), 1e-10)


def eager():
    model = llama()
    model.set_attn_implementation("eager")
    return model


def windowed():
    """Its window is wider than the rows that a trial could show it with."""
    sizes = dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, intermediate_size=48
    )
    return MistralForCausalLM(MistralConfig(vocab_size=WORDS, sliding_window=4096, **sizes))


class Forgetful(LlamaForCausalLM):
    """Its trunk takes no argument that it does not know."""

    def __init__(self, config):
        super().__init__(config)
        forward = self.model.forward
        self.model.forward = lambda packed=None, **arguments: forward(**arguments)


def forgetful():
    return Forgetful(llama().config)


@pytest.mark.parametrize(
    ("build", "reason"),
    [(eager, "attn_implementation is 'eager'"), (windowed, "not all of its layers attend to everything .sliding"),
     (forgetful, "it fails there|hidden states differ")],
)  # fmt: skip
def test_a_model_that_cannot_is_found_out(build, reason):
    packer, told = find_packer(build().eval())
    assert packer is None
    assert re.search(reason, told), told


def test_other_calls_of_a_model_with_a_packer_are_as_before():
    model = llama().eval()
    ids = torch.from_numpy(np.stack([tokens(0, 20), tokens(1, 20)]))
    before = model(input_ids=ids).logits
    find_packer(model)
    Packer(model.base_model)
    assert torch.equal(model(input_ids=ids).logits, before)
    assert torch.equal(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, before)


def test_no_token_is_computed_twice_but_where_calls_cost_more():
    for forest, rows in FORESTS.items():
        segments, last_of, distinct = find_segments(rows, list(map(len, rows)))
        computed = sum(segment.end - segment.begin for segment in segments)
        assert len({tuple(row[: n + 1]) for row in rows for n in range(len(row))}) == distinct, forest
        assert distinct <= computed <= 1.05 * distinct, forest
        for row, segment in zip(rows, last_of, strict=True):
            assert segments[segment].end >= len(row)
    flat = [np.concatenate([PROMPT, tokens(i, 900)]) for i in range(8)]
    segments, _, distinct = find_segments(flat, list(map(len, flat)))
    assert [segment.parent for segment in segments] == [-1] * 8 and sum(map(len, flat)) <= 1.05 * distinct


def test_segments_by_hand():
    rows = [np.array([1, 2, 3, 4]), np.array([1, 2, 9]), np.array([1, 2, 3]), np.array([5, 5]), np.array([7])]
    segments, last_of, distinct = find_segments(rows, [4, 3, 3, 2, 0])
    # sorted: 1 2 3 | 1 2 3 4 | 1 2 9 | 5 5
    assert [tuple(segment) for segment in segments] == [(2, 0, 3, -1), (0, 3, 4, 0), (1, 2, 3, 0), (3, 0, 2, -1)]
    assert last_of == [1, 2, 0, 3, -1] and distinct == 7


def test_rows_of_a_batch_are_found_again():
    """Prompts padded on the left, completions on the right; rows without a scored token are left out."""
    model, _ = build_tiny("tiny", [f"w{i}" for i in range(WORDS - 4)])
    model = model.double()
    packer, _ = find_packer(model)
    rows = [tokens(0, 12), branch(tokens(0, 12), 6, 1, 4), tokens(2, 9), tokens(3, 7)]
    prompts, width = [4, 4, 2, 3], 8
    ids, mask = torch.zeros(4, 4 + width, dtype=torch.long), torch.zeros(4, 4 + width, dtype=torch.long)
    for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        ids[i, 4 - prompt : 4 - prompt + len(row)] = torch.from_numpy(row)
        mask[i, 4 - prompt : 4 - prompt + len(row)] = 1
    chosen = torch.zeros(4, width, dtype=torch.bool)
    chosen[0, [0, 3, 7]] = chosen[1, [2, 5]] = chosen[3, 0] = True
    for most in (None, 14, 1):
        parts = list(packed_rows(ids, mask, chosen, most_tokens=most, last_layer=packer.last_layer))
        assert torch.cat([part.rows_b for part in parts]).tolist() == [0, 1, 3]
        assert len(parts) == {None: 1, 14: 2, 1: 3}[most]
        for part in parts:
            found = part.before(packer.run(part.packed), chosen[part.rows_b])
            wanted = [
                model.base_model(input_ids=torch.from_numpy(rows[i])[None]).last_hidden_state[0, prompts[i] + c - 1]
                for i in part.rows_b.tolist() for c in chosen[i].nonzero()[:, 0].tolist()
            ]  # fmt: skip
            torch.testing.assert_close(found, torch.stack(wanted), atol=1e-6, rtol=1e-6)
    [whole] = packed_rows(ids, mask, chosen, most_tokens=None, everywhere=True)
    left = whole.left(packer.run(whole.packed))
    plain = model.base_model(input_ids=torch.from_numpy(rows[1])[None]).last_hidden_state[0]
    torch.testing.assert_close(left[1, :6], plain[:6], atol=1e-6, rtol=1e-6)


def test_short_rows_attend_together():
    rows = [tokens(i, 40) for i in range(30)]
    packed = pack(rows, [40] * 30)
    assert len(packed.everywhere) == 1 and SHORT >= 40


def test_a_head_that_skips_its_trunk_runs_rows_one_by_one():
    """OPT's head calls a part of what is its base model, past the packer's hooks."""
    torch.manual_seed(0)
    config = OPTConfig(vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=48,
                       word_embed_proj_dim=32, max_position_embeddings=256)  # fmt: skip
    model = OPTForCausalLM(config)
    packer, reason = find_packer(model)
    assert packer is None and "part of its trunk" in reason
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_trunk_is_tried_once():
    model = llama()
    assert find_packer(model)[0] is find_packer(model)[0] is not None
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    find_packer(model)
    assert hooks == sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
