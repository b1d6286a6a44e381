"""The speed run: what an entry may not do, whose levels the judge takes, the board's order, and its entries."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from polytune.app import speedrun as program
from polytune.app.cli import load_yaml
from polytune.comparison import speedrun
from polytune.tasks import load_task

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = sorted((ROOT / "recipes/speedrun").glob("*.yaml"))
BOARD = ROOT / "data/results/speedrun.json"
PPO = "recipes/fourrooms/ppo.yaml"


def run_of(entry, success, coverage, minutes=10.0, seed=0):
    measures = {
        name: {"estimate": value, "low": value - 0.01, "high": value + 0.01}
        for name, value in zip(speedrun.TARGETS, (success, coverage), strict=True)
    }
    told = {"cpu_minutes": minutes, "cores": 2, "load": 0.1, "commit": "abc"}
    return {"entry": entry, "seed": seed, "minutes": minutes, "measures": measures} | told


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"pretrain": ["seed=3"]}, "seed is the same for every entry"),
        ({"pretrain": ["epochs"]}, "write NAME=VALUE"),
        ({"pretrain": ["task-args=size=9"]}, "task_args is the same for every entry"),
        ({"finetune": PPO, "change": ["data-dir=mine"]}, "data_dir is the same for every entry"),
        ({"pretrain": ["epocs=3"]}, "epochs"),
        ({"pretrain": ["num_demonstrations=1501"]}, "1,500 at most"),
        ({"pretrain": ["base_model=gpt2"]}, "begins with nothing"),
        ({"finetune": PPO, "change": ["task_horizon=50"]}, "task_horizon is the same"),
        ({"finetune": PPO, "change": ["model=outputs/mine"]}, "model is the same"),
        ({"finetune": PPO, "change": ["objective=mine:best"]}, "settings of code that is in the repository"),
        ({"finetune": PPO, "change": [f"split=seeds:0-{2**40}"]}, "10,000,000 at most"),
        ({"finetune": PPO, "change": [f"split=seeds:{2**40}-{2**40 + 3}"]}, "are the judge's"),
        ({"finetune": PPO, "seed": 2_000_000}, "are the judge's"),
        ({"seed": 2_000_000}, "are the judge's"),
        ({"finetune": "recipes/methods/hpt.yaml"}, "asks the expert"),
        ({"finetune": "recipes/methods/demonstrations.yaml"}, "asks the expert"),
        ({"finetune": PPO, "change": ["methods=swarm"]}, "reads other runs"),
        ({"finetune": PPO, "change": ["set_scope=vines"]}, "num_rollout_states"),
    ],
)
def test_entries_that_break_a_rule_are_refused(entry, told, tmp_path):
    with pytest.raises(ValueError) as error:
        program.plan(program.SpeedrunConfig(**entry), tmp_path)
    assert told in str(error.value)


def test_changes_need_a_recipe_and_names_are_plain():
    with pytest.raises(ValueError, match="no recipe is named"):
        program.SpeedrunConfig(change=["num_updates=1"])
    with pytest.raises(ValueError, match="letters, digits"):
        program.SpeedrunConfig(entry="../mine")


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.stem)
def test_the_entries_keep_to_the_rules(path, tmp_path):
    found = load_yaml(path)
    assert found["entry"] == path.stem and {*found} <= {own.name for own in fields(program.SpeedrunConfig)}
    programs, seeds = program.plan(program.SpeedrunConfig(**found), tmp_path)
    assert [*programs] == ["pretrain", "finetune"][: 1 + ("finetune" in found)] and bool(seeds) == ("finetune" in found)
    for words in programs.values():
        assert words[words.index("--task_horizon") + 1] == "40" and words[words.index("--seed") + 1] == "0"


def test_the_judges_levels_follow_from_the_policy_alone():
    task = load_task("fourrooms", horizon=40)
    rows = speedrun.judge_rows(task, "a policy", (), levels=5)
    assert rows == speedrun.judge_rows(task, "a policy", (), levels=5)
    assert all(row["seed"] >= speedrun.JUDGE_SEEDS_START for row in rows)
    assert all(task.start_hash(row["seed"]) == row["level_hash"] for row in rows)
    others = speedrun.judge_rows(task, "another policy", (), levels=5)
    assert not {row["seed"] for row in rows} & {row["seed"] for row in others}
    met = {rows[0]["level_hash"], rows[3]["level_hash"]}
    assert [row["seed"] for row in speedrun.judge_rows(task, "a policy", met, levels=3)] == [
        rows[number]["seed"] for number in (1, 2, 4)
    ]


def test_the_board_is_in_order():
    slow, fast = run_of("slow", 0.70, 0.98, 30.0), run_of("fast", 0.65, 0.97, 20.0)
    near, far = run_of("near", 0.90, 0.96, 1.0), run_of("far", 0.60, 0.96, 1.0)
    assert speedrun.ranked([far, slow, near, fast]) == [fast, slow, near, far]
    assert speedrun.reached(fast) and not speedrun.reached(near)
    assert speedrun.distance(far) == pytest.approx(0.06)
    assert "both targets reached" in speedrun.told(slow) and "0.060 short" in speedrun.told(far)


def test_a_run_takes_the_place_of_the_same_entry_and_seed(tmp_path):
    board = tmp_path / "board.json"
    for run in (run_of("a", 0.5, 0.9), run_of("a", 0.5, 0.9, seed=1), run_of("b", 0.6, 0.9), run_of("a", 0.7, 0.9)):
        speedrun.enter(board, run)
    runs = json.loads(board.read_text())["runs"]
    assert [(run["entry"], run["seed"]) for run in runs] == [("a", 0), ("b", 0), ("a", 1)]
    assert runs[0]["measures"]["success"]["estimate"] == 0.7


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"runs": [{"entry": "a"}]}', '{"runs": "none"}'])
def test_a_file_that_is_no_board_is_refused_before_the_clock_runs(tmp_path, monkeypatch, text):
    (tmp_path / "board.json").write_text(text)
    monkeypatch.setattr(program, "timed", lambda *args: pytest.fail("the clock runs"))
    with pytest.raises(ValueError, match="board.json holds no board .*: restore it, or keep the run in another file"):
        program.main(["--output_dir", str(tmp_path / "out"), "--keep", str(tmp_path / "board.json")])
    assert (tmp_path / "board.json").read_text() == text


class Launcher:
    """Writes what an evaluation would, and remembers the commands."""

    def __init__(self):
        self.calls = []

    def call(self, words, log):
        self.calls.append(words)
        if "--output_dir" in words and "--policies" in words:
            folder = Path(words[words.index("--output_dir") + 1])
            folder.mkdir()
            cell = {"estimate": 0.5, "low": 0.4, "high": 0.6, "more": 1}
            found = {"policies": {"entry": dict.fromkeys(speedrun.TARGETS, cell)}}
            (folder / "summary.json").write_text(json.dumps(found))


def test_the_judge_passes_over_levels_that_the_entry_has_met(tmp_path, monkeypatch):
    monkeypatch.setattr(speedrun.judge_rows, "__defaults__", (4,))
    task, policy, pretrained = load_task("fourrooms", horizon=40), tmp_path / "policy", tmp_path / "pretrained"
    first = speedrun.judge_rows(task, str(policy), ())  # a folder without weights stands for itself
    pretrained.mkdir()
    shown = {"task": "fourrooms", "seeds": [1], "level_hashes": [first[0]["level_hash"]]}
    (pretrained / "demonstrations.json").write_text(json.dumps(shown))
    launcher = Launcher()
    found = program.judged(launcher, policy, pretrained, [first[1]["seed"]], tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "judge_unseen.jsonl").read_text().splitlines()]
    assert rows[:2] == first[2:] and len(rows) == 4 and found["first_level"] == first[2]["seed"]
    assert found["measures"]["pass@16"] == {"estimate": 0.5, "low": 0.4, "high": 0.6}
    assert "unseen" in launcher.calls[0][launcher.calls[0].index("--split") + 1]


def test_the_clock_counts_every_program(tmp_path):
    launcher = Launcher()
    found = program.timed(launcher, {"pretrain": ["a"], "finetune": ["b"]}, tmp_path)
    assert launcher.calls == [["a"], ["b"]] and [*found["stages"]] == ["pretrain", "finetune"]
    assert found["minutes"] >= sum(found["stages"].values()) >= 0 and found["cpu_minutes"] >= 0


def test_a_folder_that_is_there_is_refused(tmp_path):
    (tmp_path / "sets-0").mkdir()
    with pytest.raises(ValueError, match="is there already"):
        program.main(["--output_dir", str(tmp_path)])


def test_the_boards_lines_are_those_of_the_entries():
    board = json.loads(BOARD.read_text())
    assert board["rules"]["targets"] == speedrun.TARGETS and board["rules"]["levels"] == speedrun.LEVELS
    assert board["runs"] == speedrun.ranked(board["runs"])
    for run in board["runs"]:
        found = load_yaml(ROOT / f"recipes/speedrun/{run['entry']}.yaml")
        own = speedrun.digest(found.get("pretrain", []), found.get("finetune"), found.get("change", []))
        assert run["digest"] == own, f"{run['entry']} has changed since it was timed: run it again with --keep"
    counted = [run["entry"] for run in board["runs"] if run["seed"] == 0]
    assert not counted or counted[0] == program.BEST.stem, "make speedrun runs another entry than the board's first"
