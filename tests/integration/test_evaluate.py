"""recipes/evaluate.py: numbers against an independent count, records bit for bit, hostile input."""

import errno
import json
import os
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from walkers import save_walker

from polytune.evaluation import records
from polytune.measures.coreset import coreset
from polytune.running import provenance
from polytune.tasks import load_task
from polytune.tasks.grid import fourrooms

ROOT = Path(__file__).resolve().parents[2]
STARTS = range(41, 49)  # a goal is near at some of them
SIZE = ("--task_horizon", 24, "--split", "seeds:41-48", "--n", 5, "--cpu_threads", 1)


@pytest.fixture
def evaluate(call_recipe, walkers, tmp_path):
    """Run the recipe on the two walkers; returns the output folder. Later flags win over earlier ones."""

    def call(*flags, output_dir=tmp_path / "evaluation", policies=None) -> Path:
        named = [f"{name}={path}" for name, path in (policies or walkers).items()]
        call_recipe("evaluate", "--policies", *named, *SIZE, "--output_dir", output_dir, *flags)
        return output_dir

    return call


@pytest.fixture(scope="session")
def reference(call_recipe, walkers, tmp_path_factory):
    """One finished evaluation, not to be written to."""
    folder = tmp_path_factory.mktemp("reference")
    named = [f"{name}={path}" for name, path in walkers.items()]
    call_recipe("evaluate", "--policies", *named, *SIZE, "--max_branches", 6, "--output_dir", folder)
    return folder


def records_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def summary_of(folder: Path) -> dict:
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((folder / "summary.json").read_text(), parse_constant=refuse)


