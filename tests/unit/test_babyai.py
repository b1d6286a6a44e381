"""The BabyAI worlds against MiniGrid itself, level by level and turn by turn."""

import contextlib
import io
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from polytune.places import DATA
from polytune.policy.rendering import PROMPT_WORD
from polytune.policy.tiny import build_tokenizer
from polytune.tasks import load_task
from polytune.tasks.base import ExpertError
from polytune.tasks.demonstrations import WorkerLostError, act_out, act_out_all, summary
from polytune.tasks.grid import babyai
from polytune.tasks.grid.babyai_expert import Guide, QuickBot
from polytune.tasks.grid.common import DIRECTIONS
from polytune.tasks.grid.perturbations import EXTRA_OBJECTS, distractors, reachable, reworded, start_room
from polytune.tasks.splits import load_split, split_hashes

# isort: split
from minigrid.core.world_object import Ball, Box, Door, Key
from minigrid.envs.babyai.core import verifier
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
from minigrid.utils.baby_ai_bot import BabyAIBot

NAMES = ["babyai-goto", "babyai-pickup", "babyai-synthseq", "babyai-bosslevel"]
PLACES = ("on your", "in front of", "behind")
LEVELS = dict(zip(NAMES, (babyai.GoTo, babyai.Pickup, babyai.SynthSeq, babyai.BossLevel), strict=True))


@pytest.fixture(params=NAMES)
def task(request):
    return load_task(request.param)


def plain(task, seed):
    """MiniGrid's own level, none of our code in it."""
    env = LEVELS[task.name](max_steps=task.horizon)
    with contextlib.redirect_stdout(io.StringIO()):
        env.reset(seed=seed)
    return env


def cells(grid):
    """What MiniGrid's `==` compares, the encoding of each cell, without the arrays that it builds first."""
    return grid.width, grid.height, [cell and cell.encode() for cell in grid.grid]


def mostly_expert(task, episode, rng, share=0.8):
    """The expert's advice, four times in five unless said otherwise, so that doors get opened and things carried; else
    anything. The bot gives up where such a partner has opened the box that it was to fetch."""
    try:
        return task.expert(episode) if rng.random() < share else rng.choice(task.actions)
    except ExpertError:
        return rng.choice(task.actions)


def wander(task, episode, rng, turns):
    for _ in range(turns):
        if not episode.done:
            episode.step(mostly_expert(task, episode, rng))


def starts_of(task, seed):
    return [tuple(thing.cur_pos) for thing in task.start(seed).objects]


def expected_text(env):
    """The observation, read off MiniGrid's own view."""
    view, mask = env.gen_obs_grid()
    half = view.width // 2

    def free(ahead, side):
        for steps in range(1, view.height):
            column, row = half + side * steps, view.height - 1 - ahead * steps
            if not (0 <= column < view.width and 0 <= row) or not mask[column, row]:
                return "far"
            cell = view.get(column, row)
            if cell is not None and not (cell.type == "door" and cell.is_open):
                return steps - 1
        return "far"

    words = [f"front={free(1, 0)}", f"left={free(0, -1)}", f"right={free(0, 1)}"]
    if env.carrying is not None:
        words.append(f"carrying={env.carrying.color}-{env.carrying.type}")
    seen = []
    for column in range(view.width):
        for row in range(view.height):
            ahead, side = view.height - 1 - row, column - half
            under = (ahead, side) == (0, 0)  # the view shows what is carried in the agent's own cell
            cell = env.grid.get(*env.agent_pos) if under else view.get(column, row)
            if mask[column, row] and cell is not None and cell.type != "wall":
                state = ""
                if cell.type == "door":
                    state = "-open" if cell.is_open else "-locked" if cell.is_locked else "-closed"
                place = "-".join(
                    ([f"ahead{ahead}"] if ahead else [])
                    + ([f"{'left' if side < 0 else 'right'}{abs(side)}"] if side else [])
                )
                seen.append((ahead + abs(side), ahead, side, f"{cell.color}-{cell.type}{state}:", place or "here"))
    return " ".join([*words, *(word for row in sorted(seen) for word in row[3:])])


