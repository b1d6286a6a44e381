"""Tasks from a dataset: prompts, rewards and strategies by dotted path; arithmetic with several ways to a target."""

import inspect
import itertools
import json
import random
import time
from fractions import Fraction

import pytest

from polytune.config import TaskConfig
from polytune.tasks import _is_text as is_text
from polytune.tasks import load_task
from polytune.tasks.files import read_rows
from polytune.tasks.rewards import calculation, reaches_target
from polytune.tasks.rows import TEST_ROWS_START
from polytune.tasks.splits import load_split
from polytune.tasks.starts import task_of

REWARD, STRATEGY = "polytune.tasks.rewards:reaches_target", "polytune.tasks.rewards:calculation"
ROWS = [
    {"prompt": "2 3 4 to 24", "numbers": [2, 3, 4], "target": 24, "reference": "2*3*4", "nested": {"deep": {"x": "7"}}},
    {"prompt": "1 5 7 to 13", "numbers": [1, 5, 7], "target": 13, "reference": "1+5+7", "nested": {"deep": {"x": "8"}}},
]


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(file)


@pytest.mark.parametrize("answer, worth, strategy", [
    ("2*3*4", 1, "(*2*3*4)"), ("(4 * 3) * 2", 1, "(*2*3*4)"), (" 4*(2*3)\n", 1, "(*2*3*4)"),
    ("24", 0, None), ("2*3*4*1", 0, None), ("2*3+4", 0, None), ("2**3*4", 0, None), ("2*3*4 # yes", 0, None),
    ("__import__('os')", 0, None), ("", 0, None), ("2*3*", 0, None), ("4/(2-2)", 0, None), ("2*3*4=24", 0, None),
    ("2*3*٤", 0, None), ("-2*3*-4", 0, None), ("(" * 150 + "2*3*4" + ")" * 150, 0, None), ("2 3 4", 0, None),
])  # fmt: skip
def test_worked_answers(answer, worth, strategy):
    assert reaches_target(answer, ROWS[0]) == worth
    assert calculation(answer, ROWS[0]) == strategy


def test_equal_calculations_are_one_strategy_and_others_are_not():
    """Brute force over expressions of 3 numbers: one strategy for equal rational functions of the numbers only."""
    row = {"numbers": [2, 3, 7]}
    by_strategy = {}
    for a, b, c in itertools.permutations(("x", "y", "z")):
        for one, two in itertools.product("+-*/", repeat=2):
            for text in (f"({a}{one}{b}){two}{c}", f"{a}{one}({b}{two}{c})"):
                values = {"x": 2, "y": 3, "z": 7}
                answer = "".join(str(values.get(char, char)) for char in text)
                try:
                    target = eval(answer.translate(str.maketrans({d: f"Fraction({d})" for d in "237"})))
                except ZeroDivisionError:
                    continue
                assert reaches_target(answer, row | {"target": target}) == 1
                fingerprint = eval(text, {}, {"x": Fraction(1009), "y": Fraction(2003), "z": Fraction(4001)})
                by_strategy.setdefault(calculation(answer, row | {"target": target}), set()).add(fingerprint)
    assert len(by_strategy) > 30 and all(len(found) == 1 for found in by_strategy.values())
    assert len({next(iter(found)) for found in by_strategy.values()}) >= 0.7 * len(by_strategy)


def test_an_episode_is_paid_and_signed_for_its_row(path):
    task = load_task("dataset", path=path, reward=REWARD, signature=STRATEGY)
    assert load_split(task, None) == [0, 1] and task.prompt(1) == "1 5 7 to 13"
    episode = task.start(0)
    assert episode.observation() == "2 3 4 to 24"
    copy = task.restore(episode.snapshot())
    step = copy.step("3*2*4")
    assert (step.reward, step.done, step.stop_reason, copy.signature()) == (1.0, True, "success", "(*2*3*4)")
    step = episode.step("1+5+7")
    assert (step.reward, step.stop_reason, episode.signature(), episode.invalid_actions) == (0, "unsolved", None, 0)
    assert list(load_task("dataset", path=path, reward=REWARD, answer="reference").training_lines())[1] == (
        "1 5 7 to 13", "1+5+7"
    )  # fmt: skip


