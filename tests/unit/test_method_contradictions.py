"""What methods must not do beside a critic, a loss, an objective, a credit rule or each other, and what they must not
keep from a check."""

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from made_updates import episodes_update

from polytune.app.cli import parse
from polytune.config import AdapterConfig, ObjectiveConfig, PolicyConfig, RolloutConfig, TaskConfig
from polytune.lookup import find
from polytune.methods import METHODS, Method, build_methods
from polytune.methods.archive import number_of
from polytune.methods.episode_mean import EpisodeMean
from polytune.methods.optimal_baseline import OptimalBaseline
from polytune.methods.set_bonus import SetBonus
from polytune.objective import set_advantages
from polytune.recipe import read_recipe
from polytune.rollout import SeedView, find_branching
from polytune.tables import BRANCHING
from polytune.trainer import PolychromicConfig, check_run

ROOT = Path(__file__).resolve().parents[2]
PARTS = (TaskConfig, PolicyConfig, AdapterConfig, RolloutConfig, ObjectiveConfig, PolychromicConfig)
WITH_METHODS = [
    path
    for path in sorted((ROOT / "recipes").rglob("*.yaml"))
    if "\nmethods:" in path.read_text() and "compare" not in path.name and "extends" in path.read_text()
]


def run_of(recipe, *flags):
    """(trainer, rollout, objective) of a recipe."""
    _, _, _, rollout, objective, args = parse(PARTS, ["--config", str(recipe), *flags], description="")
    return args, rollout, objective


# ---------------------------------------------------------------- what is kept


