"""EAD: temperatures by hand, what it refuses; temperatures by token in the generator; what contradicts them."""

import math
from collections import Counter

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from polytune.config import RolloutConfig
from polytune.methods import Method, build_methods
from polytune.methods.ead import EAD
from polytune.policy import SampleKey, TransformersGenerator
from polytune.trainer.tempered import TempersTokens, check_tempering, factor_at

# ---------------------------------------------------------------- the formula


def test_temperatures_by_hand():
    """e^(10 / 25) = 1.4918, e^(18 / 25) = 2.0544, e^(25 / 25) = 2.7183, e^(10 / 275) = 1.0370."""
    method = EAD()
    assert [method.temperature(token, 0.0) for token in (0, 9)] == [1.0, 1.0]
    assert method.temperature(10, 0.0) == pytest.approx(2.2 - 1.4918, abs=1e-4)
    assert method.temperature(18, 0.0) == pytest.approx(2.2 - 2.0544, abs=1e-4)
    assert method.temperature(25, 0.0) == method.temperature(100_000, 0.0) == 0.1
    assert method.temperature(10, 0.5) == pytest.approx(2.2 - 1.0370, abs=1e-4)  # d = 25 + 500 / 2
    assert EAD(cutoff=0).temperature(0, 0.3) == pytest.approx(1.2)
    assert EAD(cutoff=0, d_max=30.0).temperature(30, 0.9) == max(2.2 - math.e, 0.1)
    assert EAD(cutoff=0, tau_max=3.0, d_max=30.0).temperature(30, 0.9) == pytest.approx(4.0 - math.e)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"tau_min": 0.0}, "tau_min must be above 0"),
        ({"d_0": 0}, "d_0 must be above 0"),
        ({"cutoff": 2.5}, "cutoff must be a whole number"),
        ({"tau_max": 0.05}, "tau_min is 0.1 and tau_max 0.05"),
        ({"growth": math.inf}, "growth"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ValueError, match=words) as error:
        build_methods(["ead"], {"ead": options})
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- what contradicts temperatures by token


class Gives(Method):
    def __init__(self, factor):
        self.factor = factor

    def temperature(self, token, progress):
        return self.factor if token > 3 and progress > 0.5 else 1.0


class Replays(Method):
    def replay(self, room, progress):
        return ()


@pytest.mark.parametrize(
    "methods, rollout, generator, words",
    [
        ({"ead": EAD()}, RolloutConfig(), "vllm", "method 'ead' .* generator 'vllm' cannot: set generator to"),
        ({"ead": EAD()}, RolloutConfig(branch_at="token"), "transformers", "branch_at 'token' .* set branch_at to"),
        ({"ead": EAD(), "again": Replays()}, RolloutConfig(), "transformers", "method 'again' replays rows"),
        *(({"mine": Gives(factor)}, RolloutConfig(), "transformers", r"method 'mine' gives temperature\(4, 0.75\)")
          for factor in (0.0, -1.0, math.nan, math.inf, None, "1")),
    ],
)  # fmt: skip
def test_contradictions_are_told_in_one_line(methods, rollout, generator, words):
    with pytest.raises(ValueError, match=words) as error:
        check_tempering(methods, rollout, generator)
    assert "\n" not in str(error.value)


def test_without_the_hook_nothing_is_refused():
    check_tempering({"plain": Method(), "again": Replays()}, RolloutConfig(branch_at="token"), "vllm")
    check_tempering({"a": EAD(), "b": Gives(2)}, RolloutConfig(), "transformers")


def test_factors_of_several_methods_multiply():
    assert factor_at({"a": Gives(2), "plain": Method(), "b": Gives(0.25)}, 5, 0.9) == 0.5
    assert factor_at({"plain": Method()}, 5, 0.9) == 1.0


def test_factors_count_from_the_first_token_of_each_action():
    class Rows(TempersTokens):
        _factors_N = torch.tensor([2.0, 3.0, 5.0])
        _turn_index = staticmethod(lambda ids: torch.tensor([[-1, 0, 0, 0, 0, -1, 1, 2, 2], [-1] * 9]))

        @staticmethod
        def _first_tokens(index):
            from polytune.trainer.scored import ScoresRows

            return ScoresRows._first_tokens(index)

    assert Rows()._row_factors(torch.zeros(2, 9)).tolist() == [[1, 2, 3, 5, 5, 1, 2, 2, 3], [1] * 9]


# ---------------------------------------------------------------- the generator


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=9, hidden_size=16, intermediate_size=16, num_hidden_layers=1, pad_token_id=0,
                         num_attention_heads=2, bos_token_id=None, eos_token_id=None)  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(30.0)
    return model


def plain(model, ids, divisor):
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0, -1] / divisor, dim=-1)


def test_frequencies_are_those_of_the_tempered_distribution(model):
    """First token at 1.5 * 2, later ones at 1.5 * 0.4, the third by the last entry: shares within 4 standard errors."""
    prompt, count = [3, 1, 4], 4000
    generator = TransformersGenerator(model, temperature=1.5, max_action_tokens=3)
    generator.factors = [2.0, 0.4]
    branches = [generator.open(prompt, SampleKey(0, 0, n, 0)) for n in range(count)]
    samples = generator.sample(branches, [0] * count)
    common = Counter(sample.ids[:1] for sample in samples).most_common(1)[0][0]
    pair = Counter(sample.ids[:2] for sample in samples).most_common(1)[0][0]
    for prefix, divisor in (((), 3.0), (common, 0.6), (pair, 0.6)):
        drawn = [sample.ids[len(prefix)] for sample in samples if sample.ids[: len(prefix)] == prefix]
        expected = plain(model, prompt + list(prefix), divisor).exp()
        other = plain(model, prompt + list(prefix), 1.5).exp()
        assert (expected - other).abs().max() > 0.1, "the test has something to tell apart"
        shares = torch.bincount(torch.tensor(drawn), minlength=9) / len(drawn)
        assert ((shares - expected).abs() <= 4 * (expected * (1 - expected) / len(drawn)).sqrt() + 1e-3).all(), prefix
    for sample in samples[:20]:
        found = [plain(model, prompt + list(sample.ids[:n]), d)[sample.ids[n]] for n, d in enumerate((3.0, 0.6, 0.6))]
        torch.testing.assert_close(torch.tensor(sample.logprobs), torch.stack(found), atol=1e-5, rtol=1e-5)


def test_branch_points_keep_raw_logits_and_entropies_are_tempered(model):
    generator = TransformersGenerator(model, max_action_tokens=2)
    generator.observe()
    generator.factors = [3.0, 0.5]
    parent = generator.open([3, 1, 4], SampleKey(0, 0, 0, 0), forkable=True)
    [first] = generator.sample([parent], [0])
    fork = generator.fork(parent, 3, SampleKey(0, 0, 0, 1))
    [again] = generator.sample([fork], [0])
    for sample in (first, again):
        for number, divisor in enumerate((3.0, 0.5)):
            logprobs = plain(model, [3, 1, 4, *sample.ids[:number]], divisor)
            assert sample.logprobs[number] == pytest.approx(logprobs[sample.ids[number]].item(), abs=1e-5)
            assert sample.entropies[number] == pytest.approx(-(logprobs.exp() * logprobs).sum().item(), abs=1e-5)
    generator.factors = ()
    [bare] = generator.sample([generator.fork(parent, 3, SampleKey(0, 0, 0, 2))], [0])
    assert bare.logprobs[0] == pytest.approx(plain(model, [3, 1, 4], 1.0)[bare.ids[0]].item(), abs=1e-5)
