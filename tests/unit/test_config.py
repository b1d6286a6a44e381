"""Configurations: every YAML loads, every wrong value is one clear error."""

import math
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import yaml
from datasets import Dataset

import polytune.app.pretrain
import polytune.comparison.options
import polytune.evaluation.options
import polytune.export.options
from polytune import config
from polytune.app.cli import UsageError, load_yaml, parse
from polytune.app.pretrain import PretrainConfig
from polytune.comparison.methods import override_flags
from polytune.comparison.options import ComparisonConfig
from polytune.config import AdapterConfig, ObjectiveConfig, PolicyConfig, RolloutConfig, TaskConfig, check_sets
from polytune.evaluation.options import EvaluationConfig
from polytune.export.options import ExportConfig
from polytune.places import at_home
from polytune.tasks import dataset, load_task
from polytune.tasks.starts import options_of
from polytune.trainer import PolychromicConfig, check_run

ROOT = Path(__file__).resolve().parents[2]
PARTS = (TaskConfig, PolicyConfig, AdapterConfig, RolloutConfig, ObjectiveConfig, PolychromicConfig)
#: entries of the speed run are no runs: test_speedrun.py has them
YAMLS = sorted(p for p in (ROOT / "recipes").rglob("*.yaml") if p.parent.name not in ("accelerate", "speedrun"))
QUICKSTART = str(ROOT / "recipes/fourrooms/quickstart.yaml")


def finetune(*flags, config=QUICKSTART):
    return parse(PARTS, ["--config", str(config), *flags], description="test")


#: a row of each dataset on the Hub that a YAML names, with the columns that its card documents
HUB_ROWS = {
    "POLARIS-Project/Polaris-Dataset-53K": {"problem": "What is 17 + 17?", "answer": "34", "difficulty": "3/8"},
    "BytedTsinghua-SIA/DAPO-Math-17k": {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": "What is 17 + 17?"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": "0"},
    },
}


@pytest.fixture
def offline(monkeypatch):
    """Datasets of the Hub by one row each, vLLM taken as installed: all else of a YAML is checked as it is."""
    load = dataset.load_rows

    def load_rows(path, subset, split, *, missing_is_none=False):
        if path in HUB_ROWS:
            return Dataset.from_list([HUB_ROWS[path]]) if split == "train" else None
        return load(path, subset, split, missing_is_none=missing_is_none)

    find = config.find_spec
    monkeypatch.setattr(dataset, "load_rows", load_rows)
    monkeypatch.setattr(config, "find_spec", lambda name: name == "vllm" or find(name))
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", YAMLS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_yaml_is_a_valid_run(path, offline, monkeypatch):
    if path.parent.name == "own_data":
        monkeypatch.chdir(ROOT / "data/units")  # which it asks for
    if "pretrain" in path.name:
        task, _, _ = parse((TaskConfig, AdapterConfig, PretrainConfig), ["--config", str(path)], description="test")
    elif "compare" in path.name:
        parts = (TaskConfig, PolicyConfig, ComparisonConfig)
        task, _, comparison = parse(parts, ["--config", str(path)], description="test")
        assert all((ROOT / entry.split("=")[-1]).is_file() for entry in comparison.methods)
    else:
        task, _, _, rollout, objective, args = finetune(config=path)
        check_run(args, rollout, objective)
        assert args.max_steps == args.num_updates * args.steps_per_update
    if task.task.startswith("reasoning-gym:"):
        return  # its package need not be installed: tests/worlds loads it
    world = load_task(task.task, **options_of(task))
    assert world.horizon >= 1
    if task.task == "dataset" and "/maths/" in str(path):
        step = world.start(0).step("17 + 17 = 34\nAnswer: 34")
        assert (world.prompt(0), step.reward) == ("What is 17 + 17?", 1.0)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("poly_epo.yaml")), ids=lambda p: p.parent.name)
