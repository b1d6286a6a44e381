"""MaxRL's maze: the grid in words, walks graded to the letter, ways counted by search, disjoint splits, tokens."""

import random

import pytest

from polytune.policy import Renderer, build_tiny
from polytune.policy.demonstrations import tokenize_lines
from polytune.tasks import Step, load_task
from polytune.tasks.conformance import faults, notes
from polytune.tasks.maze import END, LINES_START, MOVES, Grid, maze_of

#: two ways, right then down and down then right; a blind alley in the middle row
DRAWN = """
#######
#S....#
#.###.#
#.#...#
#.###.#
#....G#
#######
"""


def drawn(picture):
    rows = picture.split()
    return Grid(len(rows), tuple(place != "#" for row in rows for place in row))


def ways(grid):
    """The moves of every way from START to GOAL that meets no place twice, by search."""
    found = []

    def walk(place, been, moves):
        if place == grid.goal:
            found.append(moves)
            return
        for move in MOVES:
            onward = grid.after(place, move)
            if onward is not None and onward not in been:
                walk(onward, {*been, onward}, [*moves, move])

    walk(grid.start, {grid.start}, [])
    return found


def said(moves):
    return " ".join([*moves, END])


def test_the_prompt_is_the_papers_format():
    task = load_task("maze", size=7)
    words = task.start(3).observation().split()
    assert words[0] == "GRID_START" and words[-2:] == ["GRID_END", "PATH_START"] and len(words) == 7 * 8 + 3
    rows = " ".join(words[1:-2]).split("NEWLINE")[:-1]
    assert [len(row.split()) for row in rows] == [7] * 7
    assert rows[0].split() == rows[6].split() == ["WALL"] * 7
    assert rows[1].split()[1] == "START" and rows[5].split()[5] == "GOAL"
    assert (words.count("START"), words.count("GOAL")) == (1, 1)


