"""FourRooms against MiniGrid itself: same dynamics, same visibility, nothing in the text that is not in the view."""

import os
import random
import subprocess
import sys
from collections import deque

import numpy as np
import pytest

from polytune.tasks import load_task
from polytune.tasks.grid.common import (
    FourRoomsEnv,
    Goal,
    Grid,
    Wall,
    all_offset_words,
    offset_word,
    rng_from_bytes,
    rng_to_bytes,
)
from polytune.tasks.grid.floorplan import encode_level, floor_plan
from polytune.tasks.grid.fourrooms import FourRooms, LeanFourRoomsEnv, generate, in_another_room

ACTION_NUMBER = {"left": 0, "right": 1, "forward": 2}

CRAFTED = """
#############
#.....#.....#
#.....#.....#
#.....D.....#
#.....#.....#
###D#####D###
#.....#.....#
#.....#..G..#
#.....#.....#
#############
"""


def plan_of(drawing):
    """D is a doorway to a reader; the code sees a free cell."""
    rows = drawing.split()
    grid = Grid(len(rows[0]), len(rows))
    for y, row in enumerate(rows):
        for x, letter in enumerate(row):
            grid.set(x, y, {"#": Wall(), "G": Goal()}.get(letter))
    return floor_plan(encode_level(grid))


def look(plan, x, y, direction):
    env = LeanFourRoomsEnv()
    env.grid, env.agent_pos, env.agent_dir = plan.grid, (x, y), direction
    return plan.text(env)


def poses(plan):
    return [
        (x, y, direction)
        for y in range(plan.height)
        for x in range(plan.width)
        for direction in range(4)
        if not plan.wall_at(x, y)
    ]


def test_equals_plain_minigrid_on_random_walks():
    task = FourRooms()
    for seed in range(20):
        rng = random.Random(seed)
        plain = FourRoomsEnv(max_steps=100)
        plain.reset(seed=seed)
        episode = task.start(seed)
        assert episode.env.grid == plain.grid
        assert episode.env.np_random.bit_generator.state == plain.np_random.bit_generator.state
        while not episode.done:
            action = rng.choice([*task.actions, "forward"])
            step = episode.step(action)
            _, plain_reward, terminated, truncated, _ = plain.step(ACTION_NUMBER[action])
            assert episode.env.agent_pos == tuple(plain.agent_pos) and episode.env.agent_dir == plain.agent_dir
            assert (step.stop_reason == "success") == terminated and step.done == (terminated or truncated)
            assert (step.reward > 0) == (plain_reward > 0)
            assert episode.env.step_count == plain.step_count == episode.turn
            (_, lean_mask), (_, plain_mask) = episode.env.gen_obs_grid(), plain.gen_obs_grid()
            assert np.array_equal(lean_mask, plain_mask)
            assert episode.observation() == floor_plan(encode_level(plain.grid))._describe(seen_from(plain))


def seen_from(env):
    """Visible cells by MiniGrid's own coordinates, found by asking for each cell around where it is in view."""
    _, mask = env.gen_obs_grid()
    seen = {}
    at_x, at_y = map(int, env.agent_pos)
    for x in range(at_x + 7, at_x - 8, -1):
        for y in range(at_y + 7, at_y - 8, -1):
            view = env.relative_coords(x, y)
            if view is not None and mask[view]:
                seen[int(6 - view[1]), int(view[0] - 3)] = (x, y)
    return seen