def test_poly_epo_is_as_published_and_its_variant_bears_another_name(path, offline):
    """Nothing is divided by a std; the variant differs in that, and in what its size asks of optimiser and KL."""
    published, variant = (load_yaml(p) for p in (path, path.with_stem("poly_epo_group_std")))
    differ = {name for name in published | variant if published.get(name) != variant.get(name)}
    assert {"set_normalise", "output_dir"} <= differ
    assert differ <= {"set_normalise", "output_dir", "adam_epsilon", "kl_coef", "kl_reference", "kl_direction"}
    assert (published["set_normalise"], variant["set_normalise"]) == ("none", "group_std")


def test_without_vllm_its_generator_is_refused(monkeypatch):
    monkeypatch.setattr(config, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="vLLM is not installed"):
        finetune("--generator", "vllm")


def test_flags_override_the_yaml():
    _, _, _, rollout, objective, args = finetune("--learning_rate", "2e-6", "--window", "3", "--seed", "9")
    assert (args.learning_rate, objective.window, args.seed) == (2e-6, 3, 9)
    assert rollout.num_vines == 8  # from the YAML


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lerning_rate: 1.0e-5", ["lerning_rate", "learning_rate"]),
        ("learning_rate: fast", ["learning_rate", "fast"]),
        ("num_vines: [1, 2]", ["2"]),
        ("- a\n- b", ["mapping", "list"]),
        ("a: b: c", ["not valid YAML"]),
        ("task: fourrooms\nset_size: 9", ["num_vines", "8", "set_size", "9"]),
        ("num_rollout_states: -1", ["num_rollout_states", "-1"]),
        ("window: -2", ["window", "-2"]),
        ("task_horizon: 0", ["task_horizon", "0"]),
        ("num_generations: 24", ["num_generations is 24", "= 17", "leave num_generations out"]),
        ("per_device_train_batch_size: 60", ["240 rows", "splits a tree of 17"]),
        ("num_iterations: 0", ["num_iterations", "0"]),
        ("num_sets: some", ["num_sets", "some", "all"]),
        ("set_scope: seeds", ["num_seeds", "set_size"]),
        ("critic: none\nset_scope: none", ["critic", "set_scope"]),
        ("max_steps: 10", ["max_steps", "num_updates"]),
        ("beta: 0.1", ["beta", "kl_coef"]),
        ("top_k: 50", ["top_k"]),
        ("kl_reference: other", ["kl_reference", "behaviour", "pretrained", "other"]),
        ("kl_coef: -1", ["kl_coef", "-1"]),
        ("temperature: 0", ["temperature", "0"]),
        ("num_sets: 1", ["num_sets", "1", "at least 2"]),
        ("objective: magic", ["objective", "polychromic", "magic"]),
        ("diversity: magic", ["diversity", "distinct_fraction", "magic"]),
        ("objective: no.module:f", ["objective", "no.module", "PYTHONPATH"]),
        ("credit: best", ["credit", "mean", "leave_one_out", "best"]),
        ("credit: max\nobjective: pass_at_k", ["credit 'max'", "pass_at_k", "leave_one_out"]),
        ("credit: per_set\nset_normalise: mean_std", ["per_set", "mean_std"]),
        ("credit: per_set\nloss_type: bnpo", ["per_set", "dapo", "bnpo"]),
        (
            "diversity: vendi\nnum_vines: 40\nset_size: 20\nnum_generations: 81\nper_device_train_batch_size: 81",
            ["C(40, 20)", "num_sets"],
        ),
        ("credit: per_set\ndelta: 2.0", ["per_set", "delta", "2.0"]),
        ("loss_type: grpo", ["max_env_steps", "blank", "grpo", "dapo"]),
        ("set_size: 8", ["set_size 8", "num_vines", "leave_one_out"]),
        ("set_size: 1\ndiversity: excess", ["excess", "set_size", "mean"]),
        ("set_size_end: 0", ["set_size_end", "at least 1", "0"]),
        ("set_size_end: 9", ["num_vines", "8", "below set_size_end (n = 9)"]),
        ("set_scope: none\nset_size_end: 1", ["set_size_end", "no effect", "set_scope"]),
        ("diversity_coef: 0.3", ["diversity_coef", "0.3", "additive"]),
        ("set_scope: none\nobjective: pass_at_k", ["objective", "pass_at_k", "no effect", "set_scope"]),
        ("ucb_coef: 0.1", ["ucb_coef", "methods: [ucb]", "method_args"]),
        ("methods: [ucd]", ["method", "'ucd'", "'ucb'", "package.module:name"]),
        ("methods: [kl_cov]\nloss_type: bnpo", ["kl_cov", "dapo", "bnpo"]),
        ("methods: [no.module:C]", ["method", "no.module", "PYTHONPATH"]),
        ("methods: [math:pi]", ["math:pi", "no subclass", "Method"]),
        ("methods: [ucb, ucb]", ["methods", "'ucb'", "once"]),
        ("method_args: [ucb.coef=1]", ["method_args", "ucb.coef=1", "none", "leave the option out"]),
        ("methods: [ucb]\nmethod_args: [coef=1]", ["method_args", "coef=1", "METHOD.NAME=VALUE"]),
        ("methods: [ucb]\nmethod_args: [ucb.coef]", ["method_args", "METHOD.NAME=VALUE"]),
        ("methods: [ucb]\nmethod_args: [ucb.coeff=1]", ["ucb", "'coeff'", "'coef'"]),
        ("methods: [ucb]\nmethod_args: [ucb.coef=1, ucb.coef=2]", ["method_args", "ucb.coef=2", "each name once"]),
        ("methods: [ucb]\nmethod_args: [ucb.coef=inf]", ["method_args", "ucb.coef=inf", "finite"]),
        ("methods: [ucb]\nmethod_args: [ucb.coef=-1]", ["ucb", "coef", "-1", "method_args"]),
        ("methods: [ucb]\nmethod_args: [ucb.coef=some]", ["ucb", "coef", "some"]),
        ("kl_coef: .inf", ["kl_coef", "inf"]),
        ("collapse_share: 7", ["collapse_share", "from 0 to 1", "7"]),
        ("signature: magic", ["judge", "magic", "ngram"]),
        ("rollout_states: middle", ["rollout_states", "uncertain", "middle"]),
        ("rollout_states: uncertain\ncritic: none", ["rollout_states", "critic", "entropy"]),
        ("diversity_coef: -1", ["diversity_coef", "-1"]),
        ("max_env_steps: 0", ["max_env_steps", "0"]),
        ("epsilon: -1", ["epsilon", "-1"]),
        ("seed: -1", ["seed", "-1"]),
        ("loss_type: magic", ["loss_type", "dapo", "magic"]),
        ("scale_rewards: group", ["scale_rewards", "no effect", "set_normalise"]),
        ("save_steps: 3", ["save_steps", "save_updates"]),
        ("shuffle_dataset: false", ["shuffle_dataset", "seed"]),
        ("save_only_model: true", ["save_only_model", "resumed"]),
        ("generator: magic", ["generator", "magic", "transformers"]),
    ],
)
def test_a_bad_value_is_one_clear_error(tmp_path, text, words):
    path = tmp_path / "bad.yaml"
    quickstart = Path(QUICKSTART).read_text()
    keys = [line.split(":")[0] for line in text.splitlines()]
    kept = [line for line in quickstart.splitlines() if line.split(":")[0] not in keys]
    path.write_text("\n".join(kept) + "\n" + text + "\n" if ":" in text and "b: c" not in text else text)
    with pytest.raises(ValueError) as error:
        task, _, _, rollout, objective, args = finetune(config=path)
        check_run(args, rollout, objective)
    for word in words:
        assert word in str(error.value), str(error.value)


