"""The vLLM server generator: the same contract over HTTP, on a ``vllm serve`` of this machine or of another one.

One request per branch, since a server takes one seed per request: a sample depends on its key alone, whatever it is
sent beside. Weights reach the server in one of two ways: through a folder that both machines see (``through_folder``,
tried on CPUs), or through whatever ``send`` is given (the trainer's is TRL's client, which broadcasts by NCCL). Either
way the canary is scored after it. Of several processes the main one sends; the others wait for it, then each samples
its own branches.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from transformers import PreTrainedModel

from polytune.policy.engine import Answer, EngineBranch, EngineError, EngineGenerator, has_tied_head, merged_weights
from polytune.privacy import private

#: requests in flight; a server batches what it has
CONCURRENCY = 64
#: an idle connection is used again for so many seconds; a server hangs up after 5 (VLLM_HTTP_TIMEOUT_KEEP_ALIVE), and a
#: request that it gets in that moment is lost
KEEP_ALIVE = 2.0
#: the connection broke off; an answer may be lost, a server that is gone refuses the next one
HUNG_UP = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
#: vLLM's HTTP API writes this where a logprob is lower, or minus infinity
LOWEST_LOGPROB = -9999.0
#: server's setting (part, name) -> what it must be, and the flag that makes it so
NEEDS = {
    ("model_config", "logprobs_mode"): ("processed_logprobs", "--logprobs-mode processed_logprobs"),
    ("cache_config", "enable_prefix_caching"): (True, "--enable-prefix-caching"),
}
INTACT = "The run stops here; its checkpoints are intact: start the server and give the same command again."


class RefusedError(EngineError):
    """The server answered, with an HTTP status that is an error."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class VLLMServer:
    """A running ``vllm serve``: requests with a time limit, and one-line errors.

    Args:
        url: where it listens.
        timeout: seconds to wait for it to be up, and for any of its answers.

    Raises:
        EngineError: it does not answer, or was started without what rollouts need.
    """

    def __init__(self, url: str, timeout: float):
        self.url, self.timeout = url.rstrip("/"), timeout
        self.shown = private(self.url)  # what messages call it
        limits = httpx.Limits(
            max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY, keepalive_expiry=KEEP_ALIVE
        )
        self.http = httpx.Client(base_url=self.url, timeout=timeout, limits=limits)
        self._wait()
        served = self.request("GET", "/v1/models")["data"][0]
        self.model, self.max_positions = served["id"], served["max_model_len"]
        self.config = self._configuration()

    def request(self, method: str, path: str, **options: Any) -> Any:
        """The JSON answer of one request; EngineError for anything else. A server that hangs up is asked once more: a
        sample depends on its key alone, and weights come again as they were."""
        try:
            try:
                response = self.http.request(method, path, **options)
            except HUNG_UP:
                response = self.http.request(method, path, **options)
        except httpx.TimeoutException as error:
            raise EngineError(
                f"the vLLM server at {self.shown} did not answer {path} within {self.timeout:g} s "
                f"(vllm_server_timeout). {INTACT}"
            ) from error
        except httpx.HTTPError as error:
            raise EngineError(
                f"the vLLM server at {self.shown} is gone ({path}: {type(error).__name__}: {error}). {INTACT}"
            ) from error
        if response.status_code != 200:
            said = " ".join(response.text.split())[:600]
            text = f"the vLLM server at {self.shown} refused {path} ({response.status_code}): {said}"
            raise RefusedError(text, response.status_code)
        try:
            return response.json() if response.content else None
        except ValueError as error:
            said = " ".join(response.text.split())[:200]
            raise EngineError(f"what answered {path} at {self.shown} is no vLLM server: {said!r}. {INTACT}") from error

    def check(
        self,
        model: PreTrainedModel,
        *,
        transfers: bool,
        positions: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """EngineError for a server whose samples would not be those of ``model``, with the flag that it lacks.

        Args:
            transfers: its weights are to come over NCCL.
            positions: tokens that a context may have at least.
            dtype: what it is to compute in; None: the type of the model's weights.
        """
        config, asked = self.config, str(dtype or next(model.parameters()).dtype)
        lacks = [flag for (part, name), (value, flag) in NEEDS.items() if config[part][name] != value]
        if config["model_config"]["dtype"] != asked:
            lacks.append(f"--dtype {asked.removeprefix('torch.')}")
        if config["device_config"]["device"] == "cpu" and config["scheduler_config"]["enable_chunked_prefill"]:
            # a prompt in two parts would rewind its seeded random numbers, which those of a CPU cannot
            lacks.append("--no-enable-chunked-prefill")
        tied = model.config.get_text_config().tie_word_embeddings
        overrides = config["model_config"]["hf_overrides"] or {}
        if tied and not has_tied_head(model) and overrides.get("tie_word_embeddings") is not False:
            # the head is trained apart; a server that takes it for the embedding would drop it without a word
            lacks.append("""--hf-overrides '{"tie_word_embeddings": false}'""")
        if transfers and not config.get("weight_transfer_config"):
            lacks.append("""--weight-transfer-config '{"backend": "nccl"}'""")
        if positions is not None and positions > self.max_positions:
            lacks.append(f"--max-model-len {positions}")
        if lacks:
            raise EngineError(f"the vLLM server at {self.shown} needs other settings: start it with {' '.join(lacks)}.")

    def _wait(self) -> None:
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                if self.http.get("/health", timeout=5.0).status_code == 200:
                    return
                reason = "it is not ready"
            except httpx.HTTPError as error:
                reason = f"{type(error).__name__}: {error}"
            if time.monotonic() >= deadline:
                raise EngineError(
                    f"no vLLM server answers at {self.shown} after {self.timeout:g} s (vllm_server_timeout; {reason}): "
                    "start `trl vllm-serve` there, or set vllm_server_base_url."
                )
            time.sleep(min(1.0, max(deadline - time.monotonic(), 0.0)))

    def _configuration(self) -> dict[str, Any]:
        try:
            return self.request("GET", "/server_info", params={"config_format": "json"})["vllm_config"]
        except RefusedError as error:
            if error.status != 404:
                raise
            raise EngineError(
                f"the vLLM server at {self.shown} takes no weights: start it by `trl vllm-serve`, or with "
                "VLLM_SERVER_DEV_MODE=1 in its environment."
            ) from error


class VLLMServerGenerator(EngineGenerator):
    """Generator on a vLLM server that serves the architecture of ``model``.

    Args:
        model: the policy, PEFT or plain.
        server: which has been checked against it.
        send: hands the weights of a model over; called in the main process alone.
        options: see :class:`EngineGenerator`.
    """

    longer = "start the server with a larger --max-model-len"

    def __init__(
        self, model: PreTrainedModel, *, server: VLLMServer, send: Callable[[PreTrainedModel], None], **options: Any
    ):
        super().__init__(model, **options)
        self.server, self._send = server, send
        self.max_positions = server.max_positions
        self.remedy = f"Does the server at {server.shown} serve {getattr(model, 'name_or_path', '') or 'this model'!r}?"
        self._threads = ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="vllm-server")

    def shutdown(self) -> None:
        """Hang up; the server goes on."""
        self._threads.shutdown(cancel_futures=True)
        self.server.http.close()

    def _send_weights(self) -> None:
        if not dist.is_initialized() or dist.get_rank() == 0:
            self._send(self.model)
            if not self.server.request("POST", "/reset_prefix_cache")["success"]:
                raise EngineError(
                    f"the vLLM server at {self.server.shown} did not empty its prefix cache, which holds keys of older "
                    "weights: does another run use it? One server serves one run."
                )
        if dist.is_initialized():
            dist.barrier()  # nobody samples from weights that are on their way

    def _complete(self, branches: Sequence[EngineBranch], turns: Sequence[int]) -> list[Answer]:
        return list(self._threads.map(self._complete_one, branches, turns))

    def _complete_one(self, branch: EngineBranch, turn: int) -> Answer:
        answer = self._completion(branch.ids, **self._sampling(branch, turn), min_p=0.0, repetition_penalty=1.0)
        (choice,) = answer["choices"]
        values = [math.nan if value is None else value for value in choice["logprobs"]["token_logprobs"]]
        details = answer["usage"].get("prompt_tokens_details") or {}  # none: nothing cached, or the flag is missing
        return Answer(
            tuple(choice["token_ids"]),
            tuple(-math.inf if value <= LOWEST_LOGPROB else value for value in values),
            details.get("cached_tokens") or 0,
        )

    def _score(self, ids: list[int]) -> list[float]:
        (choice,) = self._completion(ids, max_tokens=1, temperature=0.0, prompt_logprobs=0)["choices"]
        return [cell[str(i)]["logprob"] for i, cell in zip(ids[1:], choice["prompt_logprobs"][1:], strict=True)]

    def _completion(self, ids: Sequence[int], **parameters: Any) -> dict[str, Any]:
        ids_only = {"return_token_ids": True, "return_tokens_as_token_ids": True}  # no text: no tokenizer is needed
        body = {"model": self.server.model, "prompt": list(ids), **ids_only, **parameters}
        try:
            return self.server.request("POST", "/v1/completions", json=body)
        except RefusedError as error:
            raise RefusedError(f"{error}. {INTACT}", error.status) from error


def through_folder(server: VLLMServer, folder: str | Path) -> Callable[[PreTrainedModel], None]:
    """Sends weights as a file in ``folder``, which the server's machine must see under the same path.

    Each time under a new name (no network file system hands out an older one), gone once the server has read it.
    """
    root = Path(folder).resolve()
    root.mkdir(parents=True, exist_ok=True)

    def send(model: PreTrainedModel) -> None:
        with tempfile.TemporaryDirectory(prefix="weights-", dir=root) as place:
            Path(place).chmod(0o755)  # the server may run as another user
            weights = {name: weight.to("cpu", copy=True).contiguous() for name, weight in merged_weights(model)}
            save_file(weights, Path(place) / "model.safetensors", metadata={"format": "pt"})
            reload = {"method": "reload_weights", "kwargs": {"weights_path": place}}
            try:
                server.request("POST", "/collective_rpc", json=reload)
            except RefusedError as error:
                raise EngineError(
                    f"the weights in {place} did not reach the server: {error} Its machine must see vllm_weights_dir "
                    f"({root}) under the same path, and serve the policy's architecture."
                ) from error

    return send
