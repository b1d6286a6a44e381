"""What a program has left in a folder, times aside: two runs that did the same have equal outcomes, bit for bit."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

#: parts of names under which times stand, and what else is no part of the run
CLOCKS = ("step_time", "runtime", "per_second", "seconds", "speed/")
#: files that say how a run was made or told, not what it came to: fields are in run.json, a page's figures in JSON
ASIDE = ("training_args.bin", ".lock", "finetune.log", "evaluate.log", ".html")


def read(folder):
    """Every file of a folder, by its path there: tensors, JSON without times, anything else as bytes."""
    return {
        str(path.relative_to(folder)): _content(path)
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and not path.name.endswith(ASIDE) and path.name != "manifest.json"
    }


def _content(path):
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix in (".pt", ".pth"):
        return torch.load(path, weights_only=False)
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [without_times(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".md":
        return [line for line in path.read_text().splitlines() if not any(clock in line for clock in CLOCKS)]
    return path.read_bytes()


def without_times(content):
    if isinstance(content, dict):
        timed = {k for k in content if k == "date" or any(clock in k for clock in CLOCKS)}
        return {k: without_times(v) for k, v in content.items() if k not in timed}
    return [without_times(own) for own in content] if isinstance(content, list) else content


def assert_same(a, b, where=""):
    """AssertionError that says where two outcomes differ."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), f"{where}: {sorted(map(str, a.keys() ^ b.keys()))}"
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{index}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif hasattr(a, "shape"):
        assert (a == b).all(), where
    else:
        assert a == b or (a != a and b != b), f"{where}: {str(a)[:200]} != {str(b)[:200]}"
