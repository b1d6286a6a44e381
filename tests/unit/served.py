"""A server with the part of vLLM's HTTP API that polytune asks for, on a model of this process, which goes wrong when
it is told to: what a run does then needs no vLLM. `tests/vllm` has the real one.

``fault``: None, "error" (status 500), "page" (a proxy's page), "hang" (answers after ``patience`` seconds), "gone"
(hangs up), "once" (hangs up this time), "restarted" (it has the weights that it began with again). ``due``: how many
more completions it answers before that. ``idle``: seconds after which it hangs up a connection that is used again.
"""

import copy
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from safetensors.torch import load_file

CONFIGURATION = {
    "model_config": {"logprobs_mode": "processed_logprobs", "dtype": "torch.float32", "hf_overrides": {}},
    "cache_config": {"enable_prefix_caching": True},
    "device_config": {"device": "cpu"},
    "scheduler_config": {"enable_chunked_prefill": False},
    "weight_transfer_config": None,
}


class Served(ThreadingHTTPServer):
    """``with Served(model) as server: server.url``; the model is copied."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, model, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.model, self.begun = copy.deepcopy(model).eval(), copy.deepcopy(model.state_dict())
        self.fault, self.due, self.patience, self.syncs = None, 0, 60.0, 0
        self.idle = 60.0
        self.one_at_a_time = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def __exit__(self, *error):
        self.shutdown()
        super().__exit__(*error)

    def handle_error(self, request, address):
        pass  # the client has hung up

    def fault_now(self):
        """The fault of this completion, if it is due."""
        with self.one_at_a_time:
            self.due -= 1
            return self.fault if self.fault is not None and self.due < 0 else None

    @torch.no_grad()
    def complete(self, ids, max_tokens, temperature, seed, stop, scored):
        with self.one_at_a_time:
            ids, told = list(ids), []
            if scored:
                logprobs = self.model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
                return [None] + [{str(i): {"logprob": float(row[i])}} for i, row in zip(ids[1:], logprobs, strict=True)]
            random = torch.Generator().manual_seed(seed or 0)
            for _ in range(max_tokens):
                logits = self.model(input_ids=torch.tensor([ids])).logits[0, -1] / (temperature or 1.0)
                logprobs = logits.log_softmax(-1)
                token = int(torch.multinomial(logprobs.exp(), 1, generator=random) if temperature else logits.argmax())
                told.append((token, float(logprobs[token])))
                ids.append(token)
                if token in stop:
                    break
            return told


class Answers(BaseHTTPRequestHandler):
    """Replies in JSON, without a log."""

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Handler(Answers):
    protocol_version = "HTTP/1.1"
    answered = float("inf")

    def answer(self, status, content):
        super().answer(status, content)
        self.answered = time.monotonic()

    def do_GET(self):
        found = {
            "/health": {},
            "/v1/models": {"data": [{"id": "m", "max_model_len": 4096}]},
            "/server_info": {"vllm_config": CONFIGURATION},
        }
        self.answer(200, found[self.path.partition("?")[0]])

    def do_POST(self):
        server, body = self.server, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if time.monotonic() - self.answered > server.idle:
            self.close_connection = True
            return self.connection.close()
        body = json.loads(body) if body else {}
        if self.path == "/reset_prefix_cache":
            return self.answer(200, {"success": True})
        if self.path == "/collective_rpc":
            with server.one_at_a_time:
                sent = load_file(body["kwargs"]["weights_path"] + "/model.safetensors")
                server.model.load_state_dict(sent, strict=False)
                server.syncs += 1
            return self.answer(200, {})
        fault = server.fault_now()
        if fault == "error":
            return self.answer(500, {"error": "CUDA out of memory (test)"})
        if fault == "page":
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            return self.wfile.write(b"<html>a proxy</html>")
        if fault == "hang":
            time.sleep(server.patience)
        if fault == "once":
            server.fault = None
        if fault in ("gone", "once"):
            self.close_connection = True
            return self.connection.close()
        if fault == "restarted":
            with server.one_at_a_time:
                server.model.load_state_dict(server.begun)
                server.fault = None
        told = server.complete(body["prompt"], body["max_tokens"], body["temperature"], body.get("seed"),
                               body.get("stop_token_ids", ()), "prompt_logprobs" in body)  # fmt: skip
        if "prompt_logprobs" in body:
            return self.answer(200, {"choices": [{"prompt_logprobs": told}]})
        choice = {"token_ids": [token for token, _ in told], "logprobs": {"token_logprobs": [p for _, p in told]}}
        return self.answer(200, {"choices": [choice], "usage": {}})