@pytest.mark.parametrize("path", WITH_METHODS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_check_keeps_nothing(path, monkeypatch):
    """What is checked is another instance than what trains, so what a check kept would be lost."""
    monkeypatch.chdir(ROOT)
    assert read_recipe(path)["methods"]
    args, rollout, objective = run_of(path)
    objective = replace(objective, gamma=0.5)
    for name, method in build_methods(objective.methods, objective.method_options).items():
        before = repr(vars(method))
        method.check(args, rollout, objective)
        assert repr(vars(method)) == before, name


def test_set_bonuses_are_of_discounted_returns():
    """By hand: at gamma 1/2 a win in turn 6 is worth 1/32 of one in turn 1."""
    episodes = [[(1, 1.0, "")], [(1, float(t == 5), "") for t in range(6)], [(1, 0.0, "")], [(1, 0.0, "")]]
    update, _ = episodes_update(*episodes)
    update.gamma = 0.5
    for attempt, signature in zip(update.trajectories, "abcd", strict=True):
        attempt.signature = signature
    found = SetBonus(coef=1.0, set_size=2).turn_advantage(update, torch.zeros(4, 6, dtype=torch.float64))[:, 0]
    own = set_advantages([1.0, 1 / 32, 0.0, 0.0], list("abcd"), 2)
    assert found.tolist() == pytest.approx((own / (own**2).mean().sqrt()).tolist())
    assert found[1] < 0


@pytest.mark.parametrize("name", METHODS)
def test_an_option_hides_nothing_that_all_methods_have(name):
    options = {field.name for field in fields(find("method", name, METHODS))}
    assert not options & {*vars(Method)}


# ---------------------------------------------------------------- where tensors are


class Elsewhere(torch.Tensor):
    """A tensor of another device: an operation that mixes it with one of the CPU is an error."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            own = [a for a in args if isinstance(a, torch.Tensor) and a.dim()]
            moved = function is torch.Tensor.cpu or (
                function is torch.Tensor.to and any(type(a) is torch.Tensor for a in own)
            )
            if not moved and len({isinstance(a, cls) for a in own}) == 2:
                raise RuntimeError(f"{function.__name__}: tensors of two devices")
            found = function(*args, **(kwargs or {}))
            return found.as_subclass(torch.Tensor if moved else cls) if isinstance(found, torch.Tensor) else found


@pytest.mark.parametrize("method", [EpisodeMean(), OptimalBaseline()], ids=lambda method: type(method).__name__)
def test_tokens_lie_on_the_accelerator_and_advantages_on_the_cpu(method):
    update, _ = episodes_update([(1, 0.0, "")] * 3, [(1, 0.0, "")])
    advantages_B_T = torch.tensor([[-1.0] * 3, [1.0, 0.0, 0.0]], dtype=torch.float64)
    on_cpu = method.turn_advantage(update, advantages_B_T)
    update.turn_index_B_C = update.turn_index_B_C.as_subclass(Elsewhere)
    with pytest.raises(RuntimeError, match="two devices"):
        update.turn_index_B_C * advantages_B_T
    assert torch.equal(method.turn_advantage(update, advantages_B_T), on_cpu)


# ---------------------------------------------------------------- what is refused

GRPO, PPO, EPO = (ROOT / f"recipes/fourrooms/{name}.yaml" for name in ("grpo", "ppo", "poly_epo"))
ARCHIVE = ("--method_args", "archive.failures=true")


@pytest.mark.parametrize(
    ("recipe", "flags", "words"),
    [
        *(
            (GRPO, ("--methods", *names), [*names, "leave one"])
            for names in (("optimal_baseline", "episode_mean"), ("episode_mean", "optimal_baseline"))
        ),
        (PPO, ("--methods", "optimal_baseline"), ["optimal_baseline", "critic", "'head'", "episode_mean"]),
        *(
            (EPO, ("--objective", objective, "--methods", "archive", *ARCHIVE), [objective, "archive", "failures"])
            for objective in ("coverage", "qd_score", "uncertain_max", "pass_at_k")
        ),
        (EPO, ("--objective", "qd_score", "--methods", "novelty"), ["qd_score", "novelty"]),
        *(
            (EPO, ("--credit", "per_set", "--set_normalise", "none", "--methods", name), ["per_set", name, "'mean'"])
            for name in ("episode_mean", "optimal_baseline", "duration", "step_grpo", "d3s", "thr")
        ),
        *(
            (EPO, ("--diversity", "leverage", "--methods", *names), ["archive", "hidden_signatures", "leave one"])
            for names in (("archive", "hidden_signatures"), ("hidden_signatures", "archive"))
        ),
        *(
            (
                EPO,
                ("--diversity", "leverage", "--methods", name, "hidden_signatures", "--set_normalise", "none"),
                [name, "hidden_signatures", "vectors"],
            )
            for name in ("b_star", "dynamic_rewards", "vas")
        ),
        (
            GRPO,
            ("--methods", "props", "context_rollouts", "--set_normalise", "none"),
            ["props", "context_rollouts", "leave one out"],
        ),
        *(
            (GRPO, ("--methods", *names), [*names, "surrogate", "leave one out"])
            for names in (("lp_reg", "kl_cov"), ("nft", "mdpo"), ("oreal", "steer"), ("clip_cov", "rec"))
        ),
        *(
            (GRPO, ("--methods", *names), [*names, "temperature"])
            for names in (("lp_reg", "ead"), ("b_star", "steer"), ("epo", "b_star"))
        ),
        *(
            (GRPO, ("--methods", *names, "--set_normalise", "none"), [*names, "taken away twice"])
            for names in (("flat_success", "efficiency"), ("dynamic_rewards", "flat_success"))
        ),
        (
            GRPO,
            ("--methods", "salsa", "nash_mirror_prox", "--kl_reference", "pretrained", "--kl_coef", "0.01"),
            ["salsa", "nash_mirror_prox", "KL term"],
        ),
        *(
            (GRPO, ("--methods", *names), [*names, "name it first"])
            for names in (("ucb", "step_grpo"), ("episode_mean", "step_grpo"))
        ),
        (
            PPO,
            ("--methods", "set_bonus", "--method_args", "set_bonus.objective=polycromic"),
            ["polycromic", "polychro"],
        ),
        (PPO, ("--methods", "set_bonus", "--method_args", "set_bonus.diversity=nonsense"), ["nonsense", "vendi"]),
        (PPO, ("--methods", "set_bonus", "--method_args", "set_bonus.set_size=8"), ["set_size is 8", "num_seeds", "8"]),
    ],
)
def test_what_cannot_stand_together_is_refused_before_any_work(recipe, flags, words):
    with pytest.raises(ValueError) as error:
        check_run(*run_of(recipe, *flags))
    for word in words:
        assert word in str(error.value), str(error.value)
    assert "\n" not in str(error.value)


def test_a_loss_that_averages_over_rows_needs_them_all():
    """``fixed`` names fewer turns on short episodes; other rules of ours never do, a user's own may."""
    args, rollout, objective = run_of(ROOT / "recipes/fourrooms/poly_ppo_equally_spaced.yaml")
    args.loss_type, args.max_env_steps = "grpo", None
    check_run(args, rollout, objective)
    for rule in ("fixed", f"{__name__}:first_turn"):
        told = replace(rollout, rollout_states=rule)
        with pytest.raises(ValueError, match=f"rollout_states '{rule}' may name fewer turns .* 'grpo' .* use 'dapo'"):
            check_run(args, told, objective)


def first_turn(seed, num_states):
    return [0]


def test_rules_that_name_all_turns_do():
    for name, row in ((name, find_branching(name)) for name in BRANCHING):
        for turns in range(1, 9):
            view = SeedView(turns, [0.5] * turns, [0.5] * turns, most_turns=20)
            assert not row.names_all or len(row.turns(view, 3)) == 3, name
    assert not find_branching("fixed").names_all


@pytest.mark.parametrize("name", ["episode_mean", "optimal_baseline"])
@pytest.mark.parametrize("loss", ["grpo", "bnpo", "dr_grpo"])
def test_a_loss_that_weighs_lengths_by_itself_is_refused(name, loss):
    args, rollout, objective = run_of(GRPO, "--methods", name)
    args.loss_type, args.max_env_steps = loss, None
    with pytest.raises(ValueError, match=rf"method '{name}' corrects a mean over all tokens, .* not '{loss}'"):
        check_run(args, rollout, objective)


@pytest.mark.parametrize(
    ("recipe", "flags"),
    [
        (GRPO, ("--methods", "episode_mean")),
        (GRPO, ("--methods", "optimal_baseline")),
        (GRPO, ("--methods", "step_grpo", "ucb", "nft")),
        (GRPO, ("--methods", "clip_cov", "steer", "verl")),
        (PPO, ("--methods", "episode_mean", "archive", *ARCHIVE)),
        (EPO, ("--objective", "qd_score", "--methods", "archive")),
        (EPO, ("--objective", "coverage", "--methods", "flat_success")),
        (EPO, ("--methods", "archive", *ARCHIVE)),
        (EPO, ("--credit", "per_set", "--set_normalise", "none", "--methods", "ucb", "verl", "clip_cov")),
        (PPO, ("--methods", "set_bonus", "archive", *ARCHIVE, "set_bonus.objective=coverage")),
    ],
)
def test_what_can_stand_together_is_not_refused(recipe, flags):
    check_run(*run_of(recipe, *flags))


# ---------------------------------------------------------------- kinds


def test_a_kind_has_the_same_number_in_every_process():
    nested = "('room', frozenset({'kitchen', 'hall', 'bath'}), (1, frozenset({frozenset({'a', 'b', 'c'})})))"
    told = f"from polytune.methods.archive import number_of; print(number_of({nested}, 3))"
    found = {
        subprocess.run(
            [sys.executable, "-c", told], env={"PYTHONHASHSEED": str(seed)}, capture_output=True, text=True, check=True
        ).stdout
        for seed in (1, 2)
    }
    assert found == {f"{number_of(eval(nested), 3)}\n"}  # noqa: S307 (the text above)
    assert number_of(("a", ("b",))) != number_of(("a", "b"))
