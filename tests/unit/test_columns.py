"""Records in columns: the same figures as from the records themselves, in memory that does not grow with texts."""

import bz2
import json
import math
import random
import tracemalloc
from collections import Counter

import pytest

from polytune.evaluation import summarise
from polytune.evaluation.columns import Records, digest
from polytune.evaluation.records import check_repeats, each_record, read_packed, read_records
from polytune.evaluation.summary import per_start


def made(seed, *, policies=("a", "b"), starts=(7, 3, 5), n=9, perturbs=(None, "shift"), shuffled=False, said="left"):
    """Records as an evaluation writes them, or in any order."""
    draw, records = random.Random(seed), []
    for perturb in perturbs:
        for policy in policies:
            for attempts in ([-1], range(n)):
                for start in starts:
                    for attempt in attempts:
                        won = draw.random() < 0.4
                        signature = draw.choice((None, [0, [1, 2]], [0, [1, 3]], ["x"], [1.5], [True], [1]))
                        records.append({
                            "policy": policy, "perturb": perturb, "start_seed": start, "attempt": attempt,
                            "greedy": attempt < 0, "success": won, "return": draw.random() if won else 0.0,
                            "turns": draw.randint(1, 30), "stop_reason": "success", "signature": signature,
                            "invalid_actions": draw.randint(0, 3), "logprob": -5 - 30 * draw.random(),
                            "said": f"{draw.getrandbits(64):016x}", "actions": f"{said} {attempt}",
                        })  # fmt: skip
    if shuffled:
        draw.shuffle(records)
    return records


