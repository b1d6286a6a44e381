"""The benchmark of methods: what is laid over a base, which runs are due, what their numbers say, the page."""

import json
from dataclasses import replace

import pytest

from polytune.app import methods_benchmark as program
from polytune.app.cli import UsageError, parse
from polytune.comparison import benchmark, benchmark_cells, benchmark_page, overlay
from polytune.comparison.benchmark import WINNERS, World, exact_values
from polytune.comparison.methods import PRETRAINED, Method
from polytune.comparison.overlay import METHOD_RECIPES, overlays
from polytune.comparison.run_store import BASE_ALONE, RunStore
from polytune.measures.intervals import t_quantile
from polytune.pictures.gains import plot_gains
from polytune.recipe import read_recipe
from polytune.tables import METHODS

BASES = ("grpo", "poly_epo")


def a_world(folder, methods=(), name="bandit"):
    world = World.read(parse, program.recipe_of(name), folder / name)
    world.lay(parse, overlays(methods) if methods else {})
    world.pretrained = "policy"
    return world


# ---------------------------------------------------------------- overlays


def test_unset_every_recipe_and_every_other_row_is_laid():
    found = overlays()
    assert {path.stem for path in METHOD_RECIPES.glob("*.yaml")} <= {*found}
    assert {*METHODS} == {row for fields in found.values() for row in fields.get("methods", [])}
    assert all(fields and not {"task", "model", "output_dir"} & {*fields} for fields in found.values())


def test_a_recipe_lays_its_fields_and_those_of_the_methods_that_it_extends():
    own = overlays(["recipes/methods/copg.yaml", "clip_cov"])
    plain = read_recipe(METHOD_RECIPES / "grpo_plain.yaml", within=METHOD_RECIPES)
    assert plain == {"set_normalise": "none"}
    assert own["copg"] == {**plain, "methods": ["copg"], "method_args": ["copg.beta=0.1"]}
    assert own["clip_cov"] == {"methods": ["clip_cov"]}
    assert overlays(["nft"]) == overlays(["recipes/methods/nft.yaml"])  # a name is its recipe, not the row's defaults


@pytest.mark.parametrize(
    ("entries", "told"),
    [(["clip_cow"], "did you mean 'clip_cov'"), (["nft", "recipes/methods/nft.yaml"], "names 'nft' twice")],
)
def test_what_is_no_method_or_comes_twice_is_refused(entries, told):
    with pytest.raises(ValueError, match=told):
        overlays(entries)


def test_a_method_takes_the_place_of_its_fields_alone(tmp_path):
    world = a_world(tmp_path, ["recipes/methods/copg.yaml"])
    for base in BASES:
        before, after = world.laid[base, BASE_ALONE].yaml, world.laid[base, "copg"].yaml
        changed = {key for key in {*before, *after} if before.get(key) != after.get(key)} - {"output_dir"}
        assert changed == {"methods", "method_args"} | ({"set_normalise"} if base == "grpo" else set())
        ours, theirs = (world.laid[base, own].settings["trainer"] for own in (BASE_ALONE, "copg"))
        assert (ours.max_env_steps, ours.max_steps) == (theirs.max_env_steps, theirs.max_steps) == (384, 48)


def test_a_method_that_contradicts_its_base_keeps_its_own_refusal(tmp_path):
    world = a_world(tmp_path, ["bnpo", "mrt"])
    assert isinstance(world.laid["grpo", "bnpo"], Method)
    for base in BASES:
        line = world.laid[base, "mrt"]
        assert "mrt" in line and "\n" not in line and str(tmp_path) not in line
        assert benchmark_cells.cell(world, RunStore(tmp_path / "none"), base, "mrt", 0.95) == {
            "refused": world.laid[base, "mrt"]
        }
    assert not {key for key in benchmark.plan(world) if key[1] == "mrt"}


def test_every_world_begins_with_a_policy_that_is_here_and_says_so_where_it_is_not(tmp_path, monkeypatch):
    for name in program.WORLDS:
        assert len(World.read(parse, program.recipe_of(name), tmp_path / name).pretrained) == 16
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="model data/results/runs/methods_benchmark/bandit is no checkpoint here"):
        World.read(parse, program.recipe_of("bandit"), tmp_path / "bandit")


