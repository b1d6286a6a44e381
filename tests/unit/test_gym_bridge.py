"""Gymnasium environments as tasks: text and actions by functions, snapshots three ways, MiniGrid without new code."""

import random

import pytest
from minigrid.core.actions import Actions

from polytune.tasks import Step, load_task
from polytune.tasks.conformance import faults, notes

LINE = {"show": "gym_worlds:tell", "actions": "west,east", "vocabulary": "gym_worlds:WORDS"}


def line(name="Line", **options):
    return load_task(f"gym:gym_worlds:{name}-v0", **LINE | options)


def test_an_environment_with_two_functions_is_a_world():
    task = line(place="gym_worlds:side", horizon=20)
    assert (task.name, task.actions, task.answer_end) == ("gym:gym_worlds:Line-v0", ("west", "east"), None)
    assert faults(task, 20) == [] == notes(task, 20)
    episode = task.start(2)
    cell, goal = episode.env.unwrapped.cell, episode.env.unwrapped.goal
    assert episode.observation() == f"cell={cell} goal={goal}"
    assert episode.step("over there") == Step(0.0, False, None) and episode.env.unwrapped.cell == cell
    while not episode.done:
        step = episode.step("east" if goal > episode.env.unwrapped.cell else "west")
    assert step == Step(0.5, True, "success"), "the environment's own reward"
    assert episode.signature() == frozenset(
        {"west", "east"} if (cell < 3) != (goal < 3) else {"west" if cell < 3 else "east"}
    )
    ours = line(reward="success", horizon=20).start(2)
    while not ours.done:
        step = ours.step("east" if goal > ours.env.unwrapped.cell else "west")
    assert step.reward == 1 - 0.5 * ours.turn / 20 and ours.signature() is None


def test_actions_may_be_free_text_and_a_function_reads_them():
    task = line(actions=None, act="gym_worlds:read")
    assert task.answer_end == "" and task.actions == ()
    episode = task.start(0)
    before = episode.env.unwrapped.cell
    episode.step("go round")
    assert (episode.invalid_actions, episode.env.unwrapped.cell) == (1, before)
    episode.step(" go east\n")
    assert (episode.invalid_actions, episode.env.unwrapped.cell) == (1, min(6, before + 1))
    words = load_task("gym:gym_worlds:Words-v0")
    assert words.start(0).observation().startswith("you are at ")
    assert faults(words, 5) == []


@pytest.mark.parametrize("name, snapshots, used", [
    ("Line", "auto", "copy"), ("Stateful", "auto", "state"), ("Hidden", "replay", "replay"),
    ("Locked", "replay", "replay"),
])  # fmt: skip
def test_a_state_is_saved_in_one_of_three_ways(name, snapshots, used):
    task = line(name, snapshots=snapshots, vocabulary=None)
    assert task.snapshots == used
    for seed in range(10):
        draw, episode = random.Random(seed), task.start(seed)
        seen = [episode.observation()]
        for _ in range(draw.randrange(8)):
            if not episode.done:
                episode.step(draw.choice(task.actions))
        taken, rest = episode.snapshot(), draw.choices(task.actions, k=6)
        goes_on = []
        for run in (task.restore(taken), task.restore(taken)):
            assert (run.turn, run.stop_reason, run.snapshot()) == (episode.turn, episode.stop_reason, taken)
            seen = [run.observation()]
            for text in rest:
                if not run.done:
                    seen += [run.step(text), run.observation()]
            goes_on.append(seen)
        assert goes_on[0] == goes_on[1]


def test_a_restored_state_has_what_its_wrappers_had_counted():
    """gymnasium's limit of turns lies in a wrapper, outside of the environment's own state."""
    task = line("Timed", horizon=50)
    assert task.snapshots == "state" and faults(task, 3) == []
    episode = task.start(0)
    for _ in range(15):
        episode.step("east")
    restored = task.restore(episode.snapshot())
    while not restored.done:
        restored.step("east")
    assert (restored.turn, restored.stop_reason) == (20, "truncated")


def test_its_module_lies_in_the_working_directory(tmp_path, monkeypatch):
    """Which is no part of sys.path for `polytune check-task`, and numbers may be actions there."""
    (tmp_path / "own_line.py").write_text(
        "import gymnasium, gym_worlds\ngymnasium.register('OwnLine-v0', entry_point=gym_worlds.Line)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert faults(load_task("gym:own_line:OwnLine-v0", show="gym_worlds:tell"), 3) == []
    with pytest.raises(ValueError, match="cannot make 'nowhere_else:OwnLine-v0' .ModuleNotFoundError"):
        load_task("gym:nowhere_else:OwnLine-v0")


@pytest.mark.parametrize("name, options, words", [
    ("Line", {"show": None}, "shows a tuple, not text: give show=module:name"),
    ("Unseeded", {}, "does not repeat itself: seed 0 .* does not seed all of its randomness"),
    ("Shared", {"snapshots": "replay"}, "does not repeat itself: .* or episodes share a state"),
    ("Hidden", {}, "restored by snapshots=copy, does not go on .*: use snapshots=replay"),
    ("Locked", {}, "cannot be saved by snapshots=copy .*: use snapshots=replay"),
    ("Line", {"snapshots": "state"}, "has no state of its own"),
    ("Line", {"actions": "west,east,up"}, "name 3 words, there are 2 actions"),
    ("Line", {"reward": "both"}, "reward of task .* must be one of environment, success, got 'both'"),
    ("Line", {"show": "gym_worlds:side"}, "show 'gym_worlds:side' raised TypeError"),
    ("Nothing", {}, "gymnasium cannot make 'gym_worlds:Nothing-v0' .*doesn't exist"),
    ("Line", {"size": 3}, "cannot make .* with kwargs"),
    ("Unpaid", {}, "seed 0, turn 1: its step pays None: return a finite number"),
    ("Unpriced", {}, "seed 0, turn 1: its step pays nan: return a finite number"),
    ("Broken", {}, r"building it raised KeyError: 'boom' \(gym_worlds.py, line \d+\)"),
])  # fmt: skip
def test_what_cannot_be_a_task_is_refused_at_start(name, options, words):
    with pytest.raises(ValueError, match=words):
        line(name, **options)


@pytest.mark.parametrize("name", ["MiniGrid-DoorKey-5x5-v0", "MiniGrid-ObstructedMaze-1Dlhb-v0", "BabyAI-GoToObj-v0"])
def test_minigrid_needs_no_code(name):
    task = load_task(f"gym:{name}", horizon=60)
    assert faults(task, 5) == []
    assert len({task.start_hash(seed) for seed in range(20)}) > 10
    assert {episode.signature() for episode in map(task.start, range(20))} != {None}


def test_door_and_key_are_told_and_can_be_used():
    """Key, door and goal from the words alone: what is in sight is named with its place, what is carried is said."""
    task = load_task("gym:MiniGrid-DoorKey-5x5-v0")
    episode = task.start(3)
    assert episode.observation() == (
        "mission: use the key to open the door and then get to the goal front=0 left=1 right=0 yellow-key: right1 "
        "yellow-door-locked: ahead1-left1"
    )
    episode.step("right")
    assert episode.observation().startswith("front=0") and "yellow-key: ahead1" in episode.observation()
    episode.step("pickup")
    assert "carrying=yellow-key" in episode.observation() and "yellow-key:" not in episode.observation()
    assert task.actions == tuple(action.name for action in Actions)[:6]
    for action in ("left", "left", "forward", "right"):
        episode.step(action)
    if "yellow-door-locked: ahead1" in episode.observation():
        episode.step("toggle")
        assert "yellow-door-open: ahead1" in episode.observation()
