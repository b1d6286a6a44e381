"""The server generator on a real `trl vllm-serve` on CPUs: logprobs, seeds, weights through a folder, refusals."""

import re

import httpx
import pytest
import torch
from engine_contract import (
    STOPS,
    agrees_over_turns_and_forks,
    build,
    holds_the_new_weights,
    keys,
    logprobs_of,
    perturb,
    samples_depend_on_their_keys_alone,
)
from peft import LoraConfig, get_peft_model
from serving import served

from polytune.policy.engine import EngineError, merged_weights
from polytune.policy.vllm_server import VLLMServer, VLLMServerGenerator, through_folder
from polytune.trainer.serving import over_nccl


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of ``build()``."""
    folder = tmp_path_factory.mktemp("served")
    build().save_pretrained(folder / "policy")
    with served(folder / "policy", folder) as (url, _):
        yield VLLMServer(url, timeout=60)


def generator(server, tmp_path, model=None, send=None, **options):
    model = build() if model is None else model
    server.check(model, transfers=False)
    options = {"max_action_tokens": 3, "stop_ids": STOPS} | options
    return VLLMServerGenerator(
        model, server=server, send=send or through_folder(server, tmp_path / "weights"), **options
    )


def test_logprobs_of_the_served_weights_need_no_transfer(server, tmp_path):
    """First in this file: the server still has the weights that it was started with."""
    model = build()
    ours = generator(server, tmp_path, model=model, send=lambda model: None)
    branch = ours.open([5, 9, 4, 11], keys(1)[0])
    (sample,) = ours.sample([branch], [0])
    assert ours.canary_gap < 1e-4
    assert list(sample.logprobs) == pytest.approx(logprobs_of(model, branch, sample), abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_policy_over_turns_and_forks(server, tmp_path, temperature):
    model = build()
    ours = generator(server, tmp_path, model=model, temperature=temperature)
    agrees_over_turns_and_forks(ours, model, temperature, turns=3)


def test_a_sample_depends_on_its_key_alone(server, tmp_path):
    samples_depend_on_their_keys_alone(generator(server, tmp_path))


def test_greedy_takes_the_most_likely_token(server, tmp_path):
    model = build()
    ours = generator(server, tmp_path, model=model, greedy=True, max_action_tokens=1)
    for prompt in ([5, 9, 4], [6, 6], [33, 2, 17]):
        (sample,) = ours.sample([ours.open(prompt, keys(1)[0])], [0])
        assert sample.ids == (int(model(torch.tensor([prompt])).logits[0, -1].argmax()),)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_after_an_update_the_server_holds_the_new_weights(server, tmp_path, kind):
    model = build()
    if kind == "lora":
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    holds_the_new_weights(model, generator(server, tmp_path, model=model))
    assert list((tmp_path / "weights").iterdir()) == []  # the server has read them


def test_weights_that_are_not_sent_are_found_out(server, tmp_path):
    model, folder = build(), through_folder(server, tmp_path / "weights")
    sends = iter([folder, lambda model: None])
    ours = generator(server, tmp_path, model=model, send=lambda model: next(sends)(model))
    ours.sample([ours.open([5, 9, 4, 11], keys(1)[0])], [0])
    perturb(model)
    ours.reset()
    with pytest.raises(EngineError, match="equal those before the update: it kept its old weights. Does the server at"):
        ours.sample([ours.open([5, 9, 4, 11], keys(1)[0])], [0])


def test_vines_find_their_prefix_in_the_cache(server, tmp_path):
    ours = generator(server, tmp_path)
    seeds = [ours.open([4 + (n * 31 + i * 7) % 50 for i in range(300)], key) for n, key in enumerate(keys(4))]
    ours.sample(seeds, [0] * 4)
    vines = [ours.fork(seed, 300, key) for seed in seeds for key in keys(8, run_seed=3)]
    ours.sample(vines, [0] * len(vines))
    assert ours.counters.reused >= 0.9 * 32 * 300
    assert ours.counters.reused + ours.counters.recomputed == 32 * 300


def test_without_a_gpu_nccl_takes_no_weights(server, tmp_path):
    """Both sides: TRL's client refuses, and so would the server's worker."""
    ours = generator(server, tmp_path, send=over_nccl(server, 51216, torch.device("cpu")))
    with pytest.raises(EngineError, match="NCCL .*NotImplementedError: .*needs a CUDA device, got 'cpu'.*weights_dir"):
        ours.sample([ours.open([5, 9, 4, 11], keys(1)[0])], [0])
    info = {"master_address": "127.0.0.1", "master_port": 51216, "rank_offset": 1, "world_size": 2, "packed": True}
    with pytest.raises(EngineError, match="Cannot access accelerator device when none is available"):
        server.request("POST", "/init_weight_transfer_engine", json={"init_info": info})


def test_over_nccl_announces_every_weight_in_the_order_it_is_sent(server, monkeypatch):
    """TRL's client replaced: its group needs two GPUs, one on either side."""
    sent = []

    class Client:
        def __init__(self, **options):
            assert options == {"base_url": server.url, "group_port": 51216, "connection_timeout": 60}

        def init_communicator(self, device):
            sent.append(device)

        def update_named_params(self, announced, weights):
            sent.append((announced, dict(weights)))

    monkeypatch.setattr("trl.generation.vllm_client.VLLMClient", Client)
    model = get_peft_model(build(), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    send = over_nccl(server, 51216, torch.device("cuda:0"))
    send(model)
    perturb(model)
    send(model)
    device, *updates = sent
    assert device == torch.device("cuda:0") and len(updates) == 2
    for announced, weights in updates:
        assert [(name, "float32", list(w.shape)) for name, w in weights.items()] == announced
    assert all(torch.equal(weight, updates[1][1][name]) for name, weight in merged_weights(model))
    assert "lm_head.weight" in updates[1][1]


def test_a_server_with_other_settings_is_refused_with_the_flags(server):
    with pytest.raises(EngineError, match="start it with --dtype bfloat16 --max-model-len 4096"):
        server.check(build(dtype=torch.bfloat16), transfers=True, positions=4096)


def test_too_long_an_episode_is_refused_with_the_fix(server, tmp_path):
    ours = generator(server, tmp_path)
    with pytest.raises(ValueError, match="only 1024 positions: .*start the server with a larger --max-model-len"):
        ours.sample([ours.open([5] * 1023, keys(1)[0])], [0])


def test_a_server_that_does_not_see_the_folder_is_told_apart(server, tmp_path, monkeypatch):
    ours = generator(server, tmp_path)
    request = server.request

    def elsewhere(method, path, **options):
        if path == "/collective_rpc":
            options["json"]["kwargs"]["weights_path"] = "/another/machine's/folder"
        return request(method, path, **options)

    monkeypatch.setattr(server, "request", elsewhere)
    with pytest.raises(EngineError, match="did not reach the server: .*must see vllm_weights_dir"):
        ours.sample([ours.open([5, 9, 4, 11], keys(1)[0])], [0])


def test_a_server_of_another_model_is_refused_and_a_dead_one_is_one_error(tmp_path):
    """Fewer layers than the server's load without a word from vLLM: the canary speaks."""
    build(layers=3).save_pretrained(tmp_path / "other")
    with served(tmp_path / "other", tmp_path) as (url, process):
        server = VLLMServer(url, timeout=60)
        ours = generator(server, tmp_path)
        with pytest.raises(EngineError, match=r"does not hold the policy's weights. Does the server at .* serve"):
            ours.sample([ours.open([5, 9, 4, 11], keys(1)[0])], [0])
        own = generator(server, tmp_path, model=build(layers=3))
        branches = [own.open([5, 9, 4, 11], key) for key in keys(8)]
        own.sample(branches, [0] * 8)
        process.kill()
        process.wait()
        with pytest.raises(EngineError) as caught:
            own.sample(branches, [1] * 8)
        assert re.fullmatch(r"the vLLM server at \S+ is gone \(.*\)\. The run stops .* intact: .*", str(caught.value))
    with pytest.raises(EngineError, match=r"no vLLM server answers at .* after 0.5 s \(vllm_server_timeout"):
        VLLMServer(url, timeout=0.5)


def test_a_head_that_is_trained_apart_has_a_server_that_keeps_it_apart(server, tmp_path):
    lora = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False, "modules_to_save": ["lm_head"]}
    model = get_peft_model(build(), LoraConfig(**lora))
    with pytest.raises(EngineError, match="start it with --hf-overrides"):
        server.check(model, transfers=False)
    build().save_pretrained(tmp_path / "policy")
    with served(tmp_path / "policy", tmp_path, "--hf-overrides", '{"tie_word_embeddings": false}') as (url, _):
        ours = generator(VLLMServer(url, timeout=60), tmp_path, model=model)
        for _ in range(2):
            branch = ours.open([5, 9, 4, 11], keys(1)[0])
            (sample,) = ours.sample([branch], [0])
            assert ours.canary_gap < 1e-4
            assert list(sample.logprobs) == pytest.approx(logprobs_of(model, branch, sample), abs=1e-4)
            perturb(model)
            ours.reset()


def test_a_server_that_is_too_slow_names_the_field(server, monkeypatch):
    def late(*args, **options):
        raise httpx.ReadTimeout("timed out")

    monkeypatch.setattr(server.http, "request", late)
    with pytest.raises(EngineError, match=r"did not answer /v1/models within 60 s \(vllm_server_timeout\)"):
        server.request("GET", "/v1/models")
