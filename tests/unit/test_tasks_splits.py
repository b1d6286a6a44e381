"""Splits: what loads, and every way in which a file may be wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from polytune.config import TaskConfig
from polytune.places import DATA
from polytune.tasks import load_task
from polytune.tasks.splits import (
    DEMONSTRATION_SEEDS_START,
    TRAIN_SEEDS_START,
    UNSEEN_SEEDS_START,
    check_unseen,
    load_split,
    says_unseen,
)
from polytune.tasks.starts import starts_of, task_of


@pytest.fixture(scope="module")
def task():
    return load_task("fourrooms")


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def row(task, seed):
    return {"seed": seed, "level_hash": task.start_hash(seed)}


def test_committed_splits_load_and_keep_apart(task):
    train, unseen = load_split(task, "train"), load_split(task, "unseen")
    assert len(train) == len(unseen) == 50
    assert all(TRAIN_SEEDS_START <= seed < UNSEEN_SEEDS_START for seed in train)
    assert all(UNSEEN_SEEDS_START <= seed < DEMONSTRATION_SEEDS_START for seed in unseen)
    assert len({task.start_hash(seed) for seed in train + unseen}) == 100
    assert load_split(task, DATA / "fourrooms" / "train.jsonl") == train


def test_the_builder_rebuilds_identical_bytes(tmp_path):
    command = [sys.executable, "data/build_splits.py", "--task", "fourrooms", "--data-dir", str(tmp_path)]
    repository = Path(__file__).parents[2]
    subprocess.run(command, check=True, cwd=repository, env={"PYTHONPATH": str(repository)}, capture_output=True)
    for split in ("train", "unseen"):
        committed = DATA / "fourrooms" / f"{split}.jsonl"
        assert (tmp_path / "fourrooms" / f"{split}.jsonl").read_bytes() == committed.read_bytes()


def test_the_card_has_front_matter_and_states_the_sizes():
    yaml = pytest.importorskip("yaml")
    text = (DATA / "fourrooms" / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "apache-2.0"
    for entry in front["configs"][0]["data_files"]:
        path = DATA / "fourrooms" / entry["path"]
        assert f"| `{path.name}` | {len(path.read_text().splitlines())} | {path.stat().st_size:,} |" in text


def test_a_range_includes_both_ends(task):
    assert load_split(task, "seeds:3-6") == [3, 4, 5, 6]
    assert load_split(task, "seeds:7-7") == [7]
    for bad in ("seeds:", "seeds:5-3", "seeds:1", "seeds:-1-3", "seeds:a-b", "seeds:1-2 "):
        with pytest.raises(ValueError, match="bad seed range"):
            load_split(task, bad)


def test_unknown_splits_and_missing_files(task, tmp_path):
    with pytest.raises(ValueError, match="unknown split 'test'"):
        load_split(task, "test")
    with pytest.raises(FileNotFoundError, match="build_splits.py --task fourrooms"):
        load_split(task, "train", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="none.jsonl: give the path"):
        load_split(task, tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"seed": 2, "level_hash": "0" * 16}, r"line 2: seed 2 should give level 0{16}, but generates \w{16} .*numpy"),
        ("{not json", "line 2: not JSON"),
        ('{"seed": 2}', "line 2: a row is"),
        ("[2]", "line 2: a row is"),
        ('{"seed": "2", "level_hash": "a"}', "line 2: seed must be an int >= 0, got '2'"),
        ('{"seed": true, "level_hash": "a"}', "line 2: seed must be an int >= 0, got True"),
        ('{"seed": -2, "level_hash": "a"}', "line 2: seed must be an int >= 0, got -2"),
        ('{"seed": 2, "level_hash": 5}', "line 2: level_hash must be a string, got 5"),
    ],
)
def test_a_bad_row_names_its_line(task, tmp_path, bad, message):
    path = write(tmp_path / "rows.jsonl", [row(task, 1), bad])
    with pytest.raises(ValueError, match=message):
        load_split(task, path)


@pytest.mark.parametrize("text", ["{}\n{}\n\n", "\ufeff{}\n{}", "{}\r\n  \r\n{}\r\n"])
def test_a_mark_at_the_beginning_and_blank_lines_are_no_rows(task, tmp_path, text):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(text.format(json.dumps(row(task, 1)), json.dumps(row(task, 2))).encode())
    assert load_split(task, path) == [1, 2]


def test_a_split_that_is_not_utf_8_is_one_line_with_its_file(task, tmp_path):
    path = tmp_path / "fourrooms" / "unseen.jsonl"
    write(tmp_path / "fourrooms" / "train.jsonl", [row(task, 1)])
    path.write_bytes(b"\xff\xfe")
    for split in ("unseen", "train", str(path)):
        with pytest.raises(ValueError, match=r"unseen.jsonl is not UTF-8 text \(byte 0\): save it as UTF-8"):
            load_split(task, split, data_dir=tmp_path)


def test_duplicates_and_empty_files_are_refused(task, tmp_path):
    twice = write(tmp_path / "twice.jsonl", [row(task, 1), row(task, 2), row(task, 1)])
    with pytest.raises(ValueError, match="line 3: seed 1 is a duplicate of line 1"):
        load_split(task, twice)
    same_level = write(tmp_path / "same.jsonl", [row(task, 1), {"seed": 2, "level_hash": task.start_hash(1)}])
    with pytest.raises(ValueError, match="line 2: level_hash .* is a duplicate of line 1"):
        load_split(task, same_level)
    with pytest.raises(ValueError, match="has no rows"):
        load_split(task, write(tmp_path / "empty.jsonl", []))


def test_unseen_refuses_levels_of_train_and_of_the_demonstrations(task, tmp_path):
    write(tmp_path / "fourrooms" / "train.jsonl", [row(task, 1), row(task, 2)])
    write(tmp_path / "fourrooms" / "unseen.jsonl", [row(task, 3), row(task, 2)])
    with pytest.raises(ValueError, match=r"1 'fourrooms' levels are not unseen.*train split: seeds \[2\]"):
        load_split(task, "unseen", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"the unseen split: seeds \[2\]"):
        load_split(task, "train", data_dir=tmp_path)
    write(tmp_path / "fourrooms" / "unseen.jsonl", [row(task, 3), row(task, 4)])
    assert load_split(task, "unseen", data_dir=tmp_path) == [3, 4]
    with pytest.raises(ValueError, match=r"seeds \[4\]"):
        load_split(task, "unseen", data_dir=tmp_path, unseen_of={task.start_hash(4)})
    with pytest.raises(ValueError, match="also in the demonstrations: seeds .0, 1, 2, 3, 4. and more"):
        check_unseen(task, range(8), [task.start_hash(seed) for seed in range(8)], "the demonstrations")
    check_unseen(task, range(8), [task.start_hash(9)], "the demonstrations")


@pytest.mark.parametrize(
    ("split", "says"), [("unseen", True), ("my/unseen.jsonl", True), ("train", False), ("seeds:0-9", False)]
)
def test_which_splits_promise_unseen_levels(split, says):
    assert says_unseen(split) is says


def test_a_program_begins_with_the_task_and_the_start_states_that_its_fields_name(task, tmp_path):
    def refuse():
        raise AssertionError("this split promises nothing, so nobody needs to know what the policy was shown")

    config = TaskConfig(task_horizon=12, num_start_states=2, data_dir=str(tmp_path))
    write(tmp_path / "fourrooms" / "train.jsonl", [row(task, seed) for seed in (5, 1, 3)])
    write(tmp_path / "fourrooms" / "unseen.jsonl", [row(task, seed) for seed in (7, 8, 9)])
    assert task_of(config).horizon == 12
    assert starts_of(task, config, levels_shown=refuse) == ("train", [5, 1])
    assert starts_of(task, config, default_split="unseen") == ("unseen", [7, 8])
    config.split = "unseen"
    assert starts_of(task, config, default_split="train") == ("unseen", [7, 8])
    with pytest.raises(ValueError, match=r"not unseen.*seeds \[9\]"):  # one that is not among the first two
        starts_of(task, config, levels_shown=lambda: [task.start_hash(9)])
    creative = load_task("triangle", size="tiny")
    split, prompts = starts_of(creative, TaskConfig(task="triangle"))
    assert split == "test" and prompts == list(creative.splits["test"])