def test_runs_are_planned_seed_by_seed_the_bases_first(tmp_path):
    world = a_world(tmp_path, ["clip_cov"])
    order = [("grpo", ""), ("poly_epo", ""), ("grpo", "clip_cov"), ("poly_epo", "clip_cov")]
    assert [key for key in benchmark.plan(world)] == [(*own, seed) for seed in range(5) for own in order]
    only = {"grpo": {"clip_cov"}, "poly_epo": set()}
    assert [key[:2] for key in benchmark.plan(world, only, [3])] == order[:3]


def test_a_run_is_another_one_when_its_fields_or_its_policy_change(tmp_path):
    world = a_world(tmp_path, ["clip_cov"])
    base, method = (world.laid["grpo", name] for name in (BASE_ALONE, "clip_cov"))
    first = world.identity(method)
    assert first == a_world(tmp_path / "elsewhere", ["clip_cov"]).identity(method)
    changed = replace(method, yaml={**method.yaml, "method_args": ["clip_cov.low=2"]})
    other = a_world(tmp_path)
    other.pretrained = "another"
    fewer = replace(world, starts=world.starts[:1])
    longer = replace(world, task_config=replace(world.task_config, task_horizon=3))
    own = [first, world.identity(base), world.identity(changed)]
    assert len({*own, *(one.identity(method) for one in (other, fewer, longer))}) == 6
    assert len({one.start_identity for one in (world, other, fewer, longer)}) == 4


# ---------------------------------------------------------------- lines, and going on with them


def a_line(world, base, name, seed, values=None, **more):
    method = world.laid[base, name]
    identity = world.identity(method)
    own = {"env_steps": 384, "gradient_steps": 48, "cpu_seconds": 2.0} if values else {}
    own |= {"values": values} if values else {}
    return {"base": base, "method": name, "seed": seed, "identity": identity, **own, **more}


def test_lines_outlive_a_kill_and_a_torn_one_is_none(tmp_path):
    path = tmp_path / "runs.jsonl"
    store = RunStore(path)
    for seed in (0, 1):
        store.add({"base": "grpo", "method": "nft", "seed": seed, "identity": "a", "values": {"success": seed}})
    with path.open("a") as file:
        file.write('{"base": "grpo", "meth')
    again = RunStore(
        path, [{"base": "grpo", "method": "nft", "seed": s, "identity": "a", "values": {}} for s in (1, 2)]
    )
    assert again.find("grpo", "nft", 1, "a")["values"] == {"success": 1}  # the file's, not the kept one
    assert again.find("grpo", "nft", 2, "a")["values"] == {}
    assert again.find("grpo", "nft", 1, "b") is None and again.find("grpo", "nft", 3, "a") is None
    again.add({"base": "grpo", "method": "nft", "seed": 3, "identity": "a"})
    assert RunStore(path).find("grpo", "nft", 3, "a") is not None


def test_a_stopped_benchmark_goes_on_with_what_is_missing(tmp_path, monkeypatch, capsys):
    world, trained = a_world(tmp_path, ["clip_cov", "nft"]), []
    monkeypatch.setattr(benchmark, "measure", lambda *given: {"success": 0.5, WINNERS: 1.0})

    def call(name, words, log):
        folder = world.folder / "/".join(log.parts[-4:-1])
        if len(trained) == 4 and stops:
            raise KeyboardInterrupt
        trained.append(folder)
        if "nft" in str(folder) and "poly_epo" in str(folder):
            raise ValueError("method 'nft' wants\n no sets.")
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text(json.dumps({"rollout/env_steps": 384, "step": 48}) + "\n")

    monkeypatch.setattr(program, "call", call)
    stops, path = True, world.folder / "runs.jsonl"
    with pytest.raises(KeyboardInterrupt):
        program.run_world(world, RunStore(path), None, [0, 1])
    first, stops = trained[:], False
    program.run_world(world, RunStore(path), None, [0, 1], ["grpo"])
    assert {folder.parts[-3] for folder in trained[4:]} == {"grpo"}
    program.run_world(world, RunStore(path), None, [0, 1])
    assert len(first) == 4 and len(trained) == 4 + 7 and len({*trained}) == 11  # 6 a seed, but for the refused one
    store = RunStore(path)
    cell = benchmark_cells.cell(world, store, "poly_epo", "nft", 0.95)
    assert cell == {"refused": "method 'nft' wants no sets."}
    assert benchmark_cells.cell(world, store, "grpo", "nft", 0.95)["missing"] == [2, 3, 4]
    assert [key[2] for key in benchmark.due(world, store, None, [0, 1])] == [0, 1]  # the refused one, once more
    assert "refused: method 'nft' wants no sets." in capsys.readouterr().out


