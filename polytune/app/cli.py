"""Command lines of the programs: YAML defaults, flags that override them, and errors that name near misses."""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import dis
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from polytune.app.fields import Part, add_arguments, part_of
from polytune.app.misspelt import as_flags, near_misses, place_of_word, refuse_empty, refuse_lists, wrong_value
from polytune.errors import ToldError, UsageError
from polytune.helptext import program_help
from polytune.lookup import did_you_mean
from polytune.places import PACKAGE, RECIPES, at_home, find_file, recipe_name, recipes, runnable
from polytune.recipe import read_recipe
from polytune.running.ending import ends_when_told, let_go, what_is_left
from polytune.terminal import ends_with_its_reader, is_quiet, own_bars_only, quietened, say_error

# Threads that wait by spinning for long slow each other down sixfold when other programs share the cores; waiting after
# a thousand rounds costs nothing on an idle machine. Read when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# Libraries below tell their makers of each run (TRL's trainers, vLLM, huggingface_hub): not of a user who has not asked
# for it with DO_NOT_TRACK=0. Read when they are imported.
os.environ.setdefault("DO_NOT_TRACK", "1")

QUIET_FLAGS = ("-q", "--quiet")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """A recipe's fields (``polytune.recipe``), the errors for people.

    Raises:
        UsageError: the file is missing, is not YAML, or is no mapping of names to values.
    """
    path = find_file(path)
    if not path.is_file():
        beside = [str(path.with_name(one.name)) for one in path.parent.glob("*.y*ml")]
        near = did_you_mean(str(path), dict.fromkeys([*beside, *recipes()]), write=str)
        if within := [Path(name).name for name in recipes() if Path(name).parent == path]:
            raise UsageError(f"config {str(path)!r} is a folder; the recipes in it are {', '.join(within)}")
        folders = sorted({str(Path(name).parent) for name in recipes()})
        raise UsageError(f"config {str(path)!r} does not exist; {near or 'recipes lie in ' + ', '.join(folders)}")
    try:
        return read_recipe(path)
    except ValueError as error:
        raise UsageError(str(error)) from error


def parse(
    classes: Sequence[type | str],
    argv: Sequence[str],
    *,
    description: str,
    default_config: str | Path | None = None,
    given: list[str] | None = None,
) -> tuple[Any, ...]:
    """Instances of ``classes`` from an optional ``--config FILE.yaml`` and flags, which override it.

    Args:
        classes: dataclasses with distinct field names; "module:Class" is loaded when the command line is known to be
            good, if :mod:`polytune.app.fields` keeps its fields.
        argv: the command line without the program's name.
        description: shown by ``--help``; its first lines should hold an example.
        default_config: YAML used when ``--config`` is not given.
        given: gets the names of the fields that the YAML or a flag named.

    Raises:
        UsageError: unknown key or flag (with near misses), wrong type, or values that a class refuses.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", default=default_config)
    first.add_argument("--help-all", action="store_true")
    chosen, flags = first.parse_known_args(list(argv))
    parts = [part_of(cls, whole=chosen.help_all or bool(_building)) for cls in classes]
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False, exit_on_error=False)
    parser.error = _raise_usage  # type: ignore[method-assign]
    for part in parts:
        add_arguments(parser, part)
    known = [action.dest for action in parser._actions if action.dest != "help"]
    _add_common(parser, default_config)
    if _building:
        raise _Built(parser, parts)
    settings = load_yaml(chosen.config) if chosen.config else {}
    if chosen.help_all or "-h" in flags or "--help" in flags:
        fields = [(p.heading, [a.name for a in p.arguments] if chosen.help_all else p.shown) for p in parts]
        print(program_help(parser, fields, settings), end="")
        raise SystemExit(0)
    for key in settings:
        if key not in known:
            raise UsageError(f"config {chosen.config} has the unknown key {key!r}{near_misses(key, known)}")
    refuse_empty(parts, settings, chosen.config)
    refuse_lists(parser, settings, chosen.config)
    empty = {key: value for key, value in settings.items() if value is None or value == []}  # no flag says these
    parser.set_defaults(**empty)
    words = [word for key, value in settings.items() if key not in empty for word in as_flags(key, value)]
    try:
        values, unknown = parser.parse_known_args([*words, *flags])
    except argparse.ArgumentError as error:
        raise UsageError(wrong_value(error, parser, settings, chosen.config)) from error
    for name, value in vars(values).items():
        setattr(values, name, at_home(value))
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0]
        told = near_misses(name, known) if unknown[0].startswith("-") else place_of_word(unknown[0], known)
        raise UsageError(f"unknown argument {unknown[0]!r}{told}")
    if given is not None:
        given += dict.fromkeys([*settings, *flagged(flags, known)])
    try:
        return tuple(part.build(values) for part in parts)
    except UsageError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def flagged(words: Sequence[str], known: Sequence[str]) -> list[str]:
    """The fields of ``known`` that a command line names, as ``--a_field``, ``--a-field`` or ``--no_field``."""
    names = [word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")]
    names = [name if name in known else name.removeprefix("no_") for name in names]
    return [name for name in names if name in known]


def parser_of(main: Callable[[Sequence[str]], None]) -> argparse.ArgumentParser:
    """The parser that a program's ``main`` builds first; nothing else of the program is done."""
    return _built_by(main)[0]


