"""Several processes as a user starts them: what they learn, how they end together, what a run that hangs says."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import accumulate
from pathlib import Path

import pytest
import torch
import warm
from safetensors.torch import load_file
from test_resume import ROOT, command, outcome, policy, run  # noqa: F401 (a fixture)

from polytune.export import fresh, proof
from polytune.policy import build_tiny
from polytune.policy.rendering import PROMPT_WORD
from polytune.tasks.tabular.worlds import TwoStep

RECIPE = ROOT / "recipes/finetune.py"
HERE = Path(__file__).parent
BATCH = ["--steps_per_generation", "1", "--num_updates", "2", "--kl_coef", "0.3", "--per_device_train_batch_size"]
ACCELERATE = [Path(sys.executable).parent / "accelerate", "launch"]
LAUNCHERS = {
    "ddp": [*ACCELERATE, "--num_processes", "2", "--cpu", RECIPE],
    "fsdp2": [*ACCELERATE, "--config_file", ROOT / "recipes/accelerate/fsdp2.yaml", "--mixed_precision", "no",
              HERE / "sharded_on_cpu.py", RECIPE],
}  # fmt: skip


def start(*arguments, **environment):
    return subprocess.Popen(
        [str(word) for word in arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(HERE)} | environment,
    )


def finish(process, seconds=240):
    text, _ = process.communicate(timeout=seconds)
    return process.returncode, text


def by_hand(*arguments, **environment):
    """Two processes without a launcher, as on a cluster, forked (see warm.py); (status, text) in the order of rank."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    pair = [
        warm.Process(*arguments, env=os.environ | environment | {
            "PYTHONPATH": str(HERE), "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        })
        for rank in range(2)
    ]  # fmt: skip
    ended = [process.finish(240) for process in pair]
    return [(result.returncode, result.stdout + result.stderr) for result in ended]


def last_checkpoint(folder):
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def by_one_and_by_two(policy, tmp_path, options):  # noqa: F811
    """A run by one process and by two, with half of its batch each: what they leave, weights alike."""
    for status, text in by_hand(RECIPE, *command(policy, tmp_path / "two"), *BATCH, "18", *options):
        assert status == 0, text[-3000:]
    one = run(RECIPE, *command(policy, tmp_path / "one"), *BATCH, "36", *options)
    assert one.returncode == 0, one.stderr[-3000:]
    outcomes = [outcome(tmp_path / name, rng=False) for name in ("one", "two")]
    for name, value in outcomes[0]["weights"].items():
        torch.testing.assert_close(value, outcomes[1]["weights"][name], atol=2e-4, rtol=1e-3)
    return outcomes


def outcome_of(folder):
    """As ``outcome``; FSDP2 has another name for the optimiser's file."""
    for last in folder.glob("checkpoint-*"):
        if (last / "optimizer.bin").exists():
            (last / "optimizer.pt").symlink_to(last / "optimizer.bin")
    return outcome(folder, rng=False)


@pytest.fixture(scope="module")
def one_process(policy, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("one") / "run"
    result = run(RECIPE, *command(policy, folder), *BATCH, "18", "--use_cpu", "true")
    assert result.returncode == 0, result.stderr[-3000:]
    return outcome(folder, rng=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAUNCHERS)
def test_two_processes_of_which_one_is_killed_end_resume_and_learn_what_one_learns(
    kind,
    policy,  # noqa: F811
    one_process,
    tmp_path,
):
    """Whole trees per process, one gradient: the same weights, critic and metrics, written once, up to rounding."""
    folder = tmp_path / "run"
    launch = [*LAUNCHERS[kind], *command(policy, folder), *BATCH, "9", "--task", "faults:Faults"]
    status, text = finish(start(*launch, FAULT=f"kill 1 {folder}"))
    assert status != 0 and time.time() - float((folder / "fault").read_text()) < 60
    assert "error: process 0 stops: process 1 is gone" in text
    assert "checkpoint-2 is intact: the same command continues from there." in text
    status, text = finish(start(*launch))
    assert status == 0 and f"continuing from {folder}/checkpoint-2" in text, text[-3000:]
    found = outcome_of(folder)
    assert (kind == "fsdp2") == any(folder.glob("checkpoint-*/pytorch_model_fsdp.bin"))  # it was sharded
    for run_ in (found, one_process):  # a prompt of several trees runs once in each process
        run_["counters"]["tokens"]["prefilled"] = None
    assert found["counters"] == one_process["counters"] and found["steps"] == one_process["steps"]
    for part in ("weights", "critic"):
        for name, value in one_process[part].items():
            torch.testing.assert_close(value, found[part][name], atol=2e-4, rtol=1e-3)
    for x, y in zip(one_process["metrics"], found["metrics"], strict=True):  # one line an update
        for name in ("critic/loss", "kl", "grad_norm", "critic/grad_norm", "rollout/return", "advantages/set_scale_raw",
                     "advantages/gae_scale_applied", "critic/explained_variance", "groups/without_signal"):  # fmt: skip
            assert x[name] == pytest.approx(y[name], rel=2e-3, abs=1e-5), name
    recorded = json.loads((folder / "recorded_episodes.json").read_text())  # by process 0, with the whole weights
    with torch.no_grad():
        model = fresh.load(folder, "float32", False)
        proof.compare(recorded, [fresh.logprobs(model, e, 1.0) for e in recorded["episodes"]], "float32")


@pytest.mark.slow
def test_the_gradient_of_two_processes_is_that_of_one(policy, tmp_path):  # noqa: F811
    """One step of plain gradient descent, unclipped: what the weights moved by is the gradient."""
    step = ["--optim", "sgd", "--learning_rate", "1", "--critic", "shared", "--max_grad_norm", "1e9",
            "--num_updates", "1", "--num_iterations", "1", "--steps_per_generation", "1", "--kl_coef", "0",
            "--per_device_train_batch_size"]  # fmt: skip
    for status, text in by_hand(RECIPE, *command(policy, tmp_path / "two"), *step, "9"):
        assert status == 0, text[-3000:]
    one = run(RECIPE, *command(policy, tmp_path / "one"), *step, "18", "--use_cpu", "true")
    assert one.returncode == 0, one.stderr[-3000:]
    initial = load_file(policy / "model.safetensors")
    moved = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    gradients = [torch.cat([(own[n] - initial[n]).flatten().double() for n in sorted(own)]) for own in moved]
    assert gradients[0].norm() > 1e-3
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[0].norm()
    critics = [load_file(tmp_path / name / "checkpoint-1/critic.safetensors") for name in ("one", "two")]
    for name, value in critics[0].items():
        torch.testing.assert_close(value, critics[1][name], atol=1e-5, rtol=1e-4)


#: methods that look at an update as a whole, remember it, choose start states or replay: all in one run; those
#: with a loss of their own: test_methods_in_two.py
WHOLE = (
    "spear",
    "dph_rl",
    "weighted_replay",
    "steer",
    "epo",
    "empg",
    "verl",
    "novelty",
    "archive",
    "duration",
    "episode_mean",
    "vas",
    "alp",
    "d3s",
    "thr",
    "bnpo",
    "chi_squared",
    "early_stop",
    "alp_gmm",
)


#: those that want no critic, or an expert
APART = ("f_dpg", "dynamic_rewards", "optimal_baseline", "hpt", "recall_extend", "kl_cov", "props")


@pytest.mark.slow
def test_two_processes_replay_and_look_at_updates_as_one(policy, tmp_path):  # noqa: F811
    """Of each process's rows, half are for replay: the same rows in all, dealt out, and one gradient; numbers that
    methods take of a whole update, and what they remember of it, are those of one process."""
    replays = ["--methods", *WHOLE, "--num_updates", "3", "--method_args", "spear.share=0.25", "spear.warmup=0",
               "dph_rl.share=0.1", "dph_rl.family=all", "dph_rl.samples=2", "weighted_replay.share=0.1",
               "novelty.neighbours=2", "verl.stride=2", "alp.uniform=0.5", "early_stop.stretch=1.5",
               "alp_gmm.window=4", "thr.p=0.1"]  # fmt: skip
    replays += ["--set_normalise", "none", "--kl_reference", "pretrained", "--reward_shift", "1", "--use_cpu", "true"]
    outcomes = by_one_and_by_two(policy, tmp_path, replays)
    told = [[line["replay/rows"] for line in found["metrics"]] for found in outcomes]
    assert told[0] == told[1] and 0 < min(told[0]) and max(told[0]) > 1, told
    own = tuple(f"{name}/" for name in WHOLE)
    for x, y in zip(outcomes[0]["metrics"], outcomes[1]["metrics"], strict=True):
        for name in (*(key for key in x if key.startswith(own)), "entropy", "kl", "grad_norm", "rollout/return"):
            assert x[name] == pytest.approx(y[name], rel=2e-3, abs=1e-5), name
    remembered = [load_file(last_checkpoint(tmp_path / name) / "methods.safetensors") for name in ("one", "two")]
    assert {key.partition("/")[0] for key in remembered[0]} >= {"spear", "dph_rl", "weighted_replay", "vas", "alp"}
    for name, value in remembered[0].items():
        torch.testing.assert_close(value, remembered[1][name], atol=2e-4, rtol=1e-3)
    ratios = [[line.get("replay/ratio") for line in found["metrics"][1:]] for found in outcomes]
    assert ratios[0] == pytest.approx(ratios[1], rel=2e-3)


@pytest.mark.slow
def test_two_processes_imitate_match_and_sample_apart_as_one(tmp_path):
    """Methods that take the place of advantages, imitate an expert, or change the policy that samples: a world that has
    an expert, no critic."""
    start, (model, tokenizer) = tmp_path / "start", build_tiny("tiny", [PROMPT_WORD, *TwoStep().vocabulary()])
    model.save_pretrained(start)
    tokenizer.save_pretrained(start)
    options = ["--config", ROOT / "recipes/tabular/two_step_grpo.yaml", "--model", start, "--split", "seeds:0-3",
               "--num_seeds", "4", "--set_normalise", "none", "--num_updates", "3", "--steps_per_generation", "1",
               "--learning_rate", "1e-3",
               "--kl_reference", "pretrained", "--kl_coef", "1e-9", "--disable_tqdm", "true", "--cpu_threads", "1",
               "--use_cpu", "true", "--methods", *APART, "--method_args", "hpt.gate=1", "recall_extend.accuracy=0.9",
               "props.most_kl=1", "props.epochs=2", "--per_device_train_batch_size"]  # fmt: skip
    for status, text in by_hand(RECIPE, *options, "32", "--output_dir", tmp_path / "two"):
        assert status == 0, text[-3000:]
    one = run(RECIPE, *options, "64", "--output_dir", tmp_path / "one")
    assert one.returncode == 0, one.stderr[-3000:]
    weights, metrics, remembered = [], [], []
    for folder in (tmp_path / "one", tmp_path / "two"):
        weights.append(load_file(folder / "model.safetensors"))
        metrics.append([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()])
        remembered.append(load_file(last_checkpoint(folder) / "methods.safetensors"))
    for found in (weights, remembered):
        assert found[0].keys() == found[1].keys()
        for name, value in found[0].items():
            torch.testing.assert_close(value, found[1][name], atol=2e-4, rtol=1e-3)
    assert {key.partition("/")[0] for key in remembered[0]} >= {"hpt", "recall_extend", "props"}
    own = tuple(f"{name}/" for name in APART)
    for x, y in zip(*metrics, strict=True):
        assert x["replay/rows"] == y["replay/rows"]
        for name in (*(key for key in x if key.startswith(own)), "entropy", "grad_norm", "rollout/return"):
            assert x[name] == pytest.approx(y[name], rel=2e-3, abs=1e-5), name
    assert metrics[0][-1]["sampling/logprob_gap"] > 1e-3 and metrics[0][-1]["hpt/failing"] > 0


#: methods that choose where trees and attempts begin, or read hidden states: those that go together
CHOOSERS = {  # Knapsack's budget is each process's own: test_methods_in_two.py
    "rep_exp": ["--methods", "rep_exp"],
    "go_explore": ["--methods", "go_explore"],
    "open_states": ["--methods", "open_states", "--rollout_states", "start"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHOOSERS)
def test_two_processes_choose_where_to_begin_as_one(kind, policy, tmp_path):  # noqa: F811
    options = [*CHOOSERS[kind], "--num_updates", "3", "--use_cpu", "true"]
    outcomes = by_one_and_by_two(policy, tmp_path, options)
    for x, y in zip(outcomes[0]["metrics"], outcomes[1]["metrics"], strict=True):
        found = [key for key in x if key.startswith(f"{kind}/")]
        assert found
        for name in found:  # leverages divide by a small damping, which makes rounding larger
            assert x[name] == pytest.approx(y[name], rel=2e-2, abs=1e-5), name
        for name in ("entropy", "kl", "grad_norm", "rollout/return", "rollout/env_steps"):
            assert x[name] == pytest.approx(y[name], rel=2e-3, abs=1e-5), name
    kept = [last_checkpoint(tmp_path / name) / "methods.safetensors" for name in ("one", "two")]
    assert [path.is_file() for path in kept] == [kind != "rep_exp"] * 2
    remembered = [load_file(path) for path in kept if path.is_file()] or [{}, {}]
    assert remembered[0].keys() == remembered[1].keys()
    for name, value in remembered[0].items():
        torch.testing.assert_close(value, remembered[1][name], atol=2e-4, rtol=1e-3)


@pytest.mark.slow
def test_two_processes_temper_as_one(policy, tmp_path):  # noqa: F811
    """Temperatures by token: the same numbers and weights from two processes as from one."""
    tempers = ["--methods", "ead", "b_star", "--method_args", "ead.cutoff=0", "ead.tau_max=2", "b_star.low=1",
               "b_star.high=1.2", "b_star.steps=2", "--num_updates", "2", "--use_cpu", "true"]  # fmt: skip
    outcomes = by_one_and_by_two(policy, tmp_path, tempers)
    for x, y, factor in zip(outcomes[0]["metrics"], outcomes[1]["metrics"], (2.0, 2.4), strict=True):
        found = [one["sampling/temperature_factor"] for one in (x, y)]
        assert found == [pytest.approx(factor)] * 2  # one token an action; B-STaR's second temperature is 1.2
        assert x["b_star/balance"] == pytest.approx(y["b_star/balance"], rel=2e-3)
        assert max(x["sampling/logprob_gap"], y["sampling/logprob_gap"]) < 1e-5
        for name in ("entropy", "kl", "grad_norm", "rollout/return"):
            assert x[name] == pytest.approx(y[name], rel=2e-3, abs=1e-5), name


@pytest.mark.slow
def test_two_processes_share_the_budget_and_the_start_states(policy, tmp_path):  # noqa: F811
    """Killed and resumed: no start state is passed over, and the environment steps end within a tree of the budget."""
    folder, budget = tmp_path / "run", 700
    program = [RECIPE, *command(policy, folder), *BATCH, "36", "--num_updates", "3",
               "--max_env_steps", budget, "--task", "faults:Faults"]  # fmt: skip
    (left, _), (killed, _) = by_hand(*program, FAULT=f"kill 1 {folder}")
    assert left == 1 and killed == -signal.SIGKILL
    (status, text), (other, _) = by_hand(*program)
    assert status == other == 0 and "continuing from" in text, text[-3000:]
    found = outcome_of(folder)
    trees = [line["rollout/trees"] for line in found["metrics"]]
    assert min(trees) >= 2 and max(trees) < 8  # a tree for each process at least, and the budget decided
    assert found["counters"]["start_states_taken"] == sum(trees)
    assert [line["rollout/passes"] for line in found["metrics"]] == pytest.approx([t / 3 for t in accumulate(trees)])
    assert abs(found["counters"]["env_steps"] - budget) < found["counters"]["env_steps"] / sum(trees)


@pytest.mark.slow
def test_an_engine_that_dies_in_one_process_ends_the_others(policy, tmp_path):  # noqa: F811
    """Started by hand, as on a cluster: no launcher ends the other."""
    folder = tmp_path / "run"
    program = [RECIPE, *command(policy, folder), *BATCH, "9", "--task", "faults:Faults"]
    (status, text), (other_status, other) = by_hand(*program, FAULT=f"engine 1 {folder}")
    assert status == other_status == 1
    assert "error: the engine failed (test)." in other and "Traceback" not in other
    assert "error: process 0 stops: process 1 has ended with an error (the engine failed (test)." in text
    assert "checkpoint-2 is intact" in text and "Traceback" not in text
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.slow
def test_a_run_that_hangs_says_where(policy, tmp_path):  # noqa: F811
    folder = tmp_path / "run"
    process = start(sys.executable, RECIPE, *command(policy, folder), "--task", "faults:Faults", "--hang_timeout", "1",
                    FAULT=f"hang 0 {folder}")  # fmt: skip
    try:
        text = ""
        while not (" in hang" in text and "end of the stacks" in text):
            line = process.stdout.readline()
            assert line, text
            told = "watchdog: no progress" in line
            text = line if told else text and text + line  # a busy machine may be slow elsewhere before
        assert process.poll() is None  # it says so and goes on waiting
        assert "in stage 'training > update > scoring > rollouts' of process 0 of 1" in text
        assert "update 2 of 4" in text and "checkpoint-4 is intact" in text
        assert "tests/integration/faults.py" in text
        process.send_signal(signal.SIGUSR1)
        while "in hang" not in process.stdout.readline():
            pass  # the stacks, on demand
    finally:
        process.kill()
        process.communicate()
