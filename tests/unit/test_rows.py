"""A file and a row are all that a new objective, diversity, credit rule, branching rule, scaling or method needs.

One of each is written into a module that polytune knows nothing of, and named by its path, or by a row of a table.
"""

import dataclasses
import math
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from polytune import tables
from polytune.app import console
from polytune.config import AdapterConfig, ObjectiveConfig, RolloutConfig
from polytune.export.method import method
from polytune.methods import build_methods
from polytune.objective import (
    enumerate_set_advantages,
    find_credit,
    find_diversity,
    find_objective,
    find_scaling,
    set_advantages,
)
from polytune.rollout import SeedView, find_branching
from polytune.tables import Entry
from polytune.trainer import PolychromicConfig, check_run
from polytune.trainer.advantages import GroupStatistics, TurnAdvantages
from polytune.trainer.scaling import scale_populations

MODULE = """
from dataclasses import dataclass

import torch

from polytune.checks import require
from polytune.methods import Method
from polytune.objective import Credit, Diversity, Objective, Scaling
from polytune.rollout import Branching

def least(sets): return sets.rewards_S_n.amin(dim=1) * sets.diversity_S
def least_of(members, d, diversity_coef): return min(r for r, _ in members) * d([s for _, s in members])
LEAST = Objective(least, reference=least_of, says="the **least reward** of G x d(G)")

def capped(signatures): return min(len(set(signatures) - {None}), 2) / 2
CAPPED = Diversity(capped, says="whether there are two ways")

def middle(scored):
    scores_S, members = scored.scores_S, scored.members_S_n
    return torch.stack([scores_S[(members == i).any(dim=1)].median() for i in range(scored.num_members)])
def middle_of(i, mine, scores, f):
    values = sorted(scores[members] for members in mine)
    return values[(len(values) - 1) // 2]
def no_product(trainer, rollout, objective):
    require(objective.objective != "polychromic", "credit 'middle' cannot do products: set objective to 'mean'.")
MIDDLE = Credit(middle, reference=middle_of, check=no_product, says="**median credit**")

def calm(seed, num_states): return sorted(range(seed.num_turns), key=lambda turn: seed.entropies[turn])[:num_states]
CALM = Branching(calm, needs_entropies=True, says="where the policy is sure")
def half(seed, num_states): return [seed.num_turns // 2]

SECOND = Branching(lambda seed, num_states: [1] if seed.num_turns > 1 else [], foresees=False)
OPEN = Branching(half, needs_values=True)

def root_mean_square(mean, std): return 0.0, (mean**2 + std**2) ** 0.5
RMS = Scaling(root_mean_square, says="divided by their root mean square")

@dataclass
class Double(Method):
    factor: float = 2.0
    def says(self): return f"Advantages times {self.factor:g}."
    def turn_advantage(self, update, advantages_B_T): return self.factor * advantages_B_T

NUMBER = 3
def late(seed, num_states): return [seed.num_turns]
def many(seed, num_states): return [0] * (num_states + 1)
def raises(seed, num_states): return {}["turn"]
def one_number(mean, std): return std
def vague(mean, std): return 0.0, float("nan")
def too_few(scored): return scored.scores_S[:1]
def endless(scored): return scored.scores_S.new_full((scored.num_members,), float("inf"))
"""
#: table -> its row of the module, the function alone, words of the card
OWN = {
    "OBJECTIVES": ("LEAST", "least", "the **least reward** of G x d(G)"),
    "DIVERSITY": ("CAPPED", "capped", "d = whether there are two ways"),
    "CREDIT": ("MIDDLE", "middle", "**median credit**"),
    "BRANCHING": ("CALM", "half", "where the policy is sure"),
    "SET_NORMALISE": ("RMS", "root_mean_square", "divided by their root mean square"),
    "METHODS": ("Double", "Double", "Advantages times 3."),
}
FIELDS = {"OBJECTIVES": "objective", "DIVERSITY": "diversity", "CREDIT": "credit", "SET_NORMALISE": "set_normalise"}


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "my_rows.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    for table, (row, _, _) in OWN.items():
        monkeypatch.setitem(getattr(tables, table), f"own_{row.lower()}", Entry(f"my_rows:{row}", f"told of {row}"))


def names(way):
    """Table -> name of the module's: by a row, by the path of one, by the path of a bare function."""
    given = {}
    for table, (row, function, _) in OWN.items():
        given[table] = {"row": f"own_{row.lower()}", "path": f"my_rows:{row}", "bare": f"my_rows:{function}"}[way]
    return given


