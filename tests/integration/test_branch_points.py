"""recipes/branch_points.py: what it prints is what its trees say; a settled outcome has no variance."""

import json

import pytest
from doors import Doors

from polytune.policy import build_tiny
from polytune.policy.rendering import PROMPT_WORD


def test_variance_falls_along_the_trajectory(call_recipe, tmp_path, capsys):
    for part in build_tiny("tiny", [PROMPT_WORD, *Doors().vocabulary()], seed=3):
        part.save_pretrained(tmp_path / "policy")
    flags = ["--task", "doors:Doors", "--split", "seeds:0-5", "--task_horizon", 8, "--model", tmp_path / "policy"]
    call_recipe("branch_points", *flags, "--num_rollout_states", 3, "--num_seeds", 12, "--output_dir", tmp_path)
    points = json.loads((tmp_path / "points.json").read_text())["points"]
    assert [point["at"] for point in points] == [0, 0.25, 0.5, 0.75]
    assert all(a["turns"] > b["turns"] for a, b in zip(points, points[1:], strict=False))
    assert points[0]["variance"] > points[-1]["variance"] and points[0]["live"] > points[-1]["live"] > 0
    assert points[0]["distinct"] > points[-1]["distinct"] >= 1
    assert (tmp_path / "points.png").stat().st_size > 10_000
    table = [line for line in capsys.readouterr().out.splitlines() if " | " in line]
    assert len(table) == 5 and table[1].startswith("0.000 | ")


def test_points_that_it_cannot_place_are_refused(walkers, call_recipe, tmp_path, capsys):
    flags = ["--model", walkers["quick"], "--output_dir", tmp_path / "none"]
    for wrong in (["--rollout_states", "start"], ["--num_seeds", "1"]):
        with pytest.raises(SystemExit) as status:
            call_recipe("branch_points", *flags, *wrong)
        assert status.value.code == 2 and "the points are equally spaced" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
