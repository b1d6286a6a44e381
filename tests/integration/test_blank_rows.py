"""Rows without tokens (a budget that few trees fit into, rules that name fewer turns) train nothing, hide nothing."""

import json
from types import SimpleNamespace

import pytest
import torch
from test_trainer import make_trainer, rollouts_of
from transformers import TrainerCallback

from polytune.config import ObjectiveConfig, RolloutConfig
from polytune.methods.unsolved import Unsolved
from polytune.rollout import RolloutCounters, RolloutError
from polytune.trainer import method_growth
from polytune.trainer.minibatches import _spread

VINES = RolloutConfig(num_seeds=1, num_rollout_states=2, num_vines=3)
EPISODES = RolloutConfig(num_seeds=8, num_rollout_states=0, num_vines=0)
SETS = ObjectiveConfig(set_size=2, window=2)
#: few of 8 trees fit into an update, which has 4 minibatches of two
NARROW = dict(steps_per_generation=4, per_device_train_batch_size=14, kl_coef=0.0, model_seed=3, num_updates=4)


def flat(model):
    return torch.cat([weight.detach().flatten().clone() for weight in model.parameters()])


@pytest.mark.usefixtures("one_thread")
def test_a_step_without_tokens_moves_no_weight_and_is_rare(tmp_path):
    trainer = make_trainer(tmp_path, rollout=VINES, objective=SETS, max_env_steps=600, **NARROW)
    moved, trees = [], []

    class Watch(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            self.before = flat(trainer.model)

        def on_step_end(self, *args, **kwargs):
            step = (trainer._step - 1) % len(trainer._tokens_M)
            moved.append((trainer._tokens_M[step], float((flat(trainer.model) - self.before).norm())))

    trainer.on_trees.append(lambda own, grown, turns: trees.append(len(grown)))
    trainer.add_callback(Watch())
    trainer.train()
    assert all((tokens > 0) == (way > 0) for tokens, way in moved), moved
    updates = [moved[i : i + 8] for i in range(0, len(moved), 8)]  # two passes over four minibatches
    blank = [sum(tokens == 0 for tokens, _ in update) for update in updates]
    assert blank == [2 * max(0, 4 - count) for count in trees] and min(trees) < 4


@pytest.mark.usefixtures("one_thread")
def test_the_norm_of_an_update_is_that_of_its_last_step_with_tokens(tmp_path):
    """One tree in four minibatches: most updates end with a step without any, whose gradient is 0."""
    trainer = make_trainer(tmp_path, rollout=VINES, objective=SETS, max_env_steps=60, **NARROW)
    ends, norms = [], []
    step, norm_of = trainer.training_step, trainer.accelerator.clip_grad_norm_
    trainer.training_step = lambda *given: (step(*given), ends.append(trainer._blank_step))[0]
    trainer.accelerator.clip_grad_norm_ = lambda *given: norms.append(norm_of(*given)) or norms[-1]
    trainer.train()
    logged = [json.loads(line)["grad_norm"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any(ends[7::8]) and len(logged) == 4  # eight steps an update
    for update, shown in enumerate(logged):
        told = [
            float(norm) for norm, blank in list(zip(norms, ends, strict=True))[8 * update : 8 * update + 8] if not blank
        ]
        assert shown == pytest.approx(told[-1]) and shown > 0.0


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("accumulated", [1, 2, 4])
def test_a_minibatch_without_tokens_is_not_logged_and_moves_no_coefficient(accumulated, tmp_path):
    """One tree, alone and beside blank rows: the same entropy; as it is above its target, the bonus stays off."""
    fields = dict(kl_coef=0.0, num_updates=1, num_iterations=1, use_adaptive_entropy=True, entropy_target=0.5)
    shape = dict(rollout=VINES, objective=SETS, model_seed=3)
    alone = make_trainer(tmp_path / "alone", steps_per_generation=1, **shape, **fields)
    alone.train()
    fields |= dict(steps_per_generation=4, gradient_accumulation_steps=accumulated, max_env_steps=1)
    beside = make_trainer(tmp_path / "beside", **shape, **fields)
    beside.train()
    one, other = (
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0]) for name in ("alone", "beside")
    )
    assert sum(tokens == 0 for tokens in beside._tokens_M) == 3
    assert one["entropy"] == pytest.approx(other["entropy"], rel=1e-5) and one["entropy"] > 1
    assert one["clip_ratio/region_mean"] == other["clip_ratio/region_mean"] == 0.0
    assert alone.entropy_coef == beside.entropy_coef == 0.0


def test_what_is_chosen_lies_at_even_distances():
    """Every share of up to 12 places, in every order, cut into every number of parts."""
    for total in range(1, 13):
        for count in range(total + 1):
            chosen = torch.zeros(total, dtype=torch.bool)
            chosen[torch.randperm(total)[:count]] = True
            order = _spread(chosen)
            assert sorted(order.tolist()) == list(range(total))
            for kind in (chosen, ~chosen):
                of_kind = [i for i in order.tolist() if kind[i]]
                assert of_kind == sorted(of_kind), "what was shuffled stays so"
            for parts in (parts for parts in range(1, total + 1) if total % parts == 0):
                found = [int(part.sum()) for part in chosen[order].chunk(parts)]
                assert min(found) >= (1 if count >= parts else 0) and max(found) - min(found) <= 2


@pytest.mark.usefixtures("one_thread")
def test_a_wrong_sampler_is_noticed_where_the_first_minibatch_is_blank(tmp_path):
    trainer = make_trainer(tmp_path, rollout=VINES, objective=SETS, max_env_steps=60, **NARROW)
    trainer.generator.temperature = 0.5
    looked = []
    check = trainer._check_sampler
    trainer._check_sampler = lambda *given: looked.append(int(given[-1].sum())) or check(*given)
    with pytest.raises(RolloutError, match="nats from the trainer's on average"):
        trainer.train()
    assert trainer.state.global_step < 4 and looked[-1] > 0


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("rollout", [VINES, EPISODES], ids=["vines", "episodes"])
def test_a_budget_below_a_tree_an_update_is_told_once(rollout, tmp_path, capsys):
    objective = SETS if rollout is VINES else ObjectiveConfig(set_scope="seeds", set_size=4)
    trainer = make_trainer(tmp_path, rollout=rollout, objective=objective, max_env_steps=100, num_updates=8)
    trainer.train()
    told = capsys.readouterr().out
    assert told.count("max_env_steps is 100, of which") == 1 and "lower num_updates" in told
    assert trainer.env_steps > 150


@pytest.mark.usefixtures("one_thread")
def test_a_budget_that_fits_says_nothing(tmp_path, capsys):
    make_trainer(tmp_path, rollout=VINES, objective=SETS, max_env_steps=600, **NARROW).train()
    assert "max_env_steps is" not in capsys.readouterr().out


@pytest.mark.parametrize("states", [[5], [5, 6, 7]])
def test_processes_without_a_start_state_add_up_their_steps_too(states, monkeypatch):
    """Before the first update: collectives of all processes must be the same ones."""

    def calls_of(index):
        calls = []

        class Process(method_growth.GrowsForMethods):
            def __init__(self):
                self.state, self.methods = SimpleNamespace(global_step=0), {"unsolved": Unsolved()}
                self.schedule = SimpleNamespace(start_states=states)
                self.task = SimpleNamespace(shown_signatures=frozenset)
                self._counters, self.env_steps = RolloutCounters(), 0
                self.accelerator = SimpleNamespace(process_index=index, num_processes=2)
                self.generator = SimpleNamespace(reset=lambda: None)

            def _grow_whole(self, starts):
                self._counters.env_steps += 10 * len(starts)
                return [SimpleNamespace(start_state=start.start_state, seeds=[]) for start in starts]

            def _sum(self, numbers):
                calls.append(("sum", len(numbers)))
                return numbers

        monkeypatch.setattr(method_growth, "gather_object", lambda found: calls.append(("gather",)) or found)
        Process()._begin_methods()
        return calls

    assert calls_of(0) == calls_of(1) == [("gather",), ("sum", 1)]


@pytest.mark.usefixtures("one_thread")
def test_the_kl_weighs_beside_the_policy_as_much_as_under_a_mean_over_tokens(tmp_path):
    """``dr_grpo`` divides by rows x max_completion_length, and so must what stands beside it."""
    objective = ObjectiveConfig(
        objective="mean", set_size=1, set_scope="seeds", window=-1, set_normalise="none", gae_normalise="none"
    )
    shares = {}
    for loss in ("dapo", "dr_grpo"):
        trainer = make_trainer(
            tmp_path / loss, rollout=EPISODES, objective=objective, model_seed=3, kl_coef=0.1, loss_type=loss,
            critic="none",
        )  # fmt: skip
        output, _, _ = rollouts_of(trainer)
        torch.manual_seed(0)
        with torch.no_grad():
            for weight in trainer.model.parameters():
                weight.add_(0.01 * torch.randn_like(weight))
        methods = trainer.methods

        def norm(inputs, methods, trainer=trainer):
            trainer.model.zero_grad()
            trainer.methods = methods
            trainer._compute_loss(trainer.model, inputs).backward()
            return float(torch.cat([w.grad.flatten() for w in trainer.model.parameters() if w.grad is not None]).norm())

        still = output | {"advantages": torch.zeros_like(output["advantages"])}
        shares[loss] = norm(still, methods) / norm(output, {})
    assert shares["dr_grpo"] == pytest.approx(shares["dapo"], rel=0.05), shares
