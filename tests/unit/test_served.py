"""What samples from a server: the policy's own logprobs, and one line when the server errs, hangs, dies, or comes back
with the weights that it was started with, which is found out before anything is learnt from them."""

import time

import pytest
import torch
from served import Served
from transformers import LlamaConfig, LlamaForCausalLM

from polytune.policy.engine import EngineError, score
from polytune.policy.generator import SampleKey
from polytune.policy.vllm_server import KEEP_ALIVE, VLLMServer, VLLMServerGenerator, through_folder

PROMPT = [1, 2, 3]


def small():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    return LlamaForCausalLM(config)


@pytest.fixture
def asking(tmp_path):
    """(model, server, generator) of a policy that has learnt since the server was started."""
    model = small()
    with Served(model) as http:
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
        server = VLLMServer(http.url, timeout=0.5)
        server.check(model, transfers=False)
        generator = VLLMServerGenerator(model, server=server, send=through_folder(server, tmp_path), temperature=1.0,
                                        max_action_tokens=2, stop_ids=(7,))  # fmt: skip
        yield model, http, generator
        generator.shutdown()


def sample(generator, members=4):
    branches = [generator.open(PROMPT, SampleKey(0, 0, i, 0)) for i in range(members)]
    return generator.sample(branches, [0] * members)


def test_samples_have_the_policys_logprobs_in_every_round(asking):
    model, http, generator = asking
    for syncs in (1, 2):
        for ids, logprobs, *_ in sample(generator):
            expected = score(model, [*PROMPT, *ids])[-len(ids) :]
            torch.testing.assert_close(torch.tensor(logprobs), expected, atol=1e-5, rtol=1e-5)
        generator.reset()
        assert http.syncs == syncs and generator.canary_gap < 1e-5


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("error", r"refused /v1/completions \(500\): .*out of memory.*The run stops here; its checkpoints are intact"),
        ("hang", r"did not answer /v1/completions within 0.5 s \(vllm_server_timeout\). The run stops here"),
        (
            "page",
            r"what answered /v1/completions at .* is no vLLM server: '<html>a proxy</html>'.*checkpoints are intact",
        ),
        ("gone", r"is gone \(/v1/completions: .*The run stops here; its checkpoints are intact"),
    ],
)
@pytest.mark.parametrize("due", [0, 3])
def test_a_fault_after_the_weights_have_come_is_one_error_in_time(asking, fault, line, due):
    """At the canary (``due`` 0), or among the samples."""
    _, http, generator = asking
    http.fault, http.due, http.patience, begun = fault, due, 1.0, time.monotonic()
    with pytest.raises(EngineError, match=line):
        sample(generator)
    assert http.syncs == 1 and time.monotonic() - begun < 5.0


@pytest.mark.parametrize("due", [0, 1, 3])
def test_a_server_that_hangs_up_once_is_asked_again(asking, due):
    _, http, generator = asking
    undisturbed = [answer[:2] for answer in sample(generator)]
    generator.reset()
    http.fault, http.due = "once", due
    assert [answer[:2] for answer in sample(generator)] == undisturbed and http.fault is None


def test_a_connection_that_the_server_is_about_to_close_is_not_used(asking):
    """An update lasts longer than a server keeps an idle connection, and then rollouts go on."""
    _, http, generator = asking
    http.idle = KEEP_ALIVE + 0.2
    for _ in range(2):
        assert len(sample(generator)) == 4
        time.sleep(KEEP_ALIVE + 0.5)
        generator.reset()


@pytest.mark.parametrize("due", [1, 3])
def test_a_server_that_was_started_again_is_found_out(asking, due):
    """Between the synchronisation and the samples, or among them; what it samples is whole, and from other weights."""
    _, http, generator = asking
    http.fault, http.due = "restarted", due
    assert len(sample(generator)) == 4
    with pytest.raises(EngineError, match="nats from those of the weights that it was sent for these rollouts"):
        generator.reset()
