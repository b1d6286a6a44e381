"""The creativity tasks as a user runs them: pretrain on lines, fine-tune, evaluate, score a file, compare."""

import json
import os

import pytest
import torch
import warm
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from polytune.policy import Renderer, load_policy
from polytune.policy.loading import load_base
from polytune.tasks import load_task
from polytune.tasks.creativity.structure import END

TASK = ["--task", "sibling", "--task_args", "parents=2", "children=6", "lines=48"]
PRETRAIN = [
    "--entropy_coef",
    "0",
    "--batch_size",
    "16",
    "--epochs",
    "60",
    "--eval_every",
    "10",
    "--eval_episodes",
    "64",
]
TRAIN = [
    "--split", "train", "--num_start_states", "16", "--num_seeds", "8", "--num_rollout_states", "0", "--num_vines", "0",
    "--num_generations", "8", "--per_device_train_batch_size", "16", "--steps_per_generation", "2",
    "--num_updates", "3",
    "--num_iterations", "1", "--set_scope", "seeds", "--window", "-1", "--critic", "none", "--kl_coef", "0",
    "--learning_rate", "1e-3", "--use_cpu", "true",
]  # fmt: skip


@pytest.fixture(scope="module")
def pretrained(call_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("creativity") / "pretrained"
    call_recipe("pretrain", *TASK, *PRETRAIN, "--target_success", "0.4", "--output_dir", folder)
    return folder


def finetune(call_recipe, folder, pretrained, *flags):
    config = folder.parent / "empty.yaml"
    config.write_text(yaml.safe_dump({"task": "sibling"}))
    call_recipe("finetune", "--config", config, *TASK, *TRAIN, "--model", pretrained, "--output_dir", folder, *flags)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines() if "rollout/" in line]


def test_pretraining_stops_at_its_validity_and_continues_as_if_uninterrupted(pretrained, call_recipe, capsys):
    summary = json.loads((pretrained / "pretrain.json").read_text())
    assert summary["success"] >= 0.4 and summary["held_out_loss"] is None
    assert not (pretrained / "demonstrations").exists()
    call_recipe("pretrain", *TASK, *PRETRAIN, "--target_success", "0.4", "--output_dir", pretrained)
    assert "is complete already" in capsys.readouterr().out


def test_every_line_is_trained_on(pretrained, call_recipe, tmp_path, capsys):
    with pytest.raises(SystemExit):
        call_recipe("pretrain", *TASK, *PRETRAIN, "--num_demonstrations", "9", "--output_dir", tmp_path / "x")
    assert "has training lines, set task_args lines=" in capsys.readouterr().err
    call_recipe("pretrain", *TASK, *PRETRAIN, "--epochs", "1", "--target_success", "1", "--output_dir", tmp_path / "y")
    out = capsys.readouterr().out
    assert "next-token prediction on 48 training lines of sibling" in out and "NOT reached" in out


def test_teacherless_training_reads_the_prompt_alone(call_recipe, tmp_path):
    """With weight 1 the answer's own tokens are hidden: the loss is what it is with them replaced by the pad token."""
    from polytune.policy.packer import find_packer
    from polytune.trainer.cloning import CloningTrainer

    folder = tmp_path / "p"
    call_recipe("pretrain", *TASK, *PRETRAIN, "--epochs", "1", "--target_success", "1", "--teacherless_weight", "0.5",
                "--output_dir", folder)  # fmt: skip
    model, tokenizer = load_policy(folder)
    trainer = CloningTrainer.__new__(CloningTrainer)
    trainer.entropy_coef, trainer.processing_class, trainer._packer = 0.0, tokenizer, find_packer(model)[0]
    assert trainer._packer is not None
    task = load_task("sibling", parents=2, children=6, lines=48)
    renderer = Renderer(tokenizer, task)
    prompt, answer = next(task.training_lines())
    before, after = list(renderer.prompt_ids(prompt)), list(renderer.action_ids(answer))
    labels = torch.tensor([[-100] * len(before) + after])

    def inputs(answer_ids):
        ids = torch.tensor([before + answer_ids])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def loss(weight, answer_ids):
        trainer.teacherless_weight = weight
        return trainer.compute_loss(model, inputs(answer_ids) | {"labels": labels}).item()

    hidden = [tokenizer.pad_token_id] * len(after)
    assert loss(1.0, after) == pytest.approx(loss(0.0, hidden), rel=1e-6)
    assert loss(0.25, after) == pytest.approx(0.75 * loss(0.0, after) + 0.25 * loss(0.0, hidden), rel=1e-6)
    assert loss(0.0, after) != pytest.approx(loss(1.0, after), rel=1e-6)


