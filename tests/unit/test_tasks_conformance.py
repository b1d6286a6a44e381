"""What every task must do, run over each row of TASKS and over a toy task written the way a user would write one.

POLYTUNE_CONFORMANCE_SEEDS (default 200) and POLYTUNE_FUZZ (default 20000) widen it.
"""

import contextlib
import inspect
import os
import pickle
import random
import string
import subprocess
import sys
from pathlib import Path

import pytest

from polytune import tasks
from polytune.tasks import Episode, Step, Task, load_task
from polytune.tasks.base import ExpertError

SEEDS = int(os.environ.get("POLYTUNE_CONFORMANCE_SEEDS", "200"))
FUZZ = int(os.environ.get("POLYTUNE_FUZZ", "20000"))


class TwoRooms(Episode):
    """A corridor of cells -5..5; cell 0 is the doorway between a left and a right room, the goal is a cell."""

    def _begin(self):
        rng = random.Random(self.seed)
        self.cell, self.goal = rng.sample(range(-5, 6), 2)

    def observation(self):
        return f"cell={self.cell} goal={self.goal}"

    def _act(self, action):
        self.cell = max(-5, min(5, self.cell + (1 if action == "east" else -1)))
        return self.cell == self.goal

    def _place(self):
        return None if self.cell == 0 else "east room" if self.cell > 0 else "west room"


class Corridor(Task):
    name = "corridor"
    actions = ("west", "east")
    instructions = "A corridor: cell= is where you are, goal= is where to go. Say west or east to take one step."
    episode_class = TwoRooms

    def vocabulary(self):
        return [*self.actions, *(f"{what}={cell}" for what in ("cell", "goal") for cell in range(-5, 6))]

    def expert(self, episode):
        return "east" if episode.goal > episode.cell else "west"


#: tasks of free text have conformance tests of their own (test_creativity_tasks.py, test_tasks_dataset.py)
WORLDS = [name for name in tasks.TASKS if name != "dataset" and load_task(name).answer_end is None]


@pytest.fixture(params=[*WORLDS, "corridor"])
def task(request, monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "corridor", Corridor)
    return load_task(request.param)


def random_text(task, rng):
    return rng.choice([*task.actions] * 4 + ["", "nonsense", " ".join(task.actions[:2])])


def turns_of(task, seed):
    """The whole episode for every tenth seed, its beginning for the others."""
    return task.horizon if seed % 10 == 0 else min(25, task.horizon)


def some_sense(task, rng, episode):
    """Random texts, and where there is an expert its advice two times in three, so that an episode gets somewhere."""
    if rng.random() < 0.66:
        with contextlib.suppress(NotImplementedError, ExpertError):
            return task.expert(episode)
    return random_text(task, rng)


def play(episode, texts):
    """Everything observable along the way."""
    seen = [episode.observation()]
    for text in texts:
        if episode.done:
            break
        step = episode.step(text)
        seen.append((step, episode.observation(), episode.turn, episode.invalid_actions, episode.done))
        seen.append(episode.signature())
    return seen


def fresh_process(code, given=b""):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, input=given, capture_output=True, check=False, env=environment)


def test_a_task_describes_itself(task):
    assert load_task(task.name).name == task.name
    assert task.actions and len(set(task.actions)) == len(task.actions)
    assert all(action == action.lower() and action.split() == [action] for action in task.actions)
    assert all(action in task.instructions for action in task.actions)
    words = task.vocabulary()
    assert words == load_task(task.name).vocabulary() and len(set(words)) == len(words)
    assert all(word.split() == [word] for word in words)


def test_same_seed_and_actions_give_the_same_outputs(task):
    for seed in range(SEEDS):
        rng = random.Random(seed)
        texts = [random_text(task, rng) for _ in range(turns_of(task, seed))]
        first, second = task.start(seed), load_task(task.name).start(seed)
        assert play(first, texts) == play(second, texts)
        assert first.snapshot() == second.snapshot()
        assert task.start_hash(seed) == load_task(task.name).start_hash(seed)


def test_a_restored_episode_equals_the_original_from_there_on(task):
    for seed in range(SEEDS):
        rng = random.Random(seed)
        original = task.start(seed)
        for _ in range(rng.randrange(turns_of(task, seed))):
            if not original.done:
                original.step(some_sense(task, rng, original))
        taken = original.snapshot()
        one, other = task.restore(taken), load_task(task.name).restore(taken)
        assert one.snapshot() == other.snapshot() == original.snapshot() == taken
        texts = [random_text(task, rng) for _ in range(turns_of(task, seed))]
        expected = play(original, texts)
        assert play(one, texts) == expected
        assert one.snapshot() == original.snapshot()
        assert other.snapshot() == taken, "playing one restored episode changed another"
        assert play(other, texts) == expected


