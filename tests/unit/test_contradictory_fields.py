"""Fields of sets that would leave a run without what they ask for are refused."""

import itertools
import re
from dataclasses import replace

import pytest

from polytune.config import ObjectiveConfig, RolloutConfig
from polytune.objective import DIVERSITY, find_diversity, set_advantages
from polytune.tasks import load_task
from polytune.trainer import PolychromicConfig
from polytune.trainer.run_checks import check_fields, check_world

TREE = RolloutConfig(num_seeds=6, num_rollout_states=2, num_vines=4)


def check(tmp_path, rollout=TREE, fields=None, **objective):
    """The fields of a run of trees of this shape; ``fields``: the trainer's."""
    own = {"critic": "head", "use_cpu": True} | (fields or {})
    args = PolychromicConfig(str(tmp_path), per_device_train_batch_size=rollout.rows_per_prompt, **own)
    check_fields(args, rollout, ObjectiveConfig(**objective), generator="transformers", adapted=False)


@pytest.mark.parametrize("name", DIVERSITY)
def test_a_diversity_that_is_flat_for_a_set_of_one_says_so(name):
    """By what it gives to two sets of one; the fields that would leave the objective without it are refused."""
    measure = find_diversity(name)
    vector = name in ("leverage", "action_distance")  # which take nothing else
    assert measure.flat_alone == (measure.of_set([None]) == measure.of_set([(1.0,) if vector else "a"]))


@pytest.mark.parametrize(
    "sizes", [{"set_size": 1}, {"set_size_end": 1, "set_size": 3}, {"set_size": 1, "set_size_end": 3}]
)
def test_sets_of_one_are_refused_beside_a_diversity_that_is_flat_there(sizes, tmp_path):
    named = "set_size" if sizes["set_size"] == 1 else "set_size_end"
    assert set_advantages([1, 0, 1, 0], "abac", 1, diversity="zero_if_identical").tolist() == [0.0] * 4
    for diversity in ("zero_if_identical", "excess"):
        with pytest.raises(ValueError, match=f"diversity '{diversity}' of a set of one .* so {named} 1 leaves"):
            check(tmp_path, diversity=diversity, **sizes)
    check(tmp_path, diversity="distinct_fraction", **sizes)


@pytest.mark.parametrize("credit", ["mean", "max", "per_set"])
def test_sets_of_the_whole_group_are_refused_drawn_or_not(credit, tmp_path):
    """Each drawn set is the same one."""
    told = list(itertools.product([1.0, 0.0], "ab"))
    for num_sets in ("all", 5):
        found = set_advantages([r for r, _ in told], [s for _, s in told], 4, credit=credit, num_sets=num_sets, seed=1)
        assert found.tolist() == [0.0] * 4
        with pytest.raises(ValueError, match="set_size 4 takes all of num_vines: every set is the whole group"):
            check(tmp_path, set_size=4, num_sets=num_sets, credit=credit)
    with pytest.raises(ValueError, match="set_size_end 4 takes all of num_vines"):
        check(tmp_path, set_size=2, set_size_end=4, credit=credit)
    check(tmp_path, set_size=4, set_scope="seeds", credit=credit)
    check(tmp_path, set_size=4, credit="leave_one_out")


def test_the_best_set_is_refused_as_soon_as_sets_have_two_members(tmp_path):
    check(tmp_path, objective="max_at_k", credit="max", set_size=1)
    with pytest.raises(ValueError, match="credit 'max' with objective 'max_at_k'"):
        check(tmp_path, objective="max_at_k", credit="max", set_size=1, set_size_end=3)


def test_sets_of_every_size_are_tried_before_work(tmp_path):
    """A credit rule that takes sets of 12 at most, and a run that ends with sets of 13."""
    rollout = replace(TREE, num_vines=16)
    objective = ObjectiveConfig(set_size=4, set_size_end=13, credit="shapley", num_sets="3")
    with pytest.raises(ValueError, match="sets have 13 members"):
        check_world(load_task("fourrooms"), 0, rollout, objective)
    check_world(load_task("fourrooms"), 0, rollout, replace(objective, set_size_end=12))


def test_one_field_turns_the_sets_of_a_recipe_off(tmp_path):
    """Their sizes and scales may stay; what asks for sets may not."""
    sizes = dict(num_sets="8", set_size=2, window=2, set_weight=2.0, set_normalise="none", collapse_share=0.2)
    check(tmp_path, set_scope="none", **sizes)
    told = "credit is 'max', but has no effect without sets: set set_scope to 'vines', 'seeds' or 'both'."
    with pytest.raises(ValueError, match=re.escape(told)):
        check(tmp_path, set_scope="none", credit="max", **sizes)


def test_what_nothing_reads_is_refused(tmp_path):
    """A diversity that no objective reads and no log shows."""
    with pytest.raises(ValueError, match="diversity is 'vendi', but objective 'mean' reads none"):
        check(tmp_path, objective="mean", diversity="vendi", set_size=2)
    check(tmp_path, objective="mean", diversity="excess", set_size=2)  # groups/diversity shows it