def test_a_level_is_minigrids_own_and_plays_like_it(task):
    outcomes = Counter()
    for seed in range(30):
        env, episode, rng = plain(task, seed), task.start(seed), random.Random(seed)
        assert episode.mission == env.mission
        assert episode.observation().startswith(f"mission: {env.mission.replace(',', ' ,')} . front=")
        while not episode.done:
            action = mostly_expert(task, episode, rng)
            step = episode.step(action)
            _, reward, ended, cut, _ = env.step(task.actions.index(action))
            assert (step.stop_reason == "success") == (ended and reward > 0)
            assert step.done == (ended or cut)
            assert tuple(env.agent_pos) == episode.env.agent_pos and env.agent_dir == episode.env.agent_dir
            assert cells(env.grid) == cells(episode.env.grid)
            outcomes[step.stop_reason] += 1
    assert outcomes["success"] >= 5 and outcomes["horizon"] >= 1


def test_the_text_says_what_minigrids_view_shows(task):
    words, seen = set(task.vocabulary()), Counter()
    for seed in range(40):
        episode, rng = task.start(seed), random.Random(seed)
        while not episode.done and episode.turn < 60:
            text = episode.observation()
            if episode.turn:
                assert text == expected_text(episode.env)
            else:
                assert text == f"mission: {episode.mission.replace(',', ' ,')} . {expected_text(episode.env)}"
            assert words >= set(text.split())
            seen.update(word.rstrip(":").split("-")[-1] for word in text.split())
            seen["carrying"] += "carrying=" in text
            wander(task, episode, rng, 1)
    assert all(seen[word] for word in ("open", "closed", "ball", "box", "key", "here"))
    assert seen["carrying"] or task.name == "babyai-goto"
    assert seen["locked"] or task.name in ("babyai-goto", "babyai-pickup")


