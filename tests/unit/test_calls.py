"""The programs as functions: fields become flags, a class or a function its path, a wrong field is named."""

import os
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

import polytune
from polytune.app import calls, methods_benchmark, tutorial
from polytune.measures import pass_at_k
from polytune.running import processes
from polytune.tasks.grid.fourrooms import FourRooms


def test_fields_are_written_as_flags():
    assert calls._flag("use_peft", True) == ["--use_peft", "True"]
    assert calls._flag("policies", [Path("a"), "b=c"]) == ["--policies", "a", "b=c"]
    assert calls._flag("task_args", {"size": "tiny", "novelty": 0.5}) == ["--task_args", "size=tiny", "novelty=0.5"]
    assert calls._flag("task", FourRooms) == ["--task", "polytune.tasks.grid.fourrooms:FourRooms"]
    assert calls._flag("objective", pass_at_k) == ["--objective", "polytune.measures.passk:pass_at_k"]


@pytest.mark.parametrize("made", [lambda answer, row: 1.0, type("Own", (), {"__module__": "__main__"})])
def test_what_no_other_program_could_import_is_refused(made):
    with pytest.raises(ValueError, match="put it at the top of a file of its own, my_task.py say"):
        calls._flag("task", made)


def test_a_field_that_is_none_is_left_out_and_a_wrong_one_is_named(tmp_path):
    with pytest.raises(ValueError, match="unknown argument '--sede'; did you mean seed"):
        polytune.pretrain(output_dir=tmp_path, sede=1, preset=None)
    with pytest.raises(ValueError, match="target_success must lie in"):
        polytune.pretrain(output_dir=tmp_path, target_success=2.0)
    assert not list(tmp_path.iterdir())


def test_bars_of_other_packages_are_off_within_a_call(monkeypatch, tmp_path):
    """And what the caller had is there again after it."""
    import datasets
    from transformers.utils import logging

    seen = []

    def main(argv):
        seen.append((logging.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()))

    monkeypatch.setattr("polytune.app.evaluate.main", main)
    (tmp_path / "summary.json").write_text("{}")
    for shown in (True, False):
        (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
        (datasets.enable_progress_bars if shown else datasets.disable_progress_bars)()
        before = dict(os.environ)
        polytune.evaluate(output_dir=tmp_path)
        assert (logging.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()) == (shown, not shown)
        assert dict(os.environ) == before
    assert seen == [(False, True)] * 2
    logging.enable_progress_bar()
    datasets.enable_progress_bars()


PROGRAMS_HERE = {
    "a call": lambda folder: calls.call_here("finetune", []),
    "a method's run": lambda folder: methods_benchmark.call("finetune", [], folder / "log"),
    "the tutorial": lambda folder: tutorial.recipe("finetune", "bandit_grpo", folder),
}


@pytest.mark.parametrize("ends", ["well", "with an error"])
@pytest.mark.parametrize("caller", PROGRAMS_HERE)
def test_nobody_watches_a_process_after_a_program_that_ran_in_it(caller, ends, monkeypatch, tmp_path):
    def main(argv):
        processes.supervise(SimpleNamespace(hang_timeout=60, process_index=0, world_size=1, output_dir=str(tmp_path)))
        assert "watchdog" in {thread.name for thread in threading.enumerate()}
        if ends == "with an error":
            raise ValueError("an error")

    monkeypatch.setattr("polytune.app.finetune.main", main)
    with nullcontext() if ends == "well" else pytest.raises(ValueError, match="an error"):
        PROGRAMS_HERE[caller](tmp_path)
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}


def test_polytune_alone_loads_nothing_and_has_no_other_names():
    code = "import sys, polytune; print([m for m in ('torch', 'numpy', 'polytune.app') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'finetuned'"):
        polytune.finetuned  # noqa: B018
