"""Arguments from dataclass fields: as transformers' HfArgumentParser has them, and fields.json as TRL has them."""

import argparse
import dataclasses
import json
import re
from enum import Enum
from typing import Literal

import pytest
from transformers import HfArgumentParser

from polytune.app import (
    bench,
    bench_critic,
    bench_generators,
    bench_training,
    branch_points,
    fields,
    methods_benchmark,
    pretrain,
    tutorial,
)
from polytune.app.cli import UsageError, parse
from polytune.comparison.options import ComparisonConfig, ReproductionConfig
from polytune.config import AdapterConfig, ObjectiveConfig, PolicyConfig, RolloutConfig, TaskConfig
from polytune.evaluation.options import EvaluationConfig
from polytune.export.options import ExportConfig
from polytune.trainer import PolychromicConfig

ANEW = "python -m polytune.app.fields makes it anew"
LIGHT = (TaskConfig, PolicyConfig, AdapterConfig, RolloutConfig, ObjectiveConfig)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Kinds:
    """Kinds of fields that no configuration of today has, or few."""

    needed: int
    colour: Colour = Colour.RED
    size: Literal[1, 2, "many"] = 1
    often: bool = True
    maybe: bool | None = None
    perhaps: bool | None = True
    some: list[float] = dataclasses.field(default_factory=lambda: [0.5])
    level: str = dataclasses.field(default="low", metadata={"choices": ["low", "high"], "help": "How %% high."})
    one_or: str | int = "all"
    limit: float | None = None


CLASSES = (*LIGHT, EvaluationConfig, ComparisonConfig, ReproductionConfig, ExportConfig, PolychromicConfig, Kinds,
           pretrain.PretrainConfig, tutorial.TutorialConfig, bench.BenchConfig, branch_points.PointsConfig,
           bench_critic.CriticBenchConfig, bench_generators.GeneratorBenchConfig,
           bench_training.BenchTrainingConfig, methods_benchmark.MethodsBenchmarkConfig)  # fmt: skip


def ours(cls, **more):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    fields.add_arguments(parser, fields.part_of(cls, **more))
    return parser


def known(parser, *, texts=True):
    """What argparse knows of each argument but the function that reads it."""
    names = ("option_strings", "dest", "nargs", "const", "default", "choices", "required", *(["help"] if texts else []))
    found = [{name: getattr(action, name) for name in names} for action in parser._actions[1:]]
    return [own | {"choices": own["choices"] and list(own["choices"])} for own in found]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_arguments_are_those_of_transformers(cls):
    assert known(ours(cls)) == known(HfArgumentParser(cls))


def not_loaded(path):
    raise AssertionError(f"{path} was loaded")


WORDS = ["true", "no", "1", "0", "1.5", "red", "blue", "many", "high", "None", "", "x", "-3"]


@pytest.mark.parametrize("cls", [Kinds, PolychromicConfig], ids=lambda cls: cls.__name__)
def test_words_are_read_as_transformers_reads_them(cls):
    """Every word for every argument: the same value, of the same type, or refused by both."""

    def read(parser, argument, word):
        parser.error = lambda message: (_ for _ in ()).throw(UsageError(message))
        needed = ["--needed", "1"] if cls is Kinds and argument != "--needed" else []
        try:
            value = vars(parser.parse_args([*needed, f"{argument}={word}"]))
            return {name: (type(own), own) for name, own in value.items()}
        except UsageError as error:
            return re.match(r"argument \S+", str(error))[0]

    mine, theirs = ours(cls), HfArgumentParser(cls)
    for action in mine._actions[1:]:
        for word in WORDS:
            assert read(mine, action.option_strings[0], word) == read(theirs, action.option_strings[0], word)


def test_the_kept_fields_are_true():
    assert fields.FIELDS_FILE.read_text() == fields.kept_text(), f"fields.json is out of date: {ANEW}"


def test_the_kept_fields_make_the_same_parser(monkeypatch):
    whole = fields.part_of(fields.TRAINER, whole=True)
    monkeypatch.setattr(fields, "_imported", not_loaded)
    kept = fields.part_of(fields.TRAINER)
    assert (kept.heading, kept.shown) == (whole.heading, whole.shown)
    parsers = []
    for part in (kept, whole):
        parsers.append(argparse.ArgumentParser(allow_abbrev=False))
        fields.add_arguments(parsers[-1], part)
    assert known(parsers[0], texts=False) == known(parsers[1], texts=False)
    texts = [{a.name: a.help for a in part.arguments if a.name in kept.shown} for part in (kept, whole)]
    assert texts[0] == texts[1] and all(texts[0].values())


@pytest.mark.parametrize("name", ["trl", "config.py"])
def test_fields_of_another_version_or_source_are_not_believed(name, monkeypatch, tmp_path):
    stale = json.loads(fields.FIELDS_FILE.read_text())
    stale["made_from"][name] = "0"
    stale["arguments"] = []
    (tmp_path / "fields.json").write_text(json.dumps(stale))
    monkeypatch.setattr(fields, "FIELDS_FILE", tmp_path / "fields.json")
    assert fields.part_of(fields.TRAINER).arguments == fields.part_of(PolychromicConfig).arguments


def test_a_run_is_the_same_from_the_class_and_from_the_kept_fields():
    flags = ["--config", "recipes/fourrooms/quickstart.yaml", "--kl_coef", "0.5", "--no_disable_dropout"]
    (kept,) = parse((*LIGHT, fields.TRAINER), flags, description="")[5:]
    (whole,) = parse((*LIGHT, PolychromicConfig), flags, description="")[5:]
    assert type(kept) is PolychromicConfig and kept.to_dict() == whole.to_dict() and kept.kl_coef == 0.5


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--kl_coeff", "1"], "unknown argument '--kl_coeff'; did you mean kl_coef"),
        (["--kl_coef", "much"], "kl_coef must be a number, got 'much'."),
        (["--bf16", "maybe"], "field bf16: 'maybe' is neither true nor false: give one of yes, true,"),
        (["--log_level", "loud"], "field log_level: invalid choice: 'loud'"),
        (["--save_strategy", "never"], "field save_strategy: invalid choice: 'never'"),
        (["--num_vines", "-1"], "num_vines"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_loaded(flags, told, monkeypatch):
    made_from = json.loads(fields.FIELDS_FILE.read_text())["made_from"]
    monkeypatch.setattr(fields, "made_from", lambda: made_from)  # whatever is installed here
    monkeypatch.setattr(fields, "_imported", not_loaded)
    with pytest.raises(UsageError, match=re.escape(told)):
        parse((*LIGHT, fields.TRAINER), flags, description="")