def test_test_rows_have_seeds_of_their_own(path, tmp_path):
    task = load_task("dataset", path=path, reward=REWARD, test_path=path)
    assert load_split(task, None) == [TEST_ROWS_START, TEST_ROWS_START + 1]
    assert task.prompt(TEST_ROWS_START) == task.prompt(0)


@pytest.mark.parametrize("options, words", [
    ({}, "needs path: add path="),
    ({"reward": ""}, "needs reward: add reward="),
    ({"path": "/none.jsonl"}, "'/none.jsonl': there is no such file"),
    ({"prompt": "question"}, "has no column 'question'; its columns are prompt, numbers, target, reference"),
    ({"reward": "polytune.tasks.rewards:reaches_targe"}, "has no 'reaches_targe'; did you mean 'reaches_target'"),
    ({"reward": "nowhere:f"}, "cannot import 'nowhere'"),
    ({"max_tokens": 0}, "max_tokens of task 'dataset' must be a whole number of at least 1, got 0"),
    ({"solved_at": "x"}, "solved_at of task 'dataset' must be a number, got 'x'"),
    ({"reference": "nested.none"}, "has no column 'nested.none'; its columns are prompt, .*, nested.deep"),
    ({"answer": "solution"}, "has no column 'solution'; its columns are prompt"),
])  # fmt: skip
def test_bad_options(path, options, words):
    base = {} if not options else {"path": path, "reward": REWARD}
    with pytest.raises(ValueError, match=words):
        load_task("dataset", **base | options)


def nothing(answer, row):
    return None


def listed(answer, row):
    return [answer]


def of_nested(answer, row):
    return float(answer == row["answer"] and row["nested"]["deep"]["x"] == answer)


def test_functions_that_return_nonsense_are_named_at_start(path):
    with pytest.raises(ValueError, match="nothing' returned None for '': return a finite number"):
        load_task("dataset", path=path, reward=f"{__name__}:nothing")
    with pytest.raises(ValueError, match=r"listed' returned \[''\] for '': return a finite number"):
        load_task("dataset", path=path, reward=f"{__name__}:listed")
    with pytest.raises(ValueError, match="listed' returned a list, which is not hashable"):
        load_task("dataset", path=path, reward=REWARD, signature=f"{__name__}:listed")
    with pytest.raises(ValueError, match="of_nested' raised KeyError: 'answer'"):
        load_task("dataset", path=path, reward=f"{__name__}:of_nested")


def test_a_nested_column_is_what_functions_read_as_the_answer(path):
    task = load_task("dataset", path=path, reward=f"{__name__}:of_nested", reference="nested.deep.x")
    assert [task.start(seed).step(said).reward for seed, said in ((0, "7"), (1, "8"), (1, "7"))] == [1, 1, 0]


def test_a_file_without_rows_is_refused(path, tmp_path):
    (tmp_path / "none.json").write_text('{"rows": []}')
    with pytest.raises(ValueError, match="none.json' cannot be loaded|none.json has no"):
        load_task("dataset", path=str(tmp_path / "none.json"), reward=REWARD)


def test_a_row_may_show_several_answers_and_messages_may_ask(tmp_path):
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "2 3 4 = 24 :"}]
    row = {"ask": messages, "numbers": [2, 3, 4], "target": 24, "ways": ["2*3*4", "4*3*2"]}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    task = load_task("dataset", path=str(file), reward=REWARD, prompt="ask", answer="ways", answer_end=";")
    shown = "system: be brief\nuser: 2 3 4 = 24 :"
    assert list(task.training_lines()) == [(shown, "2*3*4;"), (shown, "4*3*2;")]
    assert task.vocabulary() == [";", *sorted(set("*system:bebriefuser:234=:24"))]