# ---------------------------------------------------------------- statistics


@pytest.fixture
def measured(tmp_path):
    """Three seeds: clip_cov adds .1, .2, .3 to the success of GRPO and takes .5, .4, .6 winners; over Poly-EPO one."""
    world = a_world(tmp_path, ["clip_cov", "nft"])
    store = RunStore(world.folder / "runs.jsonl")
    start = {"base": PRETRAINED, "method": BASE_ALONE, "seed": 0, "identity": world.start_identity}
    store.add(start | {"values": {"success": 0.5, "pass@4": 0.9, WINNERS: 2.0, "entropy": 1.5}})

    def add(base, name, seed, success, winners, **more):
        values = {"success": success, "pass@4": 1.0, WINNERS: winners, "entropy": 1.0}
        store.add(a_line(world, base, name, seed, values, **more))

    for seed, (gain, loss) in enumerate([(0.1, 0.5), (0.2, 0.4), (0.3, 0.6)]):
        for base in BASES:
            add(base, BASE_ALONE, seed, 0.6 + 0.01 * seed, 2.0)
        add("grpo", "clip_cov", seed, 0.6 + 0.01 * seed + gain, 2.0 - loss, cpu_seconds=3.0)
    add("poly_epo", "clip_cov", 0, 0.7, 2.2)
    store.add(a_line(world, "poly_epo", "nft", 0, failed="NoGradientError: nothing can be learnt"))
    return world, store


def test_differences_are_paired_by_seed_with_students_interval(measured):
    cell = benchmark_cells.cell(*measured, "grpo", "clip_cov", 0.95)
    half = t_quantile(0.975, 2) * 0.1 / 3**0.5
    success, winners = (cell["differences"][m] for m in ("success", WINNERS))
    assert success == {"estimate": pytest.approx(0.2), "low": pytest.approx(0.2 - half),
                       "high": pytest.approx(0.2 + half), "resolved": False}  # fmt: skip
    assert winners["estimate"] == pytest.approx(-0.5) and winners["high"] == pytest.approx(-0.5 + half)
    assert winners["resolved"] and cell["verdict"] == "harms"
    assert cell["missing"] == [3, 4] and cell["seeds"] == [0, 1, 2] and cell["seconds_ratio"] == 1.5
    assert cell["measures"]["pass@4"] == {"estimate": 1.0, "low": 1.0, "high": 1.0}
    assert "budget" not in cell


def test_a_run_without_one_of_the_measures_takes_part_in_the_others(measured):
    """A policy that wins nothing has no share of wins that training showed."""
    world, store = measured
    for seed in range(3):
        line = world.line(store, "grpo", "clip_cov", seed)
        store.add(line | {"values": line["values"] | {"memorisation": 0.5} if seed < 2 else line["values"]})
    cell = benchmark_cells.cell(world, store, "grpo", "clip_cov", 0.95)
    assert cell["seeds"] == [0, 1, 2] and "success" in cell["measures"]
    assert "memorisation" not in {*cell["measures"], *cell["differences"]}


def test_one_seed_has_no_interval_and_says_nothing(measured):
    cell = benchmark_cells.cell(*measured, "poly_epo", "clip_cov", 0.95)
    assert cell["differences"]["success"] == {"estimate": pytest.approx(0.1), "low": None, "high": None,
                                              "resolved": False}  # fmt: skip
    assert cell["verdict"] == "not resolved" and cell["missing"] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("success", "winners", "word"),
    [(1, 0, "gains"), (1, 1, "gains"), (1, -1, "trades"), (0, -1, "harms"), (-1, -1, "harms"), (0, 0, "not resolved")],
)
def test_the_verdict_weighs_what_is_resolved(success, winners, word):
    found = {m: {"estimate": s or 0.3, "resolved": s != 0} for m, s in (("success", success), ("w", winners))}
    assert benchmark_cells.verdict(found, "w") == word