def parts_of(main: Callable[[Sequence[str]], None]) -> list[Part]:
    """The fields that a program's ``main`` takes, with the texts of all; nothing else of the program is done."""
    return _built_by(main)[1]


def _built_by(main: Callable[[Sequence[str]], None]) -> tuple[argparse.ArgumentParser, list[Part]]:
    _building.append(main)
    try:
        main([])
    except _Built as built:
        return built.args
    finally:
        _building.pop()
    raise ValueError(f"{main} parsed nothing: a program begins with polytune.app.cli.parse.")


class _Built(Exception):
    """Carries a parser, and the parts that it was made from, out of a program."""


_building: list[Callable] = []


def _add_common(parser: argparse.ArgumentParser, default_config: str | Path | None) -> None:
    """What every program takes beside its fields; ``run`` has seen to --quiet before."""
    default = "none" if default_config is None else recipe_name(default_config)
    parser.add_argument("--config", metavar="FILE.yaml", help=f"YAML with defaults (unset: {default})")
    parser.add_argument(*QUIET_FLAGS, action="store_true", help="Say nothing but errors; files are written as usual.")
    parser.add_argument("--help-all", action="store_true", help="Show every field that transformers and TRL know, too.")


def refuse_unused(config: Any, reasons: dict[str, str]) -> None:
    """Refuse fields that the program would ignore: ``reasons`` maps each to what to do instead."""
    defaults = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(config)
    }
    for name, reason in reasons.items():
        if getattr(config, name) != defaults[name]:
            raise UsageError(f"{name} is {getattr(config, name)!r}, but has no effect here: {reason}.")


def _raise_usage(message: str) -> None:
    raise UsageError(message.replace("argument --", "field "))


def set_cpu_threads(threads: int | None) -> None:
    """Give torch the CPU threads of this process; None: the machine's cores shared by its processes.

    ``accelerate launch`` sets one thread per process when nothing else is said, which halves a laptop.
    """
    import torch

    if threads is None and not torch.cuda.is_available():
        threads = max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if threads is not None:
        torch.set_num_threads(threads)


