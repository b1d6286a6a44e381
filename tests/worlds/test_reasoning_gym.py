"""Tasks of reasoning-gym: its problems, its scorer, signatures, splits by seed, and what a bad name is told."""

import pytest
import yaml

from polytune.places import RECIPES
from polytune.tasks import load_task
from polytune.tasks.rows import TEST_ROWS_START
from polytune.tasks.splits import load_split

reasoning_gym = pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed: make test-worlds")

THREE = {"min_numbers": 3, "max_numbers": 3, "max_value": 9, "min_target": 5, "max_target": 30, "train": 40, "test": 9}
WAYS = "polytune.tasks.rewards:calculation"


@pytest.fixture(scope="module")
def task():
    return load_task("reasoning-gym:countdown", **THREE, signature=WAYS)


def entries(task):
    """The same problems, by the package itself."""
    config = {name: value for name, value in THREE.items() if name not in ("train", "test")}
    return reasoning_gym.create_dataset("countdown", seed=0, size=49, **config)


def test_problems_and_scores_are_the_packages(task):
    theirs = entries(task)
    for seed, index in ((0, 0), (7, 7), (TEST_ROWS_START, 40), (TEST_ROWS_START + 8, 48)):
        entry = theirs[index]
        assert task.start(seed).observation() == entry["question"]
        for answer in (entry["answer"], "1+1", "", "no", "9" * 50):
            step = task.start(seed).step(f"So <answer>{answer}</answer>" if answer else "")
            assert step.reward == theirs.score_answer(answer or None, entry)
            assert (step.stop_reason == "success") == (step.reward >= 1)
    assert load_split(task, None) == [*range(TEST_ROWS_START, TEST_ROWS_START + 9)]
    assert load_split(task, "train") == [*range(40)]
    lines = list(task.training_lines())
    assert lines[3] == (theirs[3]["question"], theirs[3]["answer"]) and len(lines) == 40


def test_the_signature_is_the_functions_or_the_final_answer(task):
    row = task.row(0)
    episode = task.start(0)
    assert episode.step(f"<answer>{row['answer']}</answer>").reward == 1
    again = task.restore(episode.snapshot())
    assert again.signature() == episode.signature() == task.strategy(row["answer"], 0) != row["answer"]
    bare = load_task("reasoning-gym:countdown", **THREE)
    episode = bare.start(0)
    episode.step("thus <answer> 1+1 </answer>, or <answer> 2+2 </answer>")
    assert episode.signature() == "2+2"
    assert bare.strategy(" ", 0) is None


def test_an_answer_that_takes_too_much_or_raises_earns_nothing(task):
    assert task.start(0).step("<answer>9**9**9**9**9</answer>").reward == 0
    assert task.start(0).step("<answer>1+1</answer>").reward == 0.05, "the next one gets a new process"
    factors = load_task("reasoning-gym:prime_factorization", train=2, test=1)
    assert factors.start(0).step("junk ((").reward == 0, "the package's scorer raises"


@pytest.mark.parametrize("name, options, words", [
    ("countdwn", {}, "unknown dataset of reasoning-gym 'countdwn'; did you mean 'countdown'"),
    ("countdown", {"min_number": 3}, "unexpected keyword argument 'min_number'; its options are min_numbers, "),
    ("countdown", {"train": 0}, "train of task 'reasoning-gym:countdown' must be a whole number of at least 1, got 0"),
    ("countdown", {"signature": "nowhere:f"}, "cannot import 'nowhere'"),
])  # fmt: skip
def test_bad_names_and_options(name, options, words):
    with pytest.raises(ValueError, match=words):
        load_task(f"reasoning-gym:{name}", **options)


def test_most_datasets_of_the_package_are_tasks():
    """Each of a few kinds: the package's own answer is worth 1, and some other text less."""
    for name in ("letter_counting", "syllogism"):
        task = load_task(f"reasoning-gym:{name}", train=3, test=1)
        for seed in range(3):
            assert task.start(seed).step(f"<answer>{task.row(seed)['answer']}</answer>").reward == 1, name
            assert task.start(seed).step("<answer>?</answer>").reward < 1


@pytest.mark.parametrize("path", sorted((RECIPES / "countdown").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_name_a_task(path):
    said = yaml.safe_load(path.read_text())
    options = dict(entry.split("=") for entry in said["task_args"])
    options = {name: int(value) if value.isdecimal() else value for name, value in options.items()}
    task = load_task(said["task"], **options)
    assert len(task.row(0)["numbers"]) == 3 and 5 <= task.row(0)["target"] <= 30
