"""The order of start states reads only those that a run meets (their order: tests/integration/test_trainer.py)."""

from polytune.tasks import load_task
from polytune.trainer.schedule import start_state_schedule


def test_states_that_the_run_does_not_meet_are_not_read(monkeypatch):
    """A dataset may have a million rows; a run of two updates reads four of them."""
    task, started = load_task("sibling", parents=2, children=6, lines=48), []
    start = task.start
    monkeypatch.setattr(task, "start", lambda seed: started.append(seed) or start(seed))
    rows = start_state_schedule(task, list(range(100_000)), updates=2, prompts_per_update=2, run_seed=0)
    assert started == rows["start_seed"][:] and len(started) == 4
