"""A Hub on this machine: the endpoints that huggingface_hub calls to create, describe, upload and download a model."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKEN = "hf_planted-token-that-nobody-may-see"


class Hub(ThreadingHTTPServer):
    """``files``: repository -> path -> bytes, after every commit; ``refuse``: part of a path -> (status, message)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.private, self.blobs, self.commits, self.refuse = {}, {}, {}, [], {}
        self.calls = []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()


def git_blob(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def do_GET(self):
        self.answer("GET")

    def do_HEAD(self):
        self.answer("HEAD")

    def do_POST(self):
        self.answer("POST")

    def do_PUT(self):
        self.answer("PUT")

    def answer(self, method):
        body, path, hub = self.body(), self.path.partition("?")[0], self.server
        hub.calls.append(f"{method} {path}")
        for part, (status, message) in hub.refuse.items():
            if part in path:
                return self.send(status, {"error": message})
        if not path.startswith("/lfs/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.send(401, {"error": "Invalid credentials in Authorization header"})
        if path == "/api/whoami-v2":
            return self.send(200, {"type": "user", "name": "somebody", "orgs": []})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if method == "PUT" and (found := re.fullmatch(r"/lfs/(\w{64})", path)):
            assert hashlib.sha256(body).hexdigest() == found[1]
            hub.blobs[found[1]] = body
            return self.send(200, {})
        if path == "/lfs/verify":
            asked = json.loads(body)
            return self.send(200 if len(hub.blobs[asked["oid"]]) == asked["size"] else 400, {})
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            objects = [{**o, "actions": {"upload": {"href": f"{hub.address}/lfs/{o['oid']}"},
                                         "verify": {"href": f"{hub.address}/lfs/verify"}}}
                       for o in json.loads(body)["objects"]]  # fmt: skip
            return self.send(200, {"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(/\w+/main)?", path):
            return self.model(found[1], found[2], body)
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/\w+/(.+)", path):
            return self.resolve(method, hub.files.get(found[1], {}).get(found[2]))
        return self.send(404, {"error": f"no such endpoint: {method} {path}"})

    def create(self, asked):
        repo = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
        status = 409 if repo in self.server.files else 200
        if status == 200:
            self.server.files[repo], self.server.private[repo] = {}, asked.get("visibility") == "private"
        self.send(status, {"url": f"{self.server.address}/{repo}", "error": "You already created this model repo"})

    def validate(self, content):
        """What the Hub's own check asks of a model's metadata, as far as its documentation says it."""
        data, errors = yaml.safe_load(content.split("---\n")[1]), []
        if not isinstance(data.get("license"), str):
            errors.append({"message": '"license" must be one of the known ones'})
        if not all(isinstance(tag, str) and tag for tag in data.get("tags", [])):
            errors.append({"message": '"tags" must be strings'})
        if "base_model" in data and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(data["base_model"])):
            errors.append({"message": '"base_model" with value "{}" is not valid. Use a model id from the Hub'})
        for model in data.get("model-index", []):
            for result in model["results"]:
                if not (result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]):
                    errors.append({"message": '"model-index" lacks a type'})
                errors += [{"message": "no value"} for m in result["metrics"] if m.get("value") is None]
        self.send(400 if errors else 200, {"errors": errors, "warnings": []})

    def model(self, repo, call, body):
        hub = self.server
        if repo not in hub.files:
            return self.send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if call == "/tree/main":
            return self.send(200, [{"type": "file", "path": name, "size": len(content), "oid": git_blob(content)}
                                   for name, content in hub.files[repo].items()])  # fmt: skip
        if call in (None, "/revision/main"):
            return self.send(200, {"id": repo, "private": hub.private[repo], "sha": "0" * 40, "siblings": []})
        if call == "/preupload/main":
            files = [{"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                      "shouldIgnore": False, "oid": None} for f in json.loads(body)["files"]]  # fmt: skip
            return self.send(200, {"files": files})
        lines, new = [json.loads(line) for line in body.splitlines()], {}
        for line in lines[1:]:
            value = line["value"]
            new[value["path"]] = (
                base64.b64decode(value["content"]) if line["key"] == "file" else hub.blobs[value["oid"]]
            )
        hub.files[repo].update(new)
        hub.commits.append((repo, lines[0]["value"]["summary"], sorted(new)))
        return self.send(200, {"commitUrl": f"{hub.address}/{repo}/commit/{'1' * 40}", "commitOid": "1" * 40})

    def resolve(self, method, content):
        if content is None:
            return self.send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        self.send_response(200)
        for name, value in (("ETag", f'"{git_blob(content)}"'), ("X-Repo-Commit", "1" * 40),
                            ("Content-Length", str(len(content)))):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        if method == "GET":
            self.wfile.write(content)

    def send(self, status, content, headers=None):
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))
