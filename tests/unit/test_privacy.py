"""No file of a run says whose home it lies in, or what opens an account."""

import json
import os
from pathlib import Path

import pytest

from polytune.config import AdapterConfig, ObjectiveConfig, PolicyConfig, RolloutConfig, TaskConfig
from polytune.places import at_home
from polytune.privacy import private
from polytune.report.page import Page, command, write_page
from polytune.run import RunConfig
from polytune.running.provenance import check_same_run, origin
from polytune.trainer.config import PolychromicConfig

SECRETS = {"HF_TOKEN": "hf_" + "a1" * 17, "WANDB_API_KEY": "0123456789abcdef0123", "MY_PASSWORD": "correct horse"}


@pytest.fixture(autouse=True)
def somebody(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home/anna"))
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "home/anna"


def test_what_is_hidden(somebody):
    assert private(f"{somebody}/runs/a") == "~/runs/a" and private(f"--model={somebody}") == "--model=~"
    assert at_home(private(f"{somebody}/runs/a")) == f"{somebody}/runs/a"
    for other in (f"{somebody}bel/runs", f"/mnt{somebody}/runs", "outputs/run", "a ~ b"):
        assert private(other) == other
    for secret in SECRETS.values():
        assert private(f"--set token={secret} more") == "--set token=*** more"
    assert private("http://anna:word@host:8000/v1") == "http://***@host:8000/v1"
    assert private("http://tok@host") == "http://***@host" and private("http://host:8000/a@b") == "http://host:8000/a@b"
    assert private("https://host/?x=1&api_key=abc&hf_token=d#e") == "https://host/?x=1&api_key=***&hf_token=***#e"
    for key in ("hf_" + "Z9" * 15, "sk-" + "b" * 32, "ghp_" + "c" * 36, "AKIA" + "D" * 16):
        assert private(f"({key})") == "(***)"
    assert private({f"{somebody}/a": [f"{somebody}/b", 3, None]}) == {"~/a": ["~/b", 3, None]}


def test_a_short_value_and_a_path_are_no_secret(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("KEY_FILE_TOKEN", "/etc/keys/file")
    assert private("false at /etc/keys/file") == "false at /etc/keys/file"


def test_files_of_a_run_hold_none_of_it(somebody):
    """run.json, run.yaml, what trackers are told, a report; and the run goes on under the same settings."""
    words = ["--output_dir", f"{somebody}/run", "--vllm_server_base_url", "http://anna:word1234@host:1/?token=tok12345"]
    trainer = PolychromicConfig(output_dir=words[1], vllm_server_base_url=words[3], num_generations=2, bf16=False,
                                per_device_train_batch_size=2, use_cpu=True)  # fmt: skip
    run = RunConfig(
        TaskConfig(task_args=[f"path={somebody}/rows.jsonl"]), PolicyConfig(model=f"{somebody}/policy"),
        AdapterConfig(), RolloutConfig(), ObjectiveConfig(), trainer,
        given=("output_dir", "model", "vllm_server_base_url", "task_args"),
    )  # fmt: skip
    run.record(["recipes/finetune.py", *words, "--hub_token", SECRETS["HF_TOKEN"]], {})
    page = Page("title", f"of {somebody}/run")
    page.section("a", "A").parts.append(command(f"python {' '.join(words)}"))
    write_page(page, Path(words[1]) / "report.html")
    told = {path.name: path.read_text() for path in Path(words[1]).iterdir()}
    told["trackers"] = json.dumps(trainer.to_sanitized_dict(), default=str) + trainer.to_json_string()
    assert {*told} == {"run.json", "run.yaml", "report.html", "trackers"}
    for name, text in told.items():
        assert str(somebody) not in text and "word1234" not in text and "tok12345" not in text, name
        assert not any(secret in text for secret in SECRETS.values()), name
        assert "~/run" in text, name
    os.mkdir(Path(words[1]) / "checkpoint-1")
    check_same_run(words[1], run.settings)
    with pytest.raises(ValueError, match="model was '~/policy', now '~/other'"):
        check_same_run(words[1], run.settings | {"policy": PolicyConfig(model=f"{somebody}/other")})
    assert origin(["recipes/evaluate.py", f"a={somebody}/a"])["command"].endswith("a=~/a")
