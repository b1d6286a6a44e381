"""The hooks of methods in a run: when each is called, what it sees, what it changes."""

import json
import math
from dataclasses import dataclass, replace

import pytest
import torch
from test_trainer import SETS, TREE, make_trainer, rollouts_of

from polytune.config import ObjectiveConfig, RolloutConfig
from polytune.methods import Method
from polytune.rollout import Row, Start, tree_rows
from polytune.trainer.behaving import check_behaving
from polytune.trainer.hooks import METHODS_FILE


@dataclass
class Witness(Method):
    """Writes down what it is called with; sends along each token's row number."""

    grows: int = 0

    def __post_init__(self):
        self.called, self.rows = [], []

    def turn_advantage(self, update, advantages_B_T):
        self.called.append("turn_advantage")
        self.update, self.turns = update, advantages_B_T.clone()
        return advantages_B_T + self.grows

    def advantage(self, update, advantages_B_C, tensors):
        self.called.append("advantage")
        assert update is self.update
        self.tokens = advantages_B_C.clone()
        tensors["witness/row"] = torch.arange(len(advantages_B_C))[:, None].expand_as(advantages_B_C).float()
        return advantages_B_C

    def learn(self, update):
        self.called.append("learn")

    def weight(self, batch):
        self.called.append("weight")
        self.rows.append(batch.tensors["witness/row"][:, 0].int().tolist())
        return torch.ones_like(batch.advantages_b_C)

    def loss(self, batch):
        self.called.append("loss")
        self.batch = batch
        return 0.0

    def state(self):
        return {"calls": torch.tensor(len(self.called))}

    def restore(self, state):
        self.restored = int(state["calls"])


class Muted(Method):
    """No token of the surrogate weighs anything."""

    def weight(self, batch):
        return torch.zeros_like(batch.advantages_b_C)


class Likely(Method):
    """A term of the loss: the sum of the tokens' logprobs."""

    def loss(self, batch):
        return (batch.logprobs_b_C * batch.mask_b_C).sum()


def own(name):
    return f"test_method_hooks:{name}"


def test_hooks_are_called_in_order_and_see_the_update(tmp_path):
    """A budget leaves blank rows; a user's own method is named by its path."""
    trainer = make_trainer(
        tmp_path, objective=replace(SETS, methods=[own("Witness")], method_args=[f"{own('Witness')}.grows=2"]),
        model_seed=3, num_updates=1, max_env_steps=200, per_device_train_batch_size=28, seeds=(0, 1, 2, 3),
    )  # fmt: skip
    plain = make_trainer(
        tmp_path / "plain", objective=SETS, model_seed=3, num_updates=1, max_env_steps=200,
        per_device_train_batch_size=28,
    )  # fmt: skip
    witness = trainer.methods[own("Witness")]
    seen = {}
    trainer.on_trees.append(lambda trainer, trees, turns: seen.update(trees=list(trees), turns=turns))
    plain.on_trees.append(lambda trainer, trees, turns: seen.update(plain=turns))
    trainer.train()
    plain.train()
    passes = 2 * trainer.args.num_iterations
    assert witness.called == ["turn_advantage", "advantage", "learn", *["weight", "loss"] * passes]
    rows = sum(1 for tree in seen["trees"] for _ in tree.trajectories())
    update = witness.update
    assert witness.turns.shape == update.scored_B_T.shape and len(witness.turns) == rows < 56
    assert torch.equal(witness.turns, seen["plain"].advantages_B_T)
    assert torch.equal(seen["turns"].advantages_B_T, witness.turns + 2)
    assert len(update.own_B_C) == 56 and not update.own_B_C[rows:].any()  # blank rows have no token of their own
    for row, index in enumerate(update.turn_index_B_C[:rows]):
        turns = index[index >= 0]
        torch.testing.assert_close(witness.tokens[row, index >= 0], (witness.turns[row, turns] + 2).float())
    assert sorted(row for part in witness.rows[:2] for row in part) == list(range(56))  # they ride along, shuffled
    assert witness.rows[:2] == witness.rows[2:]
    assert witness.batch.weight.shape == witness.batch.advantages_b_C.shape and witness.batch.epsilon == (0.2, 0.2)


def test_a_weight_of_0_takes_the_surrogate_away(tmp_path):
    trainer = make_trainer(tmp_path, objective=replace(SETS, methods=[own("Muted")]), kl_coef=0.0, model_seed=3)
    output, _, _ = rollouts_of(trainer)
    assert output["advantages"].abs().max() > 0
    trainer._compute_loss(trainer.model, output).backward()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in trainer.model.parameters())


class Uniform(Method):
    """Samples every action alike."""

    def behave(self, apart):
        with torch.no_grad():
            for weight in apart.weights:
                weight.zero_()
        self.rows = [Row([1], [2, 3], [1, 1], [0.0, 0.0], [0, 1])]
        self.logprobs = apart.logprobs(self.rows)


