"""`polytune check-task`: each way in which a world can be wrong, told in words; the right ones pass."""

import json
import random
import re

import numpy as np
import pytest

from polytune.app import check_task
from polytune.app.cli import UsageError, load_yaml
from polytune.app.play import run
from polytune.tasks import Episode, Task, load_task
from polytune.tasks.conformance import faults, notes


class Stairs(Episode):
    def _begin(self):
        self.floor, self.top = 0, 2 + self.seed % 3

    def observation(self):
        return f"floor={self.floor} top={self.top}"

    def _act(self, action):
        self.floor = min(5, max(0, self.floor + (1 if action == "up" else -1)))
        return self.floor == self.top

    def _place(self):
        return self.floor


class House(Task):
    name = "house"
    actions = ("down", "up")
    instructions = "A house: go up or down to the top."
    episode_class = Stairs

    def vocabulary(self):
        return [*self.actions, *(f"{name}={number}" for name in ("floor", "top") for number in range(6))]

    def expert(self, episode):
        return "up"


def house(episode=Stairs, **attributes):
    """The house with another episode class, or other attributes."""
    return type("Changed", (House,), {"episode_class": episode, **attributes})(horizon=30)


class Moody(Stairs):
    def _act(self, action):
        return super()._act(random.choice(("up", "down")))


class Forgetful(Stairs):
    def _load(self, payload):
        super()._load(payload)
        self.floor = 0


class Sharing(Stairs):
    log: list = []  # noqa: RUF012

    def observation(self):
        return f"floor={self.floor} top={len(self.log) % 6}"

    def _begin(self):
        super()._begin()
        self.log.clear()

    def _act(self, action):
        self.log.append(action)
        return super()._act(action)


class Seedless(Stairs):
    def _begin(self):
        self.floor, self.top = 0, 3


class Broken(Stairs):
    def _act(self, action):
        return self.floors > 3


class Chatty(Stairs):
    def observation(self):
        return super().observation() + (" stuck" if self.floor == 1 else "")


class Priceless(Stairs):
    def _reward(self):
        return float("nan")


class Endless(Stairs):
    def step(self, action):
        step = super().step(action)
        self.stop_reason = None
        return step


def lenient(self, text):
    return text.strip().lower().split(" ")[0] if text.strip().lower().split(" ")[0] in self.actions else None


@pytest.mark.parametrize("task, words", [
    (house(Moody), r"seed \d played twice with the same actions differs at turn \d+: .* must come from self.seed"),
    (house(Forgetful), r"restored from a snapshot, it differs from the original|its snapshot is not the one"),
    (house(Sharing), r"restored from a snapshot, it differs|share state|played twice"),
    (house(Broken), r"AttributeError: .*'floors' \(test_check_task.py, line \d+\)"),
    (house(Chatty), r"shows the word 'stuck', which vocabulary\(\) does not have"),
    (house(Priceless), r"reward of turn 1 is nan, not a finite number"),
    (house(Endless), r"not done after 31 turns, the horizon is 30"),
    (house(actions=("down", "Go Up")), r"action 'Go Up' is not one word in lower case"),
    (house(instructions="A house."), r"instructions do not name the action 'down'"),
    (house(vocabulary=lambda self: ["a b"]), r"vocabulary\(\) has 'a b', which is not one word"),
    (house(parse_action=lenient), r"parse_action\('down down'\) is 'down': text beside an action makes it none"),
])  # fmt: skip
def test_a_fault_is_told_in_words(task, words):
    found = faults(task, 6)
    assert any(re.search(words, fault) for fault in found), found
    assert all("\n" not in fault for fault in found)