def test_runs_of_other_budgets_are_told(measured):
    world, store = measured
    values = store.find("grpo", "clip_cov", 0, a_line(world, "grpo", "clip_cov", 0)["identity"])["values"]
    store.add(a_line(world, "grpo", "clip_cov", 0, values, env_steps=300))
    line = benchmark_cells.cell(world, store, "grpo", "clip_cov", 0.95)["budget"]
    assert line.startswith("environment steps differ by") and "took" in line and "--set" not in line
    store.add(a_line(world, "grpo", "clip_cov", 0, values, gradient_steps=47))
    assert "gradient steps differ" in benchmark_cells.cell(world, store, "grpo", "clip_cov", 0.95)["budget"]


def test_winners_are_those_that_gain_and_lose_nothing():
    methods = {"a": {"verdict": "gains"}, "b": {"verdict": "trades"}, "c": {"refused": "no"}, "d": {"missing": [0]}}
    other = {"bases": {"grpo": {"methods": {"d": {"verdict": "gains"}}}, "ppo": {"methods": {}}}}
    worlds = {"x": {"bases": {"grpo": {"methods": methods}}}, "y": other}
    assert benchmark_cells.winners(worlds) == {"grpo": {"a", "d"}, "ppo": set()}


def test_exact_values_are_those_of_the_policys_table(tmp_path):
    from polytune.pictures.tabular import action_table
    from polytune.policy import Renderer
    from polytune.policy.rendering import PROMPT_WORD
    from polytune.policy.tiny import build_tiny
    from polytune.tasks import load_task
    from polytune.tasks.tabular.exact import tabulate

    task = load_task("bandit", horizon=1)
    model, tokenizer = build_tiny("tiny", [PROMPT_WORD, *task.vocabulary()])
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    table_A = action_table(model, Renderer(tokenizer, task), tabulate(task))[0]
    values, wins = exact_values(task, tmp_path, 4), table_A[:3]
    assert values["success"] == pytest.approx(wins.sum(), rel=1e-4)
    assert values["pass@4"] == pytest.approx(1 - (1 - wins.sum()) ** 4, rel=1e-4)
    assert values[WINNERS] == pytest.approx((1 - (1 - wins) ** 4).sum(), rel=1e-4)
    assert [*values] == ["success", "pass@2", "pass@4", WINNERS, "entropy"]


# ---------------------------------------------------------------- JSON, page, picture


def test_what_is_done_is_written_and_read_again(measured, tmp_path):
    world, store = measured
    page = tmp_path / "docs/page.md"
    page.parent.mkdir()
    page.write_text(f"# By hand\n\n{benchmark_page.BEGIN}\nold\n{benchmark_page.END}\n\nAfter.\n")
    summary = benchmark_cells.world_summary(world, store, 0.95, None)
    kept = {"worlds": {"bandit": summary}, "runs": {"bandit": benchmark.current_lines(world, store)}}
    keep = tmp_path / "result.json"
    benchmark_page.write_all(kept, str(keep), str(page), 0.95, ["recipes/methods_benchmark.py"])
    text = page.read_text()
    assert text.startswith("# By hand\n") and text.endswith("\n\nAfter.\n") and "\nold\n" not in text
    assert "| clip_cov | harms: winners -.500 |" in text
    assert "| start policy | .500" in text and "[bandit](page-bandit.md)" in text
    of_world = (tmp_path / "docs/page-bandit.md").read_text()
    assert of_world.startswith("# Methods side by side: bandit\n") and "(page.md)" in of_world
    assert "NoGradientError: nothing can be learnt (seed 0)" in of_world
    assert "Runs that are missing: seeds 3, 4 of clip_cov; seeds 0, 1, 2, 3, 4 of nft." in of_world
    again = benchmark_page.read_kept(keep)
    assert again == json.loads(json.dumps(kept)) and len(again["runs"]["bandit"]) == 12
    assert (tmp_path / "result.png").stat().st_size > 10_000
    # lines of an older start policy are no part of the result, and do not hide newer ones that were kept elsewhere
    store.add(benchmark.current_lines(world, store)[1] | {"identity": "older", "values": {}})
    world.pretrained, before = "another", world.pretrained
    assert benchmark.current_lines(world, store) == [] and benchmark.outdated(again["runs"]["bandit"], []) == 12
    world.pretrained = before
    assert (now := benchmark.current_lines(world, store)) == again["runs"]["bandit"]
    assert benchmark.outdated(again["runs"]["bandit"], now) == 0
    # on a machine without any run, the kept lines are the runs
    elsewhere = a_world(tmp_path / "elsewhere", ["clip_cov", "nft"])
    fresh = benchmark.open_store(elsewhere, again)
    assert benchmark_cells.world_summary(elsewhere, fresh, 0.95, None) == json.loads(json.dumps(summary))


