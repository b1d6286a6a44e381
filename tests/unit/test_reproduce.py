"""recipes/reproduce.py: the published figures, orderings by hand, the report, what is refused before any work."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from polytune.app.cli import parse, run
from polytune.comparison import figures as comparison
from polytune.comparison import reproduce, reproduce_report
from polytune.comparison.methods import Method
from polytune.comparison.options import ComparisonConfig
from polytune.comparison.perturbed import compare_perturbed
from polytune.comparison.published import METHOD_TITLES, PUBLISHED, Published
from polytune.comparison.runs import Run
from polytune.config import PolicyConfig, TaskConfig
from polytune.recipe import read_recipe
from polytune.running.provenance import write_json

ROOT = Path(__file__).resolve().parents[2]
SCALES = [(task, scale) for task in PUBLISHED for scale in ("tiny", "cpu", "paper")]
STARTS = 12


def figures(policy, rates, *, seeds=(0, 1, 2), moved=None):
    """Runs of a policy; ``rates``: success at each start state, ``moved``: under start_room. Returns: 0.8 success."""
    runs = []
    for seed in seeds if policy != "pretrained" else (0,):
        wobble = 0.004 * seed
        own = [{m: [f * (r + wobble) for r in row] for m, f in (("success", 1.0), ("mean_return", 0.8))}
               for row in (rates, moved or rates)]  # fmt: skip
        for values in own:
            values["pass@1"], values["pass@2"] = values["success"], [r + 0.02 for r in values["success"]]
        method = None if policy == "pretrained" else Method(policy, Path(f"{policy}.yaml"), {}, {})
        metrics = [{"step": 8, "rollout/env_steps": 100, "entropy": 0.5}] if method else []
        figure = comparison.Figures(Run(Path(policy), method, seed), list(range(STARTS)), 2, own[0], metrics, 1.0)
        runs.append(replace(figure, perturbed={"start_room": own[1]} if moved else {}))
    return runs


def level(rate):
    """Start states of unlike difficulty around a rate."""
    return [rate + 0.02 * (start % 3 - 1) for start in range(STARTS)]


PAPER = Published(
    "A task",
    mean_return={"pretrained": 0.2, "ppo": 0.4, "poly_ppo": 0.5},
    success={"pretrained": 0.3, "reinforce": 0.6, "ppo": 0.5, "poly_ppo": 0.6},
    perturbed={"start_room": {"ppo": 0.1, "poly_ppo": 0.5}},
)
OURS = {
    "pretrained": figures("pretrained", level(0.3), moved=level(0.2)),
    "reinforce": figures("reinforce", level(0.4), moved=level(0.2)),
    "ppo": figures("ppo", level(0.6), moved=level(0.5)),
    "ppo_ucb": figures("ppo_ucb", level(0.6), moved=level(0.5)),
    "poly_ppo": figures("poly_ppo", [0.1, 0.9] * 6, moved=level(0.7)),
}


def test_orderings_by_hand():
    found = {(o["measure"], o["perturb"], o["better"], o["worse"]): o for o in reproduce.orderings(PAPER, OURS)}
    success = {pair[2:]: one for pair, one in found.items() if pair[:2] == ("success", None)}
    assert success.keys() == {
        ("reinforce", "pretrained"), ("ppo", "pretrained"), ("poly_ppo", "pretrained"), ("reinforce", "ppo"),
        ("poly_ppo", "ppo"),
    }  # fmt: skip
    assert ("poly_ppo", "reinforce") not in success  # a tie in the paper
    assert success["ppo", "pretrained"]["ours"]["estimate"] == pytest.approx(0.304)
    assert success["ppo", "pretrained"]["published"] == 0.2 and success["ppo", "pretrained"]["verdict"] == "holds"
    assert success["reinforce", "ppo"]["ours"]["estimate"] == pytest.approx(-0.2)
    assert success["reinforce", "ppo"]["verdict"] == "reversed"
    assert success["poly_ppo", "ppo"]["verdict"] == "not resolved"  # .1 or .9 by start state
    returns = {pair[2:]: one for pair, one in found.items() if pair[0] == "mean_return"}
    assert returns.keys() == {("ppo", "pretrained"), ("poly_ppo", "pretrained"), ("poly_ppo", "ppo")}
    assert returns["ppo", "pretrained"]["ours"]["estimate"] == pytest.approx(0.8 * 0.304)
    moved = {pair[2:]: one for pair, one in found.items() if pair[1] == "start_room"}
    assert moved.keys() == {("poly_ppo", "ppo")} and moved["poly_ppo", "ppo"]["verdict"] == "holds"
    assert moved["poly_ppo", "ppo"]["ours"]["estimate"] == pytest.approx(0.2)
    assert moved["poly_ppo", "ppo"]["published"] == 0.4
    assert reproduce.counts(list(found.values())) == {"holds": 4, "reversed": 1, "not resolved": 4}


def test_what_was_not_perturbed_or_not_trained_has_no_ordering():
    plain = {name: [replace(f, perturbed={}) for f in own] for name, own in OURS.items() if name != "ppo"}
    found = reproduce.orderings(PAPER, plain)
    assert {one["perturb"] for one in found} == {None}
    assert not any("ppo" in (one["better"], one["worse"]) for one in found)


@pytest.mark.parametrize(
    ("ours", "word"),
    [((0.1, 0.01, 0.2), "holds"), ((0.1, 0.0, 0.2), "not resolved"), ((-0.1, -0.2, -0.01), "reversed"),
     ((0.1, None, None), "not resolved")],
)  # fmt: skip
def test_verdicts(ours, word):
    interval = dict(zip(("estimate", "low", "high"), ours, strict=True))
    assert reproduce.verdict(interval, seeds=2) == word
    assert reproduce.verdict(interval, seeds=1) == "not resolved", "another seed may differ by anything"


def test_the_report_has_both_figures_and_every_ordering():
    trained = {name: own for name, own in OURS.items() if name != "pretrained"}
    summary = comparison.compare(OURS["pretrained"][0], trained, baseline="ppo", level=0.95)
    given = (OURS["pretrained"][0], trained, ["start_room"])
    summary["perturbed"] = compare_perturbed(*given, baseline="ppo", level=0.95)
    found = reproduce.orderings(PAPER, OURS)
    content = {
        "scale": "tiny", "command": "python recipes/reproduce.py", "date": "2026-01-01", "horizon": 100,
        "env_steps": 1234, "pretraining": {"success": 0.31, "target": 0.34}, "comparison": summary, "orderings": found,
    }  # fmt: skip
    text = reproduce_report.report(content, PAPER)
    assert "cloned to 31.0 % on held-out levels (target 34.0 %: NOT reached)" in text
    assert "This scale shows that everything runs" in text and "Not tested here: k ends at 2." in text
    assert "about 0.45 would be resolved by chance" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| P")]
    first = next(row for row in rows if row[0] == "PPO")
    assert first[1] == ".400" and first[2].startswith(".483 [") and first[3] == "50.0" and first[4].startswith("60.4 [")
    assert first[5] == "+20.0" and first[6].startswith("+30.4 [")
    assert [row[1:6:2] for row in rows if row[0] == "PPO + UCB"][0] == ["-", "-", "-"]  # not in the paper's table
    moved = [row for row in rows if row[0] == "PPO"][1]
    assert moved[1] == "10.0" and moved[2].startswith("50.4 [") and moved[3] == "-40.0"
    assert moved[4].startswith("-10.0 [")
    assert "Of the paper's 9 ordered pairs 4 hold, 1 reversed, 4 not resolved" in text
    reversed_ones = text.split("**reversed**")[1].split("**not resolved**")[0]
    assert "- success: REINFORCE > PPO (paper +10.0, ours -20.0 [" in reversed_ones
    assert "- success under start_room: Poly-PPO, whole episodes > PPO (paper +40.0, ours +20.0 [" in text
    differences = text.split("Differences to PPO, in percentage points")[1].split("## What holds")[0]
    assert "| Poly-PPO, whole episodes | -10.0 [" in differences and "| pretrained |" not in differences
    other = reproduce_report.report(content | {"scale": "cpu", "pretraining": {"success": 0.34, "target": 0.34}}, PAPER)
    assert "34.0 %: reached" in other and "This scale" not in other
    assert text.count("\n- ") == len(found) and "1,234 environment steps" in text


def test_near_ties_of_the_paper_are_marked():
    found = [
        {"measure": "success", "perturb": None, "better": "ppo", "worse": "reinforce", "published": published,
         "ours": {"estimate": 0.1, "low": 0.05, "high": 0.15}, "verdict": "holds"} for published in (0.004, 0.04)
    ]  # fmt: skip
    near, clear = reproduce_report.ordering_lines(found, "holds")
    assert near == "- success: PPO > REINFORCE (paper +0.4, nearly a tie, ours +10.0 [+5.0, +15.0])"
    assert "tie" not in clear


def test_published_figures_are_those_of_the_paper():
    """Table 1 and the perturbation table, as they are printed."""
    printed = {
        "babyai-goto": ".246 34.2 .533 73.0 .406 46.2 .575 80.2 .561 76.2 / 30.2 41.3 21.1 60.6",
        "babyai-pickup": ".141 21.4 .259 39.8 .283 33.4 .452 63.2 .486 65.6 / 15.2 22.0 12.5 33.4",
        "babyai-bosslevel": "- 20.6 .266 33.4 .336 38.8 .378 45.2 .379 46.8 /",
        "fourrooms": ".469 70.4 .639 89.6 .618 89.2 .666 92.4 .667 93.2 / 65.0 82.7 15.3 88.7",
    }
    order = ["pretrained", "reinforce", "ppo", "poly_ppo", "poly_ppo_ucb"]
    assert printed.keys() == PUBLISHED.keys() and set(order) < METHOD_TITLES.keys()
    for task, line in printed.items():
        table, moved = (half.split() for half in line.split("/"))
        own = PUBLISHED[task]
        returns = [own.mean_return.get(name) for name in order]
        assert returns == [None if word == "-" else float(word) for word in table[::2]]
        assert [own.success[name] for name in order] == [pytest.approx(float(word) / 100) for word in table[1::2]]
        perturbed = own.perturbed.get("start_room", {})
        assert [perturbed[name] for name in order[: len(moved)]] == [pytest.approx(float(w) / 100) for w in moved]
        ours = {"poly_ppo_equally_spaced"}  # the paper's Poly-PPO once more: both of ours are held against it
        assert len(perturbed.keys() - ours) == len(moved)
        for row in (own.mean_return, own.success, perturbed):
            assert row.get("poly_ppo_equally_spaced") == row.get("poly_ppo")


# ---------------------------------------------------------------- the recipe and its YAML files


@pytest.fixture
def call(monkeypatch):
    """recipes/reproduce.py in this process, in the repository's folder; its stages only say what they would do."""
    monkeypatch.chdir(ROOT)
    spec = importlib.util.spec_from_file_location("recipe_reproduce", ROOT / "recipes/reproduce.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    calls = []

    def fake(words):
        calls.append([str(word) for word in words])
        return fake.status

    fake.status, fake.calls = 3, calls
    monkeypatch.setattr("polytune.running.run_queue.run_attached", fake)
    return lambda *flags: run(module.main, [str(flag) for flag in flags]), fake


@pytest.mark.parametrize(("task", "scale"), SCALES)
def test_every_scale_is_whole(task, scale, call, capsys, tmp_path):
    """Both files agree with each other, and everything up to the first stage is accepted."""
    main, fake = call
    with pytest.raises(SystemExit):
        main("--task", task, "--scale", scale, "--output_dir", tmp_path, "--seeds", 3, "--workers", 1)
    assert "recipes/pretrain.py ended with status 3" in capsys.readouterr().err
    [words] = fake.calls
    assert words[-2:] == ["--output_dir", f"{tmp_path}/pretrained"]
    found = reproduce.find_recipes(ROOT / "recipes/reproduce", task, scale)
    pretrain, compare = (read_recipe(path) for path in found)
    assert compare["model"] == pretrain["output_dir"] == f"outputs/reproduce/{task}_{scale}/pretrained"
    assert compare["output_dir"] == f"outputs/reproduce/{task}_{scale}/comparison"
    names = [Path(path).stem for path in compare["methods"]]
    assert (
        set(names) <= METHOD_TITLES.keys()
        and len(names) == {"tiny": 4, "cpu": 7 if task == "fourrooms" else 3, "paper": 7}[scale]
    )
    _, _, config = parse((TaskConfig, PolicyConfig, ComparisonConfig), ["--config", str(found.compare)], description="")
    if scale != "tiny":  # the paper's protocol
        assert compare["task_horizon"] == 100 and len(config.seeds) == 1 and config.seeds == ["10-14"]
        assert pretrain["target_success"] == pytest.approx(PUBLISHED[task].success["pretrained"], abs=0.02)
    assert config.perturb == list(PUBLISHED[task].perturbed)  # none for BossLevel: the paper has no figure


@pytest.mark.parametrize("folder", ["fourrooms", "babyai"])
@pytest.mark.parametrize("name", ["reinforce", "ppo", "poly_ppo"])
def test_ucb_is_the_only_difference(folder, name):
    plain, ucb = (read_recipe(ROOT / f"recipes/{folder}/{n}.yaml") for n in (name, f"{name}_ucb"))
    assert ucb.pop("output_dir") == f"{plain.pop('output_dir')}_ucb"
    assert ucb == plain | {"methods": ["ucb"], "method_args": ["ucb.coef=0.1"]}


def test_both_stages_are_run_and_read(call, tmp_path, capsys):
    """A comparison that is there already: the report is made of its records."""
    main, fake = call
    fake.status = 0
    out = tmp_path / "out"
    (out / "pretrained").mkdir(parents=True)
    write_json(out / "pretrained/pretrain.json", {"success": 0.4, "target": 0.2})
    runs = {"pretrained": [Run(out / "comparison/pretrained")]}
    for name in ("ppo", "poly_ppo"):
        method = Method(name, Path(f"recipes/fourrooms/{name}.yaml"), {}, {})
        runs[name] = [Run(out / f"comparison/{name}/seed_{seed}", method, seed) for seed in (0, 1)]
    for name, own in runs.items():
        for one in own:
            write_records(one, {"pretrained": 2, "ppo": 3, "poly_ppo": 4}[name])
    read = {name: [comparison.read_figures(one) for one in own] for name, own in runs.items()}
    trained = {name: own for name, own in read.items() if name != "pretrained"}
    summary = comparison.compare(read["pretrained"][0], trained, baseline="ppo", level=0.95)
    given = (read["pretrained"][0], trained, ["start_room"])
    summary["perturbed"] = compare_perturbed(*given, baseline="ppo", level=0.95)
    summary["methods"] = {name: {"config": f"recipes/fourrooms/{name}.yaml"} for name in trained}
    write_json(out / "comparison/summary.json", summary)
    main("--scale", "tiny", "--output_dir", out, "--keep", tmp_path / "kept/report.json")
    assert [words[2:4] for words in fake.calls] == [["-m", "polytune.app.pretrain"], ["-m", "polytune.app.compare"]]
    assert fake.calls[1][-4:] == ["--model", f"{out}/pretrained", "--output_dir", f"{out}/comparison"]
    found = json.loads((out / "report.json").read_text())
    assert found == json.loads((tmp_path / "kept/report.json").read_text()) and str(tmp_path) not in json.dumps(found)
    assert found["counts"]["holds"] == sum(one["verdict"] == "holds" for one in found["orderings"]) > 0
    assert found["pretraining"]["success"] == 0.4 and found["pretraining"]["num_demonstrations"] == 200
    assert found["versions"]["torch"] and found["comparison"]["seeds"] == [0, 1] and found["published"]["success"]
    gap = next(
        o for o in found["orderings"] if (o["measure"], o["better"], o["worse"]) == ("success", "poly_ppo", "ppo")
    )
    assert gap["ours"]["estimate"] == pytest.approx(0.25) and gap["published"] == pytest.approx(0.032)
    printed = capsys.readouterr().out
    assert (out / "report.md").read_text() in printed and "== compare: python recipes/compare.py" in printed


def write_records(one, wins, samples=4, starts=10):
    """Records in which every start state is solved ``wins`` times of 4, with and without the perturbation."""
    one.records.parent.mkdir(parents=True)
    lines = [
        {"policy": one.policy_name, "perturb": perturb, "start_seed": start, "attempt": attempt, "greedy": attempt < 0,
         "success": attempt < wins, "return": 0.7 * (attempt < wins), "turns": 10, "signature": [0],
         "invalid_actions": 0, "logprob": -4.0}
        for perturb in (None, "start_room") for attempt in range(-1, samples) for start in range(starts)
    ]  # fmt: skip
    one.records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if one.method is not None:
        row = {"step": 4, "rollout/env_steps": 500, "entropy": 0.4}
        (one.folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--task", "fiverooms"], ["task is 'fiverooms'", "babyai-goto", "fourrooms"]),
        (["--scale", "huge"], ["scale is 'huge'", "the scales of fourrooms are cpu, paper, tiny"]),
        (["--scal", "tiny"], ["'--scal'", "did you mean"]),
        (["--workers", "0"], ["workers must be an integer of at least 1"]),
        (["--seeds", "1", "1"], ["seeds names 1 more than once"]),
        (["--keep", "/dev/null/x.json"], ["keep is '/dev/null/x.json'"]),
        (["--keep", "report"], ["keep must name a .json file"]),
    ],
)
def test_mistakes_are_one_line_before_any_work(call, flags, words, capsys, tmp_path):
    main, fake = call
    with pytest.raises(SystemExit) as exit:
        main("--output_dir", tmp_path / "out", *flags)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert exit.value.code in (1, 2) and len(lines) == 1 and lines[0].startswith("error: "), lines
    assert all(word in lines[0] for word in words), lines[0]
    assert fake.calls == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("compare", "task: fourrooms", "task: bandit"), ["is for task 'bandit', not 'fourrooms'"]),
        (("pretrain", "task: fourrooms", "task: bandit"), ["is for task 'bandit', not 'fourrooms'"]),
        (("compare", "perturb: start_room", "perturb: attic"), ["no perturbation 'attic'"]),
        (("compare", "recipes/fourrooms/ppo.yaml", "recipes/fourrooms/pqo.yaml"), ["pqo.yaml' does not exist"]),
        (("compare", "seeds: 2", "seats: 2"), ["unknown key 'seats'", "did you mean"]),
        (("compare", "max_env_steps=4800", "max_env_steps=480000"), ["method ppo", "max_env_steps is 480000"]),
        (("compare", "num_updates=2", "num_updatez=2"), ["method ppo", "--num_updatez", "did you mean num_updates"]),
    ],
)
def test_yaml_files_that_do_not_fit_are_refused(call, change, words, capsys, tmp_path):
    main, fake = call
    folder = tmp_path / "recipes" / "fourrooms"
    folder.mkdir(parents=True)
    for stage in ("pretrain", "compare"):
        text = (ROOT / f"recipes/reproduce/fourrooms/tiny_{stage}.yaml").read_text()
        (folder / f"tiny_{stage}.yaml").write_text(text.replace(*change[1:]) if stage == change[0] else text)
    with pytest.raises(SystemExit):
        main("--scale", "tiny", "--recipes", folder.parent, "--output_dir", tmp_path / "out")
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert fake.calls == []


def test_help_shows_commands_and_fields(call, capsys):
    with pytest.raises(SystemExit) as exit:
        call[0]("--help")
    text = capsys.readouterr().out
    assert exit.value.code == 0 and "python recipes/reproduce.py --task fourrooms --scale tiny" in text
    assert all(field in text for field in ("--task", "--scale", "--seeds", "--workers", "--keep", "--output_dir"))