def test_another_policy_samples_and_what_it_sampled_counts_as_the_trained_ones(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, objective=replace(SETS, methods=[own("Uniform")]), kl_coef=0.0, model_seed=3)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    output, trees, _ = rollouts_of(trainer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())
    uniform = -math.log(trainer.model.config.vocab_size)
    sampled = [x for tree in trees for one in tree.trajectories() for turn in one.turns for x in turn.logprobs]
    assert sampled == pytest.approx([uniform] * len(sampled), abs=1e-4)
    assert trainer.methods[own("Uniform")].logprobs.requires_grad
    mask = (output["tool_mask"] * output["completion_mask"]).bool()
    with torch.no_grad():
        logprobs, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1),
            torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1), output["completion_ids"].size(1),
        )  # fmt: skip
    for name in ("old_per_token_logps", "sampling_per_token_logps"):
        torch.testing.assert_close(output[name][mask], logprobs[mask])
    assert (logprobs[mask] - uniform).abs().max() > 1e-3
    with pytest.raises(ValueError, match="changes the weights that sample, which generator 'vllm' holds as a copy"):
        check_behaving(trainer.methods, "vllm")
    monkeypatch.setattr(type(trainer), "_is_sharded", True)
    with pytest.raises(ValueError, match="'test_method_hooks:Uniform' changes .* do not shard"):
        make_trainer(tmp_path, objective=replace(SETS, methods=[own("Uniform")]), kl_coef=0.0)


def test_a_loss_is_a_mean_over_the_tokens_of_the_update(tmp_path):
    objective = replace(SETS, methods=[own("Muted"), own("Likely")])
    trainer = make_trainer(tmp_path, objective=objective, kl_coef=0.0, model_seed=3)
    output, _, _ = rollouts_of(trainer)
    loss = trainer._compute_loss(trainer.model, output)
    mask = output["tool_mask"] * output["completion_mask"]
    expected = (output["old_per_token_logps"] * mask).sum() / (mask.sum() / 2)  # 2 minibatches
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_entropy_falls_more_slowly(tmp_path, one_thread):
    """What Clip-Cov and KL-Cov promise: GRPO until most episodes win, without and with them, over two seeds."""
    rollout = RolloutConfig(num_seeds=8, num_rollout_states=0, num_vines=0)
    grpo = ObjectiveConfig(objective="mean", set_size=1, set_scope="seeds", window=-1, set_normalise="group_std")

    def end(name, seed, **methods):
        """(entropy, success) of the last four updates."""
        trainer = make_trainer(
            tmp_path / f"{name}{seed}", rollout=rollout, objective=replace(grpo, **methods), critic="none", kl_coef=0.0,
            num_updates=8, num_iterations=4, learning_rate=3e-3, horizon=4, model_seed=3, save_updates=8, seed=seed,
            per_device_train_batch_size=16,
        )  # fmt: skip
        trainer.train()
        logged = [line for line in trainer.state.log_history if "rollout/return" in line][-4:]
        return [sum(line[key] for line in logged) / 4 for key in ("entropy", "rollout/success")]

    def over_seeds(name, *args):
        methods = {"methods": [name], "method_args": list(args)} if args else {}
        (first, wins), (second, more_wins) = (end(name, seed, **methods) for seed in (0, 1))
        assert (wins + more_wins) / 2 > 0.75, name  # all of them learn the task
        return (first + second) / 2

    plain = over_seeds("plain")
    assert over_seeds("clip_cov", "clip_cov.ratio=0.3", "clip_cov.low=0.02") > plain + 0.1
    assert over_seeds("kl_cov", "kl_cov.share=0.5", "kl_cov.coef=1") > plain + 0.1  # +.3 on each of four seeds


def test_two_methods_may_not_send_one_name(tmp_path):
    trainer = make_trainer(tmp_path, objective=SETS, model_seed=3)
    trainer.methods |= {"first": Witness(), "second": Witness()}
    with pytest.raises(ValueError, match="send two tensors 'witness/row': 'second' must name its own otherwise"):
        rollouts_of(trainer)


def test_what_methods_remember_is_in_the_checkpoint(tmp_path):
    objective = replace(SETS, methods=["ucb", own("Witness")])
    first = make_trainer(tmp_path, objective=objective, model_seed=3, num_updates=2)
    first.train()
    folder = tmp_path / "checkpoint-8"
    assert (folder / METHODS_FILE).is_file()
    again = make_trainer(tmp_path / "again", objective=objective, model_seed=3, num_updates=2)
    again.train(resume_from_checkpoint=str(folder))
    assert again.methods["ucb"].counts == first.methods["ucb"].counts and len(again.methods["ucb"].counts) > 3
    assert again.methods[own("Witness")].restored == len(first.methods[own("Witness")].called)
    other = make_trainer(tmp_path / "other", objective=SETS, model_seed=3, num_updates=2)
    other.methods["more"] = Witness()
    with pytest.raises(ValueError, match="holds nothing of method 'more', which wants calls"):
        other.train(resume_from_checkpoint=str(folder))


