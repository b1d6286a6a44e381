"""recipes/export.py as a user runs it: proved, described, refused where it must be, pushed to a Hub on this machine."""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import warm
import yaml
from hub_server import TOKEN, Hub
from huggingface_hub import ModelCard, constants, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from walkers import save_walker

from polytune.export import hub as hub_module
from polytune.export.hub import PushError
from polytune.policy import CheckpointError, load_policy, loading
from polytune.policy.manifest import check_manifest

ADAPTER = {"adapter_config.json", "adapter_model.safetensors", "generation_config.json", "polytune.json", "README.md",
           "tokenizer.json", "tokenizer_config.json"}  # fmt: skip
WHOLE = ADAPTER - {"adapter_config.json", "adapter_model.safetensors"} | {"config.json", "model.safetensors"}
#: runs code as in a notebook that has never heard of polytune
BLOCKED = "import sys; sys.modules['polytune'] = None; exec(sys.stdin.read())"


@pytest.fixture(scope="module")
def runs(call_recipe, tmp_path_factory):
    """A folder with the walker, a LoRA run and a run of whole weights from it, one without signal, and an evaluation
    of walker and LoRA."""
    root = tmp_path_factory.mktemp("runs")
    save_walker(root / "walker", 1, 0.015)
    settings = {
        "task": "fourrooms", "task_horizon": 12, "split": "seeds:41-48", "num_seeds": 1, "num_rollout_states": 1,
        "num_vines": 3, "num_generations": 4, "per_device_train_batch_size": 16, "steps_per_generation": 1,
        "set_size": 2, "use_cpu": True, "model": str(root / "walker"), "cpu_threads": 1, "learning_rate": 1e-2,
        "entropy_coef": 0.1,  # a gradient without any success
    }  # fmt: skip
    (root / "run.yaml").write_text(yaml.safe_dump(settings))
    lora = ["--use_peft", "true", "--lora_r", "4", "--lora_modules_to_save", "lm_head"]
    for name, flags in (
        ("lora", [*lora, "--num_updates", "2"]),
        ("whole", ["--num_updates", "1"]),
        # no gradient at all: the nearest goal is 3 turns away, and neither entropy nor KL has a weight
        ("idle", "--use_peft true --num_updates 1 --entropy_coef 0 --kl_coef 0 --task_horizon 2".split()),
    ):
        call_recipe("finetune", "--config", root / "run.yaml", "--output_dir", root / name, *flags)
    call_recipe("evaluate", "--policies", root / "walker", root / "lora", "--task_horizon", 24,
                "--split", "seeds:41-44", "--n", 4, "--perturb", "start_room", "--cpu_threads", 1,
                "--output_dir", root / "measured")  # fmt: skip
    return root


@pytest.fixture(scope="module")
def exported(call_recipe, runs):
    folder = runs / "exports/lora"
    call_recipe("export", "--policy", runs / "lora", "--output_dir", folder, "--licence", "apache-2.0")
    return folder


@pytest.fixture
def export(call_recipe, runs, tmp_path, capsys, monkeypatch):
    """Run the recipe; what it said, errors included. The process that scores afresh is forked, see warm.py; that of
    ``exported`` is a Python of its own."""
    monkeypatch.setattr("polytune.export.proof.subprocess", warm.FOR_THE_PROOF)

    def call(*flags, policy="lora", output_dir=tmp_path / "export"):
        policy = policy if isinstance(policy, Path) else runs / policy
        try:
            call_recipe("export", "--policy", policy, "--output_dir", output_dir, *flags)
        except SystemExit:
            said = capsys.readouterr()
            lines = [line for line in said.err.splitlines() if line.strip()]
            assert len(lines) == 1 and lines[0].startswith("error: "), said.err
            return lines[0]
        return capsys.readouterr().out

    return call


