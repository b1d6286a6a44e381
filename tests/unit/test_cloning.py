"""Behaviour cloning: the loss by hand, the split by level, and the end of a run at its target."""

import itertools
import math
import re

import pytest
import torch
from datasets import Dataset
from huggingface_hub import DatasetCard
from safetensors.torch import load_file
from transformers import TrainingArguments

from polytune.config import AdapterConfig
from polytune.policy import Renderer, build_tiny
from polytune.policy.adapters import adapt
from polytune.policy.demonstrations import (
    keep_successes,
    load_demonstrations,
    save_demonstrations,
    split_by_level,
    tokenize_episode,
)
from polytune.policy.rendering import PROMPT_WORD
from polytune.tasks import load_task
from polytune.tasks.demonstrations import FaultyExpertError, act_out
from polytune.trainer import CloningCollator, CloningTrainer, StopAtSuccess, latest_checkpoint
from polytune.trainer.cloning import Sampled

WORDS = [PROMPT_WORD, "a", "b", "c"]
ROWS = [
    {"input_ids": [2, 5, 4, 6], "own": [0, 0, 0, 1]},
    {"input_ids": [2, 6, 4, 5, 7, 4, 6], "own": [0, 0, 0, 1, 0, 0, 1]},
    {"input_ids": [2, 7, 4, 7, 3], "own": [0, 0, 0, 1, 1]},
] * 4


def make_trainer(folder, success=None, *, every=2, target=0.5, adapter=None, group_prompts=False, **fields):
    torch.manual_seed(0)
    model, tokenizer = build_tiny("tiny", WORDS)
    model = adapt(model, adapter or AdapterConfig())
    stop = StopAtSuccess(success or (lambda model: Sampled(0.0)), every, target)
    arguments = dict(
        output_dir=str(folder), per_device_train_batch_size=4, num_train_epochs=3, learning_rate=1e-2, save_steps=every,
        logging_steps=every, disable_tqdm=True, report_to="none", remove_unused_columns=False, use_cpu=True, seed=3,
    )  # fmt: skip
    trainer = CloningTrainer(
        model, TrainingArguments(**(arguments | fields)), train_dataset=Dataset.from_list(ROWS),
        data_collator=CloningCollator(tokenizer.pad_token_id), processing_class=tokenizer, entropy_coef=0.1,
        group_prompts=group_prompts, callbacks=[stop],
    )  # fmt: skip
    return trainer, stop


def test_collator_pads_and_labels_the_actions_alone():
    batch = CloningCollator(0)(ROWS[:2])
    assert batch["input_ids"].tolist() == [[2, 5, 4, 6, 0, 0, 0], [2, 6, 4, 5, 7, 4, 6]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0, 0], [1] * 7]
    assert batch["labels"].tolist() == [[-100, -100, -100, 6, -100, -100, -100], [-100, -100, -100, 5, -100, -100, 6]]


def test_rows_of_an_adapter_are_packed_and_their_loss_is_that_of_padded_ones(tmp_path, capsys):
    trainer, _ = make_trainer(tmp_path, adapter=AdapterConfig(use_peft=True, lora_r=2))
    torch.manual_seed(1)
    for name, weight in trainer.model.named_parameters():
        torch.nn.init.normal_(weight, std=0.1) if "lora_" in name else None
    batch, packer = CloningCollator(0)(ROWS[:3]), trainer._packer
    assert packer is not None and "padded" not in capsys.readouterr().err
    packed = trainer.compute_loss(trainer.model, dict(batch))
    trainer._packer = None
    assert packed.item() == pytest.approx(trainer.compute_loss(trainer.model, dict(batch)).item(), rel=1e-5)
    packed.backward()
    assert all(w.grad is not None for n, w in trainer.model.named_parameters() if "lora_" in n)


def test_loss_is_cross_entropy_of_the_actions_minus_the_entropy_bonus(tmp_path):
    trainer, _ = make_trainer(tmp_path)
    model = trainer.model.eval()
    losses, entropies = [], []
    for row in ROWS[:3]:  # one row at a time, without padding
        logits = model(torch.tensor([row["input_ids"]])).logits[0].double()
        for position, action in enumerate(row["own"]):
            if action:
                weights = [math.exp(value) for value in logits[position - 1].tolist()]
                chances = [weight / sum(weights) for weight in weights]
                losses.append(-math.log(chances[row["input_ids"][position]]))
                entropies.append(-sum(p * math.log(p) for p in chances))
    assert len(losses) == 5
    expected = sum(losses) / 5 - 0.1 * sum(entropies) / 5
    batch = trainer.data_collator(ROWS[:3])
    assert trainer.compute_loss(model, dict(batch)).item() == pytest.approx(expected, abs=1e-5)
    assert trainer.compute_loss(model, dict(batch), num_items_in_batch=99).item() == pytest.approx(expected, abs=1e-5)
    trainer.entropy_coef = 0.0
    assert trainer.compute_loss(model, dict(batch)).item() == pytest.approx(sum(losses) / 5, abs=1e-5)