def configs(given, **changes):
    """The three configs of a run that names one of each."""
    fields = {field: given[table] for table, field in FIELDS.items()} | {
        "set_size": 2, "methods": [given["METHODS"]], "method_args": [f"{given['METHODS']}.factor=3"]}  # fmt: skip
    rollout = RolloutConfig(num_seeds=1, num_rollout_states=2, num_vines=4, rollout_states=given["BRANCHING"])
    args = PolychromicConfig(num_generations=9, per_device_train_batch_size=9, use_cpu=True)
    return args, rollout, ObjectiveConfig(**(fields | changes))


@pytest.mark.parametrize("way", ["row", "path", "bare"])
def test_one_of_each_is_taken_checked_scored_and_told(way):
    given = names(way)
    args, rollout, objective = configs(given)
    check_run(args, rollout, objective)
    # fast and brute force
    rng = random.Random(0)
    own = {"objective": given["OBJECTIVES"], "diversity": given["DIVERSITY"], "credit": given["CREDIT"]}
    for one_own in (own, {"objective": own["objective"]}, {"diversity": own["diversity"]}, {"credit": own["credit"]}):
        rewards = [rng.choice([0.0, 0.3, 1.0]) for _ in range(6)]
        signatures = [rng.choice(["a", "b", None]) for _ in range(6)]
        got = set_advantages(rewards, signatures, 3, **one_own)
        assert got.abs().max() > 0
        want = enumerate_set_advantages(rewards, signatures, 3, **one_own)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    # where to branch
    rule, view = find_branching(given["BRANCHING"]), SeedView(4, entropies=[0.3, 0.1, 0.5, 0.2])
    assert rule.turns(view, 2) == ([2] if way == "bare" else [1, 3])
    assert rule.needs_entropies == (way != "bare") and rule.foresees and not rule.needs_values
    # the scale, and what the method makes of it
    values = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    mask = torch.ones(1, 2, dtype=torch.bool)
    turns = TurnAdvantages(values.clone(), mask, ~mask, values, mask, None, GroupStatistics(), values.clone(), 1.0)
    scale_populations(turns, objective, lambda numbers: numbers, lambda number: number)
    assert turns.advantages_B_T[0].tolist() == pytest.approx([3 / math.sqrt(12.5), 4 / math.sqrt(12.5)])
    [double] = build_methods(objective.methods, objective.method_options).values()
    assert double.turn_advantage(None, torch.ones(1)) == 3
    # the card: words of a row; of a user's own, which need not be importable there, the path
    parts = (("rollout", rollout), ("objective", objective), ("trainer", args), ("adapter", AdapterConfig()))
    told = "\n".join(method({name: dataclasses.asdict(part) for name, part in parts}))
    for table, (_, _, words) in OWN.items():
        assert (words if way == "row" else f"`{given[table]}`") in told, told


def test_completion_knows_the_rows(capsys):
    assert console.main(["completion", "bash"]) == 0
    completion = capsys.readouterr().out
    assert all(f"own_{row.lower()}" in completion for row, _, _ in OWN.values())


def test_help_knows_the_rows():
    """The words stand in the fields, which are read when polytune.config is imported."""
    rows = "".join(
        f"tables.{table}['own_{row.lower()}'] = tables.Entry('my_rows:{row}', 'told of {row}')\n"
        for table, (row, _, _) in OWN.items()
    )
    code = f"from polytune import tables\n{rows}from polytune.app import console\n"
    code += "console.main(['finetune', '--help'])\n"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    shown = " ".join(result.stdout.split())
    assert all(f"own_{row.lower()} (told of {row})" in shown for row, _, _ in OWN.values())


def test_a_row_refuses_what_it_contradicts():
    with pytest.raises(ValueError, match="credit 'middle' cannot do products: set objective to 'mean'"):
        check_run(*configs(names("row"), objective="polychromic"))
    with pytest.raises(ValueError, match="credit 'my_rows:MIDDLE' gives a group's members a mean on purpose"):
        check_run(*configs(names("path"), set_normalise="group_std"))
    _, rollout, objective = configs(names("bare"))
    args = PolychromicConfig(num_generations=9, per_device_train_batch_size=9, use_cpu=True, vine_values=True)
    with pytest.raises(ValueError, match="vine_values is true, but where rollout_states 'my_rows:half' puts vines"):
        check_run(args, rollout, objective)
    check_run(args, dataclasses.replace(rollout, rollout_states="my_rows:SECOND"), objective)  # it foresees nothing
    within = dataclasses.replace(rollout, rollout_states="my_rows:OPEN", branch_at="token")
    with pytest.raises(ValueError, match="rollout_states 'my_rows:OPEN', but the critic values turns"):
        check_run(configs(names("row"))[0], within, objective)


