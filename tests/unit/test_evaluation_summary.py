"""Plans, cohorts, summaries and plots from records written by hand."""

import json

import pytest

from polytune.evaluation import as_table, summarise, verdict
from polytune.evaluation.cautions import cautions
from polytune.evaluation.columns import Records
from polytune.evaluation.perturbed import change_table, report, summarise_perturbed
from polytune.evaluation.records import (
    GREEDY_ATTEMPT,
    Attempt,
    _as_said,
    cohorts,
    continue_records,
    plan,
    read_records,
    said_by_turn,
)
from polytune.evaluation.summary import counted
from polytune.pictures.plot import plot_coverage


def record(policy, start, attempt, success, value=None, signature=(0,)):
    return {
        "policy": policy, "start_seed": start, "attempt": attempt, "greedy": attempt == GREEDY_ATTEMPT,
        "success": success, "return": float(success) if value is None else value, "turns": 2,
        "stop_reason": "success" if success else "horizon", "signature": None if signature is None else list(signature),
        "invalid_actions": int(not success), "actions": "left left",
    }  # fmt: skip


def records(policy, outcomes, **fields):
    """outcomes: start seed -> one letter per sample, w(on) or l(ost); the greedy attempt is lost."""
    return [
        record(policy, start, attempt, attempt >= 0 and letters[attempt] == "w", **fields)
        for start, letters in outcomes.items()
        for attempt in (GREEDY_ATTEMPT, *range(len(letters)))
    ]


def test_plan_names_each_attempt_once_in_order():
    attempts = plan(["a", "b"], [7, 3], 2)
    assert [attempt[:3] for attempt in attempts[:6]] == [
        ("a", 7, -1), ("a", 3, -1), ("a", 7, 0), ("a", 7, 1), ("a", 3, 0), ("a", 3, 1)
    ]  # fmt: skip
    assert len(set(attempts)) == len(attempts) == 12 and {attempt.perturb for attempt in attempts} == {None}
    more = plan(["a", "b"], [7, 3], 2, ["shift", "turn"])
    assert more[:12] == attempts and [a[:3] for a in more[12:24]] == [a[:3] for a in more[24:]] == [
        attempt[:3] for attempt in attempts
    ]
    assert [a.perturb for a in more[12:]] == ["shift"] * 12 + ["turn"] * 12


@pytest.mark.parametrize("size", [1, 3, 100])
def test_cohorts_hold_one_policy_and_one_way_of_sampling(size):
    attempts = plan(["a", "b"], [7, 3], 5)
    batches = cohorts(attempts, size)
    assert [attempt for batch in batches for attempt in batch] == attempts
    for batch in batches:
        assert len(batch) <= size and len({(a.policy, a.attempt < 0) for a in batch}) == 1
    assert len(batches) == {1: 24, 3: 2 * (1 + 4), 100: 4}[size]


def test_records_are_cut_to_whole_cohorts(tmp_path):
    batches = cohorts(plan(["a"], [0, 1], 2), 3)  # 2 greedy, then 3 and 1 samples
    path = tmp_path / "records.jsonl"
    lines = [json.dumps(record(a.policy, a.start_seed, a.attempt, False)) + "\n" for batch in batches for a in batch]
    for count, kept in ((0, 0), (1, 0), (2, 2), (4, 2), (5, 5), (6, 6)):
        for rest in ("", '{"policy": "a", "sta'):
            path.write_text("".join(lines[:count]) + rest)
            done = continue_records(path, batches)
            assert sum(map(len, batches[:done])) == kept and path.read_text() == "".join(lines[:kept])
    path.write_text(lines[0] + lines[0])
    with pytest.raises(ValueError, match="another evaluation"):
        continue_records(path, batches)
    assert continue_records(tmp_path / "none.jsonl", batches) == 0 and not read_records(tmp_path / "none.jsonl")
    assert batches[0][0] == Attempt("a", 0, GREEDY_ATTEMPT)


