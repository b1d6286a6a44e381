"""Playing a task: keys, the map as text, the game as a user starts it, animations."""

import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from polytune.app.play import main, run
from polytune.pictures.animation import save_gif
from polytune.tasks import load_task
from polytune.tasks.game import Game, Screen, play_keys, play_lines, signature_text
from polytune.tasks.grid.common import Goal, Grid, MiniGridEnv, Wall
from polytune.tasks.grid.fourrooms import FourRooms
from polytune.tasks.grid.text_map import carried, map_legend, text_map
from polytune.tasks.keys import decode_keys, key_of_action, said_by_key, said_by_line

# isort: split
from minigrid.core.world_object import Ball, Door, Key

BABYAI = ("left", "right", "forward", "pickup", "drop", "toggle")


class Lost(FourRooms):
    """Its expert raises what it should not."""

    def expert(self, episode):
        return {}["map"]


def play(*arguments, said=""):
    """The program as a user starts it, lines piped in."""
    command = [sys.executable, "-m", "polytune.app.play", *map(str, arguments)]
    return subprocess.run(command, input=said, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})


def facts(output):
    """The text beside the map, screen by screen."""
    lines = [re.sub(r"^[:#. Gv<>^]{38}   ", "", line) for line in output.split("\n")]
    return "\n".join(lines)


# Keys


@pytest.mark.parametrize(
    ("sent", "keys", "rest"),
    [
        ("f", ["f"], ""),
        ("\x1b[A\x1b[Dq", ["up", "left-arrow", "q"], ""),
        ("\x1bOC\x1b[B", ["right-arrow", "down"], ""),
        ("U?", ["u", "?"], ""),
        ("l\x1b", ["l"], "\x1b"),
        ("l\x1b[", ["l"], "\x1b["),
        ("\x1b[1;5", [], "\x1b[1;5"),
        ("\x1b[1;5C", ["right-arrow"], ""),
        ("\x1b[15~f", ["", "f"], ""),
        ("\x1bf", ["", "f"], ""),
        ("\x03", ["q"], ""),
        ("\x04\n", ["q", ""], ""),
    ],
)
def test_keys_are_decoded(sent, keys, rest):
    assert decode_keys(sent) == (keys, rest)


def test_an_escape_sequence_may_arrive_in_parts():
    keys, rest = decode_keys("\x1b")
    assert (keys, decode_keys(rest + "[A")) == ([], (["up"], ""))


def test_actions_get_their_first_free_letter():
    assert key_of_action(BABYAI) == dict(zip("lrfpdt", BABYAI, strict=True))
    assert key_of_action(("red", "green", "rose", "quit", "uu")) == {
        "r": "red", "g": "green", "o": "rose", "i": "quit", "1": "uu",
    }  # fmt: skip


def test_what_keys_and_lines_say():
    keys = key_of_action(BABYAI)
    assert [said_by_key(key, keys) for key in ("up", "left-arrow", "right-arrow", "t", "u", "?", "q", "down", "x")] == [
        "forward", "left", "right", "toggle", "undo", "help", "quit", None, None,
    ]  # fmt: skip
    assert said_by_key("up", key_of_action(("red", "blue"))) is None
    assert [said_by_line(line, keys) for line in (" forward\n", "f", "undo", "up", "", "f f")] == [
        "forward", "forward", "undo", None, None, None,
    ]  # fmt: skip


# The map


class Small(MiniGridEnv):
    """A room of 4 x 3 cells, an agent that looks right, whatever is put into it."""

    def __init__(self):
        from minigrid.core.mission import MissionSpace

        super().__init__(mission_space=MissionSpace(lambda: ""), width=6, height=5, max_steps=9)
        self.reset(seed=0)

    def _gen_grid(self, width, height):
        self.grid = Grid(width, height)
        self.grid.wall_rect(0, 0, width, height)
        self.agent_pos, self.agent_dir, self.mission = (2, 2), 0, ""


