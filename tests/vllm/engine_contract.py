"""What both vLLM generators are held to, whatever engine is behind them."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from polytune.policy import SampleKey
from polytune.policy.engine import score

VOCABULARY, STOPS = 64, (1, 2)


def build(layers=2, width=64, dtype=torch.float32):
    """A small Llama of random weights with a tied head, the same one at every call."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=96, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=1024, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)
    return model.to(dtype).eval()


def keys(count, run_seed=0):
    return [SampleKey(run_seed, 5, 0, branch) for branch in range(count)]


def logprobs_of(model, branch, sample):
    return score(model, branch.ids)[-len(sample.ids) :].tolist()


def perturb(model):
    """Move every weight that is trained."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))


def agrees_over_turns_and_forks(ours, model, temperature, turns):
    """Sampled logprobs are those of ``model`` at this temperature, in branches and in forks of them."""
    branches = [ours.open([5, 9, 4 + n % 7], key) for n, key in enumerate(keys(16))]
    worst = 0.0
    for turn in range(turns):
        for branch, sample in zip(branches, ours.sample(branches, [turn] * len(branches)), strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([branch.ids])).logits[0].float() / temperature
            first = len(branch.ids) - len(sample.ids) - 1
            expected = logits.log_softmax(-1)[range(first, len(branch.ids) - 1), list(sample.ids)]
            worst = max(worst, float((torch.tensor(sample.logprobs) - expected).abs().max()))
            assert all(token not in STOPS for token in sample.ids[:-1]) and len(sample.ids) <= 3
            ours.extend(branch, [7, 8])
        if turn == 1:
            pairs = zip(branches, keys(16, run_seed=1), strict=True)
            branches += [ours.fork(branch, len(branch.ids) - 2, key) for branch, key in pairs]
    assert worst < 1e-4


def samples_depend_on_their_keys_alone(ours):
    prompts = [[5, 9, 4], [6, 6], [12, 3, 3, 8]]

    def run(order):
        branches = {n: ours.open(prompts[n % 3], keys(12)[n]) for n in order}
        samples = ours.sample(list(branches.values()), [0] * len(branches))
        return dict(zip(branches, [s.ids for s in samples], strict=True))

    together = run(range(12))
    assert len(set(together.values())) > 4
    for n in (0, 5, 11):
        assert run([n]) == {n: together[n]}
    assert run(reversed(range(12))) == together


def holds_the_new_weights(model, ours):
    """Tied head included: a canary that agreed before agrees afterwards, and the samples' logprobs are the policy's."""
    branch = ours.open([5, 9, 4, 11], keys(1)[0])
    (sample,) = ours.sample([branch], [0])
    assert ours.canary_gap < 1e-4
    before = logprobs_of(model, branch, sample)
    assert list(sample.logprobs) == pytest.approx(before, abs=1e-4)

    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    perturb(model)
    ours.reset()
    with pytest.raises(ValueError, match="opened before reset"):
        ours.sample([branch], [1])
    branch = ours.open([5, 9, 4, 11], keys(1)[0])
    (sample,) = ours.sample([branch], [0])
    assert ours.canary_gap < 1e-4
    assert list(sample.logprobs) == pytest.approx(logprobs_of(model, branch, sample), abs=1e-4)
    assert logprobs_of(model, branch, sample) != pytest.approx(before, abs=1e-3)
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
