"""Tasks from a dataset: prompts, rewards and strategies by dotted path; arithmetic with several ways to a target."""

import itertools
import json
from fractions import Fraction

import pytest

from polytune.tasks import load_task
from polytune.tasks.dataset import TEST_ROWS_START
from polytune.tasks.rewards import calculation, final_answer, reaches_target
from polytune.tasks.splits import load_split

REWARD, STRATEGY = "polytune.tasks.rewards:reaches_target", "polytune.tasks.rewards:calculation"
ROWS = [
    {"prompt": "2 3 4 to 24", "numbers": [2, 3, 4], "target": 24, "reference": "2*3*4"},
    {"prompt": "1 5 7 to 13", "numbers": [1, 5, 7], "target": 13, "reference": "1+5+7"},
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
    ({"path": "/none.jsonl"}, "'/none.jsonl' cannot be loaded"),
    ({"prompt": "question"}, "has no column 'question'; its columns are prompt, numbers, target, reference"),
    ({"reward": "polytune.tasks.rewards:reaches_targe"}, "has no 'reaches_targe'; did you mean 'reaches_target'"),
    ({"reward": "nowhere:f"}, "cannot import 'nowhere'"),
    ({"max_tokens": 0}, "max_tokens of task 'dataset' must be a whole number of at least 1, got 0"),
    ({"solved_at": "x"}, "solved_at of task 'dataset' must be a number, got 'x'"),
])  # fmt: skip
def test_bad_options(path, options, words):
    base = {} if not options else {"path": path, "reward": REWARD}
    with pytest.raises(ValueError, match=words):
        load_task("dataset", **base | options)


def nothing(answer, row):
    return None


def listed(answer, row):
    return [answer]


def test_functions_that_return_nonsense_are_named(path):
    task = load_task("dataset", path=path, reward=f"{__name__}:nothing")
    with pytest.raises(ValueError, match="nothing' returned None for 'x': return a finite number"):
        task.start(0).step("x")
    task = load_task("dataset", path=path, reward=REWARD, signature=f"{__name__}:listed")
    episode = task.start(0)
    episode.step("x")
    with pytest.raises(ValueError, match="listed' returned a list, which is not hashable"):
        episode.signature()
    task = load_task("dataset", path=path, reward="polytune.tasks.rewards:math_verified")
    with pytest.raises(ValueError, match="math_verified' raised (ModuleNotFoundError|KeyError)"):
        task.start(0).step("x")


def test_final_answers():
    assert final_answer(r"so \boxed{1} or \boxed{ \frac{1}{2} }.") == r"\frac{1}{2}"
    assert final_answer("42") is None and final_answer(r"\boxed{1") is None