def test_signature_covers_the_trajectory_since_a_turn(task):
    some_differ = False
    for seed in range(SEEDS):
        rng = random.Random(seed)
        episode = task.start(seed)
        while not episode.done and episode.turn < min(40, turns_of(task, seed)):
            episode.step(some_sense(task, rng, episode))
        restored = task.restore(episode.snapshot())
        for turn in range(episode.turn + 1):
            assert restored.signature(turn) == episode.signature(turn)
            hash(episode.signature(turn))
        some_differ |= episode.signature() != episode.signature(episode.turn)
        with pytest.raises(ValueError, match=f"since_turn must be in 0..{episode.turn}"):
            episode.signature(episode.turn + 1)
        with pytest.raises(ValueError, match="since_turn"):
            episode.signature(-1)
    assert some_differ or task.start(0).signature() is None


def test_signature_from_a_turn_includes_that_state_and_nothing_before_it(task):
    rng = random.Random(0)
    episode = task.start(0)
    while not episode.done:
        before = task.restore(episode.snapshot())
        turn = episode.turn
        assert episode.signature(turn) == before.signature(turn)
        if episode.signature() is not None:
            now = episode.signature(turn)
            episode.step(random_text(task, rng))
            assert now <= episode.signature(turn)
            assert episode.signature(turn + 1) <= episode.signature(turn)
        else:
            episode.step(random_text(task, rng))


def test_snapshots_restore_in_a_fresh_process(task):
    name = f"{Path(__file__).stem}:Corridor" if isinstance(task, Corridor) else task.name
    rng = random.Random(1)
    episode = task.start(1)
    play(episode, [random_text(task, rng) for _ in range(20)])
    texts = [random_text(task, rng) for _ in range(30)]
    code = (
        "import sys, pickle; from polytune.tasks import load_task; name, taken, texts = pickle.load(sys.stdin.buffer);"
        "episode = load_task(name).restore(taken); assert episode.snapshot() == taken; seen = [episode.observation()]\n"
        "for text in texts:\n    if not episode.done: seen += [episode.step(text).reward, episode.observation()]\n"
        "sys.stdout.buffer.write(pickle.dumps((seen, episode.snapshot())))"
    )
    payload = pickle.dumps((name, episode.snapshot(), texts))
    run = fresh_process(code, payload)
    assert run.returncode == 0, run.stderr.decode()
    assert run.stderr == b"", "loading and playing a task is silent"
    seen = [episode.observation()]
    for text in texts:
        if not episode.done:
            seen += [episode.step(text).reward, episode.observation()]
    assert pickle.loads(run.stdout) == (seen, episode.snapshot())


def test_parser_takes_one_action_and_nothing_else(task):
    first, second = task.actions[:2]
    for action in task.actions:
        for text in (action, f" {action}", f"{action}\n", f"\t {action} \r\n", " " * 5000 + action):
            assert task.parse_action(text) == action
    refused = ["", " ", "\n", f"{first} {second}", f"{first} {first}", f"{first}\n{second}", f"{first}.", f"'{first}'"]
    refused += [first.upper(), first.title(), first[:-1], first + first, f"action: {first}", f"{first}!", f"<{first}>"]
    refused += [f"{first}\0", f"\0{first}", f"{first}\ud800", f"\u200b{first}", f"{first}\u00a0", f"\u2003{first}", "0"]
    refused += [first.replace(first[0], chr(ord(first[0]) + 0xFEE0)), f"not {first}", f"{first}," * 3, first * 100_000]
    for text in refused:
        assert task.parse_action(text) is None, text[:60]
    for not_text in (None, 0, first.encode(), [first]):
        with pytest.raises(TypeError, match="an action is text"):
            task.parse_action(not_text)


