"""The vLLM generator on a real engine: logprobs, sampling, weights after an update, prefixes that vines share."""

from collections import Counter

import pytest
import torch
from engine_contract import (
    STOPS,
    VOCABULARY,
    agrees_over_turns_and_forks,
    build,
    holds_the_new_weights,
    keys,
    samples_depend_on_their_keys_alone,
)
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from polytune.config import AdapterConfig, PolicyConfig
from polytune.policy import TransformersGenerator
from polytune.policy.adapters import quantization
from polytune.policy.engine import EngineError, merged_weights, score
from polytune.policy.loading import leave_unpacked
from polytune.policy.vllm_generator import VLLMGenerator


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """(folder, policy, engine); the policy's head is tied."""
    model = build()
    folder = tmp_path_factory.mktemp("policy")
    model.save_pretrained(folder)
    first = VLLMGenerator(model, path=folder)
    yield folder, model, first.llm
    first.shutdown()


def generator(policies, model=None, **options):
    folder, own, engine = policies
    options = {"max_action_tokens": 3, "stop_ids": STOPS} | options
    return VLLMGenerator(own if model is None else model, path=folder, engine=engine, **options)


def fresh(policies):
    """A copy of the policy whose weights a test may change."""
    _, model, _ = policies
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_policy_over_turns_and_forks(policies, temperature):
    ours = generator(policies, temperature=temperature)
    model = fresh(policies)
    lm_head = model.lm_head.weight  # a policy at another temperature is one with other logits
    agrees_over_turns_and_forks(ours, model, temperature, turns=4)
    assert lm_head is model.lm_head.weight


def test_samples_follow_the_distribution_of_the_transformers_generator(policies):
    """5,000 samples of one token on both sides: chi-squared of a two-way table."""
    _, model, _ = policies
    counts = []
    for sampler in (generator(policies, max_action_tokens=1),
                    TransformersGenerator(model, max_action_tokens=1, stop_ids=STOPS)):  # fmt: skip
        own = Counter()
        for start in range(0, 5000, 500):
            branches = [sampler.open([5, 9, 4], key) for key in keys(500, run_seed=start)]
            own.update(sample.ids[0] for sample in sampler.sample(branches, [0] * 500))
            sampler.close(branches)
        counts.append(own)
    tokens = [token for token in range(VOCABULARY) if counts[0][token] + counts[1][token] >= 10]
    assert len(tokens) > 10
    table = [[own[token] for token in tokens] + [5000 - sum(own[token] for token in tokens)] for own in counts]
    table = [
        [cell for cell, both in zip(row, map(sum, zip(*table, strict=True)), strict=True) if both] for row in table
    ]
    assert independence(table) > 1e-3


def independence(table):
    """P-value of Pearson's chi-squared test of a two-way table of counts."""
    counts = torch.tensor(table, dtype=torch.float64)
    expected = counts.sum(1, keepdim=True) * counts.sum(0, keepdim=True) / counts.sum()
    statistic = ((counts - expected) ** 2 / expected).sum()
    dof = (counts.shape[0] - 1) * (counts.shape[1] - 1)
    return float(torch.special.gammaincc(torch.tensor(dof / 2, dtype=torch.float64), statistic / 2))


def test_a_sample_depends_on_its_key_alone(policies):
    samples_depend_on_their_keys_alone(generator(policies))


def test_more_prompts_than_the_engine_takes_at_once(policies):
    """6,000 tokens of prompts, seeded: none of them may be split, and each sample is that of its key."""
    ours = generator(policies)
    branches = [ours.open([5 + n % 9] * 20, key) for n, key in enumerate(keys(300))]
    samples = ours.sample(branches, [0] * 300)
    assert len(samples) == 300
    alone = ours.open([5 + 299 % 9] * 20, keys(300)[299])
    assert ours.sample([alone], [0])[0].ids == samples[299].ids


def test_greedy_takes_the_most_likely_token(policies):
    _, model, _ = policies
    ours, theirs = (
        generator(policies, greedy=True),
        TransformersGenerator(model, max_action_tokens=3, stop_ids=STOPS, greedy=True),
    )
    for prompt in ([5, 9, 4], [6, 6], [33, 2, 17]):
        (a,), (b,) = (g.sample([g.open(prompt, keys(1)[0])], [0]) for g in (ours, theirs))
        assert a.ids == b.ids


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_after_an_update_the_engine_holds_the_new_weights(policies, kind):
    model = fresh(policies)
    if kind == "lora":
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    holds_the_new_weights(model, generator(policies, model=model))


