"""Signature judges: the n-gram example, a judge of one's own, and outputs that do not fit."""

import pytest

from polytune.objective import JUDGES, NGramJudge, SignatureJudge, find_judge, set_advantages
from polytune.objective.judge import CheckedJudge

ADD = "first add the two numbers and then divide by three"
ADD_TOO = "First add the two numbers and then divide by four."
DRAW = "draw a triangle on the paper and measure its angles"
MODULE = """
class Lengths:
    def __init__(self, unit=10): self.unit = unit
    def __call__(self, texts): return [len(t) // self.unit if t else None for t in texts]

LENGTHS = Lengths(5)
def slow(texts): raise TimeoutError("no answer in 30 s")

class NeedsKey:
    def __init__(self, key): pass

def few(texts): return [0]
def numbers(texts): return {"a": 1}
def lists(texts): return [[1] for _ in texts]
NUMBER = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "my_judge.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def test_texts_of_the_same_strategy_share_a_cluster():
    ids = find_judge("ngram")([ADD, DRAW, ADD_TOO, "", ADD, "too short", "!"])
    assert ids == [0, 1, 0, None, 0, None, None]
    assert find_judge("ngram")([]) == []


def test_it_feeds_the_set_objective():
    signatures = find_judge("ngram")([ADD, ADD_TOO, DRAW, ""])
    got = set_advantages([1, 1, 1, 1], signatures, 2, objective="coverage")
    assert got.argmax() == 2 and got.argmin() == 3


def test_links_form_chains_and_order_does_not_matter():
    words = [f"w{k}" for k in range(40)]
    chain = [" ".join(words[start : start + 20]) for start in (0, 4, 8, 12, 16)]
    judge = NGramJudge(n=3, threshold=0.5)  # neighbours share 14 of 22 trigrams, .64; the next but one 10 of 26, .38
    assert judge([chain[0], chain[2]]) == [0, 1]
    assert judge(chain) == judge(chain[::-1]) == [0] * 5
    assert judge([chain[0], chain[4], chain[2]]) == [0, 1, 2]
    assert judge([chain[0], chain[4], chain[2], chain[3], chain[1]]) == [0] * 5


@pytest.mark.parametrize(("threshold", "expected"), [(1.0, [0, 1, 0]), (0.5, [0, 0, 0]), (0.51, [0, 1, 0])])
def test_the_threshold_is_reached_by_equality(threshold, expected):
    texts = ["a b c d", "a b c d e f", "A B  C D"]  # trigrams: {abc, bcd} of {abc, bcd, cde, def}: 2 of 4
    assert NGramJudge(threshold=threshold)(texts) == expected


def test_n_sets_what_is_too_short():
    assert NGramJudge(n=1)(["yes", "", "no", "Yes"]) == [0, None, 1, 0]
    assert NGramJudge(n=2)(["yes", "yes!", "no !"]) == [None, 0, 1]


@pytest.mark.parametrize("arguments", [{"n": 0}, {"n": 1.5}, {"n": True}, {"threshold": 0}, {"threshold": 1.1}])
def test_bad_settings(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must .*got"):
        NGramJudge(**arguments)


def test_a_judge_of_ones_own():
    texts = ["", "a" * 12, "b" * 19]
    assert find_judge("my_judge:Lengths")(texts) == [None, 1, 1]  # a class is built first
    assert find_judge("my_judge:LENGTHS")(texts) == [None, 2, 3]
    assert find_judge(lambda texts: list(texts))(texts) == [None, *texts[1:]]
    judge = find_judge("my_judge:LENGTHS")
    assert find_judge(judge) is judge
    assert isinstance(judge, SignatureJudge) and all(
        isinstance(find_judge(name).judge, SignatureJudge) for name in JUDGES
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ngrams", "unknown judge 'ngrams'; did you mean 'ngram'"),
        ("no_such:judge", "cannot import 'no_such'"),
        ("my_judge:LENGHTS", "did you mean 'LENGTHS'"),
        ("my_judge:NUMBER", "judge 'my_judge:NUMBER' is 3"),
        ("my_judge:few", "judge 'my_judge:few' returned 1 ids for 2 texts"),
        ("my_judge:numbers", "returned dict"),
        ("my_judge:slow", "judge 'my_judge:slow' raised TimeoutError: no answer in 30 s"),
        ("my_judge:NeedsKey", "judge 'my_judge:NeedsKey' raised TypeError: .*key"),
        ("my_judge:lists", r"id 0 = \[1\] is not hashable"),
    ],
)
def test_errors(name, message):
    with pytest.raises(ValueError, match=message):
        find_judge(name)(["some text", "another"])


@pytest.mark.parametrize(
    ("texts", "message"), [("one text", "list of texts, got str"), (["a", 3], "text 1 is 3 .int.")]
)
def test_inputs_are_texts(texts, message):
    with pytest.raises(ValueError, match=message):
        find_judge("ngram")(texts)


@pytest.mark.parametrize("name", ["my_judge:slow", "my_judge:few", "my_judge:numbers", "my_judge:lists"])
def test_a_judge_that_fails_is_refused_or_taken_as_named(name, capsys):
    texts = ["one two", "three", ""]
    with pytest.raises(ValueError, match="judge 'my_judge"):
        find_judge(name)(texts)
    for failure, ids in (("all_same", [0, 0, 0]), ("all_distinct", [0, 1, 2])):
        judge = find_judge(name, failure)
        assert judge(texts) == judge(texts) == ids and judge.failures == 2
        told = capsys.readouterr().out
        assert f"taken as {failure} (judge_failure)" in told and told.count("warning") == 1
    assert set_advantages([1, 1, 0], judge(texts), 2).tolist() != set_advantages([1, 1, 0], [0, 0, 0], 2).tolist()


def test_a_judge_that_answers_is_heard_whatever_is_named_for_failures():
    judge = find_judge("my_judge:LENGTHS", "all_distinct")
    assert judge(["abcdefghij", "abcdefghik"]) == [2, 2] and judge.failures == 0
    with pytest.raises(ValueError, match="not a string"):
        judge([None])


def test_an_id_that_names_nothing_is_none():
    """Sets took it for none, and what is logged of groups for a strategy."""
    judge = CheckedJudge("own", lambda texts: ["", float("nan"), "a", 0])
    assert judge(list("wxyz")) == [None, None, "a", 0]