def test_no_text_makes_the_arithmetic_graders_raise_or_hang():
    """Seeded fuzz: texts near the grammar, deep and long ones; each is graded within a second and a half."""
    draw = random.Random(0)
    long = ["(" * 199, "1" * 200, "9" * 100_000, "(" * 50_000, "1+" * 99 + "1", "9/" * 90 + "9", "-" * 190 + "1",
            "()", "(1,2)", "1 2", "2(3)", "1_0", "0/0", "\x00", "\ud800", "²", "9**9**9**9", "1//1"]  # fmt: skip
    texts = long + ["".join(draw.choices("0123456789+-*/() ", k=draw.randrange(40))) for _ in range(5000)]
    for text in texts:
        began = time.perf_counter()
        assert reaches_target(text, ROWS[0]) in (0.0, 1.0)
        assert calculation(text, ROWS[0]) is None or reaches_target(text, ROWS[0])
        assert time.perf_counter() - began < 1.5, text[:50]


SYSTEM = {"role": "system", "content": "Be brief."}
ROUNDS = [
    SYSTEM,
    {"role": "user", "content": "2 3 4 = 24 :"},
    {"role": "assistant", "content": "2*3*4"},
    {"role": "user", "content": [{"type": "text", "text": "Another "}, {"type": "text", "text": "way?"}]},
]


def same(answer, row):
    return float(answer == row["answer"])


def of_messages(tmp_path, *rows, **options):
    file = tmp_path / "talk.jsonl"
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    options = {"reward": f"{__name__}:same", "prompt": "messages"} | options
    return load_task("dataset", path=str(file), **options)


def test_messages_are_all_shown_and_their_last_answer_is_not(tmp_path):
    answer = {"role": "assistant", "content": "4*3*2"}
    task = of_messages(tmp_path, [*ROUNDS, answer], [ROUNDS[1], answer])
    shown = task.start(0).observation()
    assert shown == "system: Be brief.\nuser: 2 3 4 = 24 :\nassistant: 2*3*4\nuser: Another way?"
    assert shown.messages == ROUNDS, "as the template takes them, parts included"
    assert (task.prompt(1), task.prompt(1).messages) == ("2 3 4 = 24 :", [ROUNDS[1]])
    assert list(task.training_lines()) == [(shown, "4*3*2"), ("2 3 4 = 24 :", "4*3*2")]
    assert [task.start(seed).step("4*3*2").reward for seed in (0, 1)] == [1, 1], 'the answer is row["answer"]'
    restored = task.restore(task.start(0).snapshot()).observation()
    assert restored == shown and restored.messages == shown.messages
    assert task.start_hash(0) != task.start_hash(1)


def test_a_column_of_messages_may_hold_the_answers(tmp_path):
    file = tmp_path / "rows.jsonl"
    row = {"prompt": [ROUNDS[1]], "completion": [{"role": "assistant", "content": "2*3*4"}]}
    file.write_text(json.dumps(row | {"numbers": [2, 3, 4], "target": 24}) + "\n")
    task = load_task("dataset", path=str(file), reward=REWARD, answer="completion")
    assert list(task.training_lines()) == [("2 3 4 = 24 :", "2*3*4")]
    with pytest.raises(ValueError, match="no answers to pretrain on: add answer=COLUMN .* or give messages that end"):
        list(load_task("dataset", path=str(file), reward=REWARD).training_lines())