def test_unknown_flag_and_missing_file_name_the_fix():
    with pytest.raises(UsageError, match="did you mean.*learning_rate"):
        finetune("--learning_rat", "1")
    with pytest.raises(UsageError, match="does not exist; recipes lie in .*recipes/fourrooms"):
        finetune(config="nowhere.yaml")
    with pytest.raises(UsageError, match="'recipes/maze' is a folder; the recipes in it are .*grpo.yaml, "):
        finetune(config="recipes/maze/")


@pytest.mark.parametrize(("text", "told"), [
    ("num_updates: many", "config {own}: num_updates must be an integer, got 'many'."),
    ("seed: true", "config {own}: seed must be an integer, got True."),
    ("learning_rate: {a: 1}", "config {own}: learning_rate must be a number, got {{'a': 1}}."),
    ("shuffle_dataset: maybe", "config {own}: field shuffle_dataset: 'maybe' is neither true nor false"),
    ("num_vines: [1, 2]", "config {own}: num_vines takes one value, got the list [1, 2]."),
    ("extends: other.yaml\nseed: 3", "config {other}: num_updates must be an integer, got 'some'."),
    ("seed: 3", "num_updates must be an integer, got 'few'."),
])  # fmt: skip
def test_a_value_of_the_wrong_kind_names_file_field_and_kind(text, told, tmp_path):
    (tmp_path / "own.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text("num_updates: some\n")
    flags = ["--num_updates", "few"] if text == "seed: 3" else []
    with pytest.raises(UsageError) as error:
        finetune(*flags, config=tmp_path / "own.yaml")
    assert str(error.value).startswith(told.format(own=tmp_path / "own.yaml", other=tmp_path / "other.yaml"))


@pytest.mark.parametrize(("parts", "word", "told"), [
    ((TaskConfig, PolicyConfig, EvaluationConfig), "outputs/x", "did you mean --policies outputs/x?"),
    (PARTS, "outputs/x/finetuned", "did you mean --model outputs/x/finetuned?"),
    (PARTS, "recipes/fourrooms/ppo.yaml", "did you mean --config recipes/fourrooms/ppo.yaml?"),
    ((ExportConfig,), "outputs/x/finetuned", "did you mean --policy outputs/x/finetuned?"),
    ((TaskConfig, PretrainConfig), "fourrooms", "did you mean --task fourrooms?"),
    ((TaskConfig, PretrainConfig), "7", "a value stands behind the flag of its field; --help lists the known ones."),
])  # fmt: skip
def test_a_word_without_a_flag_is_told_where_it_belongs(parts, word, told):
    with pytest.raises(UsageError) as error:
        parse(parts, [word], description="test")
    assert str(error.value).startswith(f"unknown argument {word!r}") and str(error.value).endswith(told)


def test_sets_grow_or_shrink_over_the_run():
    falling = ObjectiveConfig(set_size=4, set_size_end=1)
    sizes = [falling.at(update / 12).set_size for update in range(12)]
    assert sizes == [4, 4, 4, 3, 3, 3, 3, 2, 2, 2, 2, 1]  # from 4 to 1 in a straight line, rounded; halves upwards
    assert [ObjectiveConfig(set_size=2, set_size_end=8).at(p).set_size for p in (0.0, 0.5, 0.95)] == [2, 5, 8]
    fixed = ObjectiveConfig()
    assert fixed.at(0.9) is fixed


def test_sets_are_checked_against_the_tree():
    check_sets(RolloutConfig(num_vines=4), ObjectiveConfig(set_size=4))
    with pytest.raises(ValueError, match="num_rollout_states is 0"):
        check_sets(RolloutConfig(num_rollout_states=0, num_vines=0), ObjectiveConfig())
    with pytest.raises(ValueError, match="num_vines is 0"):
        RolloutConfig(num_rollout_states=2, num_vines=0)
    assert RolloutConfig(num_seeds=3, num_rollout_states=2, num_vines=5).rows_per_prompt == 33


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (EvaluationConfig, {"n": 0}),
        (EvaluationConfig, {"temperature": 0.0}),
        (EvaluationConfig, {"level": 1.0}),
        (EvaluationConfig, {"policies": []}),
        (PretrainConfig, {"target_success": 0.0}),
        (PretrainConfig, {"num_demonstrations": 1}),
        (PretrainConfig, {"learning_rate": 0.0}),
        (TaskConfig, {"num_start_states": 0}),
        (PolicyConfig, {"max_action_tokens": 0}),
        (ObjectiveConfig, {"gamma": 1.5}),
    ],
)
def test_each_part_checks_itself(cls, fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        cls(**fields)


def test_help_shows_ours_first_and_everything_on_demand(capsys):
    with pytest.raises(SystemExit) as status:
        finetune("--help")
    short = capsys.readouterr().out
    assert status.value.code == 0 and "--num_vines" in short and "--adam_beta2" not in short
    with pytest.raises(SystemExit):
        finetune("--help-all")
    assert "--adam_beta2" in capsys.readouterr().out


def float_fields():
    """(class, field) of every number with a fraction that a configuration holds, inherited ones included."""
    modules = (config, polytune.evaluation.options, polytune.comparison.options, polytune.export.options,
               polytune.app.pretrain)  # fmt: skip
    classes = [value for module in modules for value in vars(module).values()
               if isinstance(value, type) and is_dataclass(value)]  # fmt: skip
    assert {TaskConfig, PolicyConfig, PretrainConfig, EvaluationConfig, ComparisonConfig} < set(classes)
    found = [(own, field.name) for own in [*classes, PolychromicConfig] for field in fields(own)
             if "float" in str(field.type)]  # fmt: skip
    assert len(found) > 60
    return found


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_every_number_of_every_configuration_is_finite(number):
    for own, name in float_fields():
        with pytest.raises(ValueError, match=rf"^{name} is {number}, which is no finite number: change {name} "):
            own(**{name: number})


@pytest.mark.parametrize("flags", [
    ["--learning_rate", "inf"], ["--temperature", "nan"], ["--adam_beta1", "inf"], ["--learning_rate", "1e999"],
    ["--task_args", "size=inf"], ["--lr_scheduler_kwargs", '{"min_lr": Infinity}'],
])  # fmt: skip
def test_no_flag_brings_one_that_is_not(flags):
    with pytest.raises(ValueError, match="no finite number"):
        finetune(*flags)


@pytest.mark.parametrize(("cls", "given"), [
    (TaskConfig, {"data_dir": "~/data", "split": "~/rows.jsonl", "task_args": ["path=~/rows.jsonl", "judge=~/j.py"]}),
    (PolicyConfig, {"model": "~/policy"}),
    (PretrainConfig, {"output_dir": "~/runs", "base_model": "~/gpt2"}),
    (EvaluationConfig, {"policies": ["a=~/one", "~/two"], "output_dir": "~/runs", "from_records": "~/records.jsonl"}),
    (ComparisonConfig, {"methods": ["a=~/a.yaml", "~/b.yaml"], "keep": "~/kept.json", "keep_runs": "~/runs"}),
    (ComparisonConfig, {"set": ["vllm_weights_dir=~/weights"], "output_dir": "~"}),
    (ExportConfig, {"policy": "~/run", "evaluation": ["~/run/evaluation"], "output_dir": "~/export"}),
    (PolychromicConfig, {"output_dir": "~/runs", "vllm_weights_dir": "~/weights"}),
])  # fmt: skip
def test_the_home_folder_is_found_in_every_path(cls, given, tmp_path, monkeypatch):
    """By flag and in a YAML, which no shell reads."""
    monkeypatch.setenv("HOME", "/home/of/mine")
    flags = [[f"--{name}", *value] if isinstance(value, list) else [f"--{name}={value}"]
             for name, value in given.items()]  # fmt: skip
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(given))
    for argv in ([word for words in flags for word in words], ["--config", str(tmp_path / "own.yaml")]):
        (read,) = parse((cls,), argv, description="test")
        for name, value in given.items():
            assert str(getattr(read, name)) == str(value).replace("~", "/home/of/mine")


