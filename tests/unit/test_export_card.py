"""The model card is a function of its facts: what it says, what huggingface_hub reads back, what is refused."""

import dataclasses
import re

import pytest
import yaml
from huggingface_hub import ModelCard

from polytune.app.cli import load_yaml
from polytune.comparison.table import markdown
from polytune.config import AdapterConfig, ObjectiveConfig, RolloutConfig
from polytune.export.card import CardFacts, check_card, model_card, snippet
from polytune.export.evaluations import Evaluation
from polytune.export.licences import check_licence
from polytune.export.method import LOSSES, OF_THE_CRITIC, hyperparameters, method
from polytune.places import RECIPES
from polytune.trainer import PolychromicConfig

MEASURED = Evaluation(
    settings={"task": "fourrooms", "horizon": 100, "split": "train", "n": 16, "temperature": 1.0, "seed": 0,
              "task_args": [], "level": 0.95, "start_states": 50},
    measures={"success": {"estimate": 0.54, "low": 0.5, "high": 0.6},
              "pass@16": {"estimate": 0.98, "low": 0.9, "high": None}},
    before={"success": {"estimate": 0.45, "low": 0.4, "high": 0.5}},
    change={"success": {"estimate": 0.09, "low": 0.01, "high": 0.2}},
    perturbed={"start_room": {"success": {"estimate": 0.3, "low": 0.2, "high": 0.4}}},
    moved={"start_room": {"success": {"estimate": -0.24, "low": -0.3, "high": -0.1}}},
)  # fmt: skip


def facts(**changes):
    given = CardFacts(
        name="fourrooms-lora", where="somebody/policy", base="somebody/base", base_id="somebody/base",
        base_revision=None, begun_with="somebody/base", licence="mit", dtype="float32",
        task={"name": "fourrooms", "horizon": 100, "instructions": "Reach it.", "actions": ["left"], "options": []},
        method=["**GAE**."], hyperparameters={"set_size": 4}, prompt='say "left" >',
        trained={"updates": 2, "gradient_steps": 16, "env_steps": 20103.0},
        sampling={"max_new_tokens": 1, "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0,
                  "eos_token_id": [3], "pad_token_id": 0},
        proof={"episodes": 4, "tokens": 229, "largest": 4.8e-7, "mean": 1e-7, "tolerance": 1e-4,
               "precision": "float32"},
        versions={"torch": "2.13.0"}, data=["levels"], evaluations=[MEASURED],
    )  # fmt: skip
    return dataclasses.replace(given, **changes)


def test_metadata_come_back_as_they_went_out():
    data = ModelCard(model_card(facts())).data
    assert (data.library_name, data.license, data.base_model) == ("peft", "mit", "somebody/base")
    assert data.base_model_relation == "adapter" and "lora" in data.tags
    found = {(r.dataset_config, r.metric_type): r.metric_value for r in data.eval_results}
    assert found == {(None, "success_rate"): 0.54, (None, "pass@16"): 0.98, ("start_room", "success_rate"): 0.3}
    whole = ModelCard(model_card(facts(base=None, base_id=None))).data
    assert whole.library_name == "transformers" and whole.base_model is None and "lora" not in whole.tags


def test_the_card_has_all_that_was_asked_for():
    text = model_card(facts())
    for words in ("| success (pass@1) | 0.540 [0.500, 0.600] | 0.450 [0.400, 0.500] | +0.090 [+0.010, +0.200] |",
                  "| pass@16 | 0.980 [0.900, -] | - | - |",
                  "| success (pass@1) | 0.300 [0.200, 0.400] | -0.240 [-0.300, -0.100] |",
                  "16 independent samples of each of 50 start states", "2 updates, 16 gradient steps, 20,103 env",
                  "difference of a logprob is 4.8e-07 nats", "`mit`.", "torch 2.13.0",
                  "> Reach it."):  # fmt: skip
        assert words in text, words
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == ["Load it", "Task", "How it was trained", "Evaluation", "Proof of export", "Data", "Limits",
                        "Licence", "Versions"]  # fmt: skip
    assert "runs there alone" not in text


