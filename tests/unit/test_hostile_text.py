"""The beginning of the campaign of hostile strings (`tests/campaign/hostile.py`), and each kind found, by hand."""

import json
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "campaign"))
import hostile  # noqa: E402

from polytune.errors import UsageError  # noqa: E402
from polytune.privacy import private  # noqa: E402
from polytune.recipe import read_recipe  # noqa: E402
from polytune.tasks import load_task  # noqa: E402
from polytune.tasks.files import read_rows  # noqa: E402
from polytune.tasks.reasoning import final_answer  # noqa: E402
from polytune.tasks.splits import load_split  # noqa: E402

SLOW = {"rewards.math_verified", "reference", "rows .csv", "rows .parquet"}


def test_the_first_strings_do_no_harm(tmp_path):
    """Each target, but for those that start a process or load packages, at least once."""
    readers = [target._replace(every=min(target.every, 20)) for target in hostile.targets(tmp_path)]
    readers = [target for target in readers if target.name not in SLOW]
    found = hostile.through(readers, seed=1, first=0, count=350)
    assert found.failures == [] and {*found.calls} == {target.name for target in readers}
    assert sum(found.refused.values()) > 5


def test_what_fails_is_found(monkeypatch):
    """A reader that raises, one that says two things, one that is slow."""
    monkeypatch.setattr(hostile, "MOST_SECONDS", 0.02)
    said = iter(range(10**6))

    def slow(text):
        begun = time.thread_time()
        while time.thread_time() - begun < 0.03:
            pass

    for read, words in ((lambda text: text[10**6], "IndexError"), (lambda text: int("x"), "ValueError: invalid"),
                        (lambda text: next(said), "says two things"), (slow, "took 0.0")):  # fmt: skip
        found = hostile.through([hostile.Target("it", read)], seed=0, first=0, count=1)
        assert len(found.failures) == 1 and words in found.failures[0]


def test_a_campaign_that_was_stopped_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    read, stop = [], {"at": 25}

    def reader(text):
        read.append(text)
        if len(read) == 2 * stop["at"]:
            raise KeyboardInterrupt
        if len(text) % 5 == 0:
            raise UsageError("refused")

    monkeypatch.setattr(hostile, "targets", lambda folder: [hostile.Target("it", reader)])
    monkeypatch.setattr(hostile, "AT_ONCE", 10)
    result = tmp_path / "hostile.json"
    monkeypatch.setattr("sys.argv", ["hostile.py", "--count", "40", "--result", str(result)])
    with pytest.raises(KeyboardInterrupt):
        hostile.main()
    assert json.loads(result.read_text())["texts"] == 20
    stop["at"], counted = 0, []
    for _ in range(2):  # goes on, and then has nothing left to do
        with pytest.raises(SystemExit):
            hostile.main()
        found = json.loads(result.read_text())
        counted.append((found["texts"], found["calls"], found["targets"]["it"]["refused_texts"]))
    texts = list(hostile.hostile_texts(0, 0, 40))
    assert counted == [(40, 80, sum(len(text) % 5 == 0 for text in texts))] * 2
    assert read[50:] == [text for text in texts[20:] for _ in range(2)]
    monkeypatch.setattr(hostile, "code", lambda: "other")
    with pytest.raises(SystemExit):
        hostile.main()
    assert len(read) == 50 + 40 + 80


TWICE = [f'"{i % 60_000}": 1' for i in range(60_001)]


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("rows.jsonl", '{"prompt": %s}\n' % ("9" * 5000), r"line 1: a number of 5000 digits, 1000 at most"),
        ("rows.jsonl", '{"prompt": 1e999}\n', r"line 1: 1e999 is too large for a number"),
        ("rows.json", '[{"prompt": "a\\ud800"}]', r"half of a character, \\ud800, is no text"),
        ("rows.jsonl", "[" * 100_000 + "\n", "nested too deeply"),
        ("rows.jsonl", f"{{{', '.join(TWICE)}}}\n", "'0' stands twice"),
    ],
)
def test_json_that_is_refused_with_its_line(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    begun = time.thread_time()
    with pytest.raises(ValueError, match=words):
        read_rows(tmp_path / name)
    assert time.thread_time() - begun < 1


@pytest.mark.parametrize(
    "name, content, where",
    [("rows.csv", b"pro\0mpt,answer\na,b\n", "rows.csv"), ("rows.csv", b"\0\n", "rows.csv"),
     ("rows.csv", b"a\0x,a\0y\nb,c\n", "rows.csv"), ("rows.jsonl", b'{"a": 1}\n{"pro\\u0000mpt": 1}\n', "line 2"),
     ("rows.json", b'[{"a\\u0000b": 1}]', "entry 0")],
)  # fmt: skip
def test_a_nul_in_the_name_of_a_column_is_refused_in_one_line(tmp_path, name, content, where):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{where}: the name of column .*\\x00.* has a NUL: leave it out$") as caught:
        read_rows(tmp_path / name)
    assert "\n" not in str(caught.value) and "\0" not in str(caught.value)


def test_a_nul_in_the_name_of_a_parquet_column_is_refused(tmp_path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"pro\0mpt": [1]}), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="NUL|no parquet file") as caught:
        read_rows(tmp_path / "rows.parquet")
    assert "\n" not in str(caught.value)


def test_json_that_is_text(tmp_path):
    rows = [{"prompt": "\U0001f600 \x00 \u202e"}, {"prompt": 10**999}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_rows(tmp_path / "rows.jsonl") == rows


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    "text, words",
    [
        (BOMB, "its aliases make up more than 100,000 values"),
        ("a: &a [*a]", "an alias stands within its own anchor"),
        ("a: " + "[" * 1100, "nested too deeply"),
        ("a: 2001-99-99", "is not valid YAML: month must be"),
        ("a: " + "9" * 5000, "is not valid YAML"),
        ("a: !!bool x", "is not valid YAML"),
        ("a: !!timestamp x", "is not valid YAML"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
    ],
)
def test_yaml_that_is_refused(tmp_path, text, words):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_recipe(tmp_path / "recipe.yaml")


def test_long_texts_take_no_square_of_time():
    begun = time.thread_time()
    assert final_answer("<answer>" * 12_500) == "<answer>" * 12_500
    assert final_answer("<answer>a</answer><answer> b </answer><answer>c") == "b"
    for text in ("a." * 50_000, "&" + "token" * 20_000, "http://" + "a:" * 50_000, "&token" * 16_000):
        assert private(text) == text
    assert time.thread_time() - begun < 1


def test_seed_ranges_that_no_memory_holds():
    for text in ("seeds:0-99999999999", f"seeds:0-{'9' * 5000}", f"seeds:{2**63}-{2**63}"):
        with pytest.raises(ValueError, match="seed range"):
            load_split(load_task("bandit"), text)
    assert len(load_split(load_task("bandit"), "seeds:5-10004")) == 10_000