@pytest.mark.parametrize("shape", ["episodes", "vines at a token", "vines at the prompt"])
def test_fine_tuning_changes_the_policy_and_logs_answers(pretrained, call_recipe, tmp_path, shape):
    vines = ["--num_seeds", "1", "--num_rollout_states", "1", "--num_vines", "7", "--set_scope", "vines"]
    flags = {
        "episodes": ["--set_size", "2"],
        "vines at a token": [*vines, "--branch_at", "token", "--set_size", "2"],
        "vines at the prompt": [*vines, "--rollout_states", "start", "--set_size", "2"],
    }[shape]
    metrics = finetune(call_recipe, tmp_path / "run", pretrained, *flags)
    assert [m["rollout/env_steps"] for m in metrics] == [32, 64, 96]
    assert all(m["sampling/logprob_gap"] < 1e-5 for m in metrics)
    before, after = load_policy(pretrained)[0].state_dict(), load_policy(tmp_path / "run")[0].state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_novelty_is_a_reward_of_its_own(pretrained, call_recipe, tmp_path):
    other = [*TASK, "structure_seed=1"]  # another training set, so that what the policy knows by heart is new
    plain = finetune(call_recipe, tmp_path / "plain", pretrained, "--set_size", "2", *other)
    paid = finetune(call_recipe, tmp_path / "paid", pretrained, "--set_size", "2", *other, "novelty=1.0")
    assert plain[0]["rollout/success"] == paid[0]["rollout/success"] == plain[0]["rollout/return"]
    assert paid[0]["rollout/return"] > plain[0]["rollout/return"]


def test_evaluation_reports_creativity_and_continues(pretrained, call_recipe, tmp_path, capsys):
    flags = ["--policies", f"before={pretrained}", "--num_start_states", "40", "--n", "3", "--output_dir", tmp_path]
    call_recipe("evaluate", *TASK, *flags)
    summary = json.loads((tmp_path / "summary.json").read_text())
    found = summary["creativity"]["before"]
    task = load_task("sibling", parents=2, children=6, lines=48)
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    first = [r["actions"] for r in records if r["attempt"] == 0 and not r["greedy"]]
    grades = [task.grade(text) for text in first]
    assert len(first) == 40 and found["counts"]["valid"] == sum(g is not None for g in grades)
    assert found["counts"]["distinct_valid"] == len({g.canonical for g in grades if g})
    assert found["coverage"]["samples"] == [40, 80, 120] and found["greedy"]["counts"]["generations"] == 40
    assert summary["settings"]["task_args"] == TASK[3:] and summary["versions"]["torch"]
    assert (tmp_path / "creativity.png").stat().st_size > 10_000
    out = capsys.readouterr().out
    assert "of 72 objects training shows 48 (67 %), 24 are unseen" in out and "creativity, raw strings" in out
    os.truncate(tmp_path / "records.jsonl", 900)
    call_recipe("evaluate", *TASK, *flags)
    assert [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()] == records