def test_right_worlds_have_no_fault_and_odd_ones_a_note():
    assert faults(house(), 6) == [] == notes(house(), 6)
    assert faults(house(type("Paid", (Stairs,), {"_reward": lambda self: np.float32(0.5)})), 6) == []
    for name in ("fourrooms", "bandit", "sibling"):
        assert faults(load_task(name), 4) == []
    [same] = notes(house(Seedless), 6)
    assert same == "all of 6 seeds begin in one and the same state: does _begin use self.seed?"
    [lost] = notes(house(expert=lambda self, episode: "down"), 6)
    assert lost == "its expert solved 0 of 6 start states within 30 turns"


def test_the_program_says_so_and_ends_with_a_status(capsys, tmp_path, monkeypatch):
    assert run(check_task.main, [f"{__name__}:House", "--seeds", "4"]) == 0
    assert capsys.readouterr().out == f"{__name__}:House: 9 checks over 4 seeds, nothing is wrong\n"
    (tmp_path / "wrong_worlds.py").write_text(
        "from test_check_task import House, Moody\nfrom polytune.tasks import Task\n"
        "class Drunk(House):\n    episode_class = Moody\nclass Half(Task):\n    name = 'half'\n"
    )
    (tmp_path / "torn.py").write_text("def (:\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert run(check_task.main, ["wrong_worlds:Drunk"]) == 1
    said = capsys.readouterr()
    assert "played twice with the same actions differs" in said.out and "does not conform" in said.err
    for name, words in (
        ("wrong_worlds:Half", "lacks the method vocabulary"),
        ("wrong_worlds:Missing", "has no 'Missing'"),
        ("torn:World", "cannot import 'torn': SyntaxError"),
        ("gym:Nothing-v0", "gymnasium cannot make 'Nothing-v0'"),
        ("nowhere", "unknown task 'nowhere'"),
    ):
        assert run(check_task.main, [name]) == 2
        told = capsys.readouterr().err
        assert words in told and told.count("\n") == 1, told


def test_a_newcomers_own_data(capsys, tmp_path, monkeypatch):
    """What shown answers earn; a fault of an own function once, with its line; names that are nearly right."""
    rows = [{"prompt": f"Write {n} twice.", "n": n, "answers": [f"{n} {n}", f"{n},{n}"]} for n in range(5)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "twice.py").write_text(
        "def reward(answer, row):\n    return float(answer.split() == [str(row['n'])] * 2)\n\n\n"
        "def way(answer, row):\n    return 'comma' if ',' in answer else 'space'\n\n\n"
        "def whole(answer, row):\n    if not answer:\n        return 0.0\n    return float(int(answer))\n"
    )
    monkeypatch.chdir(tmp_path)

    def check(path="train.jsonl", reward="twice:reward"):
        words = [f"path={path}", f"reward={reward}", "signature=twice:way", "answer=answers", "max_tokens=8"]
        status = run(check_task.main, ["dataset", "--task_args", *words, "--seeds", "4"])
        return status, capsys.readouterr()

    status, said = check()
    told = "4 of the 8 answers that 4 training rows show are solved; '0,0' of row 0 earns 0; 2 signatures: "
    assert status == 0 and f"{told}space 4, comma 4" in said.out, said
    status, said = check(reward="twice:whole")
    line = f"({tmp_path / 'twice.py'}, line 12)"
    assert status == 1 and said.out.count("wrong: ") == said.out.count("invalid literal") == said.out.count(line) == 1
    for given, words in (
        ({"path": "trian.jsonl"}, "'trian.jsonl': there is no such file; did you mean 'train.jsonl'?"),
        ({"path": "./nothing"}, "'./nothing': there is no such file"),
        ({"reward": "twice.reward"}, "unknown reward 'twice.reward'; none is built in; one of your own is named by its "
                                     'path, "twice:reward"'),
    ):  # fmt: skip
        status, said = check(**given)
        assert status == 2 and words in said.err, said.err


def test_a_config_that_is_not_there_names_its_neighbour(tmp_path):
    (tmp_path / "sets.yaml").touch()
    with pytest.raises(UsageError, match=r"set.yaml' does not exist; did you mean .*/sets.yaml\?"):
        load_yaml(tmp_path / "set.yaml")