@pytest.mark.parametrize("size", [7, 9, 17])
def test_prims_mazes_reach_every_cell_by_one_way(size):
    cells = (size // 2) ** 2
    for seed in range(30):
        grid = maze_of(seed, size, 0)
        assert sum(grid.open) == cells + (cells - 1)  # a tree: one opened wall for each cell but the first
        assert sum(place in grid.distances() for place, free in enumerate(grid.open) if free) == 2 * cells - 1
    assert size == 17 or len(ways(maze_of(0, size, 0))) == 1


def test_loops_open_so_many_walls_and_make_more_ways():
    for loops in (1, 2):
        grids = [maze_of(seed, 7, loops) for seed in range(30)]
        assert {sum(grid.open) for grid in grids} == {9 + 8 + loops}
        assert sum(len(ways(grid)) > 1 for grid in grids) >= 15


def test_a_path_is_followed_to_the_letter():
    grid = drawn(DRAWN)
    assert sorted(map(len, ways(grid))) == [8, 8]
    for way in ways(grid):
        assert grid.walk(said(way)) == ("".join(move[0] for move in way), True)
        assert grid.walk("".join(way) + END).solved and grid.walk(f"\n{said(way)} ").solved
        assert grid.walk(said([*way, "UP"])).solved, "what follows the goal is not looked at"
        assert grid.walk(said(way[:-1])) == ("".join(move[0] for move in way[:-1]), False)
        assert not grid.walk(said(["UP", *way])).solved, "a wall ends the walk"
    for text in (
        "",
        "RIGHT",
        "right DONE",
        "RIGHT DONE DONE",
        "RIGHT,DOWN DONE",
        "DONE.",
        "RIGHT JUMP DONE",
        "RIGHTDON",
    ):
        assert grid.walk(text) is None


def test_loops_of_a_walk_are_no_other_strategy():
    grid = drawn(DRAWN)
    way = ["RIGHT"] * 4 + ["DOWN"] * 4
    there_and_back = [*way[:2], "LEFT", "LEFT", *way[:6], "LEFT", "RIGHT", *way[6:]]
    assert grid.walk(said(there_and_back)) == grid.walk(said(way)) == ("RRRRDDDD", True)
    assert grid.walk(said(["DOWN", "DOWN", "UP", "UP"])) == ("", False)


def test_reward_and_signature_of_an_episode():
    task = load_task("maze", size=9, loops=4)
    for seed in (0, 1, 2):
        episode = task.start(seed)
        assert episode.signature() is None
        assert episode.step(task.expert(episode)) == Step(1.0, True, "success")
        assert len(episode.signature()) == len(task.expert(episode).split()) - 1
        assert episode.signature(1) is None and task.restore(episode.snapshot()).signature() == episode.signature()
        failed, silent = task.start(seed), task.start(seed)
        first = task.expert(failed).split()[0]
        assert failed.step(said([first])) == Step(0.0, True, "unsolved") and failed.signature() == first[0]
        assert silent.step("nonsense") == Step(0.0, True, "unsolved") and silent.signature() is None


def test_the_expert_is_shortest_and_takes_each_of_several_shortest_ways():
    grid = drawn(DRAWN)
    taken = {said(grid.shortest(random.Random(seed))) for seed in range(20)}
    assert taken == {said(way) for way in ways(grid)}
    for seed in range(20):
        grid = maze_of(seed, 7, 2)
        assert len(grid.shortest(random.Random(0))) == min(map(len, ways(grid))) == grid.distances()[grid.start]


def test_no_maze_of_a_test_is_one_of_training_or_of_a_line():
    """At 7 x 7 there are 192 mazes, so that seeds alone would keep nothing apart."""
    task = load_task("maze", size=7, lines=400)
    shown = {prompt for prompt, _ in task.training_lines()} | {task.prompt(seed) for seed in range(400)}
    tested = {task.prompt(seed) for seed in task.splits["test"]}
    assert 100 < len(shown) <= 192 and tested and not shown & tested
    assert len(task.splits["test"]) == 256 and task.default_split == "test"


def test_a_seeds_maze_never_changes():
    """Runs hold seeds alone: these hashes may not change."""
    task = load_task("maze")
    found = [task.start_hash(seed) for seed in (0, 1, LINES_START, task.splits["test"][0])]
    assert found == ["aacac903994dab8d", "d0d35179f532f6f9", "c3caef548406c408", "48facd737e47be77"]


def test_it_conforms():
    task = load_task("maze", size=9, loops=2, lines=10)
    assert faults(task) == [] == notes(task)


def test_lines_are_one_token_a_word_and_read_back():
    task = load_task("maze", size=7, lines=20)
    _, tokenizer = build_tiny("tiny", task.vocabulary(), spaced=False)
    renderer = Renderer(tokenizer, task)
    renderer.check_vocabulary()
    rows = tokenize_lines(renderer, task.training_lines())
    for seed, (row, (prompt, answer)) in enumerate(zip(rows, task.training_lines(), strict=True), LINES_START):
        own = tuple(token for token, mine in zip(row["input_ids"], row["own"], strict=True) if mine)
        assert len(own) == len(answer.split()) and own[-1] in renderer.stop_ids
        assert len(row["input_ids"]) == 1 + len(prompt.split()) + len(own)
        assert task.start(seed).step(renderer.action_text(own)).reward == 1.0


@pytest.mark.parametrize("options, message", [
    ({"size": 8}, "must be odd"), ({"size": 5}, "at least 7"), ({"size": True}, "whole number"),
    ({"size": 7, "loops": 5}, "loops of task 'maze' is 5: at most 2 at size 7"),
    ({"max_tokens": 28}, "through size 17 takes 29 words, DONE included, and the longest 127"),
    ({"train": 10**9}, "at most 500000000"), ({"lines": 0}, "lines of task 'maze' must be"),
])  # fmt: skip
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_task("maze", **options)
