"""The tutorial shows what it says it shows, with settings that are fair; the two-step recipe keeps every path."""

import json

import pytest
from walkers import ROOT

from polytune.pictures.tabular import action_table
from polytune.policy import Renderer, load_policy
from polytune.recipe import read_recipe
from polytune.tasks import load_task
from polytune.tasks.tabular import exact

RECIPES = ROOT / "recipes/tabular"
pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_two_methods_differ_in_their_objective_alone():
    plain, sets = (read_recipe(RECIPES / f"{name}.yaml") for name in ("mean", "polychromic"))
    assert {key for key in plain | sets if plain.get(key) != sets.get(key)} == {"objective", "output_dir"}
    assert (plain["objective"], sets["objective"]) == ("mean", "polychromic")


@pytest.mark.slow
def test_mean_collapses_and_polychromic_keeps_every_winning_arm(call_recipe, tmp_path, capsys):
    call_recipe("tutorial", "--output_dir", tmp_path)
    shown = capsys.readouterr().out
    assert "polychromic, exact gradient" in shown and "least likely winning arm" in shown
    policies = json.loads((tmp_path / "summary.json").read_text())["policies"]["0"]
    assert 0.55 < policies["pretrained"]["success"] < 0.85
    for name in ("mean", "polychromic"):
        assert policies[name]["success"] > 0.98, "both solve the task"
    assert policies["mean"]["red"] > 0.9 and policies["mean"]["least"] < 0.5 * policies["pretrained"]["least"]
    assert policies["polychromic"]["arms kept"] == 3 and policies["polychromic"]["least"] > 0.15
    assert policies["mean, exact gradient"]["red"] > 0.99
    assert all(abs(policies["polychromic, exact gradient"][arm] - 1 / 3) < 0.01 for arm in ("red", "green", "blue"))
    steps = {
        name: [json.loads(line) for line in (tmp_path / f"seed_0/{name}/metrics.jsonl").read_text().splitlines()]
        for name in ("mean", "polychromic")
    }
    assert [(rows[-1]["step"], rows[-1]["rollout/env_steps"]) for rows in steps.values()] == [(300, 2400)] * 2
    assert (tmp_path / "arms.png").stat().st_size > 10_000

    assert "collapse" in (tmp_path / "seed_0/mean/stdout.txt").read_text(), "the trainer warns"

    call_recipe("tutorial", "--output_dir", tmp_path)  # everything is there already: the same table, at once
    table = shown[shown.index("seed 0:") : shown.index("least likely")]
    assert table in capsys.readouterr().out


@pytest.mark.slow
def test_vines_on_the_two_step_tree_keep_every_winning_path(call_recipe, tmp_path):
    folders = tmp_path / "pretrained", tmp_path / "poly_ppo"
    call_recipe("pretrain", "--config", RECIPES / "pretrain_two_step.yaml", "--output_dir", folders[0])
    flags = ("--model", folders[0], "--output_dir", folders[1])
    call_recipe("finetune", "--config", RECIPES / "poly_ppo.yaml", *flags)
    task = load_task("two-step", horizon=2)
    world = exact.tabulate(task)
    before, after = (
        action_table(model, Renderer(tokenizer, task), world)
        for model, tokenizer in map(load_policy, map(str, folders))
    )
    objective = exact.SetObjective(world, exact.polychromic, 4)
    winning = [exact.signature_probabilities(world, table, success_only=True).values() for table in (before, after)]
    print([[round(p, 3) for p in ps] for ps in winning], objective.value(before), objective.value(after))
    assert exact.success_rate(world, after) > 0.85 and min(winning[1]) > max(0.15, 1.5 * min(winning[0]))
    assert objective.value(after) > 0.85 * 0.5 * 3 / 4 * (1 - (2 / 3) ** 4)  # of the uniform policy
