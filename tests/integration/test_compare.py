"""recipes/compare.py from end to end on a toy task: a crash, a second call, a third one, changed settings."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import warm

from polytune.policy import build_tiny
from polytune.policy.rendering import PROMPT_WORD

TASK = '''
"""A vault that opens in the last turn only, so that every episode costs the same; it jams for one run when told to."""

import os
import sys

from polytune.tasks import Episode, Task


class VaultEpisode(Episode):
    def _begin(self):
        self.dial = (self.seed + (self.task.perturb == "turned") * (1 + self.task.perturb_seed)) % 3

    def observation(self):
        return f"dial{self.dial}"

    def _act(self, action):
        if os.path.exists(os.environ["JAM"]) and os.path.exists("out/b/seed_1/checkpoint-2"):
            if "out/b/seed_1" in sys.argv:  # in the second update
                raise RuntimeError("the vault jams")
        self.dial = (self.dial + (action == "turn")) % 3
        return action == "pull" and self.turn == self.task.horizon

    def _place(self):
        return self.dial


class Vault(Task):
    name = "vault"
    actions = ("turn", "pull")
    instructions = "Open the vault."
    episode_class = VaultEpisode
    perturbations = ("turned",)

    def __init__(self, horizon=100, perturb=None, perturb_seed=0):
        super().__init__(horizon)
        self.perturb, self.perturb_seed = self.check_perturbation(perturb, perturb_seed)

    def vocabulary(self):
        return ["turn", "pull", "dial0", "dial1", "dial2"]
'''
METHOD = """
num_seeds: 4
num_rollout_states: 0
num_vines: 0
num_generations: 4
per_device_train_batch_size: 4
steps_per_generation: 2
num_updates: 1
num_iterations: 1
learning_rate: 1.0e-3
use_cpu: true
"""


@pytest.fixture
def bench(tmp_path, monkeypatch, call_recipe):
    """The toy task, an untrained policy, two methods; ``bench(*flags)`` compares them within this process."""
    (tmp_path / "vault.py").write_text(TASK)
    (tmp_path / "a.yaml").write_text(METHOD + "set_scope: none\n")
    (tmp_path / "b.yaml").write_text(METHOD + "set_scope: seeds\nset_size: 2\nwindow: -1\ncritic: none\n")
    (tmp_path / "jam").touch()
    monkeypatch.setenv("JAM", str(tmp_path / "jam"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    from vault import Vault

    model, tokenizer = build_tiny("tiny", [PROMPT_WORD, *Vault().vocabulary()])
    model.save_pretrained(tmp_path / "pretrained")
    tokenizer.save_pretrained(tmp_path / "pretrained")
    size = ("--methods", "a.yaml", f"b={tmp_path}/b.yaml", "--seeds", 2, "--task", "vault:Vault", "--task_horizon", 6,
            "--split", "seeds:0-9", "--num_start_states", 6, "--model", tmp_path / "pretrained", "--n", 4,
            "--set", "num_updates=2", "--output_dir", "out", "--keep", "data/kept.json")  # fmt: skip
    return lambda *flags: call_recipe("compare", *size, *flags)


@pytest.mark.slow
def test_a_comparison_from_end_to_end(bench, tmp_path, capsys, monkeypatch):
    out, kept = tmp_path / "out", tmp_path / "data" / "kept.json"
    programs = "polytune.running.run_queue.subprocess"
    monkeypatch.setattr(programs, warm.FOR_THE_QUEUE)

    # one run crashes, the others finish; the seed that is whole has its table
    with pytest.raises(SystemExit) as exit:
        bench("--workers", 2)
    printed = capsys.readouterr()
    assert exit.value.code == 1 and not kept.exists()
    assert "0 of 5 runs are done, 2 at a time" in printed.out
    assert "b seed 1: FAILED" in printed.out and printed.out.count(": success ") == 4
    assert "task 'vault' raised RuntimeError in turn 0" in printed.err and "the vault jams" in printed.err
    assert "log: out/b/seed_1/finetune.log" in printed.err
    assert "error: 1 of 5 runs failed (b seed 1)" in printed.err.splitlines()[-1]
    assert "1 seed (0), 6 start states x 4 samples" in printed.out

    # the second call makes up for it, and leaves alone what was finished
    (tmp_path / "jam").unlink()
    finished = {path: path.read_bytes() for path in out.glob("*/**/*.jsonl") if "b/seed_1" not in str(path)}
    assert len(finished) == 3 + 3 + 4  # metrics and trees of the finished runs, records of those and of the pretrained
    monkeypatch.setattr(programs, subprocess)  # each program in a Python of its own, as a user's
    bench()
    monkeypatch.setattr(programs, warm.FOR_THE_QUEUE)
    printed = capsys.readouterr()
    assert "4 of 5 runs are done" in printed.out and "b seed 1: success" in printed.out
    assert all(path.read_bytes() == content for path, content in finished.items())
    assert "continuing from out/b/seed_1/checkpoint-2" in (out / "b/seed_1/finetune.log").read_text()
    check_results(out, kept, tmp_path)

    # a perturbation only adds to the evaluations
    before, plain = (out / "table.md").read_text(), {path: path.read_text() for path in out.glob("**/records.jsonl")}
    bench("--perturb", "turned")
    printed = capsys.readouterr().out
    assert "0 of 5 runs are done" in printed and "## Under turned" in printed
    assert all(path.read_text().startswith(content) for path, content in plain.items())
    check_perturbed(out, json.loads(kept.read_text()), printed)

    # a further call has nothing to do but show
    monkeypatch.setattr("polytune.running.run_queue.Launcher.call", None)
    bench()
    assert "5 of 5 runs are done" in capsys.readouterr().out and (out / "table.md").read_text() == before
    bench("--seeds", 1, "--baseline", "b")
    assert "difference to b" in capsys.readouterr().out

    # kept as small files, the comparison is whole in another folder, too; what is not kept is run
    bench("--keep_runs", "runs")
    bench("--keep_runs", "runs", "--output_dir", "second")
    assert "5 of 5 runs are done" in capsys.readouterr().out
    assert (tmp_path / "second/table.md").read_text() == before and not list(tmp_path.glob("runs/**/*.safetensors"))
    shutil.rmtree(tmp_path / "runs/a-0")
    calls = []
    monkeypatch.setattr("polytune.running.run_queue.Launcher.call", lambda self, words, *_, **__: calls.append(words))
    with pytest.raises(SystemExit):  # it trains nothing, so the run fails
        bench("--keep_runs", "runs", "--output_dir", "third")
    assert "4 of 5 runs are done" in capsys.readouterr().out
    assert "polytune.app.finetune" in calls[0] and calls[0][-1] == "third/a/seed_0" and not Path("runs/a-0").exists()
    assert "num_updates was 2, now 3" in refusal(
        bench, capsys, "--keep_runs", "runs", "--output_dir", "fourth", "--set", "num_updates=3"
    )
    monkeypatch.setattr("polytune.running.run_queue.Launcher.call", None)

    # other settings, another pretrained policy, unlike budgets: refused before anything is run
    for flags, words in (
        (("--set", "num_updates=2", "learning_rate=2e-3"), ["holds a run with other settings", "0.002"]),
        (("--task_horizon", 7), ["other settings", "task_horizon was 6, now 7"]),
    ):
        assert all(word in refusal(bench, capsys, *flags) for word in words)
    metrics = out / "a" / "seed_1" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"rollout/env_steps": 96', '"rollout/env_steps": 102'))
    (out / "table.md").unlink()
    assert "no table: environment steps differ by 3.1 %" in refusal(bench, capsys)
    assert not (out / "table.md").exists()
    settings = tmp_path / "pretrained" / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"rms_norm_eps": 1e-3}))
    assert "was trained from another pretrained policy" in refusal(bench, capsys)


def check_perturbed(out, found, printed):
    """The perturbed figures against the records themselves."""
    under = found["perturbed"]["turned"]
    rates = {None: [], "turned": []}
    for seed in (0, 1):
        lines = (out / f"b/seed_{seed}/evaluation/records.jsonl").read_text().splitlines()
        samples = [record for record in map(json.loads, lines) if not record["greedy"]]
        for name, own in rates.items():
            own += [record["success"] for record in samples if record["perturb"] == name]
    before, after = (sum(own) / len(own) for own in rates.values())
    assert len(rates["turned"]) == 2 * 24 and found["policies"]["b"]["success"]["estimate"] == pytest.approx(before)
    assert under["policies"]["b"]["success"]["estimate"] == pytest.approx(after)
    assert under["changes"]["b"]["success"]["estimate"] == pytest.approx(after - before)
    gap = after - under["policies"]["a"]["success"]["estimate"]
    assert under["differences"]["a"]["b"]["success"]["estimate"] == pytest.approx(gap)
    assert (out / "coverage_turned.png").stat().st_size > 10_000
    assert "## Under turned" in (out / "table.md").read_text() and "difference to a, turned" in printed


def refusal(bench, capsys, *flags):
    """The one line of an error."""
    with pytest.raises(SystemExit) as exit:
        bench(*flags)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert exit.value.code == 1 and len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def check_results(out, kept, tmp_path):
    """Figures against the records and metrics themselves; nothing of this machine in what is kept."""
    text = kept.read_text()
    assert 'data-widget="maps"' not in (page := (out / "report.html").read_text()) and "polytune.app.compare" in page
    found = json.loads(text)
    assert found == json.loads((out / "summary.json").read_text())
    assert str(tmp_path) not in text and str(tmp_path) in str(out)
    assert found["command"].startswith("python -m polytune.app.compare --methods a.yaml b=b.yaml --seeds 2")
    assert found["seeds"] == [0, 1] and found["baseline"] == "a" and found["failed"] == []
    assert found["machine"]["cores"] >= 1 and found["versions"]["torch"] and len(found["settings"]["pretrained"]) == 16
    assert found["methods"]["b"]["set_scope"] == "seeds" and found["methods"]["b"]["num_updates"] == 2
    assert found["methods"]["a"]["critic"] == "head" and found["methods"]["a"]["learning_rate"] == 1e-3
    for name in ("a", "b"):
        rates = []
        for seed in (0, 1):
            folder = out / name / f"seed_{seed}"
            records = [json.loads(line) for line in (folder / "evaluation/records.jsonl").read_text().splitlines()]
            samples = [record for record in records if not record["greedy"]]
            assert len(samples) == 6 * 4 and {record["policy"] for record in records} == {f"{name}_s{seed}"}
            rates.append(sum(record["success"] for record in samples) / 24)
            run = found["runs"][name][str(seed)]
            entropy = -sum(record["logprob"] for record in samples) / (24 * 6)  # every episode takes 6 turns
            assert run["success"] == pytest.approx(rates[-1]) and run["entropy"] == pytest.approx(entropy)
            assert (run["env_steps"], run["gradient_steps"], run["updates"]) == (2 * 2 * 4 * 6, 4, 2)
            assert run["train_seconds"] > 1
        value = found["policies"][name]["success"]
        assert value["estimate"] == pytest.approx(sum(rates) / 2) and value["low"] < value["estimate"] < value["high"]
    gap = found["policies"]["b"]["success"]["estimate"] - found["policies"]["pretrained"]["success"]["estimate"]
    assert found["differences"]["pretrained"]["b"]["success"]["estimate"] == pytest.approx(gap)
    assert set(found["differences"]["a"]) == {"b"} and "groups/without_signal" in found["signals"]["b"]
    for name in ("coverage.png", "training.png"):
        assert (out / name).stat().st_size > 10_000
    assert "| success" in (out / "table.md").read_text()