def start_processes() -> None:
    """Be one of the processes that were asked for: ``accelerate launch`` starts a single one where it sees no GPU, or
    with ``--cpu``, whatever ``--num_processes`` says. Then this process becomes torchrun, which starts them all.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1:
        import torch

        if not torch.accelerator.is_available():
            os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # or each process would train alone
    if started > 1 or "ACCELERATE_USE_CPU" not in os.environ or "LOCAL_RANK" in os.environ:
        return
    wanted = _asked_of_accelerate()
    if wanted is None:
        return
    if sys.platform == "linux":  # when accelerate is killed, what it has started ends, too
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if wanted < 2:
        return
    print(f"accelerate launch starts one process on CPUs: torchrun starts the {wanted} asked for.", flush=True)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(wanted)]
    module = getattr(sys.modules["__main__"].__spec__, "name", None)  # accelerate launch -m polytune.app.finetune
    os.execv(sys.executable, [*launcher, *(sys.argv if module is None else ["-m", module, *sys.argv[1:]])])


def _asked_of_accelerate() -> int | None:
    """``num_processes`` of the ``accelerate launch`` that started this process, its flag, or its configuration's; None:
    something else has."""
    import psutil
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    words = psutil.Process().parent().cmdline()
    names = [Path(word).name for word in words]
    whole = next((name for name in ("accelerate-launch", "accelerate.commands.launch") if name in names), None)
    if whole is not None:
        words = words[names.index(whole) + 1 :]
    elif "launch" in words and any(name.startswith("accelerate") for name in names):
        words = words[words.index("launch") + 1 :]
    else:
        return None
    asked = launch_command_parser().parse_args(words)
    if asked.num_processes is None and (asked.config_file or (os.path.isfile(default_config_file) and not asked.cpu)):
        return load_config_from_file(asked.config_file).num_processes
    return asked.num_processes or 1


def run(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> None:
    """Run a program's ``main``; an error that has a name and a fix ends it with one line and status 2 (usage) or 1.

    ``POLYTUNE_DEBUG=1`` shows the traceback as well. ``--quiet`` silences everything but errors, also of the programs
    that it starts in this terminal.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    asked = is_quiet() or any(word in QUIET_FLAGS for word in argv)
    helping = any(word in ("-h", "--help", "--help-all") for word in argv)
    try:
        with ends_with_its_reader(), ends_when_told(), own_bars_only(), quietened(asked and not helping):
            try:
                _run_and_release(main, [word for word in argv if word not in QUIET_FLAGS])
            except KeyboardInterrupt:
                print(f"interrupted; {what_is_left()}", file=sys.stderr, flush=True)
                raise
            finally:
                let_go()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _run_and_release(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
    """``main``; the other processes of the run are told how it ended."""
    search_working_directory_last()
    failure: str | None = "it ended in mid-run"
    try:
        _run(main, argv)
        failure = None
    except SystemExit as end:
        failure = None if not end.code else str(end.__cause__ or f"status {end.code}")
        raise
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}"
        raise
    finally:
        if (processes := _processes()) is not None:
            processes.release(failure)


def search_working_directory_last() -> None:
    """Modules that a user's own code imports are found in the working directory, and hide none that a program imports:
    it comes last on ``sys.path``, also where ``python -m`` put it first, and the recipes' folder is not there at all.
    ``polytune.lookup`` finds the module that a path names."""
    here = os.getcwd()
    begins = [entry for entry in sys.path[:1] if entry not in ("", here, str(RECIPES))]
    sys.path[:] = [*begins, *(entry for entry in sys.path[1:] if entry != here), here]


def _processes() -> Any:
    """polytune.running.processes, if it is loaded: otherwise nobody is watched."""
    return sys.modules.get("polytune.running.processes")


def _run(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
    """``main``, with one line for each error that was foreseen."""
    try:
        main(argv)
    except (ValueError, RuntimeError, FloatingPointError, OSError) as error:
        processes = _processes()
        if processes is not None:
            processes.settle()
        if os.environ.get("POLYTUNE_DEBUG"):
            raise
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            text = f"no space left while writing {error.filename or 'the outputs'}: make room and run the same command "
            text += "again; what was written before is kept."
        elif isinstance(error, OSError) and error.errno in REFUSALS and error.filename:
            text = f"{error.filename}: {error.strerror}: choose another path or mend its permissions."
        elif isinstance(error, ToldError | FloatingPointError) or _raised_by_us(error):
            text = str(error)
        elif processes is not None and (late := processes.waited_too_long(error)) is not None:
            text = late
        else:
            raise
        say_error(runnable(text) + (processes.stage_of(error) if processes is not None else ""))
        raise SystemExit(2 if isinstance(error, UsageError) else 1) from error


def _raised_by_us(error: BaseException) -> bool:
    """Whether a ``raise`` in polytune made the error: then the message was written for the user.

    An error that a built-in raised there (``int("x")``, ``zip`` of unequal lengths) is a bug and keeps its traceback.
    """
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    if frames is None:
        return False
    code = frames.tb_frame.f_code
    ours = Path(code.co_filename).resolve().is_relative_to(PACKAGE)
    return ours and code.co_code[frames.tb_lasti] == dis.opmap["RAISE_VARARGS"]
