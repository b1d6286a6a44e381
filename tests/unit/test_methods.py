"""Methods: by name, their options, their state."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
import yaml
from safetensors import safe_open

from polytune.checks import parse_method_args
from polytune.methods import METHODS, Method, build_methods
from polytune.recipe import read_recipe
from polytune.trainer.hooks import METHODS_FILE, load_methods, save_methods

ROOT = Path(__file__).resolve().parents[2]

# ---------------------------------------------------------------- by name


@pytest.mark.parametrize("name", METHODS)
def test_every_row_builds_and_says_what_it_is(name):
    method = build_methods([name], {})[name]
    assert isinstance(method, Method) and type(method).says is not Method.says and method.says().endswith(".")


def test_a_method_without_hooks_changes_nothing():
    method, sent, advantages = Method(), {}, torch.ones(2, 3)
    assert method.reward(None) == 0.0
    assert method.turn_advantage(None, advantages) is method.advantage(None, advantages, sent) is advantages
    assert method.wanted_rows(8) == 0 and not method.replay(8, 0.5) and method.temperature(3, 0.5) == 1.0
    assert method.weight(None) == 1.0 and method.loss(None) == 0.0 and method.state() == sent == {}


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("ucd", {}, ["'ucd'", "'ucb'", "package.module:name"]),
        ("ucb", {"coeff": 1}, ["option of ucb", "'coeff'", "'coef'", "known: coef"]),
        ("ucb", {"coef": True}, ["coef", "True", "method_args"]),
        ("ucb", {"coef": math.nan}, ["coef", "nan"]),
        ("math:pi", {}, ["math:pi", "no subclass of polytune.methods.Method"]),
    ],
)
def test_wrong_names_and_options_are_named(name, options, words):
    with pytest.raises(ValueError) as error:
        build_methods([name], {name: options})
    for word in words:
        assert word in str(error.value), error.value
    assert "\n" not in str(error.value)


WRONG = {int: [1.5, True, "many", [2]], float: [True, "much", [0.5]], bool: [1, "yes", None]}


def typed_options():
    for name in METHODS:
        kind = type(build_methods([name], {})[name])
        for option in fields(kind):
            for wanted in set(WRONG) & set(get_args(get_type_hints(kind)[option.name]) or [option.type]):
                yield from ((name, option.name, value) for value in WRONG[wanted])


def test_an_option_of_another_type_is_one_line_whatever_the_method():
    tried = list(typed_options())
    assert len(tried) > 300
    for name, option, value in tried:
        with pytest.raises(ValueError, match=rf"method '{name}': {option} must be ") as error:
            build_methods([name], {name: {option: value}})
        assert repr(value) in str(error.value) and "\n" not in str(error.value)


@dataclass
class ForTypeCheckers(Method):
    """A user's, annotated with what is imported for type checkers alone."""

    weight: "numpy.Scalar" = 1  # noqa: F821
    share: "float | None" = None


def test_annotations_that_cannot_be_read_are_no_hindrance():
    built = build_methods([f"{__name__}:ForTypeCheckers"], {f"{__name__}:ForTypeCheckers": {"share": 1}})
    assert [own.share for own in built.values()] == [1]


def own_fields(path):
    """Of a recipe that extends another: (names of its method, the other's fields, its own fields)."""
    fields = read_recipe(path)
    told = yaml.safe_load(path.read_text())
    return fields.get("methods"), read_recipe(path.parent / told["extends"]) if "extends" in told else {}, fields


RECIPES = [
    path
    for path in sorted((ROOT / "recipes").rglob("*.yaml"))
    if "\nmethods:" in path.read_text() and "compare" not in path.name
]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_methods_recipe_differs_in_the_method_alone(path):
    names, before, after = own_fields(path)
    [method] = set(names) - set(before.get("methods", []))
    assert before.pop("output_dir") != after.pop("output_dir")
    had, told = before.pop("method_args", []), after.pop("method_args", [])
    build_methods(names, parse_method_args(names, told))
    assert set(had) <= set(told), "options of the methods that it goes on from stay"
    changed = {key for key in before | after if before.get(key) != after.get(key)}
    searched = {"learning_rate"} if path.parent.name == "triangle" else set()  # docs/results/creativity.md: its effort
    room = {"per_device_train_batch_size"} if method == "weighted_replay" else set()  # for the rows that it replays
    may = {"methods", "kl_coef", "kl_reference", "rollout_states"} | searched | room
    assert changed <= may and "methods" in changed
    assert {*method.split("_")} & {*path.stem.split("_")} or {
        "kl_coef",
        "rollout_states",
    } & changed  # the method's own places to begin


def test_every_method_has_a_recipe():
    assert set(METHODS) == {method for path in RECIPES for method in own_fields(path)[0]}


# ---------------------------------------------------------------- state


class Counts(Method):
    """A method of a user's own that remembers a number."""

    seen = 0

    def state(self):
        return {"seen": torch.tensor(self.seen)}

    def restore(self, state):
        self.seen = int(state["seen"])


def test_state_is_one_file_of_tensors_and_comes_back(tmp_path):
    first, second = Counts(), Counts()
    first.seen, second.seen = 3, 2**60 + 1
    save_methods(tmp_path, {"a": first, "b.c:Counts": second, "plain": Method()})
    with safe_open(tmp_path / METHODS_FILE, "pt") as file:
        assert set(file.keys()) == {"a/seen", "b.c:Counts/seen"}
    again = {"a": Counts(), "b.c:Counts": Counts(), "plain": Method()}
    load_methods(tmp_path, again)
    assert again["a"].seen == 3 and again["b.c:Counts"].seen == 2**60 + 1


def test_no_file_without_state_and_none_is_missed(tmp_path):
    save_methods(tmp_path, {"plain": Method()})
    assert not list(tmp_path.iterdir())
    load_methods(tmp_path, {"plain": Method()})
    with pytest.raises(ValueError, match="holds nothing of method 'a', which wants seen.*train from the start"):
        load_methods(tmp_path, {"a": Counts()})