@pytest.mark.parametrize("messages, words", [
    ([{"role": "assistant", "content": "4"}], "an answer alone: nothing is asked"),
    ([ROUNDS[1], ROUNDS[2], ROUNDS[2]], "two answers in a row"),
    ([SYSTEM, {"role": "user", "content": " "}], "the message that asks is empty"),
    ([{"from": "human", "value": "hello"}], "a message is .*, got one with from, value"),
    ([{"role": "user", "content": [{"type": "image", "url": "x.png"}]}], "images and sounds cannot be shown"),
    ([{"role": "user", "content": 7}], "content is text, or parts of the type 'text'"),
])  # fmt: skip
def test_messages_that_ask_nothing_are_refused_at_start(tmp_path, messages, words):
    with pytest.raises(ValueError, match=rf"row of seed 0, column 'messages': .*{words}"):
        of_messages(tmp_path, messages)


# ---------------------------------------------------------------- data as it was given


def graded(answer, row):
    return float(answer == row.get("answer"))


def built(tmp_path, text, name="rows.jsonl", **options):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_task("dataset", path=str(file), reward=f"{__name__}:graded", **options)


@pytest.mark.parametrize("text, said", [
    ('{"prompt": "a"}\n{"prompt": \n', "line 2: no JSON"),
    ('{"prompt": "a"}\n\n[1, 2]\n', "line 3: a row is an object of columns, got a list"),
    ('{"prompt": "a", "answer": 1, "prompt": "b"}\n', "line 1: the name 'prompt' stands twice"),
    ('{"prompt": "a"}\n{"prompt": "b", "answer": NaN}\n', "line 2: NaN is no JSON"),
    ("", "has no rows"), ("\n \n", "has no rows"),
    (b'{"prompt": "\xff"}\n', "is not UTF-8 text"),
    ('{"prompt": "a"}\n{"prompt": ""}\n', "row of seed 1"), ('{"prompt": "a"}\n{"prompt": "  "}\n', "row of seed 1"),
    ('{"prompt": "a"}\n{"prompt": null}\n', "row of seed 1"), ('{"prompt": "a"}\n{"promt": "b"}\n', "row of seed 1"),
    ("[" * 100_000, "nested too deeply"),
])  # fmt: skip
def test_a_row_that_cannot_be_is_named_before_work(tmp_path, text, said):
    with pytest.raises(ValueError, match="row") as caught:
        built(tmp_path, text)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, float("nan"), "", " "])
def test_an_answer_that_is_missing_is_not_cloned_and_a_missing_reference_never_pays(tmp_path, value):
    from polytune.tasks.rewards import math_verified

    rows = json.dumps({"prompt": "a", "said": "1"}) + "\n" + json.dumps({"prompt": "b", "said": value}) + "\n"
    rows = rows.replace("NaN", "null")
    task = built(tmp_path, rows, answer="said")
    with pytest.raises(ValueError, match="row of seed 1.*'said'"):
        list(task.training_lines())
    for answer in ("\\boxed{None}", "\\boxed{nan}", "\\boxed{}", "None", "nan", ""):
        assert math_verified(answer, {"answer": value}) == 0.0
    if value is None or value != value:
        with pytest.raises(ValueError, match="row of seed 1: its reference"):
            built(tmp_path, rows, reference="said")


@pytest.mark.parametrize("name", ["data[1].jsonl", "a*b?.jsonl", "[x]/rows.jsonl", "{a,b}.jsonl"])
def test_a_file_of_any_name_is_read(tmp_path, name):
    task = built(tmp_path, '{"prompt": "a", "answer": 123456789012345678901234567890, "x": {"y": 1}}\n', name)
    assert task.row(0) == {"prompt": "a", "answer": 123456789012345678901234567890, "x": {"y": 1}}