def test_what_is_not_known_is_said():
    text = model_card(
        facts(evaluations=[], licence="unknown", base_id=None, begun_with="pretrained", base="/home/base")
    )
    for words in ("Not evaluated", "How well it does is not measured", "did not say", "from `pretrained`",
                  "runs there alone", "Not tested under perturbations"):  # fmt: skip
        assert words in text, words
    assert "model-index" not in text and "base_model" not in text.split("---\n")[1]


@pytest.mark.parametrize("changes", [{}, {"base": None}, {"prompt": [1, 2]}, {"base_revision": "v1"},
                                     {"prompt": 'a "quoted"\nline \\ é'}])  # fmt: skip
def test_snippets_are_python(changes):
    code = snippet(facts(**changes))
    compile(code, "snippet", "exec")
    assert "polytune" not in code and ("PeftModel" in code) == ("base" not in changes)
    assert ('revision="v1"' in code) == ("base_revision" in changes)
    if isinstance(changes.get("prompt"), str):
        line = next(line for line in code.splitlines() if line.startswith("prompt"))
        assert eval(line.partition("=")[2]) == changes["prompt"]


def test_cards_that_the_hub_would_not_take():
    good = model_card(facts())
    header, body = good.split("---\n", 2)[1:]
    for name, value, words in (("license", "free", "licence is 'free'"), ("tags", [], "lack tags"),
                               ("library_name", None, "lack library_name")):  # fmt: skip
        data = yaml.safe_load(header) | {name: value}
        data = {key: entry for key, entry in data.items() if entry is not None}
        with pytest.raises(ValueError, match=words):
            check_card(f"---\n{yaml.safe_dump(data)}---\n{body}")
    check_licence("apache-2.0")
    with pytest.raises(ValueError, match="did you mean apache-2.0"):
        check_licence("Apache2.0")


def settings(name):
    """``run.json`` of a recipe's YAML."""
    given = load_yaml(f"recipes/fourrooms/{name}.yaml") | {"use_cpu": True}

    def of(cls, **more):
        names = {f.name for f in dataclasses.fields(cls)}
        return dataclasses.asdict(cls(**{key: value for key, value in given.items() if key in names}, **more))

    trainer = of(PolychromicConfig)
    return {"rollout": of(RolloutConfig), "objective": of(ObjectiveConfig), "trainer": trainer, "policy": {},
            "adapter": dataclasses.asdict(AdapterConfig())}  # fmt: skip


@pytest.mark.parametrize("name, says, does_not_say", [
    ("ppo", ["No sets", "Every action: **GAE**"], ["polychromic", "LoRA", "vine"]),
    ("poly_ppo", ["polychromic objective", "marginal set advantage", "next 20", "sets' reach: **GAE**"], []),
    ("poly_epo", ["polychromic objective", "all of a member's actions", "No critic"], ["GAE", "vine trees"]),
    ("poly_epo_group_std", ["centred and divided by each group's standard deviation"], ["GAE"]),
    ("poly_epo_falling", ["G of n = 4, by the end of the run 1, among"], []),
    ("grpo", ["mean reward", "each group's standard deviation"], ["polychromic", "d = "]),
    ("rloo", ["leave-one-out credit", "times 8"], ["marginal"]),
    ("pass_at_k", ["pass@k", "leave-one-out credit"], ["d = "]),
    ("quickstart", ["vine trees", "8 vines from each of 2 rollout states", "polychromic objective"], ["No critic"]),
    ("poly_ppo_ucb", ["Exploration bonus 0.1"], []),
])  # fmt: skip
def test_the_method_is_told_from_the_settings(name, says, does_not_say, monkeypatch):
    monkeypatch.chdir(RECIPES.parent)
    run = settings(name)
    told = "\n".join(method(run))
    assert "clipped surrogate" in told
    for words in says:
        assert words in told, told
    for words in does_not_say:
        assert words not in told, told
    shown = hyperparameters(run)
    assert shown["set_size"] == run["objective"]["set_size"] and "lora_r" not in shown
    run["adapter"] = dataclasses.asdict(AdapterConfig(use_peft=True, lora_r=7, lora_modules_to_save=["lm_head"]))
    assert "**LoRA**" in "\n".join(method(run)) and "`lm_head` trained whole" in "\n".join(method(run))
    assert hyperparameters(run)["lora_r"] == 7