def test_summary_of_two_policies_by_hand():
    first = records("a", {0: "wlll", 1: "llll", 2: "wwll"})
    second = records("b", {0: "wwww", 1: "llll", 2: "wwwl"})
    summary = summarise(first + second, ["a", "b"])
    a, b = summary["policies"]["a"], summary["policies"]["b"]
    assert a["success"]["estimate"] == pytest.approx((1 / 4 + 0 + 2 / 4) / 3)
    assert a["pass@2"]["estimate"] == pytest.approx((1 - 3 / 6 + 0 + 1 - 1 / 6) / 3)
    assert a["pass@4"]["estimate"] == pytest.approx(2 / 3)
    assert a["success"] == a["pass@1"] and a["greedy_success"]["estimate"] == 0.0
    assert a["counts"] == {"start_states": 3, "samples_per_start_state": 4, "episodes": 15, "env_steps": 30,
                           "invalid_rate": 12 / 30}  # fmt: skip
    assert b["distinct_winning_signatures"]["estimate"] == pytest.approx(2 / 3)
    assert summary["differences"]["b"]["success"]["estimate"] == pytest.approx((3 / 4 + 0 + 1 / 4) / 3)
    table = as_table(summary)
    assert "b - a" in table and "pass@4" in table and len({len(line) for line in table.splitlines()[:1]}) == 1
    assert table.splitlines()[-1].split() == ["invalid", "actions", "0.400", "0.267"]
    assert verdict(summary)[0].startswith("b against a: success +0.333 [")


def test_what_is_told_of_one_sample_is_told_once():
    [first, second] = verdict(summarise(records("a", {0: "w", 1: "l"}) + records("b", {0: "w", 1: "w"}), ["a", "b"]))
    assert first.count("+0.500") == 1 + first.count("distinct_winning") and "pass@1" not in first
    assert second == "a and b: one sample of each leaves no curve, raise n"
    assert [counted(number, "sample") for number in (0, 1, 2)] == ["0 samples", "1 sample", "2 samples"]


@pytest.mark.parametrize("without", ["a", "b"])
def test_a_measure_that_not_all_policies_have_is_left_out(without):
    """Greedy episodes of one policy alone, and of one side of a perturbation alone."""
    taken = records("a", {0: "wl", 1: "ll"}) + records("b", {0: "ww", 1: "ll"})
    some = [own for own in taken if not (own["greedy"] and own["policy"] == without)]
    found = summarise(some, ["a", "b"])
    assert all("greedy_success" not in own and "success" in own for own in found["policies"].values())
    assert found["differences"]["b"].keys() == found["policies"]["a"].keys() - {"counts"}
    moved = Records.of([*some, *(own | {"perturb": "moved"} for own in taken)])
    found |= {"level": 0.95, "perturbed": summarise_perturbed(moved, ["a", "b"], ["moved"], level=0.95, seed=0)}
    assert "greedy_success" in found["perturbed"]["moved"]["policies"][without]
    assert "success" in report(found) and "greedy_success" not in change_table(found, "moved")


def test_figures_that_say_little_are_cautioned():
    """Turns that are no action, equal levels, few levels; none of them where there is nothing to say."""
    summary = summarise(records("a", {0: "wlll", 1: "llll", 2: "wwll"}), ["a"])
    lines = cautions(summary, 2, "prompts")
    assert lines[0].startswith("40% of the turns of a are no action of the task")
    assert lines[1].startswith("3 prompts, but 2 different levels: equal ones count as new here")
    assert lines[2].startswith("2 different levels: so few leave intervals wide")
    assert cautions(summary, 3)[1:] == [lines[2].replace("2 different", "3 different")]
    many = summarise([r | {"invalid_actions": 0} for r in records("a", dict.fromkeys(range(20), "wl"))], ["a"])
    assert cautions(many, 20, budgets={"start": None, "a": 1000, "b": 960}) == []
    [line] = cautions(many, 20, budgets={"start": None, "a": 120_447, "b": 60_000})
    assert line.startswith("trained on unequal numbers of environment steps (a 120,447, b 60,000)")


def test_actions_are_kept_one_a_turn():
    """Words of a policy with merged words may say two actions in one turn, which is none: a line would not tell."""
    assert _as_said(["left", "forward"]) == "left forward" and said_by_turn("left forward") == ["left", "forward"]
    for actions in (["left left", "forward"], ["", "left"]):
        assert said_by_turn(_as_said(actions)) == actions
    assert _as_said(["I think left"]) == "I think left"  # an answer is a text