def test_texts_of_a_csv_stay_texts_and_parquet_is_read(tmp_path):
    task = built(tmp_path, "prompt,answer\nNA,None\nnull,\n", "rows.csv")
    assert [task.row(i) for i in range(2)] == [
        {"prompt": "NA", "answer": "None"}, {"prompt": "null", "answer": None}]  # fmt: skip
    from datasets import Dataset

    Dataset.from_list([{"prompt": "a", "answer": "b"}]).to_parquet(tmp_path / "rows[2].parquet")
    task = load_task("dataset", path=str(tmp_path / "rows[2].parquet"), reward=f"{__name__}:graded")
    assert task.row(0)["answer"] == "b"
    with pytest.raises(ValueError, match="no parquet file"):
        built(tmp_path, "no", "bad.parquet")


def test_every_cell_of_a_csv_is_text_in_every_file_alike(tmp_path):
    """What one file's other rows hold changes nothing: training and test rows are read by the same rule."""
    cells = ["007", "0.50", "True", "1e999", "inf", "12345678901234567890123", "1/2", " 5 ", "nan"]
    for name, own in (("all.csv", cells), *((f"{i}.csv", [cell]) for i, cell in enumerate(cells))):
        (tmp_path / name).write_text("prompt,answer\n" + "".join(f"q,{cell}\n" for cell in own))
        assert [row["answer"] for row in read_rows(tmp_path / name)] == own
    task = built(tmp_path, "prompt,answer\nq1,12\nq2,1/2\n", "rows.csv", test_path=str(tmp_path / "all.csv"))
    assert [task.row(0)["answer"], task.row(1_000_000_000)["answer"]] == ["12", "007"]


def test_a_csv_with_quotes_marks_and_blank_lines_is_read(tmp_path):
    text = '\ufeffprompt,answer\r\n\r\n"a ""b"", c","x\ny"\r\n,1\r\n   \r\n' + "l" * 200_000 + ",\r\n"
    (tmp_path / "rows.csv").write_bytes(text.encode())
    long = {"prompt": "l" * 200_000, "answer": None}
    assert read_rows(tmp_path / "rows.csv") == [
        {"prompt": 'a "b", c', "answer": "x\ny"}, {"prompt": None, "answer": "1"}, long]  # fmt: skip


def test_a_long_csv_of_mixed_cells_is_read_without_a_warning(tmp_path, recwarn):
    lines = [*(f"q{i},{i % 97}\n" for i in range(270_000)), *(f"q{i},1/{i}\n" for i in range(1, 5000))]
    (tmp_path / "rows.csv").write_text("prompt,answer\n" + "".join(lines))
    rows = read_rows(tmp_path / "rows.csv")
    assert (len(rows), rows[0]["answer"], rows[-1]["answer"]) == (len(lines), "0", "1/4999") and not recwarn.list


@pytest.mark.parametrize(("text", "said"), [
    ("prompt,answer\nWhat is 2+3?,5,\n", "rows.csv, line 2: 3 cells, and the header has 2: mend the line"),
    ('prompt,answer\n"a\nb",1\nq2\n', "rows.csv, line 4: 1 cells, and the header has 2"),
    ("prompt,answer,answer\nq1,5,6\n", "rows.csv: the header names 'answer' twice: rename one"),
    (",prompt,answer\n0,q1,5\n", "rows.csv: column 1 has no name in the header: give it one, or leave"),
    ('prompt,answer\nq,"5\n', "rows.csv, line 2: no CSV"),
])  # fmt: skip
def test_a_csv_whose_cells_are_not_under_its_names_is_refused(tmp_path, text, said):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(ValueError) as caught:
        read_rows(tmp_path / "rows.csv")
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "own", ["prompt=1", "reference=1", "answer=007", "train=1", "answer_end=true", "instructions=5"]
)
def test_an_option_that_is_text_stays_text_whatever_it_looks_like(tmp_path, own):
    (tmp_path / "rows.jsonl").write_text('{"1": "a", "007": "b", "prompt": "c"}\n')
    args = [f"path={tmp_path}/rows.jsonl", f"reward={__name__}:graded", own, "max_tokens=7", "solved_at=0.5"]
    task = task_of(TaskConfig(task="dataset", task_args=args))
    assert (task.max_action_tokens, task.solved_at) == (7, 0.5)
    found = {"prompt": task.column, "reference": task.reference, "answer": task.answers, "train": "1",
             "answer_end": task.answer_end, "instructions": task.instructions}  # fmt: skip
    name, _, value = own.partition("=")
    assert found[name] == value


