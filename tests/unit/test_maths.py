"""Mathematics: the final answer as a signature, math-verify as the grader, and answers that would never be computed."""

import json
import threading
import time

import pytest

from polytune.tasks import limited, load_task, maths
from polytune.tasks.rewards import final_answer, math_verified


@pytest.mark.parametrize("answer, found", [
    (r"so \boxed{1} or \boxed{ \frac{1}{2} }.", r"\frac{1}{2}"),
    (r"\boxed{$7$}", "7"),
    ("work\nAnswer: $-42$\n", "-42"),
    ("Answer: 1\n**Answer:** 34 ", "34"),
    (r"Answer: 3, that is \boxed{4}", "4"),
    ("42", None), (r"\boxed{1", None), ("Answer:", None), ("", None), ("the answer: 3", None),
])  # fmt: skip
def test_final_answers(answer, found):
    assert final_answer(answer) == found


@pytest.mark.parametrize("answer, reference, worth", [
    (r"so it is \boxed{\frac{1}{2}}", "0.5", 1), (r"\boxed{x=3}", "3", 1), (r"\boxed{2\sqrt{2}}", r"\sqrt{8}", 1),
    ("Answer: 34", "34", 1), ("$3$ at first, then\nAnswer: $35$", "34", 0), (r"\boxed{\frac{1}{3}}", "0.5", 0),
    ("", "34", 0), ("I do not know", "34", 0), (r"\boxed{}", "34", 0), ("\x00\ud800\n\n", "34", 0),
    ("thinking " * 10_000 + r"\boxed{34}", "34", 1),
])  # fmt: skip
def test_math_verify_grades(answer, reference, worth):
    assert math_verified(answer, {"answer": reference}) == worth


HOSTILE = [
    r"\boxed{9^{9^{9^{9}}}}",
    "9**9**9**9",
    r"\boxed{(10^{10})!}",
    "x" * 100_000,
    r"\boxed{" + "(" * 3000 + "1" + ")" * 3000 + "}",
    r"\boxed{" + r"\frac{1}{" * 300 + "2" + "}" * 300 + "}",
    r"\boxed{" * 5000,
    "$" * 100_000,
]


@pytest.mark.slow
@pytest.mark.parametrize("answer", HOSTILE, ids=lambda a: a[:20])
def test_hostile_answers_are_wrong_and_end(answer):
    began = time.perf_counter()
    assert math_verified(answer, {"answer": "34"}) == 0
    assert math_verified(r"\boxed{34}", {"answer": "34"}) == 1  # the next one is graded as ever
    assert time.perf_counter() - began < 60  # 3 s of CPU time, on a machine that may be busy
    assert final_answer(answer) is None or isinstance(final_answer(answer), str)


def test_any_thread_may_ask():
    found = {}

    def ask(number):
        found[number] = math_verified(rf"\boxed{{{number}}}", {"answer": "3"})

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: float(number == 3) for number in range(6)}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "rows.jsonl"
    messages = [{"role": "user", "content": "What is 17 + 17?"}]
    file.write_text(json.dumps({"prompt": messages, "reward_model": {"ground_truth": "34", "style": "rule"}}) + "\n")
    return str(file)


MATHS = {"reward": "polytune.tasks.rewards:math_verified", "signature": "polytune.tasks.rewards:final_answer"}


def test_a_problem_with_a_nested_answer_is_one_episode(path):
    task = load_task("dataset", path=path, reference="reward_model.ground_truth", **MATHS)
    episode = task.start(0)
    step = episode.step(r"17 + 17 = 34, so \boxed{34}")
    assert (step.reward, step.stop_reason, episode.signature()) == (1.0, "success", "34")
    with pytest.raises(ValueError, match="no column 'answer': add reference=COLUMN"):
        load_task("dataset", path=path, **MATHS)


def test_without_math_verify_the_task_is_refused_at_start(path, monkeypatch):
    monkeypatch.setattr(maths, "find_spec", lambda name: None)
    monkeypatch.setattr("polytune.tasks.rewards._VERIFIER", maths.Verifier())
    with pytest.raises(ValueError, match=r"raised ImportError: .*pip install 'polytune\[maths\]'"):
        load_task("dataset", path=path, reference="reward_model.ground_truth", **MATHS)


def test_a_process_that_cannot_import_it_says_so(monkeypatch):
    monkeypatch.setattr(limited.sys, "executable", "/bin/false")
    with pytest.raises(ImportError, match="cannot be imported"):
        maths.Verifier().equal("1", "1")