def test_terms_of_the_loss_are_methods(tmp_path):
    """KL to the behaviour policy and the rows of ``per_set`` stand in the same list as what a run names."""
    objective = replace(SETS, credit="per_set", methods=["ucb"])
    assert list(make_trainer(tmp_path, objective=objective).methods) == ["per_set", "behaviour_kl", "ucb"]
    pretrained = make_trainer(tmp_path, rollout=RolloutConfig(2, 2, 3), kl_reference="pretrained")
    assert TREE == pretrained.rollout and not pretrained.methods


@pytest.mark.parametrize(
    ("method", "scope", "rollout"),
    [
        ("go_explore", "vines", TREE),
        ("open_states", "seeds", RolloutConfig(6, 0, 0)),
        ("open_states", "vines", RolloutConfig(1, 1, 5, "start")),
    ],
)
def test_roots_in_a_run(method, scope, rollout, tmp_path, one_thread):
    """Trees from roots train like others, stay out of what the run says of whole episodes and of the trees it shows;
    a resumed run begins in the same roots."""
    objective = replace(SETS, set_scope=scope, methods=[method], method_args=[f"{method}.share=1"])
    shape = {"rollout": rollout, "objective": objective, "model_seed": 3, "num_updates": 3, "seeds": (0, 1)}
    first = make_trainer(tmp_path, **shape)
    grown = []
    first.on_trees.append(lambda trainer, trees, turns: grown.append([tree.root for tree in trees]))
    first.train()
    assert grown[0] == [None, None] and any(root is not None for roots in grown[1:] for root in roots)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for line, roots in zip([line for line in lines if "rollout/env_steps" in line], grown, strict=True):
        assert line[f"{method}/rooted"] == pytest.approx(sum(root is not None for root in roots) / 2)
        assert ("rollout/success" in line) == (None in roots)
    logged = [json.loads(line)["update"] for line in (tmp_path / "trees.jsonl").read_text().splitlines()]
    assert logged == [update for update, roots in enumerate(grown, start=1) if None in roots]
    again = make_trainer(tmp_path / "again", **shape)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    found, wanted = (trainer.methods[method].state() for trainer in (again, first))
    assert wanted and all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@dataclass
class Unequal(Method):
    """Trees of 1 and 3 seed trajectories in the place of 2 and 2, from start states that it chooses; ``more``: too
    many."""

    more: int = 0

    def starts(self, due, run_seed):
        sizes = [1, 3] * len(due)
        return [start.instead(2)._replace(num_seeds=size + self.more) for start, size in zip(due, sizes, strict=False)]


class Begins(Method):
    """Grows trees with the first policy."""

    def begin(self, beginning):
        assert beginning.start_states == (0, 1, 2, 3) and not hasattr(self, "trees")
        self.trees = beginning.grow([Start(state, -1, num_seeds=3) for state in beginning.start_states])
        with pytest.raises(ValueError, match="a method asks for demonstrations, but task 'doors' has no expert"):
            beginning.demonstrate(1)


@dataclass
class Rehearses(Method):
    """Replays the rows of the update before with a loss of its own."""

    factor: float = 3.0

    def wanted_rows(self, rows):
        return 14

    def replay(self, room, progress):
        return [(row, 1.0) for row in getattr(self, "rows", [])[:room]]

    def replayed(self, batch):
        return -self.factor * batch.logprobs_b_C * batch.advantages_b_C

    def learn(self, update):
        self.rows = [row for tree in update.trees for row in tree_rows(tree)]


def test_trees_of_unequal_size_train(tmp_path):
    objective = replace(SETS, methods=[own("Unequal")], set_size=1, set_scope="both", objective="mean")
    trainer = make_trainer(tmp_path, objective=objective, model_seed=3, num_updates=1, seeds=(0, 1, 2, 3),
                           rollout=replace(TREE, num_seeds=2))  # fmt: skip
    seen = []
    trainer.on_trees.append(
        lambda trainer, trees, turns: seen.extend((tree.start_state, len(tree.seeds)) for tree in trees)
    )
    trainer.train()
    assert {state for state, _ in seen} == {2} and [size for _, size in seen] == [1, 3]
    trainer = make_trainer(tmp_path / "more", objective=replace(objective, method_args=[f"{own('Unequal')}.more=1"]),
                           model_seed=3, num_updates=1, rollout=replace(TREE, num_seeds=2))  # fmt: skip
    with pytest.raises(
        ValueError, match="starts 6 seed trajectories, .* rows each, and there is room for 28 rows: its"
    ):
        rollouts_of(trainer)