@pytest.fixture
def copied(runs, tmp_path):
    """A copy of the LoRA run that a test may change; ``noted=True`` also changes the digest that the trainer noted."""
    shutil.copytree(runs / "lora", tmp_path / "copy")

    def change(edit, noted):
        path = tmp_path / "copy/adapter_model.safetensors"
        weights = load_file(path)
        edit(weights)
        save_file(weights, path, metadata={"format": "pt"})
        if noted:
            record = tmp_path / "copy/recorded_episodes.json"
            content = json.loads(record.read_text())
            content["weights"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
            record.write_text(json.dumps(content))
            (tmp_path / "copy/manifest.json").unlink()
        return tmp_path / "copy"

    return change


def scored(model, recorded):
    """Logprobs of the recorded tokens, by a pass of the test's own."""
    found = []
    for episode in recorded["episodes"]:
        ids = torch.tensor([episode["prompt_ids"] + episode["completion_ids"]])
        with torch.no_grad():
            table = model(ids).logits[0].double().log_softmax(-1)
        for place, own in enumerate(episode["own_C"], start=len(episode["prompt_ids"])):
            if own:
                found.append(float(table[place - 1, ids[0, place]]))
    return found


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_save_holds_episodes_with_the_logprobs_of_its_weights(runs):
    """Each checkpoint's file is of its own weights, listed in its manifest, and of whole seed trajectories."""
    seen = []
    for folder in (runs / "lora/checkpoint-2", runs / "lora/checkpoint-4", runs / "lora"):
        recorded = json.loads((folder / "recorded_episodes.json").read_text())
        base = AutoModelForCausalLM.from_pretrained(runs / "walker")
        model = PeftModel.from_pretrained(base, folder).eval()
        trained = [value for episode in recorded["episodes"] for value in episode["logprobs"]]
        assert trained == pytest.approx(scored(model, recorded), abs=1e-5)
        assert len(recorded["episodes"]) == 4 and len(trained) == sum(sum(e["own_C"]) for e in recorded["episodes"])
        assert (recorded["dtype"], recorded["autocast"], recorded["temperature"]) == ("float32", None, 1.0)
        seen.append((recorded["step"], trained))
        noted = json.loads((folder / "manifest.json").read_text())
        assert "adapter_model.safetensors" in noted and check_manifest(folder) is None
        assert ("recorded_episodes.json" in noted) == folder.name.startswith("checkpoint")
    assert [step for step, _ in seen] == [2, 4, 4]
    assert seen[1] == seen[2] and seen[0][1] != seen[1][1]


def test_a_run_resumed_at_its_end_records_the_same(call_recipe, runs, tmp_path):
    shutil.copytree(runs / "lora", tmp_path / "run")
    before = (tmp_path / "run/recorded_episodes.json").read_bytes()
    for name in ("recorded_episodes.json", "adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / "run" / name).unlink()
    flags = ["--use_peft", "true", "--lora_r", "4", "--lora_modules_to_save", "lm_head", "--num_updates", "2"]
    call_recipe("finetune", "--config", runs / "run.yaml", "--output_dir", tmp_path / "run", *flags)
    assert (tmp_path / "run/recorded_episodes.json").read_bytes() == before


def test_an_adapter_is_the_trained_one_for_plain_peft(runs, exported):
    assert {path.name for path in exported.iterdir()} == ADAPTER
    assert [path.name for path in exported.parent.iterdir()] == ["lora"], "nothing else is left"
    recorded = json.loads((runs / "lora/recorded_episodes.json").read_text())
    settings = json.loads((exported / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(runs / "walker")
    base = AutoModelForCausalLM.from_pretrained(settings["base_model_name_or_path"])
    plain = scored(base.eval(), recorded)
    trained = [value for episode in recorded["episodes"] for value in episode["logprobs"]]
    assert scored(PeftModel.from_pretrained(base, exported).eval(), recorded) == pytest.approx(trained, abs=1e-5)
    assert plain != pytest.approx(trained, abs=1e-2), "the adapter does something"
    notes = json.loads((exported / "polytune.json").read_text())
    assert 0 < notes["proof"]["largest"] < 1e-5 and notes["proof"]["tolerance"] == 1e-4
    assert notes["task"]["task"] == "fourrooms" and notes["kind"] == "adapter"
    assert json.loads((exported / "generation_config.json").read_text())["top_k"] == 0


def test_the_card_says_what_was_measured(runs, exported):
    text = (exported / "README.md").read_text()
    summary = json.loads((runs / "measured/summary.json").read_text())
    data = ModelCard(text).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "peft", "text-generation")
    assert data.base_model is None, "a local base is no id on the Hub"
    results = {(r.dataset_name, r.metric_type): r.metric_value for r in data.eval_results}
    moved = summary["perturbed"]["start_room"]["policies"]["lora"]
    for under, measures in (("fourrooms", summary["policies"]["lora"]), ("fourrooms under start_room", moved)):
        for name in ("pass@2", "pass@4"):
            assert results[under, name] == pytest.approx(measures[name]["estimate"], abs=1e-4)
            low, high = (f"{measures[name][end]:.3f}" for end in ("low", "high"))
            assert f"| {name} | {measures[name]['estimate']:.3f} [{low}, {high}] |" in text
    before = summary["policies"]["walker"]["success"]["estimate"]
    assert re.search(rf"\| success \(pass@1\) \| .* \| {before:.3f} \[", text), "the walker stands beside it"
    for words in ("polychromic objective", "marginal set advantage", "GAE", "clipped surrogate", "LoRA", "peft 0."):
        assert words in text


def test_the_snippet_runs_without_polytune(exported, tmp_path):
    [code] = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert "polytune" not in code.replace(str(exported), "").replace(str(exported.parents[1]), "")
    blocked = [sys.executable, "-P", "-c", BLOCKED]
    said = subprocess.run(blocked, input=code, capture_output=True, text=True, cwd=tmp_path)
    assert said.returncode == 0, said.stderr[-2000:]
    assert said.stdout.split() and said.stdout.split()[-1] in AutoTokenizer.from_pretrained(exported).get_vocab()
    refused = subprocess.run(blocked, input="import polytune.config", capture_output=True, text=True)
    assert refused.returncode != 0, "the block blocks"


def test_a_checkpoint_is_merged_into_whole_weights(runs, export, tmp_path):
    said = export("--merge", policy=runs / "lora/checkpoint-2")
    assert "as whole weights" in said and "no evaluation of this policy" in said
    assert {path.name for path in (tmp_path / "export").iterdir()} == WHOLE
    recorded = json.loads((runs / "lora/checkpoint-2/recorded_episodes.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "export").eval()
    trained = [value for episode in recorded["episodes"] for value in episode["logprobs"]]
    assert scored(model, recorded) == pytest.approx(trained, abs=1e-4)
    assert "Not evaluated" in (tmp_path / "export/README.md").read_text()


def test_whole_weights_are_exported_as_they_are_and_replace_an_earlier_export(runs, export, exported, tmp_path):
    shutil.copytree(exported, tmp_path / "export")
    assert "its whole weights are exported" in export(policy="whole")
    assert {path.name for path in (tmp_path / "export").iterdir()} == WHOLE
    assert load_file(tmp_path / "export/model.safetensors").keys() == load_file(runs / "whole/model.safetensors").keys()
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def nudge(weights):
    name = next(name for name in weights if "lora_B" in name)
    weights[name][0, 0] += 1.0


def zero(weights):
    for name in weights:
        if "lora_B" in name:
            weights[name].zero_()


def test_one_changed_weight_is_refused_by_its_digest(copied, export, tmp_path):
    assert "is not what the run saved" in export(policy=copied(nudge, noted=False))
    assert not (tmp_path / "export").exists()


def test_one_changed_weight_is_refused_by_the_proof_and_nothing_is_written(copied, export, exported, tmp_path):
    said = export(policy=copied(nudge, noted=True))
    assert "proof of export failed" in said and "float32 allows 0.0001" in said and "Nothing was written" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]
    shutil.copytree(exported, tmp_path / "export")
    before = files_of(tmp_path / "export")
    assert "proof of export failed" in export(policy=tmp_path / "copy")
    assert files_of(tmp_path / "export") == before, "an earlier export stays whole"


def test_an_adapter_without_effect_is_refused(runs, copied, export, tmp_path):
    base = load_file(runs / "walker/model.safetensors")["lm_head.weight"]

    def undo(weights):
        zero(weights)
        weights["base_model.model.lm_head.weight"] = base.clone()

    assert "trained nothing" in export(policy=copied(undo, noted=True))
    assert not (tmp_path / "export").exists()
    # the head alone is an effect: the proof, not this check, finds that the rest is gone
    shutil.rmtree(tmp_path / "copy")
    shutil.copytree(runs / "lora", tmp_path / "copy")
    assert "proof of export failed" in export(policy=copied(zero, noted=True))


def test_a_run_without_signal_is_refused(runs, export, tmp_path):
    assert "trained nothing" in export(policy="idle") and not (tmp_path / "export").exists()


def test_whole_weights_that_never_moved_are_refused(runs, export, tmp_path):
    shutil.copytree(runs / "whole", tmp_path / "copy")
    shutil.copy(runs / "walker/model.safetensors", tmp_path / "copy")
    (tmp_path / "copy/manifest.json").unlink()
    record = tmp_path / "copy/recorded_episodes.json"
    content = json.loads(record.read_text())
    content["weights"] = {
        "model.safetensors": hashlib.sha256((runs / "walker/model.safetensors").read_bytes()).hexdigest()
    }
    record.write_text(json.dumps(content))
    assert "trained nothing" in export(policy=tmp_path / "copy")


def without(name):
    def prepare(folder):
        (folder / name).unlink()

    return prepare


def unfinished(folder):
    for name in ("adapter_model.safetensors", "adapter_config.json", "recorded_episodes.json"):
        (folder / name).unlink()


def damaged(folder):
    (folder / "recorded_episodes.json").write_text('{"episodes": [')


def in_4_bits(folder):
    run = json.loads((folder / "run.json").read_text())
    run["adapter"]["load_in_4bit"] = True
    (folder / "run.json").write_text(json.dumps(run))


@pytest.mark.parametrize("prepare, flags, words", [
    (without("run.json"), [], "is no run of recipes/finetune.py"),
    (without("recorded_episodes.json"), [], r"remove .*copy/checkpoint-4, and give the run's finetune command again"),
    (unfinished, [], r"is not finished, it has no weights yet: export a checkpoint \(--policy .*copy/checkpoint-4\)"),
    (damaged, [], "recorded_episodes.json cannot be read"),
    (in_4_bits, [], "base in 4 bits"),
    (None, ["--push", "somebody/policy"], "walker' is a folder on this machine.*--merge true.*--base_model"),
    (None, ["--push", "policy"], "push is 'policy'.*write USER/REPO"),
    (None, ["--licence", "apache"], "licence is 'apache'.*did you mean apache-2.0"),
    (None, ["--merge", "true", "--base_model", "somebody/base"], "whole weights need no base"),
    (None, ["--base_model", "./nowhere"], "'./nowhere' is neither a folder here nor a model's name"),
    (None, ["--base_model", "somebody/nowhere"], "proof of export failed: a fresh process cannot load"),
    (None, ["--overwrite-card"], "push is not set"),
    (None, ["--evaluation", "nowhere"], "evaluation nowhere holds no evaluation_run.json"),
    (None, ["--output_dir", "copy"], "holds something other than an export"),
    (None, ["--polcy", "x"], "unknown argument '--polcy'; did you mean policy"),
])  # fmt: skip
def test_refusals(runs, export, tmp_path, monkeypatch, prepare, flags, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # of the fresh process: without a network it would try for a minute
    monkeypatch.setattr("polytune.export.proof.subprocess", subprocess)  # a Python of its own reads it when it starts
    shutil.copytree(runs / "lora", tmp_path / "copy")
    if prepare is not None:
        prepare(tmp_path / "copy")
    said = export(*flags, policy=tmp_path / "copy")
    assert re.search(words, said), said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


def test_other_refusals(runs, export, tmp_path):
    assert "does not exist as a folder" in export(policy=tmp_path / "nothing")
    assert "is no run of recipes/finetune.py" in export(policy="walker")
    said = export("--evaluation", runs / "measured", policy="whole")
    assert "measured other weights (walker, lora)" in said
    summary = runs / "measured/summary.json"
    before = summary.read_text()
    try:
        summary.write_text(before.replace('"episodes": 20', '"episodes": 19'))
        assert "has a summary of other records than its own" in export("--evaluation", runs / "measured")
    finally:
        summary.write_text(before)


@pytest.mark.parametrize("owner, failing, flags, words", [
    (shutil, "copyfile", [], "no space left while writing"),
    (PreTrainedModel, "save_pretrained", ["--merge"], "weights could not be written to .*Make room and export again"),
])  # fmt: skip
def test_a_full_disk_leaves_nothing_behind(export, tmp_path, monkeypatch, owner, failing, flags, words):
    def full(source, target, *more, **options):
        (tmp_path / ".export.exporting/half").write_text("written")
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(owner, failing, full)
    assert re.search(words, export(*flags))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- the Hub


@pytest.fixture
def hub(monkeypatch):
    """A Hub on this machine, and a login to it."""
    with Hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        files = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def test_a_push_uploads_the_folder_byte_for_byte(hub, export, tmp_path, capsys):
    said = export("--merge", "--push", "somebody/policy", "--licence", "mit")
    assert "pushed: " + hub.address in said
    local = files_of(tmp_path / "export")
    assert hub.files == {"somebody/policy": local} and hub.private == {"somebody/policy": True}
    assert len(hub.commits) == 1 and "POST /api/validate-yaml" in hub.calls
    assert any(call.startswith("PUT /lfs/") for call in hub.calls), "weights go as large files"
    assert 'name = "somebody/policy"' in local["README.md"].decode()
    for name, content in local.items():
        got = hf_hub_download("somebody/policy", name, cache_dir=tmp_path / "cache", endpoint=hub.address)
        assert Path(got).read_bytes() == content
    out = capsys.readouterr()
    assert TOKEN not in said + out.out + out.err
    assert TOKEN.encode() not in b"".join(local.values())


def test_a_card_on_the_hub_stays_unless_told_otherwise(hub, exported, capsys):
    hub.files["somebody/policy"], hub.private["somebody/policy"] = {"README.md": b"written by hand"}, False
    hub_module.push(exported, "somebody/policy", private=True, overwrite_card=False)
    assert hub.files["somebody/policy"]["README.md"] == b"written by hand"
    assert hub.commits[0][2] == sorted(ADAPTER - {"README.md"})
    said = capsys.readouterr().out
    assert "which stays: --overwrite_card true" in said and "is public already" in said
    hub_module.push(exported, "somebody/policy", private=False, overwrite_card=True)
    assert hub.files["somebody/policy"] == files_of(exported)


@pytest.mark.parametrize("part, status, message, words", [
    ("whoami", 401, "Invalid user token.", "does not know your token.*hf auth login"),
    ("repos/create", 403, "You don't have the rights to create a model", "may not write to somebody/policy.*write acc"),
    ("preupload", 404, "Repository not found", "has no somebody/policy that you may see"),
    ("commit", 403, "Private repository storage limit reached", "no room for it.*storage limit.*free storage"),
    ("lfs/objects", 413, "Payload too large", "no room for it"),
    ("commit", 429, "Too many requests", "asks to wait"),
    ("commit", 400, "something odd", "status 400 .something odd"),
])  # fmt: skip
def test_what_the_hub_refuses_is_one_line_with_a_remedy(hub, exported, capfd, part, status, message, words):
    hub.refuse[part] = (status, message)
    before = files_of(exported)
    with pytest.raises(PushError) as caught:
        hub_module.push(exported, "somebody/policy", private=True, overwrite_card=False)
    said = str(caught.value)
    assert re.search(words, said), said
    assert f"The export is whole in {exported}: the same command pushes again" in said and "\n" not in said
    assert files_of(exported) == before
    out = capfd.readouterr()
    assert TOKEN not in said + out.out + out.err


def test_without_a_login_or_a_network(hub, exported, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(PushError, match="not logged in.*hf auth login"):
        hub_module.push(exported, "somebody/policy", private=True, overwrite_card=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.shutdown()
    hub.server_close()
    huggingface_hub.close_session()
    with pytest.raises(PushError, match="cannot be reached .ConnectionRefusedError.*HF_ENDPOINT"):
        hub_module.push(exported, "somebody/policy", private=True, overwrite_card=False)
    assert hub.files == {}


def test_a_failed_push_ends_the_program_with_one_line(hub, export, tmp_path):
    hub.refuse["commit"] = (403, "Forbidden")
    said = export("--merge", "--push", "somebody/policy", policy="lora")
    assert said.startswith("error: somebody/policy was not pushed: your token may not write")
    assert {path.name for path in (tmp_path / "export").iterdir()} == WHOLE


LOADED = """
import sys
from polytune.policy import CheckpointError, load_policy
from polytune.policy.loading import adapter_base

assert adapter_base("somebody/policy") == "somebody/base" and adapter_base("somebody/base") is None
model, tokenizer = load_policy("somebody/policy")
model.save_pretrained(sys.argv[1])
tokenizer.save_pretrained(sys.argv[1])
try:
    load_policy("somebody/none")
except CheckpointError as error:
    print(error)
"""


def test_an_adapter_on_the_hub_is_loaded_by_its_id(hub, runs, exported, tmp_path):
    """What was pushed is a checkpoint as any other: the same weights as the folder's."""
    hub.files["somebody/base"], hub.files["somebody/policy"] = files_of(runs / "walker"), files_of(exported)
    settings = json.loads(hub.files["somebody/policy"]["adapter_config.json"])
    settings["base_model_name_or_path"] = "somebody/base"
    hub.files["somebody/policy"]["adapter_config.json"] = json.dumps(settings).encode()
    hub.private |= dict.fromkeys(hub.files, False)
    own = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run([sys.executable, "-c", LOADED, str(tmp_path / "loaded")], capture_output=True, text=True,
                          env=os.environ | own, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "checkpoint 'somebody/none' cannot be loaded" in done.stdout
    found, (model, tokenizer) = load_file(tmp_path / "loaded/model.safetensors"), load_policy(exported)
    assert found and all(torch.equal(weight, model.state_dict()[name]) for name, weight in found.items())
    assert AutoTokenizer.from_pretrained(tmp_path / "loaded").get_vocab() == tokenizer.get_vocab()


def test_a_hub_that_cannot_be_reached_is_told_apart_from_a_missing_folder(monkeypatch):
    def unreachable(*args, **kwargs):
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(loading, "hf_hub_download", unreachable)
    with pytest.raises(
        CheckpointError, match="'somebody/policy' is no folder here, and as a Hub id it cannot be fetched"
    ):
        load_policy("somebody/policy")