def error_line(capsys) -> str:
    """The one line on stderr."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def test_summary_says_what_the_records_say(reference):
    records, summary = records_of(reference), summary_of(reference)
    for name, measures in summary["policies"].items():
        sampled, success, distinct = [], [], []
        for start in STARTS:
            own = [r for r in records if r["policy"] == name and r["start_seed"] == start and not r["greedy"]]
            assert [r["attempt"] for r in own] == list(range(5))
            sampled += own
            success.append([r["stop_reason"] == "success" for r in own])
            distinct.append(len({tuple(r["signature"]) for r in own}))
        for k in (1, 2, 4, 5):
            by_hand = mean(mean(any(subset) for subset in combinations(outcomes, k)) for outcomes in success)
            assert measures[f"pass@{k}"]["estimate"] == pytest.approx(by_hand, abs=1e-12)
        assert measures["success"]["estimate"] == pytest.approx(mean(map(mean, success)))
        assert measures["mean_return"]["estimate"] == pytest.approx(mean(r["return"] for r in sampled))
        assert all(r["return"] == (1 - 0.5 * r["turns"] / 24 if r["success"] else 0.0) for r in sampled)
        assert measures["distinct_signatures"]["estimate"] == pytest.approx(mean(distinct))
        greedy = [r for r in records if r["policy"] == name and r["greedy"]]
        assert [r["start_seed"] for r in greedy] == list(STARTS)
        assert measures["greedy_success"]["estimate"] == mean(r["success"] for r in greedy)
        counts = measures["counts"]
        assert (counts["start_states"], counts["samples_per_start_state"], counts["episodes"]) == (8, 5, 48)
        assert counts["env_steps"] == sum(len(r["actions"].split()) for r in records if r["policy"] == name)
        assert measures["seconds"] > 0
        for key, value in measures.items():
            assert key in ("counts", "seconds") or value["low"] <= value["estimate"] <= value["high"], key
    assert summary["ks"] == [1, 2, 4, 5]
    slow, quick = (summary["policies"][name]["success"]["estimate"] for name in ("slow", "quick"))
    assert 0 < slow != quick > 0, "choose start states at which the walkers tell apart"
    assert summary["differences"]["quick"]["success"]["estimate"] == pytest.approx(quick - slow)
    assert {"python", "torch", "transformers", "polytune"} <= summary["versions"].keys()
    assert (reference / "coverage.png").read_bytes().startswith(b"\x89PNG")


def test_every_attempt_is_kept_and_policies_are_paired(reference, evaluate, walkers):
    records = records_of(reference)
    attempts = {name: [(r["start_seed"], r["attempt"]) for r in records if r["policy"] == name] for name in walkers}
    assert attempts["slow"] == attempts["quick"] and len(set(attempts["slow"])) == 8 * (5 + 1)
    twins = records_of(evaluate(policies={"one": walkers["slow"], "another": walkers["slow"]}))
    one, two = ([r | {"policy": ""} for r in twins if r["policy"] == name] for name in ("one", "another"))
    assert one == two  # the same start states and the same random numbers


def test_records_depend_on_the_seed_alone(reference, evaluate, tmp_path):
    again = evaluate("--max_branches", 256, output_dir=tmp_path / "again")
    assert (again / "records.jsonl").read_bytes() == (reference / "records.jsonl").read_bytes()
    other = records_of(evaluate("--seed", 1, output_dir=tmp_path / "other"))
    pairs = list(zip(records_of(reference), other, strict=True))
    assert any(a["actions"] != b["actions"] for a, b in pairs)
    assert all(a["actions"] == b["actions"] for a, b in pairs if a["greedy"])


@pytest.mark.parametrize("share", [0.0, 0.31, 0.999, 1.0])
def test_a_killed_run_ends_with_the_same_records(reference, evaluate, tmp_path, share, capsys):
    folder = tmp_path / "evaluation"
    shutil.copytree(reference, folder)
    whole = (reference / "records.jsonl").read_bytes()
    (folder / "records.jsonl").write_bytes(whole[: int(share * len(whole))])
    (folder / "summary.json").unlink()
    evaluate("--max_branches", 6)
    assert (folder / "records.jsonl").read_bytes() == whole
    before, after = (summary_of(f)["policies"] for f in (reference, folder))
    for name in before:  # the time of all sittings
        assert after[name].pop("seconds") >= before[name].pop("seconds") > 0
    assert before == after
    printed = capsys.readouterr().out
    assert ("quick: 96 of 96 episodes" in printed) == (share < 1)  # signs of life without a terminal


WHY = {
    "weights": "policy slow has other weights",
    "configuration": "policy slow has other weights",
    "temperature": "temperature was 1.0, now 1.5",
    "n": "n was 5, now 2",
    "order": "policies stand in another order",
}


@pytest.mark.parametrize("change", WHY)
def test_other_weights_or_settings_begin_anew(reference, evaluate, walkers, tmp_path, change, capsys):
    folder, old = tmp_path / "evaluation", (reference / "records.jsonl").read_bytes()
    shutil.copytree(reference, folder)
    policies, flags = dict(walkers), {"temperature": ("--temperature", 1.5), "n": ("--n", 2)}.get(change, ())
    if change in ("weights", "configuration"):
        policies["slow"] = shutil.copytree(walkers["slow"], tmp_path / "changed")
    if change == "weights":
        weights = load_file(policies["slow"] / "model.safetensors")
        weights["lm_head.weight"][0] += 1e-3
        save_file(weights, policies["slow"] / "model.safetensors", metadata={"format": "pt"})
    if change == "configuration":
        config = json.loads((policies["slow"] / "config.json").read_text())
        (policies["slow"] / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    if change == "order":
        policies = dict(reversed(policies.items()))
    capsys.readouterr()
    evaluate("--max_branches", 6, *flags, policies=policies)
    assert f"belonged to another evaluation ({WHY[change]}): kept as records-1.jsonl" in capsys.readouterr().out
    assert (folder / "records-1.jsonl").read_bytes() == old
    per_policy = 8 * (2 + 1) if change == "n" else 8 * (5 + 1)
    assert [r["policy"] for r in records_of(folder)] == [name for name in policies for _ in range(per_policy)]


def test_policies_that_come_and_go_leave_the_others_records_alone(
    reference, evaluate, walkers, tmp_path, monkeypatch, capsys
):
    """A third policy is sampled alone, and the records are those of three from the beginning; one that leaves costs
    nothing, one with other weights is sampled again, and those that follow another first one."""
    folder, (first, second) = tmp_path / "evaluation", walkers
    shutil.copytree(reference, folder)
    third = {"third": shutil.copytree(walkers[second], tmp_path / "third")}
    played = []
    original = records.sample_records

    def watched(*args, **kwargs):
        played.append(args[3][0].policy)
        return original(*args, **kwargs)

    monkeypatch.setattr("polytune.evaluation.records.sample_records", watched)
    capsys.readouterr()
    evaluate("--max_branches", 6, policies=walkers | third)
    printed = capsys.readouterr().out
    assert f"{first}, {second}: records taken over from records-1.jsonl, which is removed" in printed
    assert {*played} == {"third"} and not (folder / "records-1.jsonl").exists()
    seconds = {name: policy["seconds"] for name, policy in summary_of(folder)["policies"].items()}
    assert seconds[first] == summary_of(reference)["policies"][first]["seconds"] and seconds["third"] > 0
    anew = evaluate("--max_branches", 6, policies=walkers | third, output_dir=tmp_path / "anew")
    assert (folder / "records.jsonl").read_bytes() == (anew / "records.jsonl").read_bytes()

    played.clear()
    evaluate("--max_branches", 6, policies={second: walkers[second]} | third)
    assert not played and "taken over from records-1.jsonl\n" in capsys.readouterr().out
    assert (folder / "records-1.jsonl").read_bytes() == (anew / "records.jsonl").read_bytes()
    config = json.loads((third["third"] / "config.json").read_text())
    (third["third"] / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    evaluate("--max_branches", 6, policies={second: walkers[second]} | third)
    assert {*played} == {"third"}
    played.clear()
    evaluate("--max_branches", 6, policies={first: walkers[first], second: walkers[second]})
    assert {*played} == {first, second}
    assert (folder / "records.jsonl").read_bytes() == (reference / "records.jsonl").read_bytes()


def test_few_and_equal_levels_are_warned_of(reference, evaluate, tmp_path, monkeypatch, capsys):
    """In the table's last lines, in summary.json and in the report."""
    folder = tmp_path / "evaluation"
    shutil.copytree(reference, folder)
    monkeypatch.setattr(fourrooms.FourRooms, "start_hash", lambda self, seed: str(seed % 4))
    evaluate("--max_branches", 6, "--report")
    printed, cautions = capsys.readouterr().out, summary_of(folder)["cautions"]
    assert "8 start states, but 4 different levels" in cautions[-2] and "4 different levels: so few" in cautions[-1]
    page = (folder / "report.html").read_text()
    for line in cautions:
        assert f"warning: {line}" in printed and line in page