def test_the_entropy_bonus_keeps_the_policy_broader(tmp_path):
    entropies = []
    for coefficient in (0.0, 1.0):
        trainer, _ = make_trainer(tmp_path / str(coefficient), save_strategy="no", num_train_epochs=6)
        trainer.entropy_coef = coefficient
        trainer.train()
        batch = trainer.data_collator(ROWS[:3])
        trainer.model.eval()
        loss = trainer.compute_loss(trainer.model, dict(batch)).item()
        trainer.entropy_coef = coefficient + 1
        entropies.append(loss - trainer.compute_loss(trainer.model, dict(batch)).item())
    assert 0 <= entropies[0] < entropies[1]


def test_stops_at_the_target_and_checks_the_last_step(tmp_path):
    checked = []

    def success(model):
        checked.append(trainer.state.global_step)
        return Sampled(0.1 * len(checked), 0.25)

    trainer, stop = make_trainer(tmp_path / "a", success, every=2, target=0.25)
    trainer.train_until(stop, None)
    assert (
        checked == [2, 4, 6]
        and trainer.state.global_step == 6
        and stop.reached
        and stop.last == pytest.approx((0.3, 0.25))
    )
    checked.clear()
    trainer, stop = make_trainer(tmp_path / "b", success, every=4, target=0.9)
    trainer.train_until(stop, None)
    assert checked == [4, 8, 9] and not stop.reached  # 9 steps in all


def test_the_success_check_leaves_the_run_as_it_is(tmp_path):
    """A check that samples must not move a random number generator or the training mode."""
    weights = []
    for name, every in (("often", 1), ("never", 100)):
        trainer, stop = make_trainer(tmp_path / name, every=every, save_strategy="no")
        trainer.train_until(stop, None)
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values(), strict=True))