@pytest.mark.parametrize("value", ["a~b", "x=a~b", "~", "lr=1e-3", None, 3, ["x=~nobody_at_all/y"]])
def test_what_is_no_home_folder_stays(value, monkeypatch):
    monkeypatch.setenv("HOME", "/home/of/mine")
    assert at_home(value) == ("/home/of/mine" if value == "~" else value)


def test_a_config_in_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base.yaml").write_text("seed: 3\n")
    (tmp_path / "own.yaml").write_text("extends: ~/base.yaml\nnum_updates: 2\n")
    (read,) = parse((PolychromicConfig,), ["--config=~/own.yaml"], description="test")
    assert (read.seed, read.num_updates) == (3, 2)


@pytest.mark.parametrize("text", [
    "task_args: a=1 b=2", "task_args: ['a=1 b=2']", "method_args: ucb.coef=1 ucb.power=2\nmethods: [ucb]",
    "method_args: ['ucb.coef=1   ucb.power=2']\nmethods: [ucb]",
])  # fmt: skip
def test_options_in_one_text_are_refused_with_the_fix(text, tmp_path):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ValueError, match="2 options in one text: write each apart, --.* in a YAML .*: \\["):
        parse((TaskConfig, ObjectiveConfig), ["--config", str(tmp_path / "own.yaml")], description="test")
    with pytest.raises(ValueError, match="set has 'a=1 b=2', which are 2 options in one text"):
        override_flags(["a=1 b=2"])