@pytest.mark.parametrize(
    ("x", "y", "direction", "text"),
    [
        (1, 1, 0, "front=4 left=0 right=far door=ahead5-right2"),
        (2, 3, 0, "front=far left=2 right=1 door=ahead1-right2 door=ahead4"),
        (5, 2, 0, "front=0 left=1 right=2 door=ahead1-right1 door=ahead4-right3"),
        (6, 3, 0, "front=5 left=0 right=0 door=here door=ahead3-right2"),
        (6, 3, 1, "front=0 left=far right=far door=here door=ahead2-left3 door=ahead2-right3 goal=ahead4-left3"),
        (9, 2, 1, "front=far left=2 right=2 door=ahead3 door=ahead1-right3 goal=ahead5"),
        (9, 4, 1, "front=4 left=2 right=2 door=ahead1 goal=ahead3"),
        (11, 4, 1, "front=0 left=0 right=far door=ahead1-right2 goal=ahead3-right2"),
        (9, 6, 2, "front=2 left=2 right=far door=right1 door=ahead3-right3 door=ahead6-right1 goal=left1"),
        (10, 6, 1, "front=2 left=1 right=far goal=ahead1-right1"),
        (9, 5, 1, "front=3 left=0 right=0 door=here goal=ahead2"),
        (9, 7, 1, "front=1 left=2 right=2 goal=here"),
        (4, 7, 0, "front=1 left=1 right=1"),  # the goal is 5 cells ahead, behind a wall
        (3, 8, 3, "front=far left=2 right=2 door=ahead3 door=ahead5-right3"),
    ],
)
def test_text_of_a_crafted_level(x, y, direction, text):
    assert look(plan_of(CRAFTED), x, y, direction) == text


def test_rooms_and_doorways_come_from_the_walls():
    plan = plan_of(CRAFTED)
    assert plan.doorways == {(6, 3), (3, 5), (9, 5)}
    assert [plan.room_at[y * 13 + x] for x, y in ((1, 1), (11, 4), (5, 6), (7, 8))] == [0, 1, 2, 3]
    assert {plan.room_at[y * 13 + x] for x, y in [*plan.doorways, (0, 0), (6, 1)]} == {None}


def test_generated_levels_have_four_rooms_and_four_doorways():
    for seed in range(150):
        plan = floor_plan(generate(seed).level)
        assert len(plan.doorways) == 4
        assert set(plan.room_at) - {None} == {0, 1, 2, 3}


def test_text_is_a_function_of_what_minigrid_shows():
    """Equal masked views (and own cell, which MiniGrid's image leaves out) give equal texts, across levels and poses:
    so no hidden cell and no position or direction gets into the text."""
    text_of_view = {}
    env = FourRoomsEnv()
    for seed in range(12):
        plan = floor_plan(generate(seed).level)
        env.grid = plan.grid
        for x, y, env.agent_dir in poses(plan):
            env.agent_pos = (x, y)
            text = plan.text(env)
            view = (env.gen_obs()["image"].tobytes(), (x, y) in plan.doorways, (x, y) == plan.goal)
            assert text_of_view.setdefault(view, text) == text
    assert len(text_of_view) > 2000