def test_texts_from_elsewhere_give_the_same_summary(pretrained, call_recipe, tmp_path, capsys):
    call_recipe("evaluate", *TASK, "--policies", f"before={pretrained}", "--num_start_states", "40", "--n", "2",
                "--output_dir", tmp_path / "a")  # fmt: skip
    records = [json.loads(line) for line in (tmp_path / "a/records.jsonl").read_text().splitlines()]
    samples = sorted((r for r in records if not r["greedy"]), key=lambda r: r["attempt"])
    rows = [{"completion": r["actions"], "prompt": str(r["start_seed"])} for r in samples]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call_recipe("evaluate", *TASK, "--completions", tmp_path / "texts.jsonl", "--output_dir", tmp_path / "b")
    one = json.loads((tmp_path / "a/summary.json").read_text())["creativity"]["before"]
    other = json.loads((tmp_path / "b/summary.json").read_text())["creativity"]["texts"]
    assert {name: one[name] for name in other} == other
    assert sorted(one["validity_at_k"]) == ["1", "2"] and one["validity_at_k"]["2"]["estimate"] > 0
    with pytest.raises(SystemExit):
        call_recipe("evaluate", "--task", "bandit", "--completions", tmp_path / "texts.jsonl",
                    "--output_dir", tmp_path / "none")  # fmt: skip
    assert (
        "completions are scored on sibling, triangle, circle and line, not on task 'bandit'" in capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        call_recipe("evaluate", *TASK, "--completions", tmp_path / "none.jsonl", "--output_dir", tmp_path / "none")
    assert "give a JSONL file" in capsys.readouterr().err


def test_mistakes_are_told_before_work(pretrained, call_recipe, tmp_path, capsys):
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"completion": "x"}\n')
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/records.jsonl").write_text("")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    score, run = ["evaluate", *TASK, "--completions"], tmp_path / "run"
    tune = ["finetune", "--config", "recipes/creativity/sibling/grpo.yaml", "--model", pretrained, "--output_dir", run]
    for command, words in (
        ([*score, texts, "--output_dir", tmp_path / "taken"], "taken holds an evaluation of policies: give"),
        ([*score, tmp_path / "binary.jsonl", "--output_dir", tmp_path / "none"], "binary.jsonl is no text in UTF-8"),
        ([*score, texts, "--n", "5"], "n is 5, but has no effect here: completions are scored as they are"),
        ([*score, texts, "--policies", "a"], "policies is ['a'], but has no effect here"),
        ([*score, texts, "--split", "train"], "split is 'train', but has no effect here: completions bring their own"),
        (["evaluate", *TASK, "--seed", "-1"], "seed must be an integer of at least 0, got -1"),
        (["pretrain", *TASK, "--seed", "-1"], "seed must be an integer of at least 0, got -1"),
        (["evaluate", "--task", "sibling", "--task_args", "size=tiny", "--policies", pretrained, "--output_dir", run],
         "give the task the options that the policy was pretrained with (--task_args"),
        ([*tune, "--task_args", "size=tiny"], "give the task the options that the policy was pretrained with"),
        ([*tune, *TASK, "--branch_at", "token"], "branch_at is 'token', but num_rollout_states is 0"),
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            call_recipe(*command)
        told = capsys.readouterr().err
        assert words in told and told.count("error:") == 1, told
    assert not run.exists()


def test_a_policy_of_other_options_is_noted(pretrained, call_recipe, tmp_path, capsys):
    call_recipe("evaluate", *TASK[:-1], "lines=30", "--policies", f"mine={pretrained}", "--num_start_states", "4",
                "--greedy", "false", "--n", "1", "--output_dir", tmp_path)  # fmt: skip
    assert "note: mine was trained with task_args ['parents=2', 'children=6', 'lines=48'], it is" in (
        capsys.readouterr().out
    )


def test_a_comparison_shows_creativity(pretrained, call_recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("polytune.running.run_queue.subprocess", warm.FOR_THE_QUEUE)
    base = {"task": "sibling", "task_args": TASK[3:], "split": "train"}
    base |= {TRAIN[i].removeprefix("--"): yaml.safe_load(TRAIN[i + 1]) for i in range(4, len(TRAIN), 2)}
    base["learning_rate"] = 1e-3
    for name, own in (("grpo", {"objective": "mean", "set_size": 1}), ("poly", {"set_size": 2})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(base | own))
    methods = [tmp_path / "grpo.yaml", tmp_path / "poly.yaml"]
    call_recipe("compare", "--methods", *methods, *TASK, "--seeds", "1", "--n", "1", "--model", pretrained,
                "--num_start_states", "16", "--output_dir", tmp_path / "out",
                "--keep", tmp_path / "kept.json")  # fmt: skip
    out = capsys.readouterr().out
    assert "distinct unseen answers" in out and "creativity, raw strings" in out and "pass@" not in out
    kept = json.loads((tmp_path / "kept.json").read_text())
    cell = kept["policies"]["poly"]["creativity"]
    [run] = kept["runs"]["poly"].values()
    assert cell["estimate"] == pytest.approx(run["creativity"]) and cell["low"] <= cell["estimate"] <= cell["high"]
    assert kept["policies"]["pretrained"]["creativity"]["low"] is not None
    assert (tmp_path / "out/coverage.png").stat().st_size > 10_000


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A GPT-2 of random weights with a byte-level tokenizer that has no pad token, as the Hub's."""
    folder = tmp_path_factory.mktemp("gpt2")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    bpe.train_from_iterator(["some text"], trainer)
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=end, bos_token=end, unk_token=end).save_pretrained(folder)
    size = {"n_embd": 48, "n_layer": 2, "n_head": 3, "n_positions": 64}
    GPT2LMHeadModel(GPT2Config(vocab_size=280, **size)).save_pretrained(folder)
    return folder


def test_a_base_model_learns_the_words_of_the_task(gpt2, call_recipe, tmp_path):
    call_recipe("pretrain", *TASK, *PRETRAIN, "--epochs", "2", "--target_success", "1", "--base_model", gpt2,
                "--output_dir", tmp_path / "p")  # fmt: skip
    model, tokenizer = load_policy(tmp_path / "p")
    assert tokenizer.pad_token == "<pad>" and len(tokenizer.encode(END)) == 1
    assert model.config.model_type == "gpt2" and model.get_input_embeddings().num_embeddings == len(tokenizer)
    metrics = finetune(call_recipe, tmp_path / "run", tmp_path / "p", "--set_size", "2")
    assert all(m["sampling/logprob_gap"] < 1e-5 for m in metrics), "prompts of unlike length are padded on the left"


def test_an_adapter_learns_the_new_words_and_is_merged(gpt2, call_recipe, tmp_path):
    """With LoRA the old embeddings stay, those of the new words are trained, and a whole checkpoint is saved."""
    call_recipe("pretrain", *TASK, *PRETRAIN, "--epochs", "2", "--target_success", "1", "--base_model", gpt2,
                "--use_peft", "true", "--lora_r", "4", "--output_dir", tmp_path / "p")  # fmt: skip
    assert not (tmp_path / "p/adapter_config.json").exists()
    model, tokenizer = load_policy(tmp_path / "p")
    before = AutoModelForCausalLM.from_pretrained(gpt2)
    words = [word for word in load_task("sibling", parents=2, children=6, lines=48).vocabulary() if len(word) > 1]
    _, _, ids = load_base(gpt2, words)
    old, new = (m.get_input_embeddings().weight for m in (before, model))
    own = [i for i in range(len(old)) if i not in ids]
    assert len(ids) == len(words) and torch.equal(old[own], new[own])
    there = [i for i in ids if i < len(old)]  # the base had rows to spare
    assert there and all((old[i] - new[i]).abs().max() > 1e-4 for i in there)
    assert not torch.equal(before.transformer.h[0].attn.c_attn.weight, model.transformer.h[0].attn.c_attn.weight)
    assert model.lm_head.weight is model.transformer.wte.weight


def test_what_the_base_has_no_room_for_is_refused_before_it_is_trained(gpt2, call_recipe, tmp_path, capsys):
    """A row, or a prompt with its answer, longer than its positions; a pad token under an adapter alone."""
    place, base, model = tmp_path / "rows.jsonl", tmp_path / "base", AutoModelForCausalLM.from_pretrained(gpt2)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(gpt2)
    model.resize_token_embeddings(len(tokenizer))  # none to spare
    for part in (model, tokenizer):
        part.save_pretrained(base)
    rows = {
        "a prompt": ("a" * 62, "b", "has 63 tokens, and an answer up to 4, but the policy has only 64 positions"),
        "a row": ("a", "b" * 70, "the longest row to clone has 73 tokens, but the policy has only 64 positions"),
        "alone": ("a", "b", "has no pad token, and its embeddings have no room for one: alone, an adapter"),
    }
    for name, (prompt, answer, words) in rows.items():
        place.write_text(json.dumps({"prompt": prompt, "answer": answer}) + "\n")
        own = ["--task", "dataset", "--task_args", f"path={place}", "reward=polytune.tasks.rewards:math_verified",
               "answer=answer", "max_tokens=4"]  # fmt: skip
        adapter = ["--use_peft", "true", "--merge_adapter", "false"] if name == "alone" else []
        with pytest.raises(SystemExit):
            call_recipe("pretrain", *own, *adapter, "--base_model", base, "--output_dir", tmp_path / name)
        assert words in capsys.readouterr().err
        assert not list((tmp_path / name).glob("checkpoint-*"))


def test_an_adapter_alone_names_its_base(gpt2, call_recipe, tmp_path):
    row = {"prompt": "2 3 = 5 :", "numbers": [2, 3], "target": 5, "answer": "2+3"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    base, begun = tmp_path / "base", AutoModelForCausalLM.from_pretrained(gpt2)
    for part in (begun, PreTrainedTokenizerFast.from_pretrained(gpt2, pad_token="<|endoftext|>")):
        part.save_pretrained(base)
    call_recipe("pretrain", "--task", "dataset", "--task_args", f"path={tmp_path}/rows.jsonl", "answer=answer",
                "max_tokens=4", "reward=polytune.tasks.rewards:reaches_target", *PRETRAIN, "--epochs", "20",
                "--target_success", "1", "--base_model", base, "--use_peft", "true", "--merge_adapter", "false",
                "--output_dir", tmp_path / "p")  # fmt: skip
    settings = json.loads((tmp_path / "p/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base) and not (tmp_path / "p/model.safetensors").exists()
    for name in ("tokenizer.json", "manifest.json"):
        (tmp_path / "p" / name).unlink()  # the base's own tokenizer stands in for it
    model, tokenizer = load_policy(tmp_path / "p")
    ids = torch.tensor([tokenizer.encode("2 3 = 5 :")])
    assert not torch.allclose(model(ids).logits, begun.eval()(ids).logits, atol=1e-4)


def test_an_adapter_alone_is_refused_where_its_base_would_lack_words(gpt2, call_recipe, tmp_path, capsys):
    with pytest.raises(SystemExit):
        call_recipe("pretrain", *TASK, *PRETRAIN, "--base_model", gpt2, "--use_peft", "true", "--merge_adapter",
                    "false", "--output_dir", tmp_path / "p")  # fmt: skip
    assert "words of the task are new to the base model" in capsys.readouterr().err
