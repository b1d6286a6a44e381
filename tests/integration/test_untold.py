"""Nobody is told of a run: a program reaches no hub, though the libraries below would tell of each."""

import os
import subprocess
import sys

import pytest
from hub_server import Hub
from walkers import ROOT

TRACKING = ("CI", "DO_NOT_TRACK", "DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE")
ASKED = {"DO_NOT_TRACK": "0"}


def calls(told, *command):
    """What a program asks of a hub."""
    env = {name: value for name, value in os.environ.items() if name not in TRACKING}
    with Hub() as hub:
        env |= {"HF_ENDPOINT": hub.address} | told
        done = subprocess.run([sys.executable, *map(str, command)], env=env, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return hub.calls


@pytest.mark.parametrize("told", [{}, ASKED])
def test_a_program_tells_nobody_of_a_run(told, walkers, tmp_path):
    """Nor does the trainer where others are asked to."""
    found = calls(
        told, "recipes/finetune.py", "--config", ROOT / "recipes/fourrooms/smoke.yaml", "--model", walkers["quick"],
        "--num_updates", 1, "--task_horizon", 8, "--cpu_threads", 1, "--split", "seeds:0-1",
        "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert not any("telemetry" in call for call in found) and (told or not found), found


@pytest.mark.parametrize(
    ("before", "told", "heard"),
    [("import polytune.app.cli", {}, False), ("import polytune.app.cli", ASKED, True), ("", {}, True)],
)
def test_what_libraries_tell_is_the_users_choice(before, told, heard):
    code = f"{before}\nimport huggingface_hub.utils as u, time; u.send_telemetry('x'); time.sleep(1)"
    assert any("telemetry" in call for call in calls(told, "-c", code)) == heard