def test_records_that_would_be_taken_over_are_checked(reference, evaluate, walkers, tmp_path, capsys):
    folder = tmp_path / "evaluation"
    shutil.copytree(reference, folder)
    content = (reference / "records.jsonl").read_bytes().replace(b'"turns": 24', b'"turns": 23', 1)
    (folder / "records.jsonl").write_bytes(content)
    with pytest.raises(SystemExit):
        evaluate("--max_branches", 6, policies=dict(list(walkers.items())[:1]))
    assert "has other content" in error_line(capsys)
    assert (folder / "records.jsonl").read_bytes() == content and not (folder / "records-1.jsonl").exists()


def test_what_does_not_touch_the_records_keeps_them(reference, evaluate, tmp_path, monkeypatch):
    """Nor does a field that came later than the note of the evaluation, at its default."""
    folder = tmp_path / "moved"
    shutil.copytree(reference, folder)
    note = json.loads((folder / provenance.EVALUATION_RUN_FILE).read_text())
    assert note["settings"]["evaluation"].pop("coreset") is False
    (folder / provenance.EVALUATION_RUN_FILE).write_text(json.dumps(note))
    monkeypatch.setattr("polytune.evaluation.records.sample_episodes", forbidden)
    evaluate("--level", 0.8, "--max_branches", 7, output_dir=folder)
    wide, narrow = (summary_of(f)["policies"]["quick"]["pass@2"] for f in (reference, folder))
    assert narrow["high"] - narrow["low"] < wide["high"] - wide["low"]
    assert not (folder / "records-1.jsonl").exists()


def test_an_evaluation_beside_a_run_leaves_the_runs_record_alone(evaluate, tmp_path):
    (tmp_path / "run.json").write_text('{"trainer": {}}')
    evaluate("--n", 1, "--num_start_states", 1, output_dir=tmp_path)
    assert (tmp_path / "run.json").read_text() == '{"trainer": {}}'


@pytest.mark.parametrize(
    ("n", "states", "names"), [(1, 1, ["slow"]), (1, 3, ["slow", "quick"]), (4, 1, ["slow", "quick"])]
)
def test_the_smallest_evaluations(evaluate, walkers, n, states, names, capsys):
    folder = evaluate("--n", n, "--num_start_states", states, policies={name: walkers[name] for name in names})
    summary, printed = summary_of(folder), capsys.readouterr().out
    assert summary["ks"][-1] == n and len(records_of(folder)) == len(names) * states * (n + 1)
    assert summary["policies"]["slow"]["counts"]["start_states"] == states
    if len(names) > 1:
        assert f"quick against slow: success {summary['differences']['quick']['success']['estimate']:+.3f} [" in printed
    assert (folder / "coverage.png").stat().st_size > 10_000