def written(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def of_dicts(records, policy):
    """Per start state as it was counted from a list of dicts."""
    table = {}
    for record in records:
        if record["policy"] == policy:
            cell = table.setdefault(record["start_seed"], {False: [], True: []})
            cell[record["greedy"]].append(record)

    def counts(own):
        return list(Counter(json.dumps(r["signature"]) for r in own if r["signature"] is not None).values())

    found = {}
    for start, cell in sorted(table.items()):
        samples, greedy = cell[False], cell[True]
        every, winning = counts(samples), counts([r for r in samples if r["success"]])
        found[start] = {
            "n": len(samples), "correct": sum(r["success"] for r in samples),
            "return": sum(r["return"] for r in samples) / len(samples), "distinct": len(every),
            "distinct_winning": len(winning), "greedy": float(greedy[0]["success"]) if greedy else None,
            "signatures": every, "winning_signatures": winning,
            "entropy": -sum(r["logprob"] for r in samples) / sum(r["turns"] for r in samples)
            if all("logprob" in r for r in samples) else None,
        }  # fmt: skip
    return found


@pytest.mark.parametrize("seed", range(4))
def test_columns_count_what_the_records_count_to_the_last_bit(tmp_path, seed):
    records = made(seed, shuffled=seed % 2 == 1)
    if seed == 2:
        records = [{k: v for k, v in r.items() if k not in ("logprob", "said")} for r in records]
    read = read_records(written(tmp_path / "records.jsonl", records))
    assert list(read) == records and len(read) == len(records)
    for perturb in (None, "shift"):
        own = [r for r in records if r["perturb"] == perturb]
        for policy in "ab":
            expected = of_dicts(own, policy)
            assert (
                repr(per_start(read.where(perturb=perturb), policy)) == repr(expected) == repr(per_start(own, policy))
            )
        alike = summarise(read.where(perturb=perturb), ["a", "b"]), summarise(own, ["a", "b"])
        assert json.dumps(alike[0]) == json.dumps(alike[1])
    assert read.policies() == list(dict.fromkeys(r["policy"] for r in records))
    assert read.perturbations() == ["shift"]
    firsts = read.where(policy="b").by_start(first=True)
    assert list(firsts) == list(dict.fromkeys(r["start_seed"] for r in records if r["policy"] == "b"))
    assert list(firsts[5]) == [r for r in records if r["policy"] == "b" and r["start_seed"] == 5]
    assert list(read.where(greedy=False, attempt=4).each("actions")) == [
        r["actions"] for r in records if r["attempt"] == 4
    ]


def test_memory_of_an_analysis_does_not_grow_like_the_file(tmp_path):
    """Four times as long a file, of as many records: no more memory; and of the file less than a sixth."""
    peaks, sizes = [], []
    for number, length in enumerate((500, 4000)):
        records = made(1, policies=("a",), starts=range(20), n=64, perturbs=(None,), said="forward " * (length // 8))
        path = written(tmp_path / f"{number}.jsonl", records)
        del records
        tracemalloc.start()
        read = read_records(path)
        check_repeats(read)
        per_start(read, "a")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        sizes.append(path.stat().st_size)
    assert sizes[1] > 4 * sizes[0]
    assert peaks[1] - peaks[0] < 100_000 < sizes[1] - sizes[0] and peaks[0] < 0.5 * sizes[0] and peaks[1] < sizes[1] / 6


def test_packed_records_and_a_cut_line_are_read_as_well(tmp_path):
    records = made(5)
    path = written(tmp_path / "records.jsonl", records)
    packed = tmp_path / "records.jsonl.bz2"
    packed.write_bytes(bz2.compress(path.read_bytes() + b'{"cut'))
    assert list(read_records(packed)) == records == [record for record, _ in each_record(packed)]
    packed.write_bytes(packed.read_bytes()[:-20])
    for damaged in (packed.read_bytes(), b""):  # cut, and emptied
        packed.write_bytes(damaged)
        for read in (read_records, read_packed):
            with pytest.raises(ValueError, match="records.jsonl.bz2 cannot be unpacked"):
                read(packed)
    assert not read_records(tmp_path / "none.jsonl") and read_records(tmp_path / "none.jsonl").policies() == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("success", "yes", "success is 'yes'"), ("success", 1, "success is 1"), ("return", "1", "return is '1'"),
     ("start_seed", 2**64, "start_seed is 18446744073709551616"), ("attempt", True, "attempt is True"),
     ("turns", None, "turns is None"), ("turns", 0, "turns is 0 .below 1."),
     ("invalid_actions", -1, "invalid_actions is -1 .below 0."),
     ("policy", ["a"], "policy .'a'., perturb None are no names"),
     ("perturb", 3, "policy .a., perturb 3 are no names"), ("logprob", [], "logprob is .."),
     ("return", math.nan, "return is nan .not finite."), ("logprob", -math.inf, "logprob is -inf .not finite.")],
)  # fmt: skip
def test_a_value_that_no_record_has_is_refused_with_its_line(tmp_path, name, value, told):
    records = made(5)
    path = written(tmp_path / "records.jsonl", [records[0], records[1] | {name: value}])
    with pytest.raises(ValueError, match=f"records.jsonl line 2: {told}.*Remove the file to begin anew"):
        read_records(path)


@pytest.mark.parametrize("same", [True, False])
def test_an_attempt_that_stands_in_two_lines_is_refused_with_both(tmp_path, same):
    records = made(5)
    again = records[2] if same else records[2] | {"success": not records[2]["success"]}
    path = written(tmp_path / "records.jsonl", [*records, again, records[3]])
    told = f"records.jsonl line {len(records) + 1}: policy {records[2]['policy']!r} has attempt .* in line 3 already"
    with pytest.raises(ValueError, match=told):
        read_records(path)
    other = [records[2] | {"perturb": "moved"}, records[2] | {"policy": "other"}, records[2] | {"start_seed": 999}]
    assert len(read_records(written(tmp_path / "records.jsonl", [*records, *other]))) == len(records) + 3


def test_a_line_that_is_no_record_is_refused(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("[" * 100_000 + "\n")
    with pytest.raises(ValueError, match="line 1 is not a JSON record"):
        read_records(path)


def test_digests_tell_values_apart():
    values = [None, [], [1], [1.0], [True], ["1"], "1", 1, 0, "", {}]
    assert len({digest(value) for value in values}) == len(values) and digest(None) == 0
    assert digest([1, [2]]) == digest([1, [2]])
    assert Records.of([]).column("signature").tolist() == []


def test_repeats_are_counted_where_they_are_told_of(tmp_path):
    records = made(6, n=40)
    check_repeats(Records.of(records))
    for record in records:
        if record["policy"] == "b" and record["start_seed"] == 3:
            record["said"] = "ab"
    with pytest.raises(ValueError, match=r"policy 'b': \d+ of 234 attempts repeat"):
        check_repeats(read_records(written(tmp_path / "records.jsonl", records)))
    check_repeats(Records.of([{k: v for k, v in r.items() if k != "said"} for r in records]))
