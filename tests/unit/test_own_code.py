"""Code of a user's own: which file a path finds, and what a task lacks, in one line each."""

import subprocess
import sys

import pytest

from polytune.app.cli import search_working_directory_last
from polytune.config import TaskConfig
from polytune.lookup import OWN_MODULES, find
from polytune.places import RECIPES
from polytune.tasks import load_task
from polytune.tasks.starts import starts_of

WORLD = """
from polytune.tasks import Episode, Task

class Walk(Episode):
    def _begin(self):
        self.at = self.seed % 7
    def observation(self):
        return "at home"
    def _act(self, action):
        return action == "go"

class Good(Task):
    name, actions, instructions, episode_class = "walk", ("go", "stay"), "Go.", Walk
    def vocabulary(self):
        return ["at", "home", "go", "stay"]
"""
#: what follows WORLD -> what the error about ``Mine`` says
FAULTS = {
    "class Mine(Task):\n    name, actions, instructions, episode_class = 'm', ('go',), 'Go.', Walk":
        "lacks the method vocabulary",
    "class Mine(Good):\n    def vocabulary(self):\n        return None": "vocabulary\\(\\) gives None: return a list",
    "class Mine(Good):\n    def vocabulary(self):\n        return ['go']": "vocabulary\\(\\) lacks 'stay' of its act",
    "class Mine(Good):\n    def vocabulary(self):\n        return self.words": "vocabulary\\(\\) raised AttributeError",
    "class Mine(Good):\n    actions = 'go'": "actions is 'go': give a tuple of words",
    "class Mine(Task):\n    actions = ('go',)\n    def vocabulary(self):\n        return ['go']":
        "lacks name = a word; instructions = a text; episode_class = a subclass",
    "class Half(Episode):\n    def _begin(self): pass\nclass Mine(Good):\n    episode_class = Half":
        "lacks the method _act of Half; the method observation of Half",
    "class Mine(Good):\n    def __init__(self):\n        raise KeyError('boom')": "building it raised KeyError: 'boom'",
    "class Mine(Good):\n    def __init__(self, size):\n        pass": "needs size: give --task_args size=VALUE",
    "Mine = 3": "is 3: give a subclass of polytune.tasks.Task",
    "def Mine():\n    return 3": "built a int",
    "class Other(Good): pass": "has no 'Mine'",
}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory; modules that are loaded from it are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before, known = set(sys.modules), set(OWN_MODULES)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    OWN_MODULES.intersection_update(known)


@pytest.mark.parametrize(
    "name", ["evaluate", "finetune", "bench", "code", "test", "random", "json", "datasets", "torch"]
)
def test_the_working_directory_comes_first_and_hides_nothing(name, here, monkeypatch):
    """Names of recipes, of Python's own modules and of installed packages, loaded before or not."""
    (here / f"{name}.py").write_text("import helper_of_mine\ndef score(x): return x + helper_of_mine.ONE\n")
    (here / "helper_of_mine.py").write_text("ONE = 1\n")
    monkeypatch.syspath_prepend(str(RECIPES))
    before = sys.modules.get(name)
    search_working_directory_last()
    assert find("judge", f"{name}:score", {})(1) == 2
    assert sys.modules.get(name) is before or name in ("evaluate", "finetune", "bench")
    assert str(RECIPES) not in sys.path[:1] and sys.path[-1] == str(here)
    assert OWN_MODULES & {name, f"own_{name}"}
    with pytest.raises(
        ValueError, match=rf"'{name}' has no 'scores'; did you mean 'score'\? \(it is {here}/{name}.py\)"
    ):
        find("judge", f"{name}:scores", {})


def test_a_package_of_that_name_brings_its_modules(here):
    (here / "test").mkdir()
    (here / "test" / "__init__.py").write_text("")
    (here / "test" / "mine.py").write_text("from . import other\nvalue = other.value\n")
    (here / "test" / "other.py").write_text("value = 5\n")
    assert find("judge", "test.mine:value", {}) == 5


@pytest.mark.parametrize(("text", "said"), [
    ("def f(:\n", "SyntaxError: invalid syntax .*line 1"),
    ("x = 1\nraise KeyError('gone')\n", r"cannot import 'broken': KeyError: 'gone' \(.*broken.py, line 2\)"),
    ("import sys\nsys.exit(3)\n", r"cannot import 'broken': SystemExit: 3 \(.*broken.py, line 2\)"),
    ("import nowhere_to_be_found\n", "No module named 'nowhere_to_be_found'"),
])  # fmt: skip
def test_a_module_that_cannot_be_loaded_is_one_line(text, said, here):
    (here / "broken.py").write_text(text)
    for _ in range(2):  # a first failure leaves nothing behind
        with pytest.raises(ValueError, match=said) as error:
            load_task("broken:Mine")
        assert "\n" not in str(error.value)


def test_a_module_that_is_nowhere_says_where_it_was_looked_for(here):
    with pytest.raises(ValueError, match=f"'nowhere_mine': .*neither in {here} nor installed"):
        load_task("nowhere_mine:Mine")


@pytest.mark.parametrize("text", FAULTS)
def test_what_a_task_lacks_is_one_line(text, here):
    (here / "worlds_of_mine.py").write_text(WORLD + text + "\n")
    with pytest.raises(ValueError, match=FAULTS[text]) as error:
        load_task("worlds_of_mine:Mine")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("begin", "warned"), [("self.at = 3", True), ("self.at = self.seed", False)])
def test_a_world_that_ignores_its_seed_is_said_to(begin, warned, here, capsys):
    (here / "worlds_of_mine.py").write_text(WORLD.replace("self.at = self.seed % 7", begin))
    config = TaskConfig(task="worlds_of_mine:Good", split="seeds:0-49")
    assert starts_of(load_task(config.task), config)[1] == list(range(50))
    assert ("one and the same level: it ignores its seed" in capsys.readouterr().out) == warned


def test_a_start_state_that_cannot_be_built_is_one_line(here):
    (here / "worlds_of_mine.py").write_text(WORLD.replace("self.seed % 7", "self.sed"))
    config = TaskConfig(task="worlds_of_mine:Good", split="seeds:0-49")
    with pytest.raises(ValueError, match="start state 0 raised AttributeError: .*'sed'"):
        starts_of(load_task(config.task), config)


def test_a_program_started_beside_modules_of_pythons_names_does_not_take_them(here):
    """`python -m` puts the working directory first; what a program imports late must not come from there."""
    for name in ("random", "code", "argparse", "textwrap", "dataclasses", "yaml"):
        (here / f"{name}.py").write_text("raise SystemExit('shadowed')\n")
    done = subprocess.run([sys.executable, "-m", "polytune.app.methods", "ucb"], capture_output=True, text=True)
    assert done.stderr == "" and "ucb" in done.stdout
