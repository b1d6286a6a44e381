"""The committed arithmetic set: what its builder writes, right answers of unlike strategies, test rows apart."""

import importlib.util
import json
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from polytune.tasks.rewards import calculation, reaches_target

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "data/arithmetic"


@pytest.fixture(scope="module")
def builder():
    spec = importlib.util.spec_from_file_location("build_arithmetic", ROOT / "data/build_arithmetic.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(split, folder=FOLDER):
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]


def test_the_builder_writes_the_committed_files(builder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["build_arithmetic.py", "--output_dir", str(tmp_path)])
    builder.main()
    for name in ("train.jsonl", "train_64.jsonl", "test.jsonl", "README.md"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 400_000


def test_every_answer_is_right_and_another_calculation():
    for row in rows("train"):
        ways = {calculation(answer, row) for answer in row["answers"]}
        assert None not in ways and len(ways) == len(row["answers"]) >= 3
        assert all(reaches_target(answer, row) == 1 for answer in row["answers"])


def test_no_problem_is_in_both_files_nor_twice_in_one(builder):
    problems = [(tuple(sorted(row["numbers"])), row["target"]) for split in ("train", "test") for row in rows(split)]
    assert len(set(problems)) == len(problems) == len(rows("train")) + len(rows("test"))
    assert rows("train_64") == rows("train")[:64]
    assert set(problems) <= builder.problems().keys()
    assert all("answers" not in row for row in rows("test"))


def test_expressions_are_all_and_worth_what_they_say(builder):
    found = list(builder.expressions((2, 3, 5)))
    texts = {text for _, text, _ in found}
    assert {"2*3+5", "(2+3)*5", "5-(3-2)", "2/(3/5)", "5/3/2", "2-3-5"} <= texts
    for value, text, _ in found:
        exact = text
        for number in "235":
            exact = exact.replace(number, f"Fraction({number})")
        assert eval(exact, {"Fraction": Fraction}) == value, text