def test_unseen_refuses_levels_that_a_demonstration_showed(evaluate, walkers, tmp_path, capsys, monkeypatch):
    policy = shutil.copytree(walkers["slow"], tmp_path / "policy")
    checkpoint = shutil.copytree(walkers["slow"], policy / "checkpoint-7")
    size = ("--split", "unseen", "--num_start_states", 2, "--n", 1)
    evaluate(*size, policies={"slow": policy})
    assert "note: slow came without demonstrations.json" in capsys.readouterr().out
    task = load_task("fourrooms")
    listing = {"task": "fourrooms", "seeds": [1], "level_hashes": [task.start_hash(1), task.start_hash(100_000)]}
    (policy / "demonstrations.json").write_text(json.dumps(listing))
    monkeypatch.setattr("polytune.evaluation.records.sample_episodes", forbidden)
    for path in (policy, checkpoint):
        with pytest.raises(SystemExit) as exit:
            evaluate(*size, policies={"quick": walkers["quick"], "slow": path}, output_dir=tmp_path / "refused")
        assert exit.value.code == 1
        assert "1 'fourrooms' levels are not unseen" in error_line(capsys)
    (policy / "demonstrations.json").write_text('{"level_hashes": ["abc"')
    with pytest.raises(SystemExit):
        evaluate(*size, policies={"slow": policy}, output_dir=tmp_path / "refused")
    assert "demonstrations.json cannot be read" in error_line(capsys)
    assert not (tmp_path / "refused").exists()


def forbidden(*args, **kwargs):
    raise AssertionError("an episode was sampled")


def spoil(case: str, path: Path) -> None:
    if case == "truncated":
        os.truncate(path / "model.safetensors", 1000)
    elif case == "no weights":
        (path / "model.safetensors").unlink()
    elif case == "no pad token":
        tokenizer = AutoTokenizer.from_pretrained(path)
        tokenizer.pad_token = None
        tokenizer.save_pretrained(path)
    elif case == "other words":
        text = (path / "tokenizer.json").read_text()
        (path / "tokenizer.json").write_text(text.replace('"forward"', '"onward"'))
    elif case == "sliding window":
        config = json.loads((path / "config.json").read_text())
        config |= {"use_sliding_window": True, "sliding_window": 4, "layer_types": ["sliding_attention"] * 3}
        (path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("case", "flags", "status", "message"),
    [
        ("missing", (), 1, "does not exist as a folder"),
        ("truncated", (), 1, "truncated or damaged"),
        ("no weights", (), 1, "has no weights"),
        ("no pad token", (), 1, "has no pad token"),
        ("other words", (), 1, "does not know the word(s) 'forward'"),
        ("sliding window", (), 1, "full attention in every layer"),
        ("fine", ("--task", "fourroms"), 1, "did you mean 'fourrooms'?"),
        ("fine", ("--samples", "3"), 2, "unknown argument '--samples'"),
        ("fine", ("--n", "2", "outputs/a"), 2, "unknown argument 'outputs/a'; did you mean --policies outputs/a?"),
        ("fine", ("--n", "0"), 2, "n must be an integer of at least 1"),
        ("fine", ("--n", "many"), 2, "n must be an integer, got 'many'"),
        ("fine", ("--task_horizon", "0"), 2, "task_horizon must be an integer of at least 1"),
        ("fine", ("--temperature", "0"), 2, "temperature is 0 and n is 5"),
        ("fine", ("--temperature", "-1"), 2, "temperature must be a number of at least 0"),
        ("fine", ("--k", "8"), 2, "k has 8, but n is 5"),
        ("fine", ("--from_records", "nowhere"), 2, "policies"),
        ("fine", ("--split", "test"), 1, "unknown split 'test'"),
        ("fine", ("--config", "nowhere.yaml"), 2, "does not exist"),
        ("fine", ("--policies", "a=x", "a=y"), 2, "a name of its own"),
        ("fine", ("--output_dir", "/dev/null/here"), 1, "/dev/null"),
    ],
)
def test_bad_input_is_one_line_before_any_episode(
    evaluate, walkers, tmp_path, capsys, monkeypatch, case, flags, status, message
):
    bad = tmp_path / "bad"
    if case != "missing":
        shutil.copytree(walkers["quick"], bad)
        spoil(case, bad)
    monkeypatch.setattr("polytune.evaluation.records.sample_episodes", forbidden)
    with pytest.raises(SystemExit) as exit:
        evaluate(*flags, policies={"good": walkers["slow"], "bad": bad})
    assert exit.value.code == status
    assert message in error_line(capsys)
    assert not (tmp_path / "evaluation").exists()


