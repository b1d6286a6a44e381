"""``vllm_mode``: fields without an effect are refused, and a server that could not be given weights, before a start."""

import threading
from contextlib import nullcontext
from http.server import ThreadingHTTPServer

import pytest
from peft import LoraConfig, get_peft_model
from served import Answers
from transformers import LlamaConfig, LlamaForCausalLM

from polytune.policy.engine import EngineError
from polytune.policy.vllm_server import VLLMServer
from polytune.trainer import PolychromicConfig, check_vllm_mode


@pytest.fixture
def args(tmp_path):
    return lambda **options: PolychromicConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=17, use_cpu=True, bf16=False, **options
    )


SERVER = {"vllm_mode": "server", "vllm_weights_dir": "/shared"}


def test_the_engine_runs_in_this_process_unless_it_is_said_otherwise(args):
    assert args().vllm_mode == "colocate"
    check_vllm_mode(args(), "transformers")
    check_vllm_mode(args(vllm_gpu_memory_utilization=0.5, vllm_max_model_length=512), "vllm")
    check_vllm_mode(args(**SERVER, vllm_server_base_url="http://a:1", vllm_max_model_length=512), "vllm")


@pytest.mark.parametrize(
    ("options", "generator", "message"),
    [
        ({"vllm_mode": "serve"}, "vllm", "vllm_mode.*colocate.*server"),
        (SERVER, "transformers", "generator 'transformers' samples in this process: set generator to 'vllm'"),
        ({"vllm_mode": "server"}, "vllm", "NCCL needs a GPU in the trainer's process: set vllm_weights_dir"),
        ({"vllm_server_port": 9000}, "vllm", "vllm_server_port is 9000, but has no effect on an engine in this proc"),
        ({"vllm_server_base_url": "http://a:1"}, "transformers", "vllm_server_base_url .* set vllm_mode to 'server'"),
        ({"vllm_weights_dir": "/shared"}, "vllm", "vllm_weights_dir is '/shared', but has no effect"),
        (SERVER | {"vllm_gpu_memory_utilization": 0.9}, "vllm", "its own flag: --gpu-memory-utilization"),
        (SERVER | {"vllm_tensor_parallel_size": 2}, "vllm", "its own flag: --tensor-parallel-size"),
        (SERVER | {"vllm_enable_sleep_mode": True}, "vllm", "vllm_enable_sleep_mode is True, but has no effect on a"),
        (SERVER | {"vllm_server_base_url": "http://a:1", "vllm_server_port": 9}, "vllm", "vllm_server_port has no eff"),
        (SERVER | {"vllm_group_port": 9}, "vllm", "vllm_group_port has no effect beside vllm_weights_dir"),
        (SERVER | {"vllm_server_timeout": 0.0}, "vllm", "vllm_server_timeout must be above 0, got 0.0"),
    ],
)
def test_what_has_no_effect_is_refused(args, options, generator, message):
    with pytest.raises(ValueError, match=message):
        check_vllm_mode(args(**options), generator)


@pytest.mark.parametrize("name", ["vllm_model_impl", "vllm_structured_outputs_regex"])
def test_what_no_mode_reads_is_refused(args, name):
    with pytest.raises(ValueError, match=f"{name} is 'other', but has no effect"):
        args(**{name: "other"})


def answering(answers):
    """A server whose paths answer with (status, JSON)."""

    class Handler(Answers):
        def do_GET(self):
            self.answer(*answers[self.path.partition("?")[0]])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


MODELS = {"/health": (200, {}), "/v1/models": (200, {"data": [{"id": "m", "max_model_len": 64}]})}


def configuration(**changed):
    settings = {"logprobs_mode": "processed_logprobs", "dtype": "torch.float32", "hf_overrides": {}, "device": "cpu"}
    settings |= {"enable_prefix_caching": True, "enable_chunked_prefill": False, "transfer": None, **changed}
    return {
        "model_config": {name: settings[name] for name in ("logprobs_mode", "dtype", "hf_overrides")},
        "cache_config": {"enable_prefix_caching": settings["enable_prefix_caching"]},
        "device_config": {"device": settings["device"]},
        "scheduler_config": {"enable_chunked_prefill": settings["enable_chunked_prefill"]},
        "weight_transfer_config": settings["transfer"],
    }


def policy():
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def test_a_head_that_is_trained_apart_needs_a_server_that_keeps_it_apart():
    model = get_peft_model(policy(), LoraConfig(r=1, target_modules="all-linear", modules_to_save=["lm_head"]))
    for overrides, refused in (({}, True), ({"tie_word_embeddings": False}, False)):
        http = answering(MODELS | {"/server_info": (200, {"vllm_config": configuration(hf_overrides=overrides)})})
        server = VLLMServer(f"http://127.0.0.1:{http.server_port}", timeout=5)
        expected = pytest.raises(EngineError, match="start it with --hf-overrides") if refused else nullcontext()
        with expected:
            server.check(model, transfers=False)
        http.shutdown()


@pytest.mark.parametrize(
    ("changed", "transfers", "flag"),
    [
        ({}, False, None),
        ({"logprobs_mode": "raw_logprobs"}, False, "--logprobs-mode processed_logprobs"),
        ({"enable_prefix_caching": False}, False, "--enable-prefix-caching"),
        ({"dtype": "torch.bfloat16"}, False, "--dtype float32"),
        ({"enable_chunked_prefill": True}, False, "--no-enable-chunked-prefill"),
        ({"enable_chunked_prefill": True, "device": "cuda"}, False, None),
        ({}, True, "--weight-transfer-config"),
        ({"transfer": {"backend": "nccl"}}, True, None),
    ],
)
def test_a_server_is_asked_for_its_settings(changed, transfers, flag):
    http = answering(MODELS | {"/server_info": (200, {"vllm_config": configuration(**changed)})})
    server = VLLMServer(f"http://127.0.0.1:{http.server_port}/", timeout=5)
    model = policy()
    if flag is None:
        server.check(model, transfers=transfers, positions=64)
    else:
        with pytest.raises(EngineError, match=f"start it with {flag}"):
            server.check(model, transfers=transfers, positions=64)
    http.shutdown()


def test_a_server_that_takes_no_weights_is_told_apart():
    http = answering(MODELS | {"/server_info": (404, {"detail": "Not Found"})})
    with pytest.raises(EngineError, match="takes no weights: start it by `trl vllm-serve`, or with VLLM_SERVER_DEV"):
        VLLMServer(f"http://127.0.0.1:{http.server_port}", timeout=5)
    http.shutdown()
