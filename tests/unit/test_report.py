"""The report without a browser: its numbers are those of summary, records and logs; what is foreign stays text."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
import vl_convert
from PIL import Image
from test_comparison import fabricate
from test_evaluation_summary import records

from polytune.comparison.figures import compare, read_figures
from polytune.comparison.methods import Method
from polytune.comparison.runs import Run
from polytune.evaluation import summarise
from polytune.evaluation.summary import per_start
from polytune.report import Page, as_html, charts, of_comparison, of_evaluation, parts, tracks, write_page
from polytune.report import runs as run_files
from polytune.report.page import Html, command, folded, grid, paragraphs, table
from polytune.running.provenance import origin, write_json
from polytune.tasks import load_task

HOSTILE = '</script><script>alert("x")</script><b>&'


def interval(estimate, reach=0.1):
    return {"estimate": estimate, "low": estimate - reach, "high": estimate + reach}


def walk(task, start, actions):
    """A record of a sampled episode, as evaluate.py writes it."""
    episode = task.start(start)
    for action in actions:
        if episode.done:
            break
        episode.step(action)
    return {
        "policy": "walker", "start_seed": start, "attempt": 0, "greedy": False, "return": 0.0, "turns": episode.turn,
        "success": episode.stop_reason == "success", "signature": sorted(episode.signature()), "invalid_actions": 0,
        "actions": " ".join(actions[: episode.turn]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def fourrooms():
    return load_task("fourrooms", horizon=12)


def expert_walk(task, start, most):
    episode, actions = task.start(start), []
    while len(actions) < most and not episode.done:
        actions.append(task.expert(episode))
        episode.step(actions[-1])
    return actions


# ---------------------------------------------------------------- pages


def test_what_is_foreign_stays_text():
    page = Page(HOSTILE, HOSTILE)
    section = page.section("a", HOSTILE, HOSTILE)
    section.parts += [table([[HOSTILE, "x"], [HOSTILE, HOSTILE]], caption=HOSTILE)]
    section.parts += [page.widget("maps", [HOSTILE]), page.chart({"description": HOSTILE})]
    section.parts += [command(HOSTILE), paragraphs([HOSTILE]), folded(HOSTILE, [HOSTILE]), grid([HOSTILE])]
    section.parts += [parts.cards({HOSTILE: [(HOSTILE, HOSTILE)]}), parts.legend([HOSTILE], [HOSTILE]), HOSTILE]
    html = as_html(page)
    assert HOSTILE not in html and 'alert("x")' not in html.replace('alert(\\"x\\")', "")

    class Tags(HTMLParser):
        scripts = 0

        def handle_starttag(self, tag, attrs):
            self.scripts += tag == "script"

    tags = Tags()
    tags.feed(html)
    assert tags.scripts == 3  # data, library, our own
    data = html.split('id="report-data">')[1].split("</script>")[0]
    assert json.loads(data)["data"] == {"maps1": [HOSTILE]}


def test_sections_without_parts_are_left_out_and_numbers_that_json_lacks_are_refused():
    page = Page("a", "b")
    page.section("empty", "Nothing here")
    page.section("full", "Something").parts.append(Html("<p>here</p>"))
    html = as_html(page)
    assert "Nothing here" not in html and html.count("Something") == 2 and "vegaEmbed(" in html
    assert "window.vegaEmbed" not in html.split("</style>")[0] and len(html) < 60_000  # no charts, no library
    page.widget("maps", float("nan"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_html(page)


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("before")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_page(Page("a", "b"), path)
    assert path.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["report.html"]


# ---------------------------------------------------------------- charts


def test_half_a_character_does_not_keep_a_page_from_being_written(tmp_path):
    write_page(Page("a", "half \udfff"), tmp_path / "page.html")
    assert "half \\udfff" in (tmp_path / "page.html").read_text()


def test_every_chart_is_valid_vega_lite_and_holds_the_numbers():
    curves = {name: {1: interval(0.4), 2: interval(0.6)} for name in "ab"}
    training = [{"policy": "a", "seed": None, "steps": 10, "update": 1, "value": 0.5}]
    found = [{"policy": "a", "samples": 8, **interval(3.0)}, {"policy": "a", "samples": 16, **interval(5.0)}]
    specs = [
        charts.curves_over_k("t", curves, "pass@k"),
        charts.curves_over_k("t", {"a": {1: interval(0.5)}}, "pass@k"),
        charts.differences_over_k("t", {"b": curves["b"]}, ["a", "b"]),
        charts.success_by_start({"a": [0.1, 0.9], "b": [0.2, 0.3]}, [7, 3], "start states"),
        charts.bars("t", {"a": interval(0.5)}, "share", rule=0.3),
        charts.found_over_samples("t", found, ["a"], "objects", 9),
        charts.training_curve("t", training, ["a"], several=True),
        charts.signal_causes("t", [{"update": 1, "cause": "scores tie", "share": 0.5}]),
    ]
    for spec in specs:
        compiled = vl_convert.vegalite_to_vega(spec)
        assert compiled["marks"], spec["title"]
        json.dumps(spec, allow_nan=False)
    rows = specs[0]["data"]["values"]
    assert {(r["policy"], r["k"], r["estimate"], r["low"], r["high"]) for r in rows} == {
        (name, k, value, round(value - 0.1, 5), round(value + 0.1, 5))
        for name in "ab"
        for k, value in ((1, 0.4), (2, 0.6))
    }
    by_start = [(r["policy"], r["place"], r["start"], r["share"]) for r in specs[3]["data"]["values"]]
    assert by_start == [("a", 1, 3, 0.9), ("a", 2, 7, 0.1), ("b", 1, 3, 0.3), ("b", 2, 7, 0.2)]


def test_an_interval_without_ends_is_drawn_as_a_point():
    spec = charts.curves_over_k("t", {"a": {1: {"estimate": 0.5, "low": None, "high": None}, 2: interval(0.6)}}, "y")
    assert spec["data"]["values"][0] == {"policy": "a", "k": 1, "estimate": 0.5, "low": None, "high": None}
    assert parts.interval({"estimate": 0.5, "low": None, "high": None}) == '<b>0.500</b><span class="ci"></span>'
    assert parts.gap(interval(0.05)).startswith('<span class="open">')
    assert parts.gap(interval(0.2)).startswith('<span class="up">')
    assert parts.gap(interval(-0.2)).startswith('<span class="down">')


# ---------------------------------------------------------------- maps and trees


def test_paths_are_where_the_agent_was(fourrooms):
    start = 3
    actions = expert_walk(fourrooms, start, 12)
    found = tracks.paths_at(fourrooms, start, {"walker": [walk(fourrooms, start, actions)]})
    x, y, moves = found["panels"][0]["tracks"][0]["p"]
    episode, cell = fourrooms.start(start), [x, y]
    assert len(moves) == len(actions)
    for action, move in zip(actions, moves, strict=True):
        assert tuple(cell) == tuple(episode.env.agent_pos)
        episode.step(action)
        step = {letter: delta for delta, letter in tracks.MOVES.items()}[move]
        cell = [cell[0] + step[0], cell[1] + step[1]]
    assert tuple(cell) == tuple(episode.env.agent_pos)
    assert (found["map"]["w"], found["map"]["h"]) == (19, 19)
    assert found["signatures"] == [tracks.signature_label(sorted(episode.signature()))]


def test_the_map_is_a_picture_whose_floor_lets_the_page_shine_through(fourrooms, tmp_path):
    import base64

    png = tracks.map_data(fourrooms.start(3), {})["png"]
    (tmp_path / "map.png").write_bytes(base64.b64decode(png.split(",")[1]))
    pixels = np.array(Image.open(tmp_path / "map.png").convert("RGBA"))
    assert pixels.shape == (456, 456, 4) and len(png) < 12_000
    assert pixels[12, 12, 3] == 150  # the outer wall
    assert np.median(pixels[..., 3]) == 0  # most is floor


def test_records_of_another_level_are_told_from_paths(fourrooms):
    record = walk(fourrooms, 3, expert_walk(fourrooms, 3, 12))
    for change, words in (
        ({"success": True}, "a recorded success ends otherwise"),
        ({"signature": [7]}, "a recorded failure ends otherwise"),
        ({"actions": "left left", "turns": 2}, "ends otherwise"),  # the episode goes on
        ({"actions": " ".join(["left"] * 13), "turns": 13}, "ended after 12 turns"),
    ):
        with pytest.raises(tracks.OtherLevel, match=words):
            tracks.paths_at(fourrooms, 3, {"walker": [record | change]})
    assert tracks.paths_at(fourrooms, 3, {"walker": [record | {"actions": "I think left"}]}) is None
    said = ["forward left", *["left"] * 11]  # two words in one turn are no action
    lost = tracks.paths_at(fourrooms, 3, {"walker": [walk(fourrooms, 3, said) | {"actions": said}]})
    assert lost["panels"][0]["tracks"][0]["p"][2][0] == "."
    old = {name: value for name, value in record.items() if name != "actions"}
    assert tracks.paths_at(fourrooms, 3, {"walker": [old]}) is None


def test_counts_are_of_all_samples_not_of_those_drawn(fourrooms):
    record = walk(fourrooms, 3, ["left"] * 12)
    other = walk(fourrooms, 3, ["forward"] * 12)
    found = tracks.paths_at(fourrooms, 3, {"walker": [record] * 40 + [other]})
    [panel] = found["panels"]
    assert (panel["n"], len(panel["tracks"]), panel["wins"]) == (41, tracks.SHOWN_PATHS, 0)
    assert sum(panel["counts"]) == 41


def test_labels_do_not_take_sequences_for_sets():
    assert tracks.signature_label([0, 2]) == "0, 2" and tracks.signature_label("red") == "red"
    assert tracks.signature_label([["right", "middle"], "left"]) == "(right middle), left"
    assert tracks.signature_label([]) == "nothing" and len(tracks.signature_label(["word"] * 99)) == 60


def test_start_states_that_differ_most_come_first():
    table = {
        "a": {1: {"distinct_winning": 1, "correct": 4}, 2: {"distinct_winning": 1, "correct": 1},
              3: {"distinct_winning": 3, "correct": 4}},
        "b": {1: {"distinct_winning": 1, "correct": 4}, 2: {"distinct_winning": 1, "correct": 4},
              3: {"distinct_winning": 1, "correct": 4}},
    }  # fmt: skip
    assert tracks.start_states_to_show(table) == [3, 2, 1]
    assert tracks.start_states_to_show({"a": table["a"]}) == [3, 1, 2]


def tree_line(task, start, seed_actions, branches, vine_actions):
    """A line of trees.jsonl with vines after ``branches`` turns; their signatures cover themselves alone."""

    def acted(actions, before=0):
        episode = task.start(start)
        for action in (*seed_actions[:before], *actions):
            if not episode.done:
                episode.step(action)
        return {
            "actions": list(actions)[: episode.turn - before], "success": episode.stop_reason == "success",
            "return": 0.0, "signature": sorted(episode.signature(before)), "advantage": 0.25, "by_set": True,
        }  # fmt: skip

    states = [{"turn": t, "token": 0, "vines": [acted(own, t) for own in vine_actions]} for t in branches]
    return {
        "step": 4,
        "update": 1,
        "env_steps": 99,
        "start_state": start,
        "seeds": [{**acted(seed_actions), "by_set": False, "states": states}],
    }


def test_vines_begin_at_their_rollout_state(fourrooms):
    seed = expert_walk(fourrooms, 3, 12)
    line = tree_line(fourrooms, 3, seed, [4, 8], [["left"] * 12, ["forward"] * 12])
    [tree] = tracks.trees_of(fourrooms, [line], signed=True)
    episode = fourrooms.start(3)
    cells = [tuple(map(int, episode.env.agent_pos))]
    for action in seed:
        episode.step(action)
        cells.append(tuple(map(int, episode.env.agent_pos)))
    assert [group["turn"] for group in tree["groups"]] == [4, 8]
    for group in tree["groups"]:
        for member in group["members"]:
            assert tuple(member["p"][:2]) == cells[group["turn"]]
            assert len(member["p"][2]) == member["turns"] == 12 - group["turn"]
    assert tree["groups"][0]["members"][0]["a"] == 0.25 and tree["seed"]["turns"] == 12
    json.dumps(tree, allow_nan=False)


def test_seed_trajectories_without_vines_are_one_group(fourrooms):
    line = tree_line(fourrooms, 3, ["left"] * 12, [], [])
    line["seeds"] *= 3
    [tree] = tracks.trees_of(fourrooms, [line], signed=True)
    assert tree["seed"] is None and [len(group["members"]) for group in tree["groups"]] == [3]


def test_seed_trajectories_that_sets_scored_are_a_group_beside_their_vines(fourrooms):
    line = tree_line(fourrooms, 3, expert_walk(fourrooms, 3, 12), [4], [["left"] * 12])
    line["seeds"] = [{**line["seeds"][0], "by_set": True} for _ in range(2)]
    found = list(tracks.trees_of(fourrooms, [line], signed=True))
    assert [tree["part"] for tree in found] == ["seed trajectory 1 of 2", "seed trajectory 2 of 2", "whole episodes"]
    assert [tree["seed"] is None for tree in found] == [False, False, True] and len(
        found[2]["groups"][0]["members"]
    ) == 2
    for seed in line["seeds"]:
        seed["by_set"] = False
    assert len(list(tracks.trees_of(fourrooms, [line], signed=True))) == 2
    line["start_state"] = 4
    with pytest.raises(tracks.OtherLevel):
        list(tracks.trees_of(fourrooms, [line], signed=True))


def test_groups_of_answers_are_listed_by_kind():
    task = load_task("triangle", size="tiny")
    answers = [("<a_1>x", [1, 2], True), ("<a_2>y", [3], False), ("<a_1>z", [1, 2], True)]
    vines = [
        {
            "actions": [text],
            "success": ok,
            "return": float(ok),
            "signature": signature,
            "advantage": None,
            "by_set": False,
        }
        for text, signature, ok in answers
    ]
    line = {
        "step": 1,
        "update": 1,
        "env_steps": 3,
        "start_state": 0,
        "seeds": [{**vine, "states": []} for vine in vines],
    }
    [tree] = tracks.trees_of(task, [line], signed=True)
    [group] = tree["groups"]
    assert (group["of"], group["kinds"], group["ok"]) == (3, 2, 2)
    assert [(a["text"], a["count"], a["ok"]) for a in group["answers"]] == [("<a_1>x", 2, 2), ("<a_2>y", 1, 0)]


# ---------------------------------------------------------------- runs


def test_runs_are_read_as_far_as_they_can_be(tmp_path):
    assert run_files.read_run("hub", "some/model").metrics == run_files.read_run("unknown", None).metrics == []
    rows = [{"step": 1, "rollout/env_steps": 10, "entropy": float("nan")}, {"step": 2, "train_runtime": 3},
            {"step": 3, "rollout/env_steps": None}, {"step": 8, "rollout/env_steps": 20}]  # fmt: skip
    whole = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(whole + '{"step": 9, "rol')  # a kill cut the last line short
    (tmp_path / "trees.jsonl").write_text('{"step": 1}\n5\n{"step": 8}\n')
    (tmp_path / "run.json").write_text('{"trainer": 3}')
    run = run_files.read_run("mine", tmp_path)
    assert [line["step"] for line in run.metrics] == [1, 8] and run.metrics[0]["entropy"] is None
    assert run.trees == [{"step": 1}] and run.settings == {}
    assert [note.partition(" from line ")[2] for note in run.notes] == [
        "5 on, which is left out",
        "2 on, which is left out",
    ]
    (tmp_path / "run.json").write_text("[")
    assert "run.json cannot be read" in run_files.read_run("mine", tmp_path).notes[-1]
    (tmp_path / "checkpoint-4").mkdir()
    early = run_files.read_run("mine", tmp_path / "checkpoint-4")  # what came after it is not its history
    assert run_files.budget_of(tmp_path / "checkpoint-best") is None, "a name that is not one of ours"
    assert [line["step"] for line in early.metrics] == [1] and early.trees == [{"step": 1}]


def metrics(values, **more):
    return [{"rollout/env_steps": 10 * (i + 1), "entropy": value, **more} for i, value in enumerate(values)]


def test_curves_are_means_over_seeds_update_by_update(tmp_path):
    runs = [
        run_files.RunFiles("a", tmp_path, seed=0, metrics=metrics([1.0, 2.0, 9.0])),
        run_files.RunFiles("a", tmp_path, seed=1, metrics=metrics([3.0, float("nan"), 5.0])),
    ]
    [spec] = [s for s in run_files.training_charts({"a": runs}, ["a"]) if "entropy" in s["description"]]
    rows = spec["data"]["values"]
    assert [(r["seed"], r["value"]) for r in rows] == [
        (0, 1.0),
        (0, 2.0),
        (0, 9.0),
        (1, 3.0),
        (1, 5.0),
        (None, 2.0),
        (None, 3.5),
    ]
    assert json.dumps(spec, allow_nan=False)


def test_many_long_runs_keep_the_page_small(tmp_path):
    long = [{**line, **dict.fromkeys(run_files.CURVES, 0.123456)} for line in metrics([1.0] * 500)]
    by_method = {
        f"method{m}": [run_files.RunFiles("x", tmp_path, seed=s, metrics=long) for s in range(10)] for m in range(7)
    }
    specs = run_files.training_charts(by_method, list(by_method)) + run_files.signal_charts(by_method)
    assert len(specs) == len(run_files.CURVES) and len(json.dumps(specs)) < 1_500_000
    rows = [row for row in specs[0]["data"]["values"] if row["policy"] == "method0" and row["seed"] is None]
    assert (rows[0]["update"], rows[-1]["update"]) == (1, 500) and len(rows) >= 8


def run_of(values, path, **more):
    lines = [{"rollout/env_steps": 10 * (i + 1)} | own for i, own in enumerate(values)]
    return run_files.RunFiles("x", path, metrics=lines, **more)


def test_warnings_name_collapse_silence_and_a_blind_critic(tmp_path):
    fine = {"groups/distinct_share": 0.5, "groups/without_signal": 0.1, "entropy": 1.0, "duplicates/observed": 0.7}
    run = run_of([fine] * 4, tmp_path)
    assert run_files.warnings({"fine": [run]}) == []
    run.metrics[-1] |= {"critic/explained_variance": None, "groups/without_signal": None}
    assert run_files.warnings({"fine": [run]}) == [] and run_files.signal_charts({"fine": [run]}) == []
    assert run_files.first_and_last({"fine": [run]})[0]["groups/without_signal"] is None
    bad = {"groups/distinct_share": 0.02, "groups/without_signal": 0.9, "critic/explained_variance": -0.1,
           "duplicates/observed": 0.9, "entropy": 0.2}  # fmt: skip
    begun = fine | {"critic/explained_variance": 0.0, "duplicates/observed": 0.1}
    told = run_files.warnings({"bad": [run_of([begun, bad, bad, bad], tmp_path, seed=3)]})
    assert len(told) == 5 and all(line.startswith("bad: ") for line in told)
    assert "0.02 are left at the end (down from 0.50" in told[0] and "from 1.000 to 0.200" in told[1]
    assert "70% of its groups gave no set advantage" in told[2] and "(-0.10)" in told[3]
    assert "90% of the attempts" in told[4] and "10% did at the beginning" in told[4]
    alike = run_files.warnings({"a": [run_of([{"groups/distinct_share": 0.0}] * 2, tmp_path)]})
    assert "alike from the beginning" in alike[0]


def test_what_was_not_measured_gets_no_clean_bill(tmp_path):
    """A run without groups, PPO say, is the one that is expected to collapse."""
    ppo, sets = run_of([{"entropy": 1.0}] * 2, tmp_path), run_of([{"groups/distinct_share": 0.5}] * 2, tmp_path)
    assert run_files.without_groups({"ppo": [ppo], "sets": [sets], "empty": []}) == ["ppo"]
    for runs, fine in (({"ppo": [ppo]}, False), ({"ppo": [ppo], "sets": [sets]}, True)):
        page = Page("a", "b")
        parts.training(page, runs, list(runs))
        html = as_html(page).split("</style>")[1]
        assert ("No sign of collapse" in html) == fine and "ppo: training forms no groups" in html


# ---------------------------------------------------------------- whole pages


def test_a_report_of_an_evaluation_says_what_its_summary_says():
    task = load_task("bandit")
    taken = records("a", {1: "wwll", 2: "llll"}) + records(HOSTILE, {1: "wwww", 2: "wlll"})
    summary = summarise(taken, ["a", HOSTILE]) | origin(["recipes/evaluate.py", "--policies", HOSTILE])
    page = of_evaluation.build(task, taken, summary, title="bandit")
    html = as_html(page)
    assert HOSTILE not in html and "recipes/evaluate.py" in html
    cell = summary["policies"]["a"]["success"]
    assert f"<b>{cell['estimate']:.3f}</b>" in html and f"[{cell['low']:.3f}, {cell['high']:.3f}]" in html
    [coverage] = [s for s in page.charts.values() if s["description"] == "pass@k"]
    for row in coverage["data"]["values"]:
        assert row["estimate"] == pytest.approx(
            summary["policies"][row["policy"]][f"pass@{row['k']}"]["estimate"], abs=1e-5
        )
    assert "holds no training metrics" in html and 'data-widget="maps"' not in html
    assert "What they do most" in html


def test_a_report_of_a_comparison_says_what_its_summary_says(tmp_path):
    methods = {name: Method(name, tmp_path / f"{name}.yaml", {}, {}) for name in ("ppo", "poly")}
    figures = {}
    pretrained = Run(tmp_path / "pretrained")
    fabricate(pretrained, skill=-1.0)
    for name, method in methods.items():
        for seed in (0, 1):
            run = Run(tmp_path / name / f"seed_{seed}", method, seed)
            fabricate(run, skill=1.0, seed=seed)
            write_json(run.folder / "comparison_run.json", {"train_seconds": 2.0})
            figures.setdefault(name, []).append(read_figures(run))
    write_json(pretrained.folder / "comparison_run.json", {"train_seconds": 0.0})
    first = read_figures(pretrained)
    summary = compare(first, figures, baseline="ppo", level=0.95)
    summary |= {"title": "fabricated, train", **origin(["recipes/compare.py"])}
    page = of_comparison.build(load_task("bandit"), summary, first, figures)
    html = as_html(page)
    for name in ("pretrained", "ppo", "poly"):
        cell = summary["policies"][name]["success"]
        assert f"<b>{cell['estimate']:.3f}</b>" in html
    by_start = [s for s in page.charts.values() if "Success at each" in s["description"]][0]["data"]["values"]
    own = per_start([json.loads(line) for line in first.run.records.read_text().splitlines()], "pretrained")
    assert {(r["start"], r["share"]) for r in by_start if r["policy"] == "pretrained"} == {
        (start, round(cell["correct"] / cell["n"], 4)) for start, cell in own.items()
    }
    assert sum("success of rollouts" == s["description"] for s in page.charts.values()) == 1