def test_a_real_process_exits_with_one_line_and_a_status(tmp_path):
    command = [sys.executable, str(ROOT / "recipes/evaluate.py"), "--policies", str(tmp_path / "nowhere")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("error: checkpoint ")


@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 1.0])
def test_a_flipped_bit_in_the_records_is_found(call_recipe, reference, evaluate, tmp_path, capsys, place):
    """By the evaluation that goes on, and by the analysis; a digit for another one is a record like any other."""
    folder = tmp_path / "evaluation"
    shutil.copytree(reference, folder)
    content = bytearray((reference / "records.jsonl").read_bytes())
    digits = [number for number, byte in enumerate(content) if chr(byte).isdigit()]
    content[digits[round(place * (len(digits) - 1))]] ^= 1
    (folder / "records.jsonl").write_bytes(content)
    for again in (lambda: evaluate("--max_branches", 6), lambda: call_recipe("evaluate", "--from_records", folder)):
        with pytest.raises(SystemExit):
            again()
        assert f"records.jsonl has other content in its first {len(content):,} bytes than was" in error_line(capsys)
    assert (folder / "records.jsonl").read_bytes() == content
    (folder / "records.jsonl").unlink()
    evaluate("--max_branches", 6)
    assert (folder / "records.jsonl").read_bytes() == (reference / "records.jsonl").read_bytes()


def test_damaged_records_are_named(reference, evaluate, tmp_path, capsys):
    folder = tmp_path / "evaluation"
    shutil.copytree(reference, folder)
    note = json.loads((folder / "evaluation_run.json").read_text())
    assert note.pop("written")[0] == len((reference / "records.jsonl").read_bytes())
    (folder / "evaluation_run.json").write_text(json.dumps(note))  # as an older version left it
    lines = (reference / "records.jsonl").read_bytes().splitlines(keepends=True)
    for third, message in (
        (b'{"policy": "sl\xff\n', "line 3 is not a JSON record"),
        (b'{"policy": "slow"}\n', "line 3 lacks attempt, greedy"),
        (b"7\n", "line 3 is not a JSON record"),
        (lines[5], "another evaluation"),
    ):
        (folder / "records.jsonl").write_bytes(b"".join([*lines[:2], third, *lines[3:]]))
        with pytest.raises(SystemExit):
            evaluate("--max_branches", 6)
        assert message in error_line(capsys)
    (folder / "records.jsonl").write_bytes(b"".join([*lines, lines[-1]]))
    with pytest.raises(SystemExit):
        evaluate("--max_branches", 6)
    assert "holds 97 records, this evaluation makes 96" in error_line(capsys)


def test_no_space_left_keeps_what_was_recorded(reference, evaluate, tmp_path, capsys, monkeypatch):
    original, calls = provenance.write_json, []

    def full(path, content):
        calls.append(path)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        original(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(provenance, "write_json", full)
        with pytest.raises(SystemExit) as exit:
            evaluate("--max_branches", 6)
    assert exit.value.code == 1 and "no space left while writing" in error_line(capsys)
    kept, whole = ((f / "records.jsonl").read_bytes() for f in (tmp_path / "evaluation", reference))
    assert 0 < len(kept) < len(whole) and whole.startswith(kept)
    evaluate("--max_branches", 6)
    assert (tmp_path / "evaluation/records.jsonl").read_bytes() == whole


# ---------------------------------------------------------------- records analysed again, other ways of sampling


def test_records_are_analysed_again_without_a_policy(call_recipe, reference, walkers, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "evaluation"
    shutil.copytree(reference, folder)
    before = {name: (folder / name).read_bytes() for name in ("records.jsonl", "evaluation_run.json")}
    monkeypatch.setattr("polytune.policy.load_policy", forbidden)
    call_recipe("evaluate", "--from_records", folder)
    again, first = summary_of(folder), summary_of(reference)
    for key in ("policies", "differences", "pairs", "ks", "signature_coverage"):
        for name in again["policies"]:
            again["policies"][name].pop("seconds", None), first["policies"][name].pop("seconds", None)
        assert again[key] == first[key], key
    assert again["settings"] == first["settings"]
    call_recipe("evaluate", "--from_records", folder / "records.jsonl", "--k", 4, 2, "--level", 0.5,
                "--output_dir", tmp_path / "other")  # fmt: skip
    other = summary_of(tmp_path / "other")
    assert other["ks"] == [2, 4] and other["level"] == 0.5
    wide, narrow = (found["policies"]["quick"]["pass@4"] for found in (first, other))
    assert narrow["estimate"] == wide["estimate"] and narrow["low"] > wide["low"]
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert "fourrooms, seeds:41-48: 8 start states x 5 samples" in capsys.readouterr().out
    assert again["policy_paths"] == first["policy_paths"]
    (folder / "evaluation_run.json").unlink()
    call_recipe("evaluate", "--from_records", folder, "--task", "fourrooms")
    assert "says which task this was: taken to be fourrooms" in capsys.readouterr().out


@pytest.mark.parametrize("lines", [30, 60, 95])
def test_records_of_a_stopped_evaluation_are_not_analysed(call_recipe, reference, tmp_path, capsys, lines):
    folder = tmp_path / "evaluation"
    shutil.copytree(reference, folder)
    whole = (reference / "records.jsonl").read_text().splitlines(keepends=True)
    (folder / "records.jsonl").write_text("".join(whole[:lines]))
    with pytest.raises(SystemExit):
        call_recipe("evaluate", "--from_records", folder)
    told = error_line(capsys)
    assert "is not finished" in told and "has 5 samples of " in told and "continues it" in told


def test_an_unfinished_perturbation_is_left_out(call_recipe, perturbed, reference, tmp_path, capsys):
    folder = tmp_path / "evaluation"
    shutil.copytree(perturbed, folder)
    whole = (perturbed / "records.jsonl").read_text().splitlines(keepends=True)
    (folder / "records.jsonl").write_text("".join(whole[:-1]))
    call_recipe("evaluate", "--from_records", folder)
    assert "note: start_room is not finished and left out: quick has 5 samples of 7 of 8" in capsys.readouterr().out
    assert "perturbed" not in summary_of(folder) and not (folder / "perturbed.txt").exists()
    assert summary_of(folder)["pairs"] == summary_of(reference)["pairs"]


def test_records_that_were_set_aside_do_not_overwrite_what_took_their_place(call_recipe, reference, tmp_path, capsys):
    folder = tmp_path / "evaluation"
    shutil.copytree(reference, folder)
    shutil.copy(folder / "records.jsonl", folder / "records-1.jsonl")
    for flags, words in (((), "give an --output_dir"), (("--output_dir", folder), "holds another evaluation")):
        with pytest.raises(SystemExit):
            call_recipe("evaluate", "--from_records", folder / "records-1.jsonl", *flags)
        assert words in error_line(capsys)
    assert summary_of(folder) == summary_of(reference)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--from_records", "nowhere"), "from_records is 'nowhere', and there is no nowhere"),
        (("--from_records", "FOLDER", "--n", "3"), "records are analysed as they are"),
        (("--from_records", "FOLDER", "--k", "9"), "k has 9, but each start state has 5 samples"),
        (("--from_records", "FOLDER", "--task", "babyai-goto"), "task cannot be given"),
    ],
)
def test_records_that_cannot_be_analysed_are_refused(call_recipe, reference, capsys, flags, message):
    with pytest.raises(SystemExit):
        call_recipe("evaluate", *(str(reference) if flag == "FOLDER" else flag for flag in flags))
    assert message in error_line(capsys)