@pytest.mark.parametrize(
    ("table", "name", "words"),
    [
        (
            "BRANCHING",
            "my_rows:late",
            r"rule 'my_rows:late' named \[10\]: a list of at most 2 turns is due, integers from 0 to 9",
        ),
        ("BRANCHING", "my_rows:many", r"named \[0, 0, 0\]: a list of at most 2 turns"),
        ("BRANCHING", "my_rows:raises", "rollout_states 'my_rows:raises' raised KeyError: 'turn'"),
        ("BRANCHING", "my_rows:calm", "rollout_states 'my_rows:calm' raised TypeError"),  # entropies, without saying so
        ("BRANCHING", "my_rows:NUMBER", "rollout_states 'my_rows:NUMBER' is 3: give a Branching or a function choose"),
        ("BRANCHING", "my_rows:calf", "'my_rows' has no 'calf'; did you mean 'half' or 'calm'"),
        ("BRANCHING", "my_rules:calm", "cannot import 'my_rules': ModuleNotFoundError"),
        ("BRANCHING", "middle", "rollout_states must be one of .*own_calm, or your own .*, got 'middle'"),
        (
            "SET_NORMALISE",
            "my_rows:one_number",
            r"'my_rows:one_number' .* returned 1\.0: \(shift, size\) are due, two finite numbers",
        ),
        ("SET_NORMALISE", "my_rows:vague", r"returned \(0\.0, nan\): \(shift, size\) are due"),
        ("SET_NORMALISE", "my_rows:NUMBER", "set_normalise 'my_rows:NUMBER' is 3: give a Scaling or a function"),
        ("SET_NORMALISE", "stdd", "set_normalise must be one of none, std, .*, got 'stdd'"),
        ("CREDIT", "my_rows:NUMBER", "credit 'my_rows:NUMBER' is 3: give a Credit or a function of_sets"),
        ("CREDIT", "meen", "unknown credit 'meen'; did you mean 'mean'"),
    ],
)
def test_faults_are_named_before_any_work(table, name, words):
    with pytest.raises(ValueError, match=words):
        check_run(*configs(names("row") | {table: name}))


@pytest.mark.parametrize(
    ("credit", "words"),
    [
        ("my_rows:too_few", r"credit rule's advantages must have shape \(4,\), got \(1,\)"),
        ("my_rows:endless", r"credit rule's advantages at \(0,\) are inf, not finite"),
    ],
)
def test_a_credit_rules_output_is_checked(credit, words):
    with pytest.raises(ValueError, match=words):
        set_advantages([1.0, 0.0, 0.5, 1.0], "abab", 2, credit=credit)


@pytest.mark.parametrize(
    ("table", "find"),
    [
        ("OBJECTIVES", find_objective),
        ("DIVERSITY", find_diversity),
        ("CREDIT", find_credit),
        ("BRANCHING", find_branching),
        ("SET_NORMALISE", lambda name: find_scaling("set_normalise", name)),
        ("GAE_NORMALISE", lambda name: find_scaling("gae_normalise", name)),
    ],
)
def test_every_row_says_what_it_is_and_brings_its_reference(table, find):
    for name in getattr(tables, table):
        row = find(name)
        assert row.says, f"{name} has no words for the card: give says="
        assert getattr(row, "reference", True) is not None, f"{name} has no reference in plain Python"
        assert row.says.format_map(dataclasses.asdict(ObjectiveConfig()))


def test_the_pages_branching_rule_is_one(tmp_path):
    page = (Path(__file__).resolve().parents[2] / "docs/how-to/own-objective.md").read_text()
    [code] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def surest" in block]
    (tmp_path / "page_rules.py").write_text(code)
    rule = find_branching("page_rules:SUREST")
    assert rule.needs_entropies and rule.foresees
    assert rule.turns(SeedView(3, entropies=[0.4, 0.3, 0.1]), 2) == [2, 1]