def test_the_map_of_a_small_level():
    env = Small()
    env.grid.set(3, 1, Goal())
    env.grid.set(4, 2, Key("yellow"))
    env.grid.set(1, 1, Ball("grey"))
    env.grid.set(5, 2, Door("red", is_locked=True))
    env.grid.set(5, 1, Door("green", is_open=True))
    env.grid.set(0, 3, Door("blue"))
    assert text_map(env, colours=False).split("\n") == [
        "::::########",
        "::oe. G . /g",
        "::  > . kyLr",
        "+b  . . . ##",
        "::::########",
    ]
    legend = map_legend(env)
    assert "G goal" in legend and "o ball" in legend and "L locked door" in legend and "box" not in legend
    assert "r red, g green, b blue, y yellow, e grey" in legend


def test_walls_hide_and_hands_hold():
    env = Small()
    env.grid.set(3, 2, Wall())
    env.agent_dir = 3
    env.carrying = Key("red")
    assert text_map(env, colours=False).split("\n")[2] == "##. ^ ##  ::"
    assert carried(env) == "red key" and "k key" in map_legend(env)


def test_colours_change_no_character():
    env = Small()
    env.grid.set(4, 2, Ball("purple"))
    plain, coloured = text_map(env, colours=False), text_map(env, colours=True)
    bare = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert "\x1b[" not in plain and bare.split("\n")[2][4:10] == "> " + "  " + "op"
    assert all(line.count("\x1b[0m") == 6 for line in coloured.split("\n"))


# The game


def test_undo_goes_back_to_the_same_state():
    task = load_task("fourrooms")
    game = Game(task, 3)
    screens = []
    for action in ("forward", "left", "nonsense"):
        screens.append((game.episode.snapshot(), Screen(game, width=80).text()))
        game.take(action)
    for snapshot, screen in reversed(screens):
        assert game.undo()
        assert (game.episode.snapshot(), Screen(game, width=80).text()) == (snapshot, screen)
    assert not game.undo() and game.actions == []


def test_undo_works_after_the_end():
    game = Game(load_task("fourrooms", horizon=1), 3)
    assert game.take("left").done and game.undo() and not game.episode.done
    assert game.take("forward").stop_reason == "horizon"


def test_key_presses_play():
    game, shown = Game(load_task("fourrooms"), 3), []
    play_keys(game, Screen(game, width=100), iter(["up", "l", "x", "?", "u", "q", "f"]), shown.append)
    assert game.actions == ["forward"]
    assert len(shown) == 6 and "key 'x' does nothing" in shown[3] and "four rooms" in shown[4]


def test_a_finished_episode_takes_no_more_actions():
    game, shown = Game(load_task("fourrooms", horizon=1), 3), []
    play_lines(game, Screen(game), ["left", "left"], shown.append)
    assert game.episode.turn == 1 and "is over (horizon)" in shown[-1]


def test_the_mission_is_always_shown():
    game = Game(load_task("fourrooms"), 3)
    for turn in range(2):
        game.episode.mission = "find the goal"
        for blind in (False, True):
            assert "mission: find the goal" in Screen(game, blind=blind).text(), turn
        game.take("left")


def test_text_is_below_a_map_that_leaves_no_room():
    game = Game(load_task("fourrooms"), 3)
    narrow, wide = (Screen(game, width=width).text().split("\n") for width in (50, 80))
    assert len(wide) == 19 and narrow[19] == "" and narrow[20].startswith("fourrooms, seed 3, turn 0")


def test_an_answer_ends_a_task_of_free_text():
    task = load_task("triangle", size="tiny")
    game, shown = Game(task, 0), []
    play_lines(game, Screen(game), ["nothing valid\n", "more\n"], shown.append)
    assert game.episode.stop_reason == "invalid" and game.actions == [f"nothing valid{task.answer_end}"]


def test_signatures_are_shown_in_order():
    assert signature_text(frozenset({10, 9, 0})) == "{0, 9, 10}"
    assert signature_text(frozenset({("b",), 1})) == "{('b',), 1}"
    assert signature_text((2, 0)) == "(2, 0)"


# As a user runs it


def test_a_piped_game():
    game = play("fourrooms", "--seed", 3, said="forward\nleft\nfly\nu\nf\n")
    assert game.returncode == 0 and game.stderr == "" and "\x1b" not in game.stdout
    again = play("fourrooms", "--seed", 3, said="forward\nleft\nfly\nu\nf\n")
    assert again.stdout == game.stdout
    told = facts(game.stdout)
    assert told.count("fourrooms, seed 3, turn") == 5 and told.count("turn 2 of 100") == 2
    assert "'fly' is nothing to say here: left, right, forward, undo, quit, help." in told
    assert "did: left; reward 0" in told and told.endswith("stopped after 2 turns, return 0, signature {2}\n")
    episode = load_task("fourrooms").start(3)
    for word in episode.observation().split():
        assert word in told