def test_a_world_without_runs_says_so_and_has_no_picture(tmp_path):
    world = a_world(tmp_path, ["clip_cov"])
    summary = {"bandit": benchmark_cells.world_summary(world, RunStore(tmp_path / "none"), 0.95, None)}
    assert "Not run yet." in benchmark_page.world_part("bandit", summary["bandit"], 0.95)
    assert benchmark_page.world_tables("bandit", summary["bandit"]) == "Not run yet."
    plot_gains(summary, tmp_path / "none.png", level=0.95, names={})
    assert not (tmp_path / "none.png").exists()


def test_a_damaged_result_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"worlds": ')
    with pytest.raises(ValueError, match="restore it, or remove it"):
        benchmark_page.read_kept(tmp_path / "x.json")


@pytest.mark.parametrize("flags", [["--worlds", "bandits"], ["--keep", "x.txt"], ["--seeds", "x"], ["--level", "1"]])
def test_fields_that_make_no_sense_are_refused(flags):
    with pytest.raises(UsageError):
        program.main(flags)


def test_a_part_of_the_methods_is_run_and_the_others_keep_their_place(tmp_path, monkeypatch):
    """What ``--methods`` does not name stays in the JSON; a world of winners alone runs nobody where nothing won."""
    kept, page = tmp_path / "kept.json", tmp_path / "page.md"
    page.write_text(f"{benchmark_page.BEGIN}\n{benchmark_page.END}\n")
    world = World.read(parse, program.recipe_of("bandit"), tmp_path / "bandit")
    world.lay(parse, overlays(["nft", "rec"]))
    runs = [a_line(world, "grpo", name, 0, {"success": 0.5, WINNERS: 1.0}) for name in (BASE_ALONE, "nft", "rec")]
    kept.write_text(json.dumps({"worlds": {}, "runs": {"bandit": runs}}))
    ran = []
    monkeypatch.setattr(overlay, "_every", lambda: ["nft", "rec", "clip_cov"])
    monkeypatch.setattr(program, "run_world", lambda world, store, only, *more: ran.append(only))
    flags = ["--keep", kept, "--page", page, "--output_dir", tmp_path / "runs", "--methods", "nft"]
    program.main([*map(str, flags), "--worlds", "bandit"])
    assert ran == [{"grpo": {"nft"}, "poly_epo": {"nft"}}]
    after = json.loads(kept.read_text())
    assert after["runs"]["bandit"] == runs and {*after["worlds"]["bandit"]["bases"]["grpo"]["methods"]} == {
        "nft",
        "rec",
        "clip_cov",
    }
    program.main([*map(str, flags), "--worlds", "fourrooms"])
    assert ran[1] == {"grpo": set(), "poly_epo": set()}


def test_a_base_that_no_world_has_is_refused_before_any_run(tmp_path):
    flags = ["--worlds", "bandit", "--methods", "nft", "--output_dir", tmp_path, "--keep", tmp_path / "x.json"]
    with pytest.raises(ValueError, match="bases has 'ppo': bandit has grpo, poly_epo"):
        program.main([*map(str, flags), "--page", str(tmp_path / "x.md"), "--bases", "ppo"])