@pytest.mark.parametrize(("task", "args", "said"), [
    ("dataset", ["prompt=0"], "has no column '0'"), ("dataset", ["reference=2"], "has no column '2'"),
    ("dataset", ["signature=5"], "5"), ("dataset", ["reward=true"], "true"), ("dataset", ["test_path=5.csv"], "5.csv"),
    ("gym:MiniGrid-Empty-5x5-v0", ["success=true"], "true"),
    ("babyai-goto", ["perturb=1"], "1"), ("triangle", ["size=3"], "3"), ("nothing", ["a=1"], "unknown task"),
])  # fmt: skip
def test_an_option_that_cannot_be_is_named_in_one_line(tmp_path, monkeypatch, task, args, said):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "rows.jsonl").write_text('{"1": "a", "prompt": "c"}\n')
    if task == "dataset":
        given = {"path": f"{tmp_path}/rows.jsonl", "reward": f"{__name__}:graded"}
        args = [f"{name}={value}" for name, value in given.items() if not args[0].startswith(name)] + args
    with pytest.raises(ValueError) as caught:
        task_of(TaskConfig(task=task, task_args=args))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_signature_says_which_options_are_text():
    class Own:
        def __init__(self, a: str, b: "str | None" = None, c: "str | None" = None, d: int | str = 0, e=1, **more): ...

    assert {p.name for p in inspect.signature(Own).parameters.values() if is_text(p.annotation)} == {"a", "b", "c"}


def test_test_rows_that_are_training_rows_are_remarked(tmp_path, capsys):
    rows = "".join(json.dumps({"prompt": str(i)}) + "\n" for i in range(4))
    (tmp_path / "same.jsonl").write_text(rows)
    built(tmp_path, rows, test_path=str(tmp_path / "same.jsonl"))
    assert "4 of 4 test rows" in capsys.readouterr().out
    (tmp_path / "some.jsonl").write_text('{"prompt": "3"}\n{"prompt": "9"}\n')
    built(tmp_path, rows, test_path=str(tmp_path / "some.jsonl"))
    assert "1 of 2 test rows" in capsys.readouterr().out


def names_nothing(answer, row):
    return {"nan": float("nan"), "none": None, "blank": " ", "zero": 0, "empty": ()}[answer]


def test_a_function_that_changes_its_row_changes_no_other_answers(path):
    name = f"{__name__}:takes_what_it_reads"
    task = load_task("dataset", path=path, reward=name, signature=name)
    for _ in range(2):
        assert (task.earned("", 0), task.strategy("", 0)) == (4, 4)
    assert task.row(0) == ROWS[0]


def takes_what_it_reads(answer, row):
    return row["numbers"].pop(0) + len(row["numbers"])


def test_a_signature_that_names_nothing_is_none(tmp_path):
    task = built(tmp_path, '{"prompt": "a"}\n', signature=f"{__name__}:by_answer")
    assert [task.strategy(answer, 0) for answer in ("nan", "none", "blank", "zero", "empty")] == [
        None,
        None,
        None,
        0,
        (),
    ]


def by_answer(answer, row):
    return None if answer == "" else names_nothing(answer, row)


def test_a_folder_of_save_to_disk_in_the_home_folder_is_read(tmp_path, monkeypatch):
    from datasets import Dataset

    monkeypatch.setenv("HOME", str(tmp_path))
    Dataset.from_list([{"prompt": "a"}]).save_to_disk(tmp_path / "rows")
    task = load_task("dataset", path="~/rows", reward=f"{__name__}:graded")
    assert task.prompt(0) == "a"