def test_a_text_with_blanks_is_one_option():
    (read,) = parse((TaskConfig,), ["--task_args", "ask=Solve this for x = 3", "size=tiny"], description="test")
    assert options_of(read) == {"ask": "Solve this for x = 3", "size": "tiny"}


def test_a_mapping_of_a_yaml_reaches_a_field_that_takes_one(tmp_path):
    (tmp_path / "own.yaml").write_text("lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 1.0e-7}\n")
    (read,) = parse((PolychromicConfig,), ["--config", str(tmp_path / "own.yaml")], description="test")
    assert read.lr_scheduler_kwargs == {"min_lr": 1e-7}


NEED_A_VALUE = [
    (TaskConfig, "task"), (TaskConfig, "task_args"), (ComparisonConfig, "methods"), (ComparisonConfig, "set"),
    (ComparisonConfig, "seeds"), (ComparisonConfig, "perturb"), (ComparisonConfig, "level"),
    (PolychromicConfig, "learning_rate"),
    ("polytune.trainer.config:PolychromicConfig", "learning_rate"), (EvaluationConfig, "policies"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "name"), NEED_A_VALUE)
@pytest.mark.parametrize("value", ["", "[null]"])
def test_an_empty_value_of_a_yaml_is_refused_with_its_file_and_field(tmp_path, part, name, value):
    (tmp_path / "base.yaml").write_text(f"{name}: {value}\n")
    (tmp_path / "own.yaml").write_text("extends: base.yaml\n")
    with pytest.raises(UsageError, match=rf"config \S*base.yaml has no value for {name}: give it one, or leave"):
        parse((part,), ["--config", str(tmp_path / "own.yaml")], description="test")


def test_an_empty_value_stands_for_none_where_a_field_may_have_none(tmp_path):
    (tmp_path / "own.yaml").write_text("max_env_steps:\nepsilon_high: null\nsplit: ~\nmodel_revision:\n")
    read = parse(
        (TaskConfig, PolicyConfig, PolychromicConfig), ["--config", str(tmp_path / "own.yaml")], description=""
    )
    assert [read[0].split, read[1].model_revision, read[2].max_env_steps, read[2].epsilon_high] == [None] * 4


def test_an_empty_list_is_no_single_value(tmp_path):
    (tmp_path / "own.yaml").write_text("task: []\n")
    with pytest.raises(UsageError, match=r"own.yaml: task takes one value, got the list \[\]"):
        parse((TaskConfig,), ["--config", str(tmp_path / "own.yaml")], description="test")