def test_samples_that_repeat_themselves_are_refused(call_recipe, evaluate, reference, tmp_path, capsys, monkeypatch):
    """Every attempt made with the seed of the first: refused while sampling, and in records from elsewhere."""
    from polytune.evaluation import records

    sample = records.sample_episodes

    def one_seed(task, renderer, generator, starts, **options):
        return sample(task, renderer, generator, [start._replace(attempt=0) for start in starts], **options)

    monkeypatch.setattr("polytune.evaluation.records.sample_episodes", one_seed)
    with pytest.raises(SystemExit):
        evaluate()
    assert "samples are not independent (one seed for every attempt?)" in error_line(capsys)
    assert not [r for r in records_of(tmp_path / "evaluation") if not r["greedy"]]
    lines = records_of(reference)
    first = {(r["policy"], r["start_seed"]): r for r in lines if r["attempt"] == 0}
    for record in lines:
        if not record["greedy"]:
            record |= {k: first[record["policy"], record["start_seed"]][k] for k in ("actions", "logprob", "said")}
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in lines))
    with pytest.raises(SystemExit):
        call_recipe("evaluate", "--from_records", path)
    assert "repeat an earlier one word for word" in error_line(capsys)


def test_truncation_that_a_checkpoint_asks_for_is_said_and_left_aside(evaluate, reference, walkers, tmp_path, capsys):
    policy = shutil.copytree(walkers["quick"], tmp_path / "policy")
    (policy / "generation_config.json").write_text('{"do_sample": true, "top_p": 0.3, "top_k": 2, "temperature": 1.0}')
    found = evaluate(policies={"slow": walkers["slow"], "quick": policy})
    told = capsys.readouterr().out
    assert "note: quick's generation_config.json asks for {'top_k': 2, 'top_p': 0.3}, left aside" in told
    assert "slow's" not in told and records_of(found) == records_of(reference)


