"""recipes/pretrain.py end to end at its smallest: killed = uninterrupted, honest about its target, levels apart."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
import warm
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from polytune.policy.demonstrations import load_demonstrations
from polytune.policy.tiny import build_tokenizer
from polytune.tasks import load_task

ROOT = Path(__file__).resolve().parents[2]
SIZE = [
    "--num_demonstrations", "24", "--epochs", "2", "--batch_size", "5", "--eval_every", "3", "--eval_episodes", "6",
    "--task_horizon", "30", "--target_success", "1.0",
]  # fmt: skip


@pytest.fixture
def pretrain(call_recipe, one_thread):
    return lambda folder, *flags: call_recipe("pretrain", *SIZE, "--output_dir", folder, *flags)


@pytest.fixture(scope="module")
def whole(call_recipe, tmp_path_factory):
    """An uninterrupted run, what it printed aside."""
    folder, before = tmp_path_factory.mktemp("whole") / "run", torch.get_num_threads()
    torch.set_num_threads(1)
    call_recipe("pretrain", *SIZE, "--output_dir", folder)
    torch.set_num_threads(before)
    return folder


def outcome(folder):
    return load_file(folder / "model.safetensors"), json.loads((folder / "pretrain.json").read_text())


@pytest.mark.parametrize(("place", "count"), [("demonstrations", 10), ("update", 5), ("evaluation", 1)])
def test_killed_and_restarted_is_uninterrupted(whole, pretrain, tmp_path, place, count):
    arguments = [place, count, ROOT / "recipes/pretrain.py", *SIZE, "--output_dir", tmp_path]
    killed = warm.run(ROOT / "tests/integration/run_and_die.py", *arguments, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "pretrain.json").exists()
    pretrain(tmp_path)
    (weights, summary), (expected_weights, expected) = outcome(tmp_path), outcome(whole)
    assert summary == expected
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected_weights.items())


def test_demonstrations_of_ones_own_are_not_removed(pretrain, tmp_path, capsys):
    """No run has written them, so they are not another run's."""
    (tmp_path / "demonstrations").mkdir()
    (tmp_path / "demonstrations/mine.txt").write_text("mine")
    with pytest.raises(SystemExit):
        pretrain(tmp_path)
    assert "demonstrations is in the way" in capsys.readouterr().err
    assert (tmp_path / "demonstrations/mine.txt").read_text() == "mine" and not (tmp_path / "run.json").exists()


def test_no_expert_is_one_line_from_other_processes_too(call_recipe, tmp_path, capsys):
    with pytest.raises(SystemExit):
        call_recipe("pretrain", "--task", "doors:Doors", "--num_demonstrations", "201", "--output_dir", tmp_path)
    assert "has no expert; Doors.expert would be one" in capsys.readouterr().err


def test_an_adapter_begins_as_its_seed_says(whole, pretrain, tmp_path):
    """Whatever was drawn in this process before."""
    flags = ["--base_model", whole, "--use_peft", "--lora_r", "2", "--num_demonstrations", "8", "--epochs", "1"]
    for drawn, (name, seed) in enumerate([("first", "0"), ("again", "0"), ("other", "1")]):
        torch.manual_seed(drawn)
        pretrain(tmp_path / name, *flags, "--seed", seed)
    first, again, other = (outcome(tmp_path / name)[0] for name in ("first", "again", "other"))
    assert all(torch.equal(again[name], weight) for name, weight in first.items())
    assert any(not torch.equal(other[name], weight) for name, weight in first.items())


def test_the_policy_loads_and_its_demonstrations_are_listed(whole):
    assert AutoModelForCausalLM.from_pretrained(whole).num_parameters() > 300_000
    task, rows = load_task("fourrooms", horizon=30), load_demonstrations(whole / "demonstrations")
    listing = json.loads((whole / "demonstrations.json").read_text())
    assert listing["seeds"] == rows["start_seed"][:] and len(listing["seeds"]) > 15
    assert listing["level_hashes"] == [task.start_hash(seed) for seed in listing["seeds"]]


def test_words_that_stand_together_are_one_token_and_the_policy_says_so(whole, pretrain, tmp_path):
    task, rows = load_task("fourrooms", horizon=30), load_demonstrations(whole / "demonstrations")
    texts = [f"{text} >" for row in rows for text in row["observations"]]
    tokenizer = AutoTokenizer.from_pretrained(whole)
    assert tokenizer.init_kwargs["word_merges"] == 50
    assert json.loads((whole / "pretrain.json").read_text())["word_merges"] == 50
    assert json.loads((whole / "run.json").read_text())["pretrain"]["word_merges"] == 50
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert [tokenizer.decode(tokens) for tokens in ids] == texts
    assert sum(map(len, ids)) < 0.7 * sum(len(text.split()) for text in texts)
    pretrain(tmp_path, "--word_merges", 0)
    words = build_tokenizer([">", *task.vocabulary()])
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == words.get_vocab()
    assert json.loads((tmp_path / "pretrain.json").read_text())["word_merges"] == 0
    assert "word_merges" not in (tmp_path / "tokenizer_config.json").read_text()


