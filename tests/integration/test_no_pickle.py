"""No file runs code when it is read: each kind of file that a run, a policy or a dataset may be made of, with a pickle in
its place that would write a marker. The marker must not appear, and there is one error that says what lies there."""

import copy
import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import test_ground_truth as tabular
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError

from polytune.config import ObjectiveConfig, RolloutConfig
from polytune.policy import CheckpointError, build_tiny, load_policy
from polytune.policy.rendering import PROMPT_WORD
from polytune.policy.tensors import tensors_only
from polytune.policy.weights import WeightsError
from polytune.running.checkpoints import latest_checkpoint, write_manifest
from polytune.tasks.dataset import load_rows
from polytune.tasks.tabular.worlds import TwoStep

ROOT = Path(__file__).resolve().parents[2]


class Harm:
    """Its pickle writes a file when it is read."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.fixture
def marker(tmp_path):
    yield tmp_path / "marker"
    assert not (tmp_path / "marker").exists()


def write(path, kind, marker):
    if kind == "raw":
        path.write_bytes(pickle.dumps(Harm(marker), protocol=2))
    else:
        torch.save({"weight": Harm(marker)}, path, _use_new_zipfile_serialization=kind == "zip")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    model, tokenizer = build_tiny("tiny", ["left", "right", ">"])
    model.save_pretrained(folder / "whole")
    tokenizer.save_pretrained(folder / "whole")
    get_peft_model(copy.deepcopy(model), LoraConfig(r=2, target_modules="all-linear")).save_pretrained(
        folder / "adapter"
    )
    settings = json.loads((folder / "adapter/adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(folder / "whole")
    (folder / "adapter/adapter_config.json").write_text(json.dumps(settings))
    return folder


def test_the_marker_is_written_where_pickles_are_read(tmp_path):
    """Otherwise the other tests would show nothing."""
    for kind in ("zip", "legacy"):
        write(tmp_path / "file", kind, tmp_path / kind)
        with pytest.raises(AttributeError):  # the open file is no tensor: not looked at here
            torch.load(tmp_path / "file", weights_only=False)["weight"].no_tensor  # noqa: B018
        assert (tmp_path / kind).exists()


@pytest.mark.parametrize("kind", ["zip", "legacy", "raw"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_weights_of_a_policy(policy, tmp_path, marker, kind, name):
    folder = shutil.copytree(policy / "whole", tmp_path / "policy")
    (folder / "model.safetensors").unlink()
    write(folder / name, kind, marker)
    said = r"would run \w+\.open when it is read.*nothing was run" if name.endswith(".bin") else "cannot be read"
    with pytest.raises(CheckpointError, match=said) as caught:
        load_policy(folder)
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)


def test_weights_of_an_adapter(policy, tmp_path, marker):
    folder = shutil.copytree(policy / "adapter", tmp_path / "adapter")
    (folder / "adapter_model.safetensors").unlink()
    write(folder / "adapter_model.bin", "zip", marker)
    with pytest.raises(CheckpointError, match="the adapter in .* cannot be put on .*would run"):
        load_policy(folder)


@pytest.mark.parametrize("part", ["config.json", "tokenizer_config.json"])
def test_code_that_a_checkpoint_brings(policy, tmp_path, marker, part):
    folder = shutil.copytree(policy / "whole", tmp_path / "policy")
    (folder / "own_code.py").write_text(f"open({str(marker)!r}, 'w')\n")
    settings = json.loads((folder / part).read_text())
    if part == "config.json":
        settings |= {
            "model_type": "own",
            "auto_map": {"AutoModelForCausalLM": "own_code.X", "AutoConfig": "own_code.C"},
        }
    else:
        settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own_code.X", "own_code.X"]}}
    (folder / part).write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="If you have read its code and trust it: --trust_remote_code true"):
        load_policy(folder)


def test_datasets_and_their_caches(tmp_path, marker):
    for name in ("pickled", "script", "saved"):
        (tmp_path / name).mkdir()
    for name in ("train.pkl", "train.pickle"):
        (tmp_path / "pickled" / name).write_bytes(pickle.dumps(Harm(marker)))
    (tmp_path / "script/script.py").write_text(f"open({str(marker)!r}, 'w')\n")
    Dataset.from_dict({"prompt": ["a"]}).save_to_disk(tmp_path / "saved")
    [shard] = (tmp_path / "saved").glob("*.arrow")
    shard.write_bytes(pickle.dumps(Harm(marker)))
    for place in ("pickled", "script", "saved"):
        with pytest.raises(ValueError, match="cannot be loaded .*: give a file, a folder written by save_to_disk"):
            load_rows(str(tmp_path / place), None, "train")
    with pytest.raises(ValueError, match=r"a dataset file ends in .json"):
        load_rows(str(tmp_path / "pickled/train.pkl"), None, "train")
    for name in ("rows.parquet", "rows.jsonl", "rows.json", "rows.csv"):
        (tmp_path / name).write_bytes(pickle.dumps(Harm(marker), protocol=0 if name.endswith("csv") else 5))
    for name in ("rows.parquet", "rows.jsonl", "rows.json"):
        with pytest.raises(ValueError, match=str(tmp_path / name)):
            load_rows(str(tmp_path / name), None, "train")
    load_rows(str(tmp_path / "rows.csv"), None, "train")  # any text is CSV


def untrained():
    return *build_tiny("tiny", [PROMPT_WORD, *TwoStep().vocabulary()]), None


def trainer(folder, policy):
    return tabular.make_trainer(
        folder, TwoStep(), policy,
        ObjectiveConfig(objective="mean", set_size=1, set_scope="seeds", window=-1, set_normalise="none",
                        methods=["go_explore"]),
        RolloutConfig(4, 0, 0), num_updates=1, save_updates=1, per_device_train_batch_size=16, critic="head",
    )  # fmt: skip


def test_every_file_of_a_checkpoint(tmp_path, marker, one_thread):
    """Its manifest fits: whoever made the file made that, too. A file that is not read does no harm either."""
    first = trainer(tmp_path / "run", untrained())
    first.train()
    made = tmp_path / "run/checkpoint-1"
    files = sorted(path.name for path in made.iterdir() if path.suffix in (".pt", ".pth", ".bin", ".safetensors"))
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "critic_optimizer.pt", "methods.safetensors"} <= {*files}
    assert "training_args.bin" not in files
    for name in [*files, "pytorch_model.bin"]:
        folder = shutil.copytree(made, tmp_path / "harm" / "checkpoint-1")
        if name == "pytorch_model.bin":
            (folder / "model.safetensors").unlink()
        write(folder / name, "zip", marker)
        write_manifest(folder)
        assert latest_checkpoint(tmp_path / "harm") == folder
        faults = []
        for load in (first._load_from_checkpoint, first._load_optimizer_and_scheduler, first._load_rng_state):
            try:
                load(str(folder))
            except (WeightsError, SafetensorError) as error:
                faults.append(error)
        if not name.endswith(".safetensors"):
            [fault] = faults
            assert f"{folder} holds a file that would run " in str(fault) and "\n" not in str(fault), name
        else:
            assert len(faults) == 1, name
        assert not marker.exists(), name
        shutil.rmtree(tmp_path / "harm")


def test_what_asks_for_more_than_weights_gets_weights(tmp_path, marker):
    """A library that loads a checkpoint with weights_only=False (DeepSpeed's engine does)."""
    write(tmp_path / "file", "zip", marker)
    with pytest.raises(WeightsError, match="would run"), tensors_only(tmp_path):
        torch.load(tmp_path / "file", weights_only=False)


#: modules that may import pickle: snapshots of worlds, which stay in memory
PICKLES = {"tasks/base.py", "tasks/gym_bridge.py", "tasks/grid/babyai.py"}
#: what would run code that lies in a file, or let a library do so
RUNS = re.compile(
    r"(?<![\w.])(?:eval|exec)\(|\btorch\.load\((?!.*weights_only=True)|weights_only\s*=\s*False|\bnp\.load\(|read_pickle"
    r"|yaml\.(?:unsafe_load|full_load|load\((?!.*OnceLoader))|trust_remote_code\s*=\s*True|allow_pickle\s*=\s*True"
)
IMPORTS = re.compile(
    r"^\s*(?:import|from) (?:pickle|dill|joblib|shelve|marshal|cloudpickle)\b(?! import UnpicklingError)"
)


def test_nothing_in_polytune_reads_code_from_data():
    told = []
    for path in sorted((ROOT / "polytune").rglob("*.py")):
        name = str(path.relative_to(ROOT / "polytune"))
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if RUNS.search(line) or (IMPORTS.search(line) and name not in PICKLES):
                told.append(f"{name}:{number} {line.strip()}")
    assert told == []
    for line in ("x = torch.load(path)", "    import pickle", "return eval(text)", "yaml.load(text, Loader)"):
        assert RUNS.search(line) or IMPORTS.search(line), line
