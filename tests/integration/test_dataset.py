"""`task: dataset` as a user runs it: pretrain on a file's answers, fine-tune with Poly-EPO, evaluate on test rows."""

import json

import pytest
import torch
import yaml

from polytune.policy import load_policy

ROWS = [
    {"prompt": "1 2 3 = 6 :", "numbers": [1, 2, 3], "target": 6, "answers": ["1+2+3", "1*2*3", "2*3/1"]},
    {"prompt": "2 1 4 = 8 :", "numbers": [2, 1, 4], "target": 8, "answers": ["2*4*1", "2*4/1"]},
]
FUNCTIONS = [
    "reward=polytune.tasks.rewards:reaches_target",
    "signature=polytune.tasks.rewards:calculation",
    "max_tokens=8",
]


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    file = tmp_path_factory.mktemp("dataset") / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return ["--task", "dataset", "--task_args", f"path={file}", f"test_path={file}", *FUNCTIONS]


@pytest.fixture(scope="module")
def pretrained(call_recipe, tmp_path_factory, flags):
    folder = tmp_path_factory.mktemp("dataset") / "pretrained"
    call_recipe("pretrain", *flags, "answer=answers", "--entropy_coef", "0", "--batch_size", "5", "--epochs", "300",
                "--learning_rate", "2e-3", "--eval_every", "40", "--eval_episodes", "32", "--target_success", "0.4",
                "--output_dir", folder)  # fmt: skip
    return folder


def test_pretraining_teaches_answers_and_their_end(pretrained, call_recipe, flags, tmp_path):
    assert json.loads((pretrained / "pretrain.json").read_text())["success"] >= 0.4
    call_recipe("evaluate", *flags, "--policies", f"p={pretrained}", "--n", "32", "--output_dir", tmp_path)
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    right = [record for record in records if record["success"]]
    assert len(records) == 2 * 33 and len(right) >= 0.2 * len(records)
    assert len({record["signature"] for record in right}) >= 3
    assert all(record["signature"] is None and record["stop_reason"] == "unsolved"
               for record in records if not record["success"])  # fmt: skip
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["settings"]["split"] == "test"


def test_fine_tuning_with_sets_runs_and_pays_right_answers(pretrained, call_recipe, flags, tmp_path):
    (tmp_path / "empty.yaml").write_text(yaml.safe_dump({"task": "dataset"}))
    call_recipe("finetune", "--config", tmp_path / "empty.yaml", *flags, "--split", "train", "--num_seeds", "8",
                "--num_rollout_states", "0", "--num_vines", "0", "--num_generations", "8",
                "--per_device_train_batch_size", "8", "--steps_per_generation", "2", "--num_updates", "3",
                "--num_iterations", "1", "--set_scope", "seeds", "--set_size", "2", "--window", "-1", "--critic",
                "none", "--kl_coef", "0", "--learning_rate", "1e-4", "--use_cpu", "true", "--model", pretrained,
                "--output_dir", tmp_path / "run")  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    metrics = [line for line in lines if "rollout/env_steps" in line]
    assert [line["rollout/env_steps"] for line in metrics] == [16, 32, 48]
    assert all(line["sampling/logprob_gap"] < 1e-5 for line in metrics)
    assert max(line["rollout/success"] for line in metrics) > 0 and metrics[0]["groups/distinct_signatures"] > 1
    before, after = load_policy(pretrained)[0].state_dict(), load_policy(tmp_path / "run")[0].state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_quick_starts_recipe_is_refused_for_answers(call_recipe, flags, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        call_recipe("finetune", *flags, "--model", tmp_path / "nothing", "--output_dir", tmp_path / "x")
    told = capsys.readouterr().err
    assert end.value.code == 2 and "begin with --config recipes/arithmetic/grpo.yaml" in told
    assert len(told.splitlines()) == 1 and not (tmp_path / "x" / "run.json").exists()


def test_a_missing_column_is_told_in_one_line(call_recipe, flags, tmp_path, capsys):
    with pytest.raises(SystemExit):
        call_recipe("pretrain", *flags, "answer=solution", "--output_dir", tmp_path / "x")
    assert "has no column 'solution'; its columns are prompt, numbers, target, answers" in capsys.readouterr().err


OWN = """
from own_parts import worth

def pay(answer, row):
    return worth(answer)
"""


def test_what_a_run_was_made_with_enters_its_identity_by_content(
    pretrained, call_recipe, tmp_path, monkeypatch, capsys
):
    """Rows, a function of one's own, what it imports, an objective: edited in place, the numbers are others."""
    monkeypatch.syspath_prepend(tmp_path)
    rows, own, parts = tmp_path / "rows.jsonl", tmp_path / "own_pay.py", tmp_path / "own_parts.py"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    own.write_text(OWN)
    parts.write_text("def worth(answer):\n    return 0.0\n")
    (tmp_path / "own_goal.py").write_text("def f(sets):\n    return sets.rewards_S_n.mean(dim=1)\n")
    task = ["--task", "dataset", "--task_args", f"path={rows}", "reward=own_pay:pay", "max_tokens=4"]

    def evaluate():
        call_recipe("evaluate", *task, "--policies", f"p={pretrained}", "--n", "2", "--output_dir", tmp_path / "out")
        return capsys.readouterr().out

    def train(updates, **options):
        call_recipe("finetune", "--config", tmp_path / "run.yaml", *task, "--num_updates", updates, "--model",
                    pretrained, "--output_dir", tmp_path / "run", **options)  # fmt: skip

    shape = dict(num_seeds=4, num_rollout_states=0, num_vines=0, per_device_train_batch_size=4, steps_per_generation=1,
                 num_iterations=1, set_scope="seeds", set_size=2, window=-1, critic="none", kl_coef=0.0, use_cpu=True,
                 objective="own_goal:f", num_sets="2", save_updates=1, split="train")  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(shape))
    train("2")
    assert "another evaluation" not in evaluate() and "another evaluation" not in evaluate()
    edits = (
        (rows, "= 6 :", "= 8 :", "data of task 'dataset'"),
        (own, "worth(answer)", "-worth(answer)", "code of 'own_pay'"),
        (parts, "0.0", "1.0", "code of 'own_pay'"),
        (tmp_path / "own_goal.py", "mean", "sum", "code of 'own_goal'"),
    )
    for file, had, has, told in edits:
        before = file.read_text()
        assert had in before
        file.write_text(before.replace(had, has))
        if file == parts:
            assert f"another evaluation ({told} changed): kept as records-" in evaluate()
        capsys.readouterr()
        with pytest.raises(SystemExit):
            train("2")
        assert f"holds a run with other settings ({told} changed)" in capsys.readouterr().err
        file.write_text(before)
