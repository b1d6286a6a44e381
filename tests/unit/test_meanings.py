"""Figures of methods: the names that a method records are those that its ``logs`` explain."""

import ast
import inspect

import pytest

from polytune.lookup import find
from polytune.meanings import METRICS, Metric
from polytune.methods import METHODS


def recorded(method):
    """Names of the figures that a class, or one that it derives from, records."""
    names = set()
    for own in method.__mro__[:-2]:  # without Method and object
        tree = ast.parse(inspect.getsource(own))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "record":
                written = ast.unparse(node.args[0])  # f"{self.name}/rows" of a class that others derive from
                names.add(ast.literal_eval(written.replace("{self.name}", getattr(method, "name", "")).lstrip("f")))
    return names


@pytest.mark.parametrize("name", METHODS)
def test_logs_explain_what_is_recorded(name):
    method = find("method", name, METHODS)
    told, names = {*method.logs}, recorded(method)
    assert names - told == set(), f"{name} records {names - told}: say in its `logs` what they mean"
    assert told - names == set(), f"{name} explains {told - names}, which it does not record"
    assert not told & {*METRICS}, "a figure of the trainer has this name"


@pytest.mark.parametrize("name", METHODS)
def test_meanings_are_said_in_words(name):
    for metric in find("method", name, METHODS).logs.values():
        assert isinstance(metric, Metric) and metric.meaning


def test_the_trainers_are_said_in_words():
    for name, metric in METRICS.items():
        assert metric.meaning and metric.healthy, name