def test_methods_of_a_run_are_told(monkeypatch):
    monkeypatch.chdir(RECIPES.parent)
    run = settings("ppo")
    assert "methods" not in hyperparameters(run)
    run["objective"] |= {"methods": ["no.such:Own", "ucb"], "method_args": ["no.such:Own.share=0.5", "ucb.coef=0.3"]}
    told = "\n".join(method(run))  # a user's own need not be importable where the card is made
    assert "A method of its own, `no.such:Own` (share 0.5)." in told and "Exploration bonus 0.3" in told
    assert hyperparameters(run)["methods"] == ["no.such:Own", "ucb"]
    del run["objective"]["methods"], run["objective"]["method_args"]
    run["objective"]["ucb_coef"] = 0.2  # as runs before methods have it
    assert "Exploration bonus 0.2" in "\n".join(method(run))


def test_the_card_lists_fields_of_a_critic_only_where_there_is_one():
    both = {name: hyperparameters(settings(name)) for name in ("ppo", "grpo")}
    assert both["ppo"].keys() >= {"gae_lambda", "gae_normalise"} and both["grpo"]["critic"] == "none"
    assert not both["grpo"].keys() & {*OF_THE_CRITIC}
    run = settings("ppo")
    run["trainer"]["num_iterations"] = 1
    assert ", one pass over" in "".join(method(run)) and ", 2 passes over" in "".join(method(settings("ppo")))


def test_what_users_named_is_no_markup_and_breaks_no_table():
    """In every place of a card that a user's words come to."""
    hostile = "a|b`c`\n<script>harm()</script> [d](javascript:harm()) *e* \u202ef"
    evaluation = dataclasses.replace(MEASURED, settings=MEASURED.settings | {"task": hostile, "split": hostile,
                                                                             "task_args": [hostile]})  # fmt: skip
    text = model_card(facts(
        name=hostile, begun_with=hostile, base=None, base_id=None, evaluations=[evaluation],
        hyperparameters={"methods": [hostile], "model": hostile}, task={"name": hostile, "horizon": 1, "instructions":
        hostile, "actions": [hostile], "options": [hostile]},
    ))  # fmt: skip
    body = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text.split("---\n", 2)[2])  # without code
    assert "<script>" not in body and "](javascript:" not in body.replace("\\[d\\](", "") and "\u202e" not in body
    for table in re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1, table
    rows = markdown([["method", "x"], [hostile, "1"]]).splitlines()
    assert len(rows) == 3 and {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}


def test_the_card_says_what_the_loss_is_a_mean_over_and_where_it_clips():
    from polytune.trainer.inherited import ACTS

    run = settings("grpo")
    told = {}
    for name in LOSSES:
        ACTS["loss_type"]("loss_type", name)
        run["trainer"] |= {"loss_type": name, "max_completion_length": 77}
        [told[name]] = [point for point in method(run) if point.startswith("Loss")]
        assert f"(`{name}`)" in told[name] and hyperparameters(run)["loss_type"] == name
    assert "over all tokens" in told["dapo"] and "of each row, then over rows" in told["grpo"]
    assert "a constant, 77" in told["dr_grpo"] and "epsilon 0.2, " in told["grpo"]
    with pytest.raises(ValueError, match="loss_type"):
        ACTS["loss_type"]("loss_type", "cispo")  # every one that a run may have has words of its own
    run["trainer"] |= {"epsilon_high": 0.28, "delta": 4.0, "importance_sampling_level": "sequence"}
    [loss] = [point for point in method(run) if point.startswith("Loss")]
    assert "epsilon 0.2 below and 0.28 above, ratios cut at 4" in loss and "one ratio for all tokens of a row" in loss
    shown = hyperparameters(run | {"trainer": run["trainer"] | {"entropy_coef": 0.01}})
    wanted = {"epsilon": 0.2, "epsilon_high": 0.28, "delta": 4.0, "importance_sampling_level": "sequence"}
    assert shown.items() >= (wanted | {"entropy_coef": 0.01}).items()
    for later in ("epsilon_high", "delta", "importance_sampling_level"):
        del run["trainer"][later]
    assert "epsilon 0.2, " in "\n".join(method(run))