def test_a_degenerate_signature_does_not_count():
    own = [*records("a", {0: "ww"}), *records("a", {1: "ww"}, signature=None)]
    assert summarise(own, ["a"])["policies"]["a"]["distinct_signatures"]["estimate"] == 0.5


def test_alike_values_are_not_taken_for_certain():
    """Two start states with the same gain settle nothing: no interval of width zero."""
    first = records("a", {0: "ll", 1: "ll"})
    second = [r | {"signature": [r["attempt"]]} for r in records("b", {0: "ww", 1: "ww"})]
    summary = summarise(first + second, ["a", "b"])
    for measures in (*summary["policies"].values(), *summary["differences"].values()):
        for name, value in measures.items():
            assert name == "counts" or value["low"] < value["high"], name
    assert "distinct_winning_signatures +2.000 [" in verdict(summary)[0] and "(not resolved)" in verdict(summary)[0]


@pytest.mark.parametrize("value", [0.5, -3.0])
def test_one_start_state_has_a_summary_that_is_json(value):
    """A return outside of [0, 1] is unbounded: then one start state leaves its interval open."""
    own = records("a", {4: "wl"}, value=value) + records("b", {4: "ww"}, value=value)
    summary = summarise(own, ["a", "b"])
    json.dumps(summary, allow_nan=False)
    open_ended = {"estimate": value, "low": None, "high": None}
    assert (summary["policies"]["a"]["mean_return"] == open_ended) == (value < 0)
    assert ("[-, -]" in as_table(summary)) == (value < 0)
    assert "success +0.500 [-1.000, +1.000] (not resolved)" in verdict(summary)[0]


def test_unlike_start_states_are_refused():
    with pytest.raises(ValueError, match="'a' and 'b' were not sampled at the same start states"):
        summarise(records("a", {0: "wl"}) + records("b", {1: "wl"}), ["a", "b"])
    with pytest.raises(ValueError, match="not sampled at the same"):
        summarise(records("a", {0: "wl"}) + records("b", {0: "w"}), ["a", "b"])


@pytest.mark.parametrize(
    ("policies", "outcomes"), [("a", {0: "w"}), ("ab", {0: "wl", 1: "ll"}), ("abcdefgh", {0: "wwl"})]
)
def test_the_plot_is_drawn(tmp_path, policies, outcomes):
    own = [r for policy in policies for r in records(policy, outcomes)]
    plot_coverage(summarise(own, list(policies)), own, tmp_path / "c.png", title="t")
    data = (tmp_path / "c.png").read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 10_000


def test_every_pair_is_compared_and_signatures_are_rarefied():
    """Three policies make three pairs; distinct signatures among k of 2, 4, 4 samples, by hand."""
    own = (
        records("a", {0: "wwll", 1: "wlll"})
        + records("b", {0: "wlll", 1: "wwwl"})
        + records("c", {0: "llll", 1: "wlwl"})
    )
    summary = summarise(own, ["a", "b", "c"], ks=[1, 4])
    assert [(pair["first"], pair["second"]) for pair in summary["pairs"]] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert summary["differences"] == {p["second"]: p["differences"] for p in summary["pairs"][:2]}
    assert summary["ks"] == [1, 4] and "pass@2" not in summary["policies"]["a"]
    gap = summary["pairs"][2]["differences"]["success"]["estimate"]
    assert gap == pytest.approx((0 + 0.5) / 2 - (0.25 + 0.75) / 2)
    coverage = summary["signature_coverage"]["a"]
    assert coverage["signatures"][1]["estimate"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="k has 8, but each start state has 4 samples"):
        summarise(own, ["a", "b", "c"], ks=[8])


def test_rarefaction_is_the_mean_over_subsets():
    from itertools import combinations

    from polytune.evaluation.summary import _signatures_at

    drawn = ["x", "x", "y", "z", "x"]
    table = {0: {"n": 5, "signatures": [3, 1, 1]}}
    for k in range(1, 6):
        subsets = [len(set(part)) for part in combinations(drawn, k)]
        assert _signatures_at(table, "signatures", [k])[k] == [pytest.approx(sum(subsets) / len(subsets))]