def test_greedy_episodes_may_be_left_out_or_all_there_is(evaluate, reference, tmp_path):
    plain = evaluate("--greedy", "false", output_dir=tmp_path / "plain")
    samples = [record for record in records_of(reference) if not record["greedy"]]
    with pytest.raises(SystemExit):
        evaluate("--greedy", "true", output_dir=plain)
    assert records_of(plain) == samples and "greedy_success" not in summary_of(plain)["policies"]["quick"]
    certain = evaluate("--temperature", 0, "--n", 1, output_dir=tmp_path / "certain")
    attempts = {r["greedy"]: [] for r in records_of(certain)}
    for record in records_of(certain):
        attempts[record["greedy"]].append(record["actions"])
    assert attempts[False] == attempts[True]


# ---------------------------------------------------------------- perturbed start states


@pytest.fixture(scope="session")
def perturbed(call_recipe, walkers, tmp_path_factory, reference):
    """The reference, continued under a perturbation; not to be written to."""
    folder = tmp_path_factory.mktemp("perturbed") / "evaluation"
    shutil.copytree(reference, folder)
    named = [f"{name}={path}" for name, path in walkers.items()]
    flags = ("--max_branches", 6, "--perturb", "start_room", "--output_dir", folder)
    call_recipe("evaluate", "--policies", *named, *SIZE, *flags)
    return folder


def test_perturbed_start_states_are_sampled_as_often_and_paired(perturbed, reference, walkers):
    records, summary = records_of(perturbed), summary_of(perturbed)
    plain, moved = records[:96], records[96:]
    assert plain == records_of(reference)  # nothing that was there is sampled anew
    assert {r["perturb"] for r in plain} == {None} and {r["perturb"] for r in moved} == {"start_room"}
    identity = ("policy", "start_seed", "attempt", "greedy")
    assert [[r[name] for name in identity] for r in plain] == [[r[name] for name in identity] for r in moved]
    before, task = summary_of(reference), load_task("fourrooms", horizon=24, perturb="start_room")
    assert summary["policies"].keys() == before["policies"].keys() and "perturbed" not in before
    for name in walkers:
        for measures in (summary, before):
            measures["policies"][name].pop("seconds")
    assert summary["policies"] == before["policies"] and summary["differences"] == before["differences"]
    found = summary["perturbed"]["start_room"]
    assert found.keys() == before.keys() - {"command", "versions", "policy_paths", "settings", "cautions"} | {"changes"}
    for name in walkers:
        rates = [[], []]
        for side, own in enumerate((plain, moved)):
            for start in STARTS:
                tries = [r for r in own if r["policy"] == name and r["start_seed"] == start and not r["greedy"]]
                rates[side].append(mean(r["success"] for r in tries))
        success, change = found["policies"][name]["success"], found["changes"][name]["success"]
        assert success["estimate"] == pytest.approx(mean(rates[1]))
        assert change["estimate"] == pytest.approx(mean(rates[1]) - mean(rates[0]))
        assert change["low"] <= change["estimate"] <= change["high"]
    for record in moved:  # played back on the perturbed task, every attempt is what its record says
        episode = task.start(record["start_seed"])
        steps = [episode.step(action) for action in record["actions"].split()]
        assert (episode.stop_reason == "success", sum(s.reward for s in steps)) == (record["success"], record["return"])
        assert sorted(episode.signature()) == record["signature"]
    text = (perturbed / "perturbed.txt").read_text()
    assert "start_room - unperturbed" in text and "under start_room: quick against slow: success" in text
    assert (perturbed / "coverage.png").read_bytes() != (reference / "coverage.png").read_bytes()


@pytest.mark.parametrize("share", [0.3, 0.77])
def test_a_killed_perturbed_run_ends_with_the_same_records(perturbed, evaluate, tmp_path, share):
    folder, whole = tmp_path / "evaluation", (perturbed / "records.jsonl").read_bytes()
    shutil.copytree(perturbed, folder)
    (folder / "records.jsonl").write_bytes(whole[: int(share * len(whole))])
    evaluate("--max_branches", 6, "--perturb", "start_room")
    assert (folder / "records.jsonl").read_bytes() == whole
    assert summary_of(folder)["perturbed"] == summary_of(perturbed)["perturbed"]


def test_perturbations_are_added_in_any_order_and_stay(call_recipe, tmp_path):
    """A second one is sampled after the first, whatever order they are named in; without --perturb both are shown."""
    folder, policy = tmp_path / "evaluation", save_walker(tmp_path / "walker", 0, 0.01, task="babyai-goto")
    base = ("--policies", policy, "--task", "babyai-goto", "--task_horizon", 3, "--n", 2, "--split", "seeds:0-2")

    def evaluate(*flags):
        call_recipe("evaluate", *base, "--output_dir", folder, *flags)
        return records_of(folder), summary_of(folder)

    evaluate("--perturb", "reworded")
    records, summary = evaluate("--perturb", "distractors", "reworded")
    assert list(dict.fromkeys(r["perturb"] for r in records)) == [None, "reworded", "distractors"]
    assert list(summary["perturbed"]) == ["reworded", "distractors"]
    again, summary = evaluate()
    assert again == records and list(summary["perturbed"]) == ["reworded", "distractors"]
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records[:-3]))
    assert evaluate("--perturb", "reworded")[0] == records


