"""The page's TextWorld environment: found, refused without a way to save it, played, restored, conforming."""

import re
from pathlib import Path

import pytest

from polytune.tasks import load_task
from polytune.tasks.conformance import faults

pytest.importorskip("textworld", reason="textworld is not installed: make test-worlds")
PAGE = Path(__file__).resolve().parents[2] / "docs/how-to/gymnasium.md"


@pytest.fixture(autouse=True)
def example(tmp_path_factory, monkeypatch):
    [code] = [c for c in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "class Quest" in c]
    folder = tmp_path_factory.getbasetemp()
    (folder / "textworld_env.py").write_text(code)
    monkeypatch.syspath_prepend(folder)


def test_a_game_is_won_by_words_and_restored():
    with pytest.raises(ValueError, match=r"cannot be saved by snapshots=copy .*: use snapshots=replay"):
        load_task("gym:textworld_env:Quest-v0", length=1, rooms=1)
    task = load_task("gym:textworld_env:Quest-v0", snapshots="replay", horizon=20, length=1, rooms=1)
    assert faults(task, 2) == []
    episode = task.start(1)
    won = episode.env.unwrapped.game.state.game.metadata["walkthrough"]
    episode.step("look")
    episode.step("sing a song to nobody")
    copy = task.restore(episode.snapshot())
    for run in (episode, copy):
        for command in won[:-1]:
            assert run.step(command).stop_reason is None
        step = run.step(won[-1])
        assert (step.reward, step.stop_reason) == (1.0, "success")
    assert copy.observation() == episode.observation()