def test_blind_shows_what_the_policy_is_told_and_nothing_else():
    game = play("fourrooms", "--seed", 3, "--blind", said="left\n")
    episode = load_task("fourrooms").start(3)
    first = episode.observation()
    episode.step("left")
    assert game.stdout.split("\n") == [
        "fourrooms, seed 3, turn 0 of 100", f"sees: {first}", "",
        "fourrooms, seed 3, turn 1 of 100", "did: left; reward 0", f"sees: {episode.observation()}", "",
        "stopped after 1 turn, return 0, signature {2}", "",
    ]  # fmt: skip


def test_the_expert_wins_and_is_filmed(tmp_path, capsys):
    film = tmp_path / "films/expert.gif"
    assert run(main, ["fourrooms", "--seed", "3", "--expert", "--gif", str(film), "--task_horizon", "40"]) == 0
    told = capsys.readouterr().out
    turns = int(re.search(r"success after (\d+) turns", told.replace("\n", " "))[1])
    assert f"{film}: {turns + 1} frames" in told
    with Image.open(film) as image:
        assert image.n_frames == turns + 1
        image.seek(turns)
        assert image.size[1] > image.size[0] > 300 and image.info["duration"] == 2000


def test_babyai_is_played_as_it_is(tmp_path, capsys):
    film = tmp_path / "expert.gif"
    assert run(main, ["babyai-pickup", "--seed", "3", "--expert", "--gif", str(film)]) == 0
    told = capsys.readouterr().out
    with Image.open(film) as image:
        assert f"success after {image.n_frames - 1} turns" in told
    assert told.count("mission: pick up a grey box") == image.n_frames + 1  # the policy is told it once, too
    assert "carries: grey box" in told


def test_undone_turns_are_not_filmed(tmp_path):
    game = Game(load_task("fourrooms"), 3)
    play_lines(game, Screen(game), ["f", "l", "u", "r", "nonsense"], lambda text: None)
    assert game.actions == ["forward", "right"]
    frames = save_gif(game.task, 3, [*game.actions, "nonsense"], tmp_path / "game.gif")
    with Image.open(tmp_path / "game.gif") as image:
        assert frames == image.n_frames == 4


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("fourroms", "did you mean 'fourrooms'?"),
        ("fourrooms --sed 3", "--sed 3"),
        ("fourrooms --seed -1", "got -1"),
        ("fourrooms --seed x", "'x'"),
        ("fourrooms --task_args rooms=5", "'rooms'"),
        ("fourrooms --task_args horizon", "NAME=VALUE"),
        ("fourrooms --greedy", "--greedy has no effect without --policy"),
        ("fourrooms --num_vines 4", "--num_vines 4 has no effect without --vines"),
        ("fourrooms --vines x.png", "--vines x.png has no effect without --policy"),
        ("fourrooms --policy p --expert", "--expert and --policy"),
        ("fourrooms --policy p --vines x.png --gif x.gif", "--vines and --gif"),
        ("fourrooms --policy p --vines x.png --rollout_states uncertain", "'uncertain'"),
        ("fourrooms --policy p --vines x.png --num_vines 0", "num_vines is 0"),
        ("fourrooms --policy p --vines x.png --num_rollout_states 0", "--num_rollout_states 0"),
        ("fourrooms --policy p --vines x.png --num_rollout_states 9", "shows 1 to 8"),
        ("fourrooms --policy p --vines x.jpg", "'x.jpg'"),
        ("fourrooms --expert --gif x.png", "'x.png'"),
        ("fourrooms --expert --delay -1", "-1"),
        ("bandit --gif x.gif", "task 'bandit' has none"),
        ("triangle --expert", "has no expert"),
        ("test_play:Lost --expert", "expert() raised KeyError: 'map' (test_play.py, line"),
        ("fourrooms --policy ./no-such-folder", "./no-such-folder"),
    ],
)
def test_errors_are_one_line(arguments, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(main, arguments.split()) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("error: ") and told.err.count("\n") == 1 and named in told.err
    assert list(tmp_path.iterdir()) == []
