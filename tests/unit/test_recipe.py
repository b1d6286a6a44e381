"""Recipes that extend others: whose value counts, where they go, what is refused."""

import importlib
from pathlib import Path

import pytest
import yaml

from polytune.app import bench_training
from polytune.app.cli import UsageError, load_yaml, parser_of
from polytune.recipe import own_folder, read_recipe

ROOT = Path(__file__).resolve().parents[2]
EXTENDING = [
    p for p in sorted((ROOT / "recipes").rglob("*.yaml")) if "extends" in (yaml.safe_load(p.read_text()) or {})
]


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_its_own_values_take_the_place_of_the_others(tmp_path):
    write(tmp_path, a="x: 1\ny: [1, 2]\nz: 3\noutput_dir: outputs/a\n", b="extends: a.yaml\ny: [7]\nz:\n",
          c="w: 0\nextends: b.yaml\noutput_dir: here\n")  # fmt: skip
    assert read_recipe(tmp_path / "b.yaml") == {"x": 1, "y": [7], "z": None, "output_dir": "outputs/b"}
    assert read_recipe(tmp_path / "c.yaml") == {"w": 0, "x": 1, "y": [7], "z": None, "output_dir": "here"}


def test_paths_count_from_the_files_folder_and_from_the_current_one(tmp_path, monkeypatch):
    write(tmp_path, a="x: 1\n")
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", b="extends: ../a.yaml\n", c="extends: a.yaml\n")
    assert read_recipe(tmp_path / "sub/b.yaml") == {"x": 1}
    monkeypatch.chdir(tmp_path)
    assert read_recipe("sub/c.yaml") == {"x": 1}


def test_it_never_goes_into_the_other_ones_folder(tmp_path):
    folder = tmp_path / "recipes" / "world"
    folder.mkdir(parents=True)
    write(folder, mine=f"extends: {ROOT}/recipes/fourrooms/poly_ppo.yaml\n")
    assert read_recipe(folder / "mine.yaml")["output_dir"] == own_folder(folder / "mine.yaml") == "outputs/world/mine"
    folders = [read_recipe(path)["output_dir"] for path in EXTENDING]
    assert len(EXTENDING) > 50 and len(set(folders)) == len(folders)


@pytest.mark.parametrize(
    "text, words",
    [
        ("extends: b.yaml", ["b.yaml", "(extended by", "does not exist"]),
        ("extends: mine.yaml", ["mine.yaml extends mine.yaml, which extends it in turn"]),
        ("extends: loop.yaml", ["loop.yaml extends mine.yaml, which extends it in turn"]),
        ("extends: [a.yaml]", ["extends ['a.yaml']", "one YAML file"]),
        ("extends: broken.yaml", ["broken.yaml (extended by", "not valid YAML"]),
        ("extends: ../fourrooms/poly_ppo.yaml", ["does not exist; did you mean recipes/fourrooms/poly_ppo.yaml?"]),
        ("extends: list.yaml", ["list.yaml (extended by", "mapping", "list"]),
    ],
)
def test_what_cannot_be_extended_is_one_clear_error(tmp_path, text, words):
    write(tmp_path, mine=text, loop="extends: mine.yaml", broken="a: b: c", list="- a")
    with pytest.raises(UsageError) as error:
        load_yaml(tmp_path / "mine.yaml")
    for word in words:
        assert word in str(error.value), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "told"), [
    ("seed: 1\nset_scope: none\n  window: 3\n", "line 3, column 9: mapping values are not allowed here (fields stand "
     "below each other; a text with ': ' in it needs quotes)"),
    ("a: 'x\n", "line 2, column 1: found unexpected end of stream while scanning a quoted scalar"),
    ("a: \0", "unacceptable character #x0000: special characters are not allowed, position 3"),
    ("a: *b", "line 1, column 4: found undefined alias 'b'"),
])  # fmt: skip
def test_what_is_no_yaml_is_one_line_with_its_place(tmp_path, text, told):
    write(tmp_path, mine=text)
    with pytest.raises(UsageError) as error:
        load_yaml(tmp_path / "mine.yaml")
    assert str(error.value) == f"config {tmp_path}/mine.yaml is not valid YAML: {told}"


@pytest.mark.parametrize("path", EXTENDING, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_no_recipe_repeats_what_it_extends(path):
    own = yaml.safe_load(path.read_text())
    other = read_recipe(path.parent / own.pop("extends"))
    repeated = [name for name, value in own.items() if name in other and other[name] == value]
    assert not repeated and own.get("output_dir") != own_folder(path)


@pytest.mark.parametrize(("text", "said"), [
    ("seed: 1\ntask: fourrooms\nseed: 2\n", "'seed' in line 3 is in line 1 already"),
    ("'seed': 1\nseed: 1\n", "'seed' in line 2 is in line 1 already"),
    ("task: fourrooms\nlr_scheduler_kwargs:\n  min_lr: 1\n  min_lr: 2\n", "'min_lr' in line 4 is in line 3 already"),
    ("methods: [{a: 1, a: 2}]\n", "'a' in line 1 is in line 1 already"),
])  # fmt: skip
def test_a_key_that_comes_twice_is_one_error_at_any_level(text, said, tmp_path):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"config {tmp_path}/own.yaml is not valid YAML: {said}"):
        read_recipe(tmp_path / "own.yaml")


def test_a_merged_mapping_may_be_overridden(tmp_path):
    (tmp_path / "own.yaml").write_text("base: &b {x: 1, y: 2}\nown: {<<: *b, y: 3}\n")
    assert read_recipe(tmp_path / "own.yaml")["own"] == {"x": 1, "y": 3}


def commands_of_the_speed_benchmark():
    found = [("pretrain", bench_training.GOTO_80_STEPS)]
    for case in bench_training.CASES.values():
        found += [("pretrain", case.pretrain), ("finetune", f"{case.finetune} --save_updates 100 --cpu_threads 1")]
    return [one for one in found if one[1]]


@pytest.mark.parametrize(("program", "flags"), commands_of_the_speed_benchmark())
def test_the_speed_benchmark_asks_for_what_its_programs_know(program, flags):
    main = importlib.import_module(f"polytune.app.{program}").main
    own, unknown = parser_of(main).parse_known_args(flags.split())
    assert not unknown and (own.config is None or (ROOT / own.config).is_file())
