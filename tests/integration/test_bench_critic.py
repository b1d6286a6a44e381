"""recipes/bench_critic.py: the kinds see the same episodes of a policy that stays, and what it reports is theirs."""

import json

import pytest
from doors import Doors

from polytune.policy import build_tiny
from polytune.policy.rendering import PROMPT_WORD


def test_kinds_are_measured_on_the_same_fixed_policy(call_recipe, tmp_path, capsys):
    for part in build_tiny("tiny", [PROMPT_WORD, *Doors().vocabulary()], seed=3):
        part.save_pretrained(tmp_path / "policy")
    flags = ["--task", "doors:Doors", "--split", "seeds:0-5", "--task_horizon", 8, "--model", tmp_path / "policy",
             "--num_updates", 5, "--max_env_steps", 2000, "--use_cpu", "true", "--first_update", 3,
             "--ceiling_passes", 2, "--cpu_threads", 1, "--output_dir", tmp_path / "bench"]  # fmt: skip
    call_recipe("bench_critic", *flags)
    report = json.loads((tmp_path / "bench/critic.json").read_text())
    kinds = report["kinds"]
    assert set(kinds) == {"head", "shared", "own"} and set(report["ceiling"]) == {"head", "own"}
    for kind in kinds.values():
        assert len(kind["explained_variance"]) == 5 and abs(kind["explained_variance"][0]) < 1e-6, "values begin at 0"
        assert kind["mean"] == pytest.approx(sum(kind["explained_variance"][2:]) / 3)
        assert max(kind["explained_variance"][2:]) > 0
        assert 0 < kind["critic_s"] < kind["update_s"]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("update 5/5")]
    figures = [line.split("explained")[0] for line in lines]
    assert figures[0] == figures[2], "head and own: the same episodes"
    assert not list((tmp_path / "bench").rglob("*.safetensors")), "nothing of it is kept"


def test_what_it_cannot_measure_is_refused(call_recipe, tmp_path, capsys):
    for wrong, words in ((["--kinds", "none"], "kinds has 'none'"), (["--num_updates", 4], "below first_update 8")):
        with pytest.raises(SystemExit) as status:
            call_recipe("bench_critic", "--output_dir", tmp_path / "none", *wrong)
        assert status.value.code == 2 and words in capsys.readouterr().err
