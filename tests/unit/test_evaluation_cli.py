"""`polytune.app.cli.run`: expected errors are one line and a status, bugs keep their traceback."""

import errno
from pathlib import Path

import pytest

from polytune import places
from polytune.app.cli import UsageError, run
from polytune.checks import require
from polytune.policy import CheckpointError
from polytune.rollout import RolloutError
from polytune.running.checkpoints import SaveError
from polytune.tasks import load_task


def raising(error):
    def main(argv):
        raise error

    return main


def touch_a_file_as_a_folder(argv):
    Path("/dev/null/folder").mkdir()


def write_to_a_full_device(argv):
    with open("/dev/full", "w") as file:
        file.write("x")


def unequal_zip(argv):
    """A bug within polytune: a built-in raises ValueError in one of its frames."""
    from polytune.evaluation import summary

    summary.as_interval((1.0, 2.0))


def foreign_value_error(argv):
    """Another package's ValueError, raised in its own frames."""
    import numpy

    numpy.zeros((2, 2)).reshape(3)
    raise AssertionError


def library_value_error(argv):
    import json

    json.loads("{")


EXPECTED = [
    (raising(UsageError("a flag")), 2, "error: a flag"),
    (raising(CheckpointError("a folder\n\n  in lines")), 1, "error: a folder in lines"),
    (raising(RolloutError("a task")), 1, "error: a task"),
    (raising(SaveError("a disk")), 1, "error: a disk"),
    (lambda argv: require(False, "a field"), 1, "error: a field"),
    (lambda argv: load_task("nothing"), 1, "error: unknown task 'nothing'"),
    (lambda argv: load_task("fourrooms").episode_class.nothing, None, AttributeError),
    (raising(OSError(errno.ENOSPC, "No space left on device", "f.bin")), 1, "error: no space left while writing f.bin"),
    (write_to_a_full_device, 1, "error: no space left while writing the outputs"),
    (touch_a_file_as_a_folder, 1, "error: /dev/null/folder: Not a directory"),
    (raising(TypeError("a bug")), None, TypeError),
    (raising(ValueError("a bug outside of polytune")), None, ValueError),
    (unequal_zip, None, ValueError),
    (foreign_value_error, None, ValueError),
    (library_value_error, None, ValueError),
]


@pytest.mark.parametrize(("main", "status", "expected"), EXPECTED)
def test_what_an_error_ends_in(main, status, expected, capsys, monkeypatch):
    monkeypatch.delenv("POLYTUNE_DEBUG", raising=False)
    if status is None:
        with pytest.raises(expected):
            run(main, [])
        assert capsys.readouterr().err == ""
        return
    with pytest.raises(SystemExit) as exit:
        run(main, [])
    assert exit.value.code == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(expected)


def test_debug_keeps_the_traceback(monkeypatch):
    monkeypatch.setenv("POLYTUNE_DEBUG", "1")
    with pytest.raises(CheckpointError):
        run(raising(CheckpointError("a folder")), [])


def test_an_interrupt_says_how_to_go_on(capsys):
    with pytest.raises(SystemExit) as exit:
        run(raising(KeyboardInterrupt()), [])
    assert exit.value.code == 130 and "the same command continues" in capsys.readouterr().err


@pytest.mark.parametrize(("file", "ours"), [("polytune/new.py", True), (".venv/lib/other/new.py", False)])
def test_what_polytune_raises_is_told_and_nothing_else(file, ours, capsys):
    """`make install` puts the virtual environment into the repository, whose packages are not ours."""
    code = compile("raise ValueError('a field')", places.PACKAGE.parent / file, "exec")
    with pytest.raises(SystemExit if ours else ValueError):
        run(lambda argv: exec(code), [])
    assert capsys.readouterr().err == ("error: a field\n" if ours else "")


def test_a_recipe_that_succeeds_returns(capsys):
    run(lambda argv: print(*argv), ["a", "b"])
    assert capsys.readouterr().out == "a b\n"