def test_a_complete_run_does_nothing_and_refuses_other_settings(whole, pretrain, capsys, monkeypatch):
    stamp = (whole / "model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr("polytune.trainer.CloningTrainer.train", None)
    pretrain(whole)
    assert "is complete already" in capsys.readouterr().out
    for checkpoint in whole.glob("checkpoint-*"):  # also without checkpoints, which a user may have removed
        checkpoint.rename(checkpoint.with_name(f"away-{checkpoint.name}"))
    with pytest.raises(SystemExit):
        pretrain(whole, "--epochs", 3)
    assert "epochs was 2, now 3" in capsys.readouterr().err
    assert (whole / "model.safetensors").stat().st_mtime_ns == stamp


def test_success_is_checked_on_held_out_levels_and_the_target_is_named(pretrain, tmp_path, capsys, monkeypatch):
    from polytune.trainer import cloning

    checked, original = [], cloning.sample_episodes

    def sample(task, renderer, generator, starts, **options):
        checked.append([(start.start_state, start.attempt) for start in starts])
        return original(task, renderer, generator, starts, **options)

    monkeypatch.setattr(cloning, "sample_episodes", sample)
    unseen = {load_task("fourrooms").start_hash(seed) for seed in range(1_000_000, 1_000_004)}
    monkeypatch.setattr("polytune.tasks.splits.split_hashes", lambda task, split: unseen)
    pretrain(tmp_path)
    seeds = load_demonstrations(tmp_path / "demonstrations")["start_seed"][:]
    held = seeds[-(len(seeds) // 5) :]
    printed = capsys.readouterr().out
    assert f"cloning {len(seeds) - len(held)} demonstrations, {len(held)} held out" in printed
    counts = json.loads((tmp_path / "demonstrations/summary.json").read_text())
    failed, leaked = counts["episodes"] - counts["successes"], counts["leaked"]
    assert counts["episodes"] == 24 == len(seeds) + failed + leaked and leaked and failed
    left_out = f"left out: {leaked} of unseen levels, {failed} failures of the expert"
    assert f"{len(seeds)} demonstrations of fourrooms; {left_out}\n" in printed
    assert len(checked) == 3 and {seed for starts in checked for seed, _ in starts} == set(held)
    assert all(len(set(starts)) == 6 for starts in checked)  # no episode counts twice
    assert "target 1.0 NOT reached: raise epochs or num_demonstrations" in printed
    assert json.loads((tmp_path / "pretrain.json").read_text())["success"] < 1.0


def test_a_reached_target_ends_the_run(pretrain, tmp_path, capsys, monkeypatch):
    """And a policy whose turns are mostly no action is warned of: words at random may win."""
    from polytune.trainer import cloning

    class Won:
        success, turns, invalid_actions = True, [None] * 4, 2

    monkeypatch.setattr(cloning, "sample_episodes", lambda task, renderer, generator, starts, **options: [Won] * 6)
    pretrain(tmp_path)
    printed = capsys.readouterr().out
    assert "sampled success on held-out levels 1.000 (target 1.0), invalid actions 50%" in printed
    assert "success 1.000 on held-out levels, target 1.0 reached" in printed and "'loss'" not in printed
    assert "warning: 50% of its turns were no action of fourrooms" in printed
    told = json.loads((tmp_path / "pretrain.json").read_text())
    assert told["steps"] == 3 and told["invalid_rate"] == 0.5


def test_demonstrations_of_other_settings_are_not_taken_over(pretrain, tmp_path, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("polytune.trainer.CloningTrainer.train_until", stop)
        with pytest.raises(SystemExit):
            pretrain(tmp_path)
        with monkeypatch.context() as while_recording:
            while_recording.setattr("polytune.tasks.demonstrations.act_out_all", stop)
            with pytest.raises(SystemExit):
                pretrain(tmp_path, "--num_demonstrations", 12, "--seed", 1)
        with pytest.raises(SystemExit):
            pretrain(tmp_path, "--num_demonstrations", 12, "--seed", 1)
    assert all(2_000_000 <= seed < 2_000_012 for seed in load_demonstrations(tmp_path / "demonstrations")["start_seed"])


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (("--preset", "huge"), 1, "unknown preset 'huge': the presets are tiny"),
        (("--word_merges", -1), 2, "word_merges must be an integer of at least 0"),
        (("--word_merges", 9, "--base_model", "gpt2"), 2, "word_merges is 9, but has no effect here: gpt2 has its own"),
        (("--use_peft", "true"), 2, "use_peft is True, but has no effect here"),
        (("--merge_adapter", "false"), 2, "merge_adapter is False, but has no effect here: without use_peft"),
        (("--group_prompts", "true"), 2, "group_prompts is True, but has no effect here: each episode of"),
        (("--task", "fourroms"), 1, "did you mean 'fourrooms'"),
        (("--num_demonstrations", 3), 2, "num_demonstrations must be an integer of at least 5"),
        (("--target_success", 1.5), 2, "target_success must lie in (0, 1]"),
        (("--target-sucess", 0.5), 2, "did you mean target_success"),
        (("--task_horizon", 1), 1, "solved none of 24 start states"),
        (("--task", "doors:Doors"), 1, "task 'doors' has no expert"),
    ],
)
def test_bad_input_is_one_line(pretrain, tmp_path, capsys, monkeypatch, flags, status, message):
    monkeypatch.setattr("polytune.trainer.CloningTrainer.train", None)
    with pytest.raises(SystemExit) as exit:
        pretrain(tmp_path / "run", *flags)
    assert exit.value.code == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not (tmp_path / "run/model.safetensors").exists()


def test_merges_of_free_text_are_refused(call_recipe, tmp_path, capsys):
    """Its words follow each other without spaces."""
    flags = ("--task", "triangle", "--task_args", "size=tiny", "--word_merges", 9, "--output_dir", tmp_path / "run")
    with pytest.raises(SystemExit):
        call_recipe("pretrain", *flags)
    assert "word_merges is 9, but has no effect here: 'triangle' asks for free text." in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