def test_merged_weights_are_those_of_merge_and_unload(policies):
    model = get_peft_model(fresh(policies), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    ours = {name: weight.clone() for name, weight in merged_weights(model)}
    theirs = model.merge_and_unload().state_dict()
    assert set(ours) == set(theirs) and "lm_head.weight" in ours
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, atol=1e-6, rtol=1e-5)


def test_weights_in_four_bits_are_sent_in_full(policies):
    """QLoRA: the engine holds what the policy computes with, dequantised weights plus adapter."""
    folder, whole, _ = policies
    four_bits = quantization(AdapterConfig(use_peft=True, load_in_4bit=True), PolicyConfig())
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=four_bits)
    leave_unpacked(model)
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    holds_the_new_weights(model, generator(policies, model=model))
    ids = [5, 9, 4, 11]
    assert score(model, ids).tolist() != pytest.approx(score(whole, ids).tolist(), abs=1e-3)


def test_an_engine_that_keeps_its_old_weights_is_found_out(policies, monkeypatch):
    model = fresh(policies)
    ours = generator(policies, model=model)
    ours.sample([ours.open([5, 9, 4, 11], keys(1)[0])], [0])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.02)
    ours.reset()
    monkeypatch.setattr(ours.llm, "collective_rpc", lambda *args, **kwargs: [None])
    with pytest.raises(EngineError, match="equal those before the update: it kept its old weights"):
        ours.sample([ours.open([7, 9, 4, 11], keys(1)[0])], [0])


def test_an_engine_that_dies_is_one_error(policies, monkeypatch):
    ours = generator(policies)

    def die(*args, **kwargs):
        raise RuntimeError("worker is gone")

    monkeypatch.setattr(ours.llm, "generate", die)
    with pytest.raises(EngineError, match="RuntimeError: worker is gone.*checkpoints are intact"):
        ours.sample([ours.open([5, 9, 4, 11], keys(1)[0])], [0])


def test_vines_find_their_prefix_in_the_cache(policies):
    """64 vines of 8 turns from prefixes of 300 tokens: vLLM's own counter says that 90 % of the tokens were there."""
    ours = generator(policies)

    def counted():
        found = {metric.name: metric.value for metric in ours.llm.get_metrics() if "prefix_cache" in metric.name}
        return found["vllm:prefix_cache_queries"], found["vllm:prefix_cache_hits"]

    seeds = [ours.open([4 + (n * 31 + i * 7) % 50 for i in range(300)], key) for n, key in enumerate(keys(4))]
    ours.sample(seeds, [0] * 4)
    queries, hits = counted()
    vines = [ours.fork(seed, 300, key) for seed in seeds for key in keys(16, run_seed=3)]
    for turn in range(8):
        ours.sample(vines, [turn] * len(vines))
        for vine in vines:
            ours.extend(vine, [9, 10, 11, 12, 13, 14, 15, 16])
    queries, hits = counted()[0] - queries, counted()[1] - hits
    assert hits / queries >= 0.9
    counters = ours.counters
    assert counters.reused >= 0.9 * 64 * 300 and counters.recomputed + counters.reused == 64 * 300


def test_too_long_an_episode_is_refused_with_the_fix(policies):
    ours = generator(policies)
    with pytest.raises(ValueError, match="only 1024 positions: shorten task_horizon"):
        ours.sample([ours.open([5] * 1023, keys(1)[0])], [0])


def test_a_head_that_is_trained_beside_a_frozen_embedding_is_tied_no_longer(policies):
    """The engine is built for it, whatever the configuration says; last, because it ends the engine of the others."""
    folder, _, engine = policies
    engine.llm_engine.engine_core.shutdown()
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, modules_to_save=["lm_head"])
    model = get_peft_model(fresh(policies), config)
    ours = VLLMGenerator(model, path=folder, max_action_tokens=3, stop_ids=STOPS)
    holds_the_new_weights(model, ours)
    ours.shutdown()
