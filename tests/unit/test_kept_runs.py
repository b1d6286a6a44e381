"""Finished runs as small files: the same table from them, only what is missing is run, other runs are refused."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from test_comparison import fabricate

from polytune.app import evaluate
from polytune.app.cli import parse
from polytune.comparison import figures, runs, table
from polytune.comparison.kept import KeptRuns
from polytune.comparison.methods import Method
from polytune.comparison.options import ComparisonConfig
from polytune.config import TaskConfig
from polytune.evaluation.options import EvaluationConfig
from polytune.evaluation.records import check_repeats, read_records
from polytune.report import analysis
from polytune.report.analysis import analyse_recorded
from polytune.run import RunConfig
from polytune.running.identity import STARTS, contents, digest_of_starts, same_weights
from polytune.running.provenance import CONTENT, fingerprint, record_run, set_aside_other_run, write_json
from polytune.tasks import load_task

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def method():
    config = ROOT / "recipes/fourrooms/ppo.yaml"
    job = RunConfig.read(parse, ["--config", str(config), "--model", "policy"], description="")
    return Method("ppo", config, {}, job.settings)


class Bench:
    """A comparison of one method in a folder of its own; ``finish`` fabricates a run without any training."""

    def __init__(self, method, **changes):
        self.config = ComparisonConfig(n=8, keep_runs="kept", **changes)
        self.programs = runs.Programs("policy", ["--task", "fourrooms"], [], self.config)
        self.kept, self.method = KeptRuns("kept", self.programs), method

    def plan(self, out, seeds=(10, 11)):
        return runs.plan_runs([self.method], seeds, Path(out))

    def finish(self, run):
        fabricate(run, skill=0.3)
        lines = [json.loads(line) for line in run.records.read_text().splitlines()]
        more = [{"said": f"{12 if i == 24 else i:016x}"} for i in range(len(lines))]  # start 0, attempts 0 and 1
        run.records.write_text("".join(json.dumps(a | b) + "\n" for a, b in zip(lines, more, strict=True)))
        sampled = {"settings": {"task": {"task": "fourrooms"}, "evaluation": {"n": 8}}, "policies": []}
        write_json(run.folder / "evaluation/evaluation_run.json", sampled)
        policy = self.programs.pretrained
        if run.method is not None:
            record_run(run.folder, self.programs.settings(run), ["finetune", "--model", str(Path("policy").resolve())])
            (run.folder / "model.safetensors").write_bytes(run.name.encode())
            policy = fingerprint(run.folder)
        runs.write_note(
            run, pretrained=self.programs.pretrained, trained=policy, evaluated=[self.programs.sampling(), policy]
        )

    def table(self, planned):
        pretrained, *own = (figures.read_figures(run) for run in planned)
        return table.report(figures.compare(pretrained, {"ppo": own}, baseline="ppo", level=0.95), "t")


@pytest.fixture
def bench(method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("policy").mkdir()
    Path("policy/model.safetensors").write_bytes(b"weights")
    made = Bench(method)
    for run in made.plan("first"):
        made.finish(run)
    made.kept.settle(made.plan("first"))
    return made


def test_kept_runs_make_the_same_table_in_a_fresh_folder(bench, tmp_path):
    first, second = bench.plan("first"), bench.plan("second")
    assert sorted(path.name for path in Path("kept").iterdir()) == ["ppo-10", "ppo-11", "pretrained"]
    assert not list(Path("kept").rglob("*.safetensors"))
    assert all(str(tmp_path) not in path.read_text() for path in Path("kept").rglob("*.json"))
    assert not any(bench.programs.is_done(run) for run in second)
    bench.kept.settle(second)
    assert all(bench.programs.is_done(run) for run in second)
    assert bench.table(second) == bench.table(first)
    before, after = (read_records(runs_[1].records) for runs_ in (first, second))
    assert [r | {"said": 0} for r in before] == [r | {"said": 0} for r in after]
    alike = [[(a["start_seed"], a["said"]) == (b["start_seed"], b["said"]) for a in own for b in own]
             for own in (before, after)]  # fmt: skip
    assert alike[0] == alike[1] and any(alike[0])
    content = {path: path.read_bytes() for path in Path("kept").rglob("*.*")}
    bench.kept.settle(second)  # a third sitting changes nothing
    assert {path: path.read_bytes() for path in Path("kept").rglob("*.*")} == content
    for run in second:
        bench.programs.check(run)


def test_only_what_is_missing_is_run(bench):
    shutil.rmtree("kept/ppo-11")
    planned = bench.plan("second", seeds=(10, 11, 12))
    bench.kept.settle(planned)
    assert [run.name for run in planned if not bench.programs.is_done(run)] == ["ppo seed 11", "ppo seed 12"]
    bench.finish(planned[2])
    bench.kept.keep(planned[2])
    assert Path("kept/ppo-11").is_dir() and not list(Path("kept").glob(".*"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"learning_rate": 0.5},
            ["kept/ppo-10 keeps another run than ppo seed 10", "learning_rate was 0.0001, now 0.5"],
        ),
        ({"critic": "own"}, ["critic was 'head', now 'own'"]),
    ],
)
def test_a_changed_field_is_refused(bench, change, words):
    trainer = copy.copy(bench.method.settings["trainer"])
    for name, value in change.items():
        setattr(trainer, name, value)
    other = Bench(replace(bench.method, settings=dict(bench.method.settings) | {"trainer": trainer}))
    for folder in ("second", "third"):
        with pytest.raises(ValueError) as error:
            other.kept.settle(other.plan(folder))
        assert all(word in str(error.value) for word in words), error.value
        assert not Path(folder).exists()
    bench.kept.settle(bench.plan("second"))  # laid out, and then asked for with other fields
    with pytest.raises(ValueError, match="second/ppo/seed_10 keeps another run"):
        other.programs.check(other.plan("second")[1])


def test_other_samples_and_another_pretrained_policy_are_refused(bench, method):
    other = Bench(method)
    other.config.n = 9
    with pytest.raises(ValueError, match="ppo seed 10 would be now .it was sampled with --n 8, now 9.: give what it"):
        other.kept.settle(other.plan("second"))
    with pytest.raises(ValueError, match="sampled with --perturb None, now start_room"):
        (more := Bench(method, perturb=["start_room"])).kept.settle(more.plan("second"))
    more.kept.settle(more.plan("first"))  # the policies are there: they are sampled once more, and kept again
    assert not any(more.programs.is_done(run) for run in more.plan("first"))
    Path("policy/model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ValueError, match="policy, the pretrained policy, had fingerprint"):
        (other := Bench(method)).kept.settle(other.plan("second"))


def test_another_policy_of_the_same_run_is_refused(bench):
    planned = bench.plan("second")
    bench.finish(planned[1])
    (planned[1].folder / "model.safetensors").write_bytes(b"of another machine")
    runs.write_note(planned[1], trained=fingerprint(planned[1].folder))
    with pytest.raises(ValueError, match=r"its policy has fingerprint \w+, that of second/ppo/seed_10"):
        bench.kept.settle(planned)


def test_a_field_that_came_later_stands_at_its_default(bench):
    path = Path("kept/ppo-10/run.json")
    told = json.loads(path.read_text())
    del told["trainer"]["critic_passes"]  # at its default
    path.write_text(json.dumps(told))
    bench.kept.settle(bench.plan("second"))
    del told["trainer"]["learning_rate"]  # not at its default
    path.write_text(json.dumps(told))
    with pytest.raises(ValueError, match="learning_rate was"):
        bench.kept.settle(bench.plan("third"))


def test_a_flag_of_sampling_that_came_later_stands_at_its_default(bench, method):
    for later, fits in (["--chat_date", "2026-01-01"], True), (["--max_branches", "7"], False):
        other = Bench(method)
        other.programs.shared += later
        planned = other.plan("-".join(later))
        if fits:
            other.kept.settle(planned)
            assert all(other.programs.is_done(run) for run in planned)
        else:
            with pytest.raises(ValueError, match="sampled with --max_branches 256, now 7"):
                other.kept.settle(planned)


@pytest.mark.parametrize("name", ["records.jsonl.bz2", "metrics.jsonl.bz2", "run.json", "comparison_run.json"])
@pytest.mark.parametrize("damage", [None, 30])
def test_damage_is_told_before_any_work(bench, name, damage):
    path = Path("kept/ppo-10", name)
    content = path.read_bytes()
    path.unlink()
    if damage:
        path.write_bytes(content[:damage])
    with pytest.raises(ValueError, match="ppo-10.* cannot be (read|unpacked)"):
        bench.kept.settle(bench.plan("second"))
    assert not Path("second").exists()


def test_whole_numbers_of_metrics_stay_exact_and_others_are_short(bench):
    planned = bench.plan("third")
    bench.finish(planned[1])
    (planned[1].folder / "metrics.jsonl").write_text(
        '{"step": 480, "rollout/env_steps": 1000037.0, "entropy": 0.123456789, "groups/x": NaN, "x": null}\n'
    )
    shutil.rmtree("kept")
    bench.kept.keep(planned[1])
    bench.kept.settle(fresh := bench.plan("fourth"))
    [line] = (fresh[1].folder / "metrics.jsonl").read_text().splitlines()
    assert line == '{"step": 480, "rollout/env_steps": 1000037.0, "entropy": 0.123457, "groups/x": NaN, "x": null}'


def test_actions_of_perturbed_attempts_are_left_out(bench):
    run = bench.plan("third")[1]
    bench.finish(run)
    lines = [json.loads(line) | {"actions": "left right"} for line in run.records.read_text().splitlines()]
    moved = [line | {"perturb": "start_room"} for line in lines]
    run.records.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *moved]))
    shutil.rmtree("kept")
    bench.kept.keep(run)
    plain, perturbed = list(read_records(Path("kept/ppo-10/records.jsonl.bz2")))[:: len(lines)]
    assert plain["actions"] == "left right" and plain.get("perturb") is None
    assert perturbed == {k: v for k, v in plain.items() if k != "actions"} | {"perturb": "start_room"}


def test_kept_records_are_analysed_like_others(bench, capsys):
    kept = Path("kept/ppo-10")
    check_repeats(read_records(kept / "records.jsonl.bz2"))
    for entry in (kept, kept / "records.jsonl.bz2"):
        config = EvaluationConfig(from_records=str(entry), output_dir=f"audit-{entry.name}", n=8)
        with pytest.raises(ValueError, match="is not finished: .* 12 of 50"):  # the fabricated evaluation has 12
            analyse_recorded(TaskConfig(), config, ["evaluate"])
    with pytest.raises(ValueError, match="is packed, or was set aside"):
        analyse_recorded(TaskConfig(), EvaluationConfig(from_records=str(kept), n=8), ["evaluate"])


def of_split(method, split, starts, training=None):
    """A bench whose runs begin at ``starts``, as the split says that they are asked for with."""
    made = Bench(method)
    made.programs = runs.Programs(
        "policy",
        ["--task", "fourrooms", "--split", split],
        [],
        made.config,
        {STARTS: digest_of_starts(starts), runs.TRAINING_STARTS: digest_of_starts(training or starts)},
        starts,
    )
    made.kept = KeptRuns("kept", made.programs)
    return made


@pytest.fixture
def by_file(bench, method):
    """A comparison on the start states of a file, run and kept; what it notes of them, its notes have."""
    shutil.rmtree("kept")
    made = of_split(method, "mine.jsonl", range(12))
    for run in made.plan("by_file"):
        made.finish(run)
        runs.write_note(run, content=made.programs.content)
    made.kept.settle(made.plan("by_file"))
    return made


@pytest.mark.parametrize("noted", [True, False])
def test_a_split_file_with_other_start_states_is_another_split(by_file, method, noted):
    if not noted:  # notes of before start states were noted: the records tell
        paths = [*Path("kept").glob("*/comparison_run.json"), *Path("by_file").rglob("comparison_run.json")]
        for path in paths:
            write_json(path, json.loads(path.read_text()) | {"content": {}})
    same = of_split(method, "mine.jsonl", range(12))
    for run in same.plan("by_file"):
        same.programs.check(run)
    same.kept.settle(same.plan("second"))
    rewritten = of_split(method, "mine.jsonl", range(4, 16))
    for run in rewritten.plan("by_file"):
        with pytest.raises(ValueError, match=f"{run.folder} was run before start states changed"):
            rewritten.programs.check(run)
    elsewhere = of_split(method, str(Path("/elsewhere/mine.jsonl")), range(4, 16))
    with pytest.raises(ValueError, match="pretrained keeps another run than .*start states changed.: give what"):
        elsewhere.kept.settle(elsewhere.plan("third"))
    assert not Path("third").exists()


def test_other_start_states_of_training_are_another_run(by_file, method):
    other = of_split(method, "mine.jsonl", range(12), training=range(13))
    pretrained, first, _ = other.plan("by_file")
    other.programs.check(pretrained)
    with pytest.raises(ValueError, match="was run before start states of training changed"):
        other.programs.check(first)
    with pytest.raises(ValueError, match="ppo-10 keeps another run than .*start states of training changed"):
        other.kept.settle(other.plan("second"))


def test_the_pretrained_policy_is_sampled_anew_on_another_split(by_file, method):
    other = of_split(method, "other.jsonl", range(4, 16))
    pretrained = other.plan("by_file")[0]
    other.programs.check(pretrained)
    assert not other.programs.is_done(pretrained)


def test_no_table_of_other_start_states_than_asked_for(bench):
    run = bench.plan("first")[1]
    assert figures.read_figures(run, starts=range(12)).starts == list(range(12))
    for starts in (range(11), range(1, 13)):
        with pytest.raises(ValueError, match=r"records.jsonl has attempts at 12 start states from seed 0 on, .*remove"):
            figures.read_figures(run, starts=starts)


def test_what_a_run_depends_on_names_its_start_states_in_order():
    task = load_task("bandit", horizon=1)
    assert STARTS not in contents(task)
    told = [contents(task, starts)[STARTS] for starts in ([1, 2, 12], [1, 2, 12], [2, 1, 12], [1, 21, 2])]
    assert told[0] == told[1] and len(set(told)) == 3


TEXTS = ["chat_template.jinja", "additional_chat_templates/tools.jinja", "vocab.json", "merges.txt", "tokenizer.model",
         "special_tokens_map.json"]  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_a_policy_of_another_chat_template_or_tokenizer_is_another_policy(bench, method, name):
    before = fingerprint("policy")
    file = Path("policy") / name
    file.parent.mkdir(exist_ok=True)
    told = []
    for text in ("one", "two", "one"):
        file.write_text(text)
        told.append(fingerprint("policy"))
    assert told[0] == told[2] != told[1] and before not in told
    assert all(own.startswith(f"{before}+") for own in told)  # what it was, and what came to it
    notes = {"pretrained": before}, {"pretrained": told[0]}, {"pretrained": told[1]}
    noted = {STARTS: "12 with digest x"}
    known = [same_weights(note["pretrained"], told[0], content) for content in ({}, noted) for note in notes]
    assert known == [True, True, False, False, True, False]


def test_an_adapter_is_another_policy_on_a_base_with_another_chat_template(bench):
    Path("adapter").mkdir()
    Path("adapter/adapter_model.safetensors").write_bytes(b"adapter")
    Path("adapter/adapter_config.json").write_text('{"base_model_name_or_path": "policy"}')
    before = fingerprint("adapter")
    Path("policy/chat_template.jinja").write_text("one")
    assert "+" not in before and fingerprint("adapter").startswith(f"{before}+")


def test_runs_of_before_templates_counted_are_done_and_later_ones_with_another_template_are_not(bench, method):
    Path("policy/chat_template.jinja").write_text("one")
    old = Bench(method)
    assert all(old.programs.is_done(run) for run in old.plan("first"))
    old.kept.settle(old.plan("second"))
    made = of_split(method, "train", range(12))
    planned = made.plan("third")
    for run in planned:
        made.finish(run)
        runs.write_note(run, content=made.programs.content)
    assert all(made.programs.is_done(run) for run in planned)
    Path("policy/chat_template.jinja").write_text("two")
    edited = of_split(method, "train", range(12))
    assert not edited.programs.is_done(planned[0])
    with pytest.raises(ValueError, match="was trained from another pretrained policy"):
        edited.programs.check(planned[1])


def test_an_evaluation_of_a_policy_with_another_template_is_set_aside(bench, tmp_path):
    Path("policy/chat_template.jinja").write_text("one")
    settings = {"task": TaskConfig(), CONTENT: {STARTS: "12 with digest x"}}
    for text, aside in (("one", False), ("one", False), ("two", True)):
        Path("policy/chat_template.jinja").write_text(text)
        found = set_aside_other_run("evaluation", settings, {"a": fingerprint("policy")})
        assert Path("evaluation/records-1.jsonl").exists() == aside and not found.alike or not aside
        Path("evaluation/records.jsonl").touch()
    old = fingerprint("policy").partition("+")[0]
    path = Path("evaluation/evaluation_run.json")
    note = json.loads(path.read_text()) | {"policies": [["a", old]]}
    note["settings"][CONTENT] = {}
    write_json(path, note)
    set_aside_other_run("evaluation", settings, {"a": fingerprint("policy")})
    assert not Path("evaluation/records-2.jsonl").exists()
    assert json.loads(path.read_text())["policies"] == [["a", fingerprint("policy")]]


@pytest.fixture
def evaluated(bench):
    """An evaluation that noted seed 7, of start states 0 to 11."""
    folder = bench.plan("first")[1].records.parent
    told = {"task": {"task": "fourrooms", "split": "seeds:0-11"}, "evaluation": {"n": 8, "seed": 7}}
    write_json(folder / "evaluation_run.json", {"settings": told, "policies": []})
    return folder


@pytest.mark.parametrize(("words", "seed"), [([], 7), (["--seed", "0"], 0), (["--seed", "3"], 3)])
def test_a_bootstrap_takes_the_seed_that_is_asked_for(evaluated, monkeypatch, words, seed):
    found = []
    monkeypatch.setattr(analysis, "analyse", lambda task, records, config, *more, **kept: found.append(config.seed))
    evaluate.main(["--from_records", str(evaluated), *words])
    assert found == [seed]


def test_records_of_start_states_that_the_split_does_not_have_any_more_are_not_analysed(evaluated):
    note = json.loads((evaluated / "evaluation_run.json").read_text())
    note["settings"]["task"]["split"] = "seeds:4-15"
    write_json(evaluated / "evaluation_run.json", note)
    with pytest.raises(ValueError, match=r"4 start states that its split does not have now .seed \[0\]"):
        evaluate.main(["--from_records", str(evaluated)])