@pytest.mark.parametrize("target", [0.5, 2.0])
def test_a_run_killed_after_its_last_check_ends_the_same_way(tmp_path, target):
    """Killed after its last step, before the policy was saved: it trains no further, and knows its rate."""

    def success(model):
        return Sampled(trainer.state.global_step / 9, 0.125)

    trainer, stop = make_trainer(tmp_path, success, every=3, target=target)
    trainer.train_until(stop, None)
    weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    steps, rate = trainer.state.global_step, stop.last
    assert steps == (6 if target == 0.5 else 9)

    def never(model):
        raise AssertionError("another check was made")

    trainer, stop = make_trainer(tmp_path, never, every=3, target=target)
    checkpoint = latest_checkpoint(tmp_path)
    trainer.train_until(stop, checkpoint)
    assert (trainer.state.global_step, stop.last, stop.reached) == (steps, rate, target == 0.5)
    assert all(torch.equal(weights[name], tensor) for name, tensor in trainer.model.state_dict().items())
    saved = load_file(checkpoint / "model.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in saved.items())


def test_answers_to_one_prompt_lie_side_by_side_where_asked(tmp_path):
    """Each row once, in another order in each pass; a batch of one prompt's answers computes the prompt once."""
    trainer, _ = make_trainer(tmp_path, group_prompts=True)
    sampler = trainer._get_train_sampler()
    passes = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        passes.append(list(sampler))
        assert list(sampler) == passes[-1] and sorted(passes[-1]) == list(range(len(sampler)))
        prompts = [index % 3 for index in passes[-1]]
        assert sum(a != b for a, b in itertools.pairwise(prompts)) == 2
    assert len({*map(tuple, passes)}) == 4 and len({tuple(index % 3 for index in each) for each in passes}) > 1
    sizes = []

    def count(module, arguments, keywords):
        sizes.append(keywords["input_ids"].numel())

    trainer.model.register_forward_pre_hook(count, with_kwargs=True)
    trainer.train()
    assert sorted(sizes) == sorted(3 * [len(row["input_ids"]) - 1 for row in ROWS[:3]])  # equal rows: one row's tokens
    assert not isinstance(make_trainer(tmp_path)[0]._get_train_sampler(), type(sampler))


@pytest.mark.parametrize("group_prompts", [False, True])
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path, group_prompts):
    rates = {2: 0.1, 4: 0.2, 6: 0.6, 8: 0.3, 9: 0.3}

    def run(folder, until=None):
        trainer, stop = make_trainer(folder, lambda model: Sampled(rates[trainer.state.global_step]),
                                     group_prompts=group_prompts)  # fmt: skip
        if until is not None:

            def die(*args, **kwargs):
                if trainer.state.global_step == until:
                    raise KeyboardInterrupt
                return original(*args, **kwargs)

            original, trainer.training_step = trainer.training_step, die
        trainer.train_until(stop, latest_checkpoint(folder))
        return trainer.model.state_dict(), trainer.state.log_history

    whole, history = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", until=5)
    resumed, resumed_history = run(tmp_path / "cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    clocks = ("runtime", "per_second", "train_loss")  # the mean over this sitting alone is transformers' own
    plain = [[{k: v for k, v in entry.items() if not any(c in k for c in clocks)} for entry in entries]
             for entries in (history, resumed_history)]  # fmt: skip
    assert plain[0] == plain[1] and plain[0][0]["success"] == 0.1


def test_no_level_is_trained_on_and_held_out():
    levels = ["p", "q", "p", "r", "s", "q", "t", "u", "v", "w", "x", "y", "t"]
    rows = [{"level_hash": level, "start_seed": seed} for seed, level in enumerate(levels)]
    train, held = split_by_level(Dataset.from_list(rows))
    assert set(train["level_hash"]).isdisjoint(held["level_hash"])
    assert sorted([*train["start_seed"], *held["start_seed"]]) == list(range(len(levels)))
    assert set(held["level_hash"]) == {"x", "y"}  # 2 of 10 levels
    assert len(split_by_level(Dataset.from_list(rows[:2]))[1]) == 1
    with pytest.raises(ValueError, match="show a single level"):
        split_by_level(Dataset.from_list([rows[0], rows[2]]))


def test_a_demonstration_is_the_text_that_a_generator_sees():
    task = load_task("fourrooms")
    tokenizer = build_tiny("tiny", [PROMPT_WORD, *task.vocabulary()])[1]
    renderer = Renderer(tokenizer, task)
    acted = act_out(task, 7)
    row = tokenize_episode(renderer, acted["observations"], acted["actions"])
    episode, ids = task.start(7), list(renderer.prompt_ids(task.start(7).observation()))
    actions = [id for id, action in zip(row["input_ids"], row["own"], strict=True) if action]
    for index, action in enumerate(actions):
        step = episode.step(renderer.action_text((action,)))
        ids += [action] if step.done else [action, *renderer.feedback_ids(episode.observation())]
        assert step.done == (index == len(actions) - 1)
    assert ids == row["input_ids"] and step.stop_reason == "success" and acted["success"]
    assert (acted["start_seed"], acted["level_hash"]) == (7, task.start_hash(7))


@pytest.mark.parametrize("says, words", [
    (lambda episode: {}["key"], r"raised KeyError in turn 0 .* start state 7: 'key' \(test_cloning.py, line \d+\)"),
    (lambda episode: None, "says None in turn 0 of start state 7, which is no action: left, right, forward"),
    (lambda episode: "fly", "says 'fly' in turn 0"),
])  # fmt: skip
def test_an_expert_that_fails_is_told_with_its_place(says, words):
    task = load_task("fourrooms")
    task.expert = says
    with pytest.raises(FaultyExpertError, match=words):
        act_out(task, 7)


def test_failures_and_forbidden_levels_are_dropped_and_counted(tmp_path):
    task = load_task("fourrooms", horizon=4)
    rows = [act_out(task, seed) for seed in range(40)]
    won = [row for row in rows if row["success"]]
    dataset, counts = keep_successes(rows, task, forbidden={won[0]["level_hash"]})
    assert dataset["start_seed"][:] == [row["start_seed"] for row in won[1:]] and all(dataset["success"])
    assert (counts["episodes"], counts["successes"], counts["leaked"]) == (40, len(won), 1)
    with pytest.raises(ValueError, match="solved none of 1 start states"):
        keep_successes([row for row in rows if not row["success"]][:1], task)
    (tmp_path / "d.tmp").mkdir()
    (tmp_path / "d.tmp/mine").write_text("kept")
    for _ in range(2):  # the second time in place of the first
        save_demonstrations(tmp_path / "d", dataset, counts, task, {"horizon": 4}, "this test")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "d.tmp"]
    assert (tmp_path / "d.tmp/mine").read_text() == "kept"
    assert (tmp_path / "d").stat().st_mode & 0o055 == (tmp_path / "d.tmp").stat().st_mode & 0o055  # no private folder
    assert load_demonstrations(tmp_path / "d")[:] == dataset[:]
    card = DatasetCard.load(tmp_path / "d/README.md")
    assert card.data.license == "apache-2.0"
    text = card.text.replace("\n", " ")
    assert f"{len(won) - 1} expert episodes of the task `fourrooms` (horizon=4). 40 were begun" in text
    assert f"{40 - len(won)} failed" in text and "1 were left out" in text and f"of the {len(won)} successes" in text
    assert "`load_task('fourrooms', horizon=4).start(start_seed)`" in text
    told = re.search(r"Start seeds of the rows: (.*?)\.", text)[1]
    ranges = [[int(end) for end in part.split(" to ")] for part in told.split(", ")]
    assert [seed for ends in ranges for seed in range(ends[0], ends[-1] + 1)] == dataset["start_seed"][:]
    (tmp_path / "d/state.json").write_text("{")
    assert load_demonstrations(tmp_path / "d") is None and load_demonstrations(tmp_path / "nowhere") is None


def test_a_long_demonstration_is_shown_up_to_the_horizon():
    class Patient(type(load_task("fourrooms"))):
        expert_turns = 100

    short, whole = act_out(Patient(horizon=5), 7), act_out(load_task("fourrooms"), 7)
    assert short["success"] and short["turns"] == whole["turns"] > 5
    assert short["actions"] == whole["actions"][:5] and short["observations"] == whole["observations"][:5]