def hostile(task, rng):
    """Junk made to look like actions: fragments, controls, surrogates, look-alikes, repetitions."""
    pieces = [*task.actions, *task.vocabulary()[:10], " ", "\n", "\t", "\r", "\0", "\x0b", "\x1c", "\x85", "\u00a0"]
    pieces += ["\u200b", "\ud800", "\udfff", "\ufeff", "\u202e", "\U0001f600", ".", ",", "=", "'", '"', "-", "{", "%s"]
    text = "".join(rng.choice(pieces) for _ in range(rng.randrange(6)))
    for _ in range(rng.randrange(3)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice((rng.choice(string.printable), chr(rng.randrange(0x110000)))) + text[at:]
    if rng.random() < 0.01:
        text *= rng.randrange(2000)
    return rng.choice((str.upper, str.title, str.swapcase))(text) if rng.random() < 0.1 else text


def test_no_text_whatever_raises_or_slips_through(task):
    rng = random.Random(2)
    alphabet = set("".join(task.actions)) | set(" \t\r\n")
    accepted = 0
    for _ in range(FUZZ):
        text = hostile(task, rng)
        got = task.parse_action(text)
        words = text.split()
        assert got == (words[0] if len(words) == 1 and words[0] in task.actions and set(text) <= alphabet else None)
        accepted += got is not None
    assert 0 < accepted < FUZZ / 4


def test_hostile_text_spends_turns_and_changes_nothing(task):
    rng = random.Random(3)
    episode = task.start(0)
    first = episode.observation()
    seen = None  # a task may say some of it only once, in the first observation
    while not episode.done:
        text = hostile(task, rng)
        if task.parse_action(text) is None:
            turn = episode.turn
            last = turn + 1 == task.horizon
            assert episode.step(text) == Step(0.0, last, "horizon" if last else None)
            seen = seen or episode.observation()
            assert (episode.turn, episode.invalid_actions, episode.observation()) == (turn + 1, turn + 1, seen)
            assert first.endswith(seen)
            assert task.restore(episode.snapshot()).invalid_actions == turn + 1
    assert episode.turn == task.horizon


def test_a_finished_episode_refuses_to_go_on(task):
    episode = load_task(task.name, horizon=3).start(0)
    for _ in range(3):
        last = episode.step("nonsense")
    assert last == Step(0.0, True, "horizon") and episode.done and episode.stop_reason == "horizon"
    for finished in (episode, episode.task.restore(episode.snapshot())):
        with pytest.raises(RuntimeError, match=r"seed 0\) ended after 3 turns \(horizon\)"):
            finished.step(task.actions[0])


def test_the_expert_succeeds_and_the_reward_follows_the_formula(task):
    try:
        task.expert(task.start(0))
    except NotImplementedError:
        pytest.skip("a task without an expert")
    task = load_task(task.name, horizon=max(task.horizon, task.expert_turns or 0))
    for seed in range(min(SEEDS, 50)):
        episode = task.start(seed)
        while not episode.done:
            step = episode.step(task.expert(episode))
        assert step == Step(1 - 0.5 * episode.turn / task.horizon, True, "success")
        exact = load_task(task.name, horizon=episode.turn).start(seed)
        while not exact.done:
            step = exact.step(task.expert(exact))
        assert step == Step(0.5, True, "success"), "solving on the very last turn counts as success"


def test_damaged_or_foreign_snapshots_are_refused(task):
    taken = task.start(0).snapshot()
    rng = random.Random(4)
    for _ in range(300):
        at = rng.randrange(len(taken))
        for damaged in (taken[:at], taken[:at] + bytes([taken[at] ^ 1 << rng.randrange(8)]) + taken[at + 1 :]):
            with pytest.raises(ValueError, match="snapshot"):
                task.restore(damaged)
    for junk in (b"", b"junk", b"PTSN", "text", None, taken + b"\0"):
        with pytest.raises(ValueError, match="snapshot"):
            task.restore(junk)
    with pytest.raises(ValueError, match=f"horizon {task.horizon}, this .* task has 7"):
        load_task(task.name, horizon=7).restore(taken)
    foreign = "fourrooms" if task.name == "corridor" else "corridor"
    with pytest.raises(ValueError, match=f"snapshot of task '{task.name}' given to task '{foreign}'"):
        load_task(foreign).restore(taken)


def test_bad_seeds_and_options_are_refused(task):
    for seed in (-1, 2**63, 1.0, "1", True, None):
        with pytest.raises(ValueError, match="a seed of task"):
            task.start(seed)
        with pytest.raises(ValueError, match="a seed of task"):
            task.start_hash(seed)
    own = inspect.signature(type(task)).parameters["horizon"].default is None  # None: the task's own
    for horizon in (0, -5, 2.5, "100", True, *([] if own else [None])):
        with pytest.raises(ValueError, match="horizon of task .* must be a positive int, got"):
            load_task(task.name, horizon=horizon)
    with pytest.raises(ValueError, match=r"has no option 'size'; it has .*'horizon'"):
        load_task(task.name, size=3)


def test_equal_levels_have_equal_hashes_whatever_their_seeds():
    corridor = Corridor()
    levels = {(corridor.start(seed).cell, corridor.start(seed).goal) for seed in range(2000)}
    assert len(levels) == 110 == len({corridor.start_hash(seed) for seed in range(2000)})


def test_unknown_names_list_known_ones_and_near_misses():
    with pytest.raises(
        ValueError, match=r"unknown task 'fouroom'; did you mean 'fourrooms'\? known: babyai-.*its path"
    ):
        load_task("fouroom")
    with pytest.raises(ValueError, match="cannot import 'no_such_module'"):
        load_task("no_such_module:Thing")
    with pytest.raises(ValueError, match="has no 'Nothing'"):
        load_task("polytune.tasks.base:Nothing")
    with pytest.raises(ValueError, match="built a Fraction, which is not"):
        load_task("fractions:Fraction")


def test_a_task_is_found_by_its_dotted_path():
    assert load_task("polytune.tasks.grid.fourrooms:FourRooms", horizon=5).horizon == 5


def test_a_task_without_expert_or_places_says_so():
    class Bare(TwoRooms):
        _place = Episode._place

    class NoExpert(Corridor):
        episode_class = Bare
        expert = Task.expert

    task = NoExpert()
    assert task.start(0).signature() is None
    with pytest.raises(NotImplementedError, match="task 'corridor' has no expert"):
        task.expert(task.start(0))


def test_importing_the_package_loads_no_world_and_a_world_loads_no_torch():
    code = (
        "import sys, polytune.tasks; assert not {'minigrid', 'gymnasium', 'numpy'} & set(sys.modules);"
        "polytune.tasks.load_task('fourrooms').start(0);"
        "assert not {'torch', 'transformers', 'datasets', 'vllm'} & set(sys.modules)"
    )
    assert fresh_process(code).returncode == 0