def test_snapshots_keep_what_is_carried_open_and_half_accomplished(task):
    met = Counter()
    for seed in range(80):
        episode, rng = task.start(seed), random.Random(seed)
        wander(task, episode, rng, rng.randrange(20, task.horizon // 2))
        if episode.done:
            continue
        taken = episode.snapshot()
        restored = load_task(task.name).restore(taken)
        assert restored.snapshot() == taken and restored.mission == episode.mission
        met["carried"] += episode.env.carrying is not None
        met["opened"] += any(thing.type == "door" and thing.is_open for thing in episode.objects)
        start = {id(thing): place for thing, place in zip(episode.objects, starts_of(task, seed), strict=True)}
        met["moved"] += any(start[id(t)] != tuple(t.cur_pos) and t is not episode.env.carrying for t in episode.objects)
        parts = [episode.env.instrs, *vars(episode.env.instrs).values()]
        met["half done"] += any("success" in (getattr(p, "a_done", 0), getattr(p, "b_done", 0)) for p in parts)
        while not episode.done:  # the expert goes on, so that the verifier comes to its verdict
            action = mostly_expert(task, episode, rng, share=1.0)
            assert restored.step(action) == episode.step(action)
            assert restored.observation() == episode.observation()
            assert restored.signature() == episode.signature()
        assert restored.snapshot() == episode.snapshot() and task.restore(taken).snapshot() == taken
        met[episode.stop_reason] += 1
    assert met["opened"] and met["success"] and (met["carried"] or task.name == "babyai-goto")
    assert (met["half done"] and met["moved"]) or task.name in ("babyai-goto", "babyai-pickup")


def test_a_snapshot_of_another_signature_is_refused():
    taken = load_task("babyai-goto").start(0).snapshot()
    with pytest.raises(ValueError, match="taken with signature 'rooms', this task has 'objects_touched'"):
        load_task("babyai-goto", signature="objects_touched").restore(taken)


def test_restoring_generates_no_level(task):
    """`make bench` measures how long it takes."""
    taken = task.start(5).snapshot()
    babyai.generate.cache_clear()
    before = babyai.generate.cache_info().misses
    for _ in range(20):
        assert task.restore(taken).snapshot() == taken
    assert babyai.generate.cache_info().misses == before


def test_minigrids_done_actions_are_refused():
    """MiniGrid reads the variable when it is imported; with it, no mission could be accomplished."""
    code = "from polytune.tasks import load_task; load_task('babyai-goto')"
    environment = os.environ | {"BABYAI_DONE_ACTIONS": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "ValueError: the environment variable BABYAI_DONE_ACTIONS is set: MiniGrid would end a mission only at the "
        "action done, which task 'babyai-goto' does not have; unset it"
    )


def test_missions_do_not_fail(task):
    """No mission is strict, so a mistake ends no episode."""
    for seed in range(100):
        parts = [task.start(seed).env.instrs]
        while parts:
            part = parts.pop()
            assert not getattr(part, "strict", False)
            parts += [value for value in vars(part).values() if isinstance(value, verifier.Instr)]


def test_a_toggled_box_is_gone_as_the_instructions_say():
    episode = load_task("babyai-goto").start(0)
    assert "a box ahead is opened and thereby destroyed" in episode.task.instructions
    box = next(thing for thing in episode.objects if thing.type == "box")
    direction, (x, y) = next(
        (direction, (box.cur_pos[0] - dx, box.cur_pos[1] - dy))
        for direction, (dx, dy) in enumerate(DIRECTIONS)
        if episode.env.grid.get(box.cur_pos[0] - dx, box.cur_pos[1] - dy) is None
    )
    episode.env.agent_pos, episode.env.agent_dir = (int(x), int(y)), direction
    seen = f" {box.color}-box: ahead1 "
    assert "front=0" in episode.observation() and seen in f"{episode.observation()} "
    episode.step("toggle")
    assert "front=0" not in episode.observation() and seen not in f"{episode.observation()} "
    assert episode.env.carrying is None


def test_rooms_are_those_of_the_level(task):
    for seed in range(10):
        episode, env = task.start(seed), plain(task, seed)
        walls = episode.sight.walls
        rooms = {room: set() for room in range(9)}
        for y in range(walls.height):
            for x in range(walls.width):
                if walls.room(x, y) is not None:
                    rooms[walls.room(x, y)].add((x, y))
                elif not walls.wall_at(x, y):
                    assert env.grid.get(x, y).type == "door"
        own = [env.get_room(column, row) for row in range(3) for column in range(3)]
        inside = [
            {(x, y) for x in range(r.top[0] + 1, r.top[0] + 7) for y in range(r.top[1] + 1, r.top[1] + 7)} for r in own
        ]
        assert list(rooms.values()) == inside


def test_signatures_by_rooms_by_their_order_and_by_objects():
    actions = []
    episode = load_task("babyai-bosslevel").start(8)
    while not episode.done:
        actions.append(episode.task.expert(episode))
        episode.step(actions[-1])
    played = {}
    for name in ("rooms", "rooms_in_order", "objects_touched"):
        played[name] = load_task("babyai-bosslevel", signature=name).start(8)
        rooms, touched = [], []
        for action in [None, *actions]:
            if action:
                played[name].step(action)
            x, y = played[name].env.agent_pos
            dx, dy = DIRECTIONS[played[name].env.agent_dir]
            rooms.append(played[name].sight.walls.room(x, y))
            ahead = played[name].env.grid.get(x + dx, y + dy)
            touched += [number for number, thing in enumerate(played[name].objects) if thing is ahead]
        in_order = [room for room in rooms if room is not None]
        in_order = tuple(room for room, before in zip(in_order, [None, *in_order], strict=False) if room != before)
    assert len(set(in_order)) >= 3
    assert played["rooms"].signature() == frozenset(in_order)
    assert played["rooms_in_order"].signature() == in_order
    assert all(room != following for room, following in pairwise(played["rooms_in_order"].signature(10)))
    assert played["objects_touched"].signature() == frozenset(touched) and len(set(touched)) >= 2
    with pytest.raises(ValueError, match=r"must be one of rooms, rooms_in_order, objects_touched, got 'doors'"):
        load_task("babyai-goto", signature="doors")


def test_an_episode_fits_the_tiny_policys_context():
    """100 turns within 2,048 tokens: of experts, of random walks, and of an agent that does nothing but look around."""
    longest = 0
    for name in ("babyai-goto", "babyai-pickup"):
        task = load_task(name)
        tokenizer = build_tokenizer([PROMPT_WORD, *task.vocabulary()])
        for seed in range(60):
            for player in ("expert", "random", "spin"):
                episode, rng, texts = task.start(seed), random.Random(seed), []
                while not episode.done:
                    texts.append(f"{episode.observation()} {PROMPT_WORD}")
                    expert = task.expert(episode) if player == "expert" else None
                    texts.append(expert or (rng.choice(task.actions) if player == "random" else "left"))
                    episode.step(texts[-1])
                ids = tokenizer.encode(" ".join(texts), add_special_tokens=False)
                assert tokenizer.unk_token_id not in ids
                longest = max(longest, len(ids))
    assert 1000 < longest <= 2047


# Experts and demonstrations


def test_the_bot_solves_goto_and_pickup(task):
    rows = [act_out(task, seed) for seed in range(3_000_000, 3_000_040)]
    told = summary(rows, task.horizon)
    assert told["successes"] >= 38 and told["successes_within_horizon"] >= 22
    assert all(len(row["actions"]) == len(row["observations"]) == min(row["turns"], task.horizon) for row in rows)
    for row in rows[:10]:  # the same actions lead there from the same start
        episode = task.start(row["start_seed"])
        for observation, action in zip(row["observations"], row["actions"], strict=True):
            assert episode.observation() == observation
            episode.step(action)
        assert row["turns"] > task.horizon or episode.stop_reason == "success"


def test_the_expert_takes_babyaibots_own_decisions(task):
    """Turn by turn, with mistakes in between, what it has seen and where it gives up included."""
    turns = 0
    for seed in range(3_000_000, 3_000_010):
        episode, rng = task.start(seed), random.Random(seed)
        quick = QuickBot(episode.env, partial(episode.sight.cells, episode.env, episode.objects))
        ours, plain = (Guide(bot, task.actions) for bot in (quick, BabyAIBot(episode.env)))
        last = None
        while not episode.done:
            told = []
            for guide in (ours, plain):
                try:
                    told.append(guide.advise(episode, last))
                except ExpertError as error:
                    told.append(str(error))
            assert told[0] == told[1] and (ours.bot.vis_mask == plain.bot.vis_mask).all()
            if told[0] not in task.actions:
                break
            last = told[0] if seed % 2 or rng.random() < 0.8 else rng.choice(task.actions)
            episode.step(last)
            turns += 1
        assert (ours.bot.bfs_counter, ours.bot.bfs_step_counter) == (plain.bot.bfs_counter, plain.bot.bfs_step_counter)
    assert turns > 300


def test_the_expert_goes_on_after_a_mistake_and_after_a_restore(task):
    solved = 0
    for seed in range(20):
        episode, rng = task.start(seed), random.Random(seed)
        try:
            while not episode.done and episode.turn < 30:
                advice = task.expert(episode)
                assert task.expert(episode) == advice
                episode.step(rng.choice([advice, advice, "nonsense", "left", "forward"]))
            if not episode.done:
                restored = task.restore(episode.snapshot())
                while not restored.done:
                    restored.step(task.expert(restored))
                episode = restored
        except ExpertError:
            continue
        with pytest.raises(RuntimeError, match="is over"):
            task.expert(episode)
        solved += episode.stop_reason == "success"
    assert solved >= 8


def test_recording_on_several_cores_gives_the_same_rows():
    seeds = range(3_000_000, 3_000_024)
    alone = list(act_out_all("babyai-goto", {"horizon": 60}, seeds, workers=1))
    assert list(act_out_all("babyai-goto", {"horizon": 60}, seeds, workers=2)) == alone
    assert [row["start_seed"] for row in alone] == list(seeds)


def test_a_killed_process_ends_the_recording_with_one_error():
    rows = act_out_all("babyai-goto", {}, range(3_000_000, 3_002_000), workers=2)
    assert next(rows)["start_seed"] == 3_000_000
    others = multiprocessing.active_children()
    assert len(others) == 2
    os.kill(others[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerLostError, match="one of the 2 processes that record episodes of 'babyai-goto' was kill"):
        list(rows)
    assert not any(process.is_alive() for process in others)


def test_generating_levels_prints_nothing(capfd, task):
    babyai.generate.cache_clear()
    for seed in range(40):
        task.start(seed)
    out, err = capfd.readouterr()
    assert out == err == ""


def test_committed_splits_hold_and_share_nothing(task):
    train, unseen = load_split(task, "train"), load_split(task, "unseen")
    assert len(train) == len(unseen) == 50
    hashes = [task.start_hash(seed) for seed in [*train, *unseen]]
    assert len(set(hashes)) == 100


def test_the_splits_of_synthseq_and_bosslevel_share_no_level():
    levels = {
        name: {digest for split in ("train", "unseen") for digest in split_hashes(load_task(name), split)}
        for name in ("babyai-synthseq", "babyai-bosslevel")
    }
    assert all(len(hashes) == 100 for hashes in levels.values())
    assert not levels["babyai-synthseq"] & levels["babyai-bosslevel"]
    same = load_task("babyai-bosslevel").start_hash(0), load_task("babyai-synthseq").start_hash(0)
    assert same[0] == same[1]  # why: at the same seed the two mostly draw the same level


@pytest.mark.parametrize("name", ["babyai-goto", "babyai-bosslevel"])
def test_the_builder_rebuilds_the_committed_splits_and_the_card_says_their_size_and_seeds(name, tmp_path):
    command = [sys.executable, "data/build_splits.py", "--task", name, "--data-dir", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(DATA.parent)}
    subprocess.run(command, check=True, cwd=DATA.parent, env=environment, capture_output=True)
    card = (DATA / name / "README.md").read_text()
    for split in ("train", "unseen"):
        committed = DATA / name / f"{split}.jsonl"
        assert (tmp_path / name / f"{split}.jsonl").read_bytes() == committed.read_bytes()
        seeds = load_split(load_task(name), split)
        told = f"| `{split}.jsonl` | {len(seeds)} | {committed.stat().st_size:,} | {min(seeds)} to {max(seeds)} |"
        assert told in card


# Perturbed starts


def test_start_room_moves_the_agent_to_another_room_and_nothing_else(task):
    moved, rooms, directions = load_task(task.name, perturb="start_room"), Counter(), Counter()
    without_moving = 0
    for seed in range(80):
        old, new = task.start(seed), moved.start(seed)
        walls = old.sight.walls
        there = new.env.agent_pos
        assert new.env.grid == old.env.grid and moved.start_hash(seed) == task.start_hash(seed)
        assert walls.room(*there) is not None and walls.room(*there) != walls.room(*old.env.agent_pos)
        locked = {tuple(t.cur_pos) for t in old.objects if t.type == "door" and t.is_locked}
        items = {tuple(t.cur_pos) for t in old.objects if t.type != "door"}
        assert there in reachable(walls, old.env.agent_pos, locked) and there not in items
        without_moving += there in reachable(walls, old.env.agent_pos, locked | items)
        assert load_task(task.name, perturb="start_room").start(seed).snapshot() == new.snapshot()
        assert not new.step("nonsense").done
        rooms[walls.room(*there)] += 1
        directions[new.env.agent_dir] += 1
    assert without_moving >= (70 if task.level.__name__ in ("LeanSynthSeq", "LeanBossLevel") else 80)
    assert len(rooms) == 9 and min(rooms.values()) >= 1
    assert sorted(directions) == [0, 1, 2, 3] and min(directions.values()) >= 8
    others = load_task(task.name, perturb="start_room", perturb_seed=1)
    differ = [others.start(seed).env.agent_pos != moved.start(seed).env.agent_pos for seed in range(30)]
    assert sum(differ) >= 26


def test_the_bot_solves_perturbed_levels(task):
    for perturb in task.perturbations:
        changed = load_task(task.name, perturb=perturb)
        assert sum(act_out(changed, seed)["success"] for seed in range(15)) >= 13, perturb


def test_places_in_a_mission_are_meant_from_the_new_start():
    changed = load_task("babyai-bosslevel", perturb="start_room")
    told = Counter()
    for seed in range(50):
        mission = changed.start(seed).mission
        told["kept"] += any(place in mission for place in PLACES)
        told["before"] += any(place in load_task("babyai-bosslevel").start(seed).mission for place in PLACES)
    assert 0 < told["kept"] <= told["before"]


def posed_from_another_room(seed):
    """The level of SynthSeq, before and after `start_room`, and MiniGrid's verdict."""
    task, env = load_task("babyai-synthseq"), plain(load_task("babyai-synthseq"), seed)
    old = env.mission
    start_room(env, np.random.default_rng([0, seed]))
    env.validate_instrs(env.instrs)  # raises RejectSampling for a mission that MiniGrid would not pose
    assert env.mission == env.surface == env.instrs.surface(env)
    assert load_task(task.name, perturb="start_room").start(seed).mission == env.mission
    for described in babyai_descriptions(env.instrs):  # nor would it describe what a locked room holds, and no other
        places = described.find_matching_objs(env)[1]
        assert env.locked_room is None or not all(env.locked_room.pos_inside(*place) for place in places)
    return old, env.mission


@pytest.mark.parametrize(
    ("seed", "old", "new"),
    [
        # no other start fits every place: one goes, the others stay
        (
            142,
            "put a key next to a box behind you and go to the grey box on your left, then open a door and go "
            "to a blue ball",
            "put a key next to a box behind you and go to the grey box, then open a door and go to a blue ball",
        ),
        (
            419,
            "pick up the key on your right and put the blue box next to a key after you put the box on your "
            "right next to the red door and open the door on your left",
            "pick up the key on your right and put the blue box next to a key after you put a box next to "
            "the red door and open the door on your left",
        ),
        # MiniGrid would not ask for a locked door whose key is not asked for
        (
            101,
            "open a red door on your left and open a door on your left",
            "open a red door and open the door on your left",
        ),
        (475, "open a door and open the blue door behind you", "open a door and open a blue door"),
        # without the place the objects would be side by side already
        (5, "put the key behind you next to a door", "put the purple key next to a door"),
        (
            647,
            "open a grey door and go to a yellow door after you put a box next to the ball on your left and "
            "open a yellow door",
            "open a grey door and go to a yellow door after you put a box next to the red ball and open a yellow door",
        ),
        # without it some objects would be both, the one to move and the one to put it beside
        (
            643,
            "put a red key next to the key on your right and go to the purple door",
            "put a red key next to the yellow key and go to the purple door",
        ),
        # nor does the colour of the key that was meant: another key is asked for
        (618, "put the key on your left next to the yellow key", "put the green key next to the yellow key"),
    ],
)
def test_a_mission_that_has_to_change_is_one_that_minigrid_would_pose(seed, old, new):
    assert posed_from_another_room(seed) == (old, new)


def test_missions_from_another_room_pass_minigrids_validation():
    told = Counter()
    for seed in range(820, 860):
        old, new = posed_from_another_room(seed)
        told["fewer places"] += sum(map(new.count, PLACES)) < sum(map(old.count, PLACES))
        told["places"] += any(place in new for place in PLACES)
    assert told["fewer places"] <= 6 and told["places"] >= 12


def babyai_descriptions(instruction):
    values = [value for name, value in vars(instruction).items() if name != "env"]
    inner = [value for value in values if isinstance(value, verifier.Instr)]
    return [v for v in values if isinstance(v, verifier.ObjDesc)] + [d for i in inner for d in babyai_descriptions(i)]


def sides(cell):
    return {(cell[0] + dx, cell[1] + dy) for dx, dy in DIRECTIONS}


def test_distractors_fit_no_description_and_cut_nothing_off(task):
    more = load_task(task.name, perturb="distractors")
    for seed in range(120 if task.name == "babyai-goto" else 40):
        old, new = task.start(seed), more.start(seed)
        assert new.mission == old.mission and new.env.agent_pos == old.env.agent_pos
        assert len(new.objects) == len(old.objects) + EXTRA_OBJECTS
        before = {(t.type, t.color, tuple(t.cur_pos)) for t in old.objects}
        added = {(t.type, t.color, tuple(t.cur_pos)) for t in new.objects} - before
        assert len(added) == EXTRA_OBJECTS
        walls, start = old.sight.walls, old.env.agent_pos
        things = {tuple(t.cur_pos) for t in old.objects if t.type != "door"}
        extra = {place for *_, place in added}
        free, left = reachable(walls, start, things), reachable(walls, start, things | extra)
        assert left == free - extra
        assert all(sides(thing) & left for thing in extra)
        assert all(sides(thing) & left for thing in things if sides(thing) & free)
        if task.name == "babyai-goto":  # where MiniGrid promises that there is a way to each of them
            assert all(sides(thing) & free for thing in things)


class OneRoom(RoomGridLevel):
    """A room of 6 x 6 cells, the agent in its corner, facing a wall."""

    def __init__(self):
        super().__init__(room_size=8, num_rows=1, num_cols=1, max_steps=100)

    def gen_mission(self):
        self.agent_pos, self.agent_dir = (1, 1), 3
        for kind, colour, cell in self.things():
            self.put_obj(kind(colour), *cell)
        self.instrs = verifier.GoToInstr(verifier.ObjDesc("key", "red"))

    def things(self):
        return [(Key, "red", (6, 6))]


class Hemmed(OneRoom):
    """A ball is on one of the two cells beside the red key."""

    def things(self):
        return [*super().things(), (Ball, "blue", (5, 6))]


def test_distractors_leave_a_cell_beside_each_object():
    """Cell (6, 5) is the only one from which the red key can be faced, and taking it would cut no other cell off."""
    for seed in range(30):
        env, again = Hemmed(), Hemmed()
        for level in (env, again):
            level.reset(seed=0)
            distractors(level, np.random.default_rng(seed))
        assert env.grid == again.grid and env.grid.get(6, 5) is None
        taken = {(x, y) for x in range(1, 7) for y in range(1, 7) if env.grid.get(x, y) is not None}
        assert len(taken) == 2 + EXTRA_OBJECTS


def test_reworded_missions_mean_the_same_in_known_words(task):
    other, words, differ = load_task(task.name, perturb="reworded"), set(task.vocabulary()), 0
    for seed in range(80):
        old, new = task.start(seed), other.start(seed)
        assert new.env.grid == old.env.grid and new.env.agent_pos == old.env.agent_pos
        assert words >= set(new.observation().split())
        differ += new.mission != old.mission
        colours = [word for word in old.mission.replace(",", "").split() if word in babyai_colours()]
        assert sorted(w for w in new.mission.replace(",", "").split() if w in babyai_colours()) == sorted(colours)
    assert differ == 80


def babyai_colours():
    return {"red", "green", "blue", "purple", "yellow", "grey"}


class Furnished(OneRoom):
    """The agent in the middle looks to the right."""

    def things(self):
        cells = {"red": (3, 1), "blue": (5, 6), "green": (1, 3)}
        keys = [(Key, "red", (1, 1)), (Key, "red", (6, 1))]
        return [*((Ball, colour, cell) for colour, cell in cells.items()), *keys, (Box, "grey", (6, 3))]

    def gen_mission(self):
        super().gen_mission()
        self.agent_pos, self.agent_dir = (3, 3), 0
        self.grid.set(0, 4, Door("yellow"))


class Scripted:
    """An RNG whose choices are written down, in the order in which they are asked for."""

    def __init__(self, choices):
        self.choices = list(choices)

    def integers(self, options):
        chosen = self.choices.pop(0)
        assert 0 <= chosen < options
        return chosen


def thing(kind, colour=None, place=None):
    return verifier.ObjDesc(kind, colour, place)


GO = verifier.GoToInstr(thing("ball", "red"))
GO_LEFT = verifier.GoToInstr(thing("ball", None, "left"))
FETCH = verifier.PickupInstr(thing("key", "red"))
OPEN = verifier.OpenInstr(thing("door", "yellow"))
PUT = verifier.PutNextInstr(thing("key"), thing("box", "grey", "front"))


@pytest.mark.parametrize(
    ("instruction", "choices", "own", "other"),
    [
        (GO, [0], "go to the red ball", "find the one red ball"),
        (GO, [1], "go to the red ball", "go up to the one red ball"),
        (GO, [2], "go to the red ball", "go and find the one red ball"),
        (GO_LEFT, [0], "go to the ball on your left", "find the one ball to your left side"),
        (verifier.GoToInstr(thing("ball", None, "right")), [0], "go to the ball on your right",
         "find the one ball to your right side"),
        (verifier.GoToInstr(thing("ball", "green", "behind")), [0], "go to the green ball behind you",
         "find the one green ball at your back"),
        (verifier.GoToInstr(thing(None, "red")), [0], "go to a red object", "find any one red object"),
        (FETCH, [0], "pick up a red key", "grab any one red key"),
        (FETCH, [1], "pick up a red key", "go and grab any one red key"),
        (OPEN, [0], "open the yellow door", "unlatch the one yellow door"),
        (OPEN, [1], "open the yellow door", "go and unlatch the one yellow door"),
        (PUT, [0], "put a key next to the grey box in front of you", "place any one key beside the one grey box ahead"),
        (PUT, [1], "put a key next to the grey box in front of you",
         "grab any one key and place it beside the one grey box ahead"),
        # first the ball, then the door
        (verifier.BeforeInstr(GO, OPEN), [0, 0, 0], "go to the red ball, then open the yellow door",
         "find the one red ball, afterwards unlatch the one yellow door"),
        (verifier.BeforeInstr(GO, OPEN), [1, 0, 0], "go to the red ball, then open the yellow door",
         "unlatch the one yellow door, but before that find the one red ball"),
        # first the door, then the ball
        (verifier.AfterInstr(GO, OPEN), [0, 0, 0], "go to the red ball after you open the yellow door",
         "unlatch the one yellow door, afterwards find the one red ball"),
        (verifier.AfterInstr(GO, OPEN), [1, 0, 0], "go to the red ball after you open the yellow door",
         "find the one red ball, but before that unlatch the one yellow door"),
        # in any order
        (verifier.AndInstr(GO, FETCH), [0, 0, 0], "go to the red ball and pick up a red key",
         "find the one red ball and also grab any one red key"),
        (verifier.AndInstr(GO, FETCH), [1, 0, 0], "go to the red ball and pick up a red key",
         "grab any one red key and also find the one red ball"),
        # the key is put down and the ball faced, in any order, then the door
        (verifier.BeforeInstr(verifier.AndInstr(PUT, GO), OPEN), [1, 0, 1, 0, 0],
         "put a key next to the grey box in front of you and go to the red ball, then open the yellow door",
         "unlatch the one yellow door, but before that grab any one key and place it beside the one grey box ahead "
         "and also find the one red ball"),
        (verifier.AfterInstr(OPEN, verifier.AndInstr(GO, FETCH)), [0, 0, 1, 0, 0],
         "open the yellow door after you go to the red ball and pick up a red key",
         "grab any one red key and also find the one red ball, afterwards unlatch the one yellow door"),
    ],
)  # fmt: skip
def test_each_way_to_say_a_mission_means_the_same(instruction, choices, own, other):
    env = Furnished()
    env.reset(seed=0)
    env.instrs = instruction
    assert instruction.surface(env) == own
    rng = Scripted(choices)
    reworded(env, rng)
    assert env.mission == env.surface == other and not rng.choices


def test_unknown_perturbations_are_refused():
    with pytest.raises(ValueError, match="no perturbation 'fog': it offers start_room, distractors, reworded"):
        load_task("babyai-goto", perturb="fog")
    with pytest.raises(ValueError, match="a seed of task 'babyai-goto' must be an int"):
        load_task("babyai-goto", perturb="start_room", perturb_seed=-1)