def test_changing_hidden_cells_changes_nothing():
    rng = random.Random(0)
    for seed in range(8):
        plan = floor_plan(generate(seed).level)
        env = FourRoomsEnv()
        env.grid = plan.grid
        for x, y, env.agent_dir in rng.sample(poses(plan), 12):
            env.agent_pos = (x, y)
            seen = set(seen_from(env).values())
            near = {(x + dx, y + dy) for x, y in seen | {plan.goal} for dx in (-1, 0, 1) for dy in (-1, 0, 1)}
            changed = Grid(19, 19)
            for index, cell in enumerate(plan.grid.grid):
                hidden = (index % 19, index // 19) not in near  # a doorway may be told by the cells around it
                changed.grid[index] = (Wall() if rng.random() < 0.5 else None) if hidden else cell
            assert look(floor_plan(encode_level(changed)), x, y, env.agent_dir) == plan.text(env)


def test_vocabulary_covers_everything_said():
    task = FourRooms()
    words, said = set(task.vocabulary()), set()
    for seed in range(40):
        episode = task.start(seed)
        rng = random.Random(seed)
        while not episode.done:
            said |= set(episode.observation().split())
            episode.step(rng.choice([*task.actions, "forward", task.expert(episode)]))
        said |= set(episode.observation().split())
    assert said <= words and len(said) > 80
    assert len(words) == 3 + 7 + 8 + 2 * 49
    assert len(set(all_offset_words())) == 49 and offset_word(3, -1) == "ahead3-left1" and offset_word(0, 0) == "here"


def test_the_expert_is_optimal_against_a_forward_search_in_minigrid():
    task = FourRooms()
    for seed in (0, 1, 2, 3):
        env = FourRoomsEnv(max_steps=10**9)
        env.reset(seed=seed)
        first = (tuple(map(int, env.agent_pos)), int(env.agent_dir))
        depth, queue, best = {first: 0}, deque([first]), None
        while best is None:
            state = queue.popleft()
            for action in range(3):
                env.agent_pos, env.agent_dir = state
                _, _, solved, _, _ = env.step(action)
                after = (tuple(map(int, env.agent_pos)), int(env.agent_dir))
                if after not in depth:
                    depth[after] = depth[state] + 1
                    queue.append(after)
                if solved:
                    best = depth[state] + 1
                    break
        episode = task.start(seed)
        while not episode.done:
            episode.step(task.expert(episode))
        assert (episode.turn, episode.stop_reason) == (best, "success")


def test_the_expert_solves_every_level_well_within_the_horizon():
    lengths = []
    for seed in range(500):
        start = generate(seed)
        lengths.append(floor_plan(start.level).distance(start.x, start.y, start.direction))
    assert None not in lengths and min(lengths) >= 1 and max(lengths) <= 50


def test_the_expert_says_when_there_is_nothing_to_do():
    task = FourRooms(horizon=1)
    episode = task.start(0)
    episode.step("left")
    with pytest.raises(RuntimeError, match="is over"):
        task.expert(episode)
    closed = plan_of("#####\n#.#G#\n#####")
    assert closed.distance(1, 1, 0) is None and closed.distance(3, 1, 2) == 0
    episode = FourRooms().start(0)
    episode.plan, episode.env.agent_pos = closed, (1, 1)
    with pytest.raises(ValueError, match=r"no way to the goal \(3, 1\)"):
        FourRooms().expert(episode)


def test_reward_depends_on_turns_and_horizon():
    task = load_task("fourrooms", horizon=40)
    episode = task.start(0)
    episode.step("not an action")
    while not episode.done:
        step = episode.step(task.expert(episode))
    assert step.reward == 1 - 0.5 * episode.turn / 40 and episode.invalid_actions == 1


def test_signature_names_rooms_and_a_doorway_is_no_room():
    task = FourRooms()
    checked = 0
    for seed in range(30):
        episode = task.start(seed)
        rooms = []
        while True:
            x, y = episode.env.agent_pos
            rooms.append(episode.plan.room_at[y * 19 + x])
            if episode.done:
                break
            episode.step(task.expert(episode))
        for turn in range(len(rooms)):
            assert episode.signature(turn) == frozenset(rooms[turn:]) - {None}
        if None in rooms[1:-1]:
            turn = rooms.index(None)
            at_door = task.start(seed)
            while at_door.turn < turn:
                at_door.step(task.expert(at_door))
            assert at_door.signature(turn) == frozenset()
            checked += 1
    assert checked > 5


def test_generator_state_survives_a_snapshot():
    rng = np.random.Generator(np.random.PCG64(7))
    rng.integers(0, 10, size=3, dtype=np.int32)  # leaves half of a 64-bit draw over
    other = rng_from_bytes(rng_to_bytes(rng))
    assert other.bit_generator.state == rng.bit_generator.state
    episode = FourRooms().start(0)
    drawn = FourRooms().restore(episode.snapshot()).env.np_random.integers(0, 1000, 5)
    assert drawn.tolist() == episode.env.np_random.integers(0, 1000, 5).tolist()


def test_episodes_share_levels_and_never_change_them():
    task = FourRooms()
    first, second = task.start(5), task.restore(task.start(5).snapshot())
    assert first.plan is second.plan and first.env is not second.env
    before = first.env.grid.encode()
    rng = random.Random(0)
    while not first.done:
        first.step(rng.choice(task.actions))
    assert np.array_equal(second.env.grid.encode(), before) and second.turn == 0
    assert encode_level(first.env.grid) == first.plan.encoded


def test_a_plan_refuses_what_it_cannot_hold():
    grid = Grid(5, 5)
    with pytest.raises(ValueError, match="exactly one goal"):
        encode_level(grid)


# ---------------------------------------------------------------- the perturbation: another room to start in


def test_another_room_is_another_free_reachable_one_and_all_of_them_occur():
    plain, moved = load_task("fourrooms"), load_task("fourrooms", perturb="start_room")
    rooms, directions, goal_rooms = set(), set(), 0
    for seed in range(200):
        before, after = plain.start(seed), moved.start(seed)
        plan, (x, y) = after.plan, after.env.agent_pos
        room = plan.room_at[y * plan.width + x]
        assert plan is before.plan and plain.start_hash(seed) == moved.start_hash(seed)
        assert not plan.wall_at(x, y) and (x, y) != plan.goal and room is not None
        assert room != before._place() and plan.distance(x, y, after.env.agent_dir) is not None
        assert after.env.np_random.bit_generator.state == before.env.np_random.bit_generator.state
        again = load_task("fourrooms", perturb="start_room").start(seed)
        assert (again.env.agent_pos, again.env.agent_dir) == ((x, y), after.env.agent_dir)
        rooms.add(room)
        directions.add(after.env.agent_dir)
        goal_rooms += room == plan.room_at[plan.goal[1] * plan.width + plan.goal[0]]
    assert rooms == directions == {0, 1, 2, 3} and 20 < goal_rooms < 90


def test_from_a_doorway_the_agent_goes_to_neither_side():
    seeds = [seed for seed in range(400) if generate(seed)[1:3] in floor_plan(generate(seed).level).doorways]
    assert len(seeds) >= 5
    for seed in seeds:
        start, moved = generate(seed), in_another_room(seed, 0)
        plan = floor_plan(start.level)
        beside = {
            plan.room_at[(start.y + dy) * plan.width + start.x + dx] for dx, dy in ((1, 0), (0, 1), (-1, 0), (0, -1))
        }
        assert len(beside - {None}) == 2 and plan.room_at[moved.y * plan.width + moved.x] not in beside


def test_the_perturbation_seed_draws_other_rooms_and_other_processes_the_same():
    draws = [[in_another_room(seed, own)[1:4] for seed in range(30)] for own in (0, 1)]
    assert sum(a != b for a, b in zip(*draws, strict=True)) > 25
    code = "from polytune.tasks import load_task as l; t = l('fourrooms', perturb='start_room', perturb_seed=1); "
    code += "print([(*e.env.agent_pos, e.env.agent_dir) for e in map(t.start, range(30))])"
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert printed.strip() == str(draws[1])


def test_perturbed_episodes_restore_into_either_task():
    moved = load_task("fourrooms", perturb="start_room", perturb_seed=3)
    episode = moved.start(5)
    for task in (moved, load_task("fourrooms")):
        copy = task.restore(episode.snapshot())
        assert (copy.observation(), copy.snapshot()) == (episode.observation(), episode.snapshot())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fourrooms", {"perturb": "goal"}, "no perturbation 'goal': it offers start_room"),
        ("fourrooms", {"perturb": 1}, "no perturbation 1: "),
        ("fourrooms", {"perturb": "start_room", "perturb_seed": -1}, "must be an int in 0"),
        ("bandit", {"perturb": "start_room"}, "no option 'perturb'"),
    ],
)
def test_unknown_perturbations_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        load_task(name, **options)


def test_a_task_without_perturbations_says_so():
    with pytest.raises(ValueError, match="'bandit' has no perturbation 'start_room': it offers none"):
        load_task("bandit").check_perturbation("start_room", 0)


def test_rooms_in_order_are_the_way_that_was_taken():
    task, ordered = load_task("fourrooms"), load_task("fourrooms", signature="rooms_in_order")
    lengths = set()
    for seed in range(60):
        one, other, rooms = task.start(seed), ordered.start(seed), []
        while not one.done:
            action = task.expert(one)
            assert one.step(action) == other.step(action)
        for room in other._trail:
            if room is not None and rooms[-1:] != [room]:
                rooms.append(room)
        assert other.signature() == tuple(rooms) and one.signature() == frozenset(rooms)
        assert ordered.restore(other.snapshot()).signature(1) == other.signature(1)
        lengths.add(len(rooms))
    assert {1, 2, 3} <= lengths
    with pytest.raises(ValueError, match="must be one of rooms, rooms_in_order, got 'objects_touched'"):
        load_task("fourrooms", signature="objects_touched")