def test_records_without_the_field_are_continued(perturbed, reference, evaluate, tmp_path, monkeypatch):
    """Files from before perturbations existed."""
    folder = tmp_path / "evaluation"
    shutil.copytree(reference, folder)
    old = (reference / "records.jsonl").read_text().replace('"perturb": null, ', "")
    (folder / "records.jsonl").write_text(old)
    evaluate("--max_branches", 6, "--perturb", "start_room")
    assert (folder / "records.jsonl").read_text().startswith(old)
    assert records_of(folder)[96:] == records_of(perturbed)[96:]
    monkeypatch.setattr("polytune.evaluation.records.sample_episodes", forbidden)
    evaluate("--max_branches", 6)  # what is recorded stays in the tables
    assert summary_of(folder)["perturbed"] == summary_of(perturbed)["perturbed"]


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (("--perturb", "goal"), 1, "task 'fourrooms' has no perturbation 'goal': it offers"),
        (("--perturb", "start_room", "start_room"), 2, "perturb has 'start_room' more than once"),
        (("--perturb", "start_room", "--task_args", "perturb=start_room"), 1, "name perturbations in one place"),
        (("--task", "bandit", "--split", "seeds:0-1", "--perturb", "start_room"), 1, "it offers none"),
        (("--task_args", "perturb=attic"), 1, "no perturbation 'attic'"),
    ],
)
def test_perturbations_that_cannot_be_are_refused(evaluate, capsys, monkeypatch, tmp_path, flags, status, message):
    monkeypatch.setattr("polytune.evaluation.records.sample_episodes", forbidden)
    with pytest.raises(SystemExit) as exit:
        evaluate(*flags)
    assert exit.value.code == status and message in error_line(capsys)
    assert not (tmp_path / "evaluation").exists()


def test_start_states_that_cannot_be_perturbed_are_named(evaluate, capsys, monkeypatch, tmp_path):
    def two_rooms_less(seed, perturb_seed):
        if seed in (1, 2):
            raise ValueError(f"the level of seed {seed} has no other room to start in")
        return fourrooms.generate(seed)

    monkeypatch.setattr(fourrooms, "in_another_room", two_rooms_less)
    monkeypatch.setattr("polytune.evaluation.records.sample_episodes", forbidden)
    with pytest.raises(SystemExit):
        evaluate("--perturb", "start_room", "--split", "seeds:0-3")
    said = error_line(capsys)
    assert "impossible at 2 of 4 start states (seeds 1, 2; the level of seed 1 has no other room" in said
    assert not (tmp_path / "evaluation").exists()


def test_a_perturbation_may_be_the_task_itself(evaluate, perturbed, tmp_path):
    """task_args perturb=... plays the perturbed start states alone: the same episodes."""
    alone = records_of(evaluate("--task_args", "perturb=start_room", "--max_branches", 6))
    assert [r | {"perturb": "start_room"} for r in alone] == records_of(perturbed)[96:]


def test_attempts_are_chosen_for_being_unlike(evaluate, reference, walkers, tmp_path, capsys):
    """Vectors beside the same records; a chosen set's pass@k from them, by hand; without --coreset none are there."""
    states = range(41, 43)
    folder = evaluate("--coreset", "true", "--k", 2, "--split", "seeds:41-42", output_dir=tmp_path / "coreset")
    assert "pass@k of k attempts chosen for being unlike" in capsys.readouterr().out
    found = records_of(folder)
    plain = [record for record in records_of(reference) if record["start_seed"] in states]
    assert all(len(record["vector"]) == 32 for record in found) and not any("vector" in record for record in plain)
    strip = [{name: value for name, value in record.items() if name != "vector"} for record in found]
    assert sorted(map(json.dumps, strip)) == sorted(map(json.dumps, plain))
    told = summary_of(folder)["coreset"]
    assert "coreset" not in summary_of(reference)
    for name in walkers:
        wins = []
        for state in states:
            own = [r for r in found if r["policy"] == name and r["start_seed"] == state and not r["greedy"]]
            first, second = coreset(np.array([r["vector"] for r in own]), 2)
            wins.append(own[first]["success"] or own[second]["success"])
        assert told[name]["2"]["chosen"]["estimate"] == pytest.approx(mean(wins))