def test_a_run_begins_with_its_first_policy_once(tmp_path):
    """The steps are counted; its trees are whole episodes from all start states."""
    objective = replace(SETS, methods=[own("Begins")])
    trainer = make_trainer(tmp_path, objective=objective, model_seed=3, num_updates=2, seeds=(0, 1, 2, 3))
    grown = []
    trainer.on_trees.append(lambda trainer, trees, turns: grown.extend(trees))
    trainer.train()
    method = trainer.methods[own("Begins")]
    assert [(tree.start_state, len(tree.seeds), tree.vines) for tree in method.trees] == [
        (s, 3, [[]] * 3) for s in range(4)
    ]
    every = [*method.trees, *grown]
    assert trainer.env_steps == sum(len(t.turns) for tree in every for t in tree.trajectories())
    again = make_trainer(tmp_path / "again", objective=objective, model_seed=3, num_updates=2, seeds=(0, 1, 2, 3))
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert not hasattr(again.methods[own("Begins")], "trees") and again.env_steps == trainer.env_steps


def test_a_replayed_rows_own_loss_takes_the_surrogates_place(tmp_path):
    trainer = make_trainer(tmp_path, objective=replace(SETS, methods=[own("Rehearses")]), model_seed=3)
    rollouts_of(trainer)
    output, _, _ = rollouts_of(trainer)
    loss = trainer._compute_loss(trainer.model, output)
    without = trainer._compute_loss(trainer.model, {k: v for k, v in output.items() if "replay" not in k})
    mask = output["replay_mask"]
    assert mask.sum() > 0
    expected = -3 * (output["sampling_per_token_logps"] * mask).sum() / (mask.sum() / 2)  # 2 minibatches
    torch.testing.assert_close(loss - without, expected, atol=1e-4, rtol=1e-4)


class Looks(Method):
    """Keeps what it is shown."""

    def probe(self, seen):
        return {"looks/entropy": seen.entropies(), "looks/hidden": seen.spread(seen.at(before=1))}

    def advantage(self, update, advantages_B_C, tensors):
        self.update = update
        return advantages_B_C

    def loss(self, batch):
        self.batch = batch
        return 0.0


@pytest.mark.parametrize("kl_reference", ["behaviour", "pretrained"])
def test_what_methods_are_shown_is_the_policys(tmp_path, kl_reference):
    """Entropies of the scoring pass are those of the loss's, at the run's temperature; the head gives the sampled
    tokens' logprobs; the entropies of a minibatch carry gradients; the reference is there where the run holds one."""
    trainer = make_trainer(tmp_path, objective=replace(SETS, methods=[own("Looks")]), model_seed=3, temperature=1.4,
                           kl_reference=kl_reference)  # fmt: skip
    output, _, rows = rollouts_of(trainer)
    trainer._compute_loss(trainer.model, output)
    looks = trainer.methods[own("Looks")]
    update, batch, mask = looks.update, looks.batch, looks.update.own_B_C[: len(rows)]
    assert batch.entropies_b_C.requires_grad and update.progress == 0.0
    probed = update.probed["looks/entropy"][mask]
    torch.testing.assert_close(probed, batch.entropies_b_C[: len(rows)][mask].detach().float(), atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        logits = update.head(update.probed["looks/hidden"][mask])
    found = logits.log_softmax(dim=-1).gather(1, output["completion_ids"][: len(rows)][mask][:, None])[:, 0]
    torch.testing.assert_close(found, update.logprobs_B_C[: len(rows)][mask], atol=1e-4, rtol=1e-4)
    assert (update.reference_B_C is not None) == (kl_reference == "pretrained")
    if update.reference_B_C is not None:  # nothing has been learnt
        reference = update.reference_B_C[: len(rows)][mask]
        torch.testing.assert_close(reference, update.logprobs_B_C[: len(rows)][mask], atol=1e-4, rtol=1e-4)
    assert update.text(update.trees[0].seeds[0].turns[0].whole_ids) in trainer.task.actions


def test_signatures_of_a_method_stand_in_for_the_tasks(tmp_path):
    """Doors' are sets of doors, which leverage cannot take: refused at the start, without the method."""
    objective = replace(SETS, diversity="leverage")
    with pytest.raises(ValueError, match="leverage needs vectors .* add method 'hidden_signatures'"):
        make_trainer(tmp_path / "without", objective=objective)
    trainer = make_trainer(tmp_path, objective=replace(objective, methods=["hidden_signatures"]), model_seed=3)
    output, trees, _ = rollouts_of(trainer)
    signatures = [t.signature for tree in trees for t in tree.trajectories()]
    assert all(len(signature) == 32 for signature in signatures) and len(set(signatures)) > 2
    assert output["advantages"].abs().max() > 0
