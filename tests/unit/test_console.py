"""The `polytune` command: doors, what they load, quiet mode, colours, completion in a real bash, help at 80 columns."""

import dataclasses
import fcntl
import importlib
import io
import os
import pty
import re
import runpy
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from functools import partial
from pathlib import Path

import pytest

from polytune import places, terminal
from polytune.app import console
from polytune.app.cli import UsageError, parser_of, run
from polytune.helptext import reflow
from polytune.places import command, recipe_called
from polytune.recipe import read_recipe
from polytune.running.provenance import origin
from polytune.tables import METHODS
from polytune.terminal import ends_with_its_reader

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "polytune.app.console"]
LIGHT = [[], ["--help"], ["--version"], ["fintune"], ["completion", "fish"]]


def call(*words, **more):
    environment = os.environ | {"COLUMNS": "80"}
    return subprocess.run(
        [*COMMAND, *map(str, words)], capture_output=True, text=True, timeout=120, env=environment, **more
    )


def at_a_terminal(words, **environment):
    """What a program writes to a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | environment)
    os.close(theirs)
    text = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the program has ended
            break
        if not part:
            break
        text += part
    os.close(ours)
    return process.wait(), text.decode()


@pytest.mark.parametrize("words", LIGHT, ids=" ".join)
def test_the_command_itself_loads_nothing_heavy(words):
    code = (
        f"import sys; from polytune.app.console import main; status = main({words!r}); "
        "print(status, [m for m in ('torch', 'transformers', 'numpy', 'shtab', 'yaml') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status = 2 if words and not words[0].startswith("-") else 0
    assert result.stdout.splitlines()[-1] == f"{status} []"


def test_bare_it_shows_the_way(capsys):
    assert console.main([]) == 0
    told = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", told, re.MULTILINE) for name in console.COMMANDS)
    assert max(map(len, told.splitlines())) <= 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fintune"], "error: unknown command 'fintune'; did you mean finetune?"),
        (["--quite"], "error: unknown option '--quite'; the commands are pretrain"),
        (["completion", "fish"], "error: completion takes one of bash, zsh, tcsh, got fish"),
    ],
)
def test_a_wrong_command_is_one_line_and_status_2(words, message, capsys):
    assert console.main(words) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and told.err.startswith(message)


@pytest.mark.parametrize("name", (*console.DOORS, *console.TOOLS))
def test_every_door_leads_to_a_program(name):
    assert (places.PACKAGE / "app" / f"{name.replace('-', '_')}.py").is_file()


def test_the_command_is_installed():
    text = (ROOT / "setup.cfg").read_text()
    assert "console_scripts =\n    polytune = polytune.app.console:main\n" in text


def test_a_door_is_the_recipe():
    """The same error and status from arguments that reach it as they are, a space within one too."""
    words = ["--task_args", "size=tiny x", "--epchs", "3"]
    door = call("pretrain", *words)
    recipe = subprocess.run(
        [sys.executable, str(ROOT / "recipes/pretrain.py"), *words], capture_output=True, text=True, timeout=120
    )
    assert (door.returncode, door.stdout, door.stderr) == (recipe.returncode, recipe.stdout, recipe.stderr)
    assert door.returncode == 2 and door.stderr.count("\n") == 1 and "did you mean epochs" in door.stderr


def test_playing_behind_the_door():
    door = call("play", "fourrooms", "--expert", "--seed", "3")
    program = subprocess.run(
        [sys.executable, "-m", "polytune.app.play", "fourrooms", "--expert", "--seed", "3"],
        capture_output=True, text=True, timeout=60, env=os.environ | {"COLUMNS": "80"},
    )  # fmt: skip
    assert door.returncode == program.returncode == 0 and door.stdout == program.stdout != ""
    assert call("play", "fourrooms", "--quiet").returncode == 2


# ---------------------------------------------------------------- methods


def test_methods_are_listed_from_the_sources_as_they_are(capsys):
    """Hooks and options as of the loaded classes, without loading one."""
    from polytune.app import methods
    from polytune.methods import Method, build_methods

    code = "import sys; from polytune.app import methods; methods.main([]); print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1] == "False"
    quiet = {"has", "says", "check", "state", "restore", "revisit"}
    known = [name for name, own in vars(Method).items() if callable(own) and name[0] != "_" and name not in quiet]
    for name, entry in METHODS.items():
        built = build_methods([name], {})[name]
        hooks = methods.hooks(name)
        assert hooks == [hook for hook in known if built.has(hook)] and hooks, name
        assert re.search(rf"^{name} +{' '.join(hooks)} .*{re.escape(entry.told)}$", told, re.MULTILINE), name
        methods.main([name])
        shown = capsys.readouterr().out
        for field in dataclasses.fields(built):
            assert f"{name}.{field.name}={getattr(built, field.name)!r}" in shown, shown
    assert re.search(r"^kl_cov .*2505\.22617", told, re.MULTILINE)
    for words, error in ((["clip_cow"], "did you mean 'clip_cov'"), (["--nam"], "unrecognized arguments: --nam")):
        with pytest.raises(UsageError, match=error):
            methods.main(words)


@pytest.mark.parametrize(("name", "recipe"), [
    ("grpo", "recipes/fourrooms/grpo.yaml"), ("PPO", "recipes/fourrooms/ppo.yaml"),
    ("Poly-PPO", "recipes/fourrooms/poly_ppo.yaml"), ("subpo", "recipes/methods/subpo.yaml"),
])  # fmt: skip
def test_a_method_that_is_a_recipe_is_told_with_its_command(name, recipe):
    from polytune.app import methods
    from polytune.methods import build_methods

    told = re.escape(f"it is a recipe, a run of its own: polytune finetune --config {recipe}")
    with pytest.raises(UsageError, match=told):
        methods.main([name])
    with pytest.raises(ValueError, match=told):
        build_methods([name], {})
    assert "max_env_steps" in read_recipe(recipe) and recipe_called(name) == recipe
    assert recipe_called("compare") is recipe_called("grpoo") is recipe_called("../fourrooms/grpo") is None


# ---------------------------------------------------------------- quiet mode


def test_quiet_drops_what_is_printed_and_keeps_errors(capsys, monkeypatch):
    monkeypatch.delenv(terminal.QUIET, raising=False)
    seen = []

    def main(argv):
        print("a note")
        seen.append((argv, os.environ[terminal.QUIET], os.environ["TQDM_DISABLE"], terminal.shows_bars()))
        raise UsageError("a flag")

    with pytest.raises(SystemExit) as end:
        run(main, ["--seed", "1", "-q"])
    told = capsys.readouterr()
    assert end.value.code == 2 and told.out == "" and told.err == "error: a flag\n"
    assert seen == [(["--seed", "1"], "1", "1", False)] and terminal.QUIET not in os.environ


def test_quiet_is_inherited_but_not_by_logs(tmp_path, monkeypatch):
    from polytune.running.run_queue import Launcher, run_attached

    monkeypatch.setenv(terminal.QUIET, "1")
    code = f"import os; print({terminal.QUIET!r} in os.environ)"
    Launcher(os.open(os.devnull, os.O_RDWR)).call([sys.executable, "-c", code], tmp_path / "log")
    assert (tmp_path / "log").read_text() == "False\n"
    code = f"import os, sys; sys.exit(7 if {terminal.QUIET!r} in os.environ else 0)"
    assert run_attached([sys.executable, "-c", code]) == 7


# ---------------------------------------------------------------- colours


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"TERM": "xterm", "NO_COLOR": "1"}, False)],
)
def test_errors_are_red_at_a_terminal_that_has_colours(environment, coloured, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    status, text = at_a_terminal([*COMMAND, "fintune"], **environment)
    assert status == 2 and "did you mean finetune?" in text
    assert text.startswith("\x1b[31merror: ") is coloured and ("\x1b" in text) is coloured
    code = "from polytune.terminal import say_warning; say_warning('of\\n  a  collapse')"
    _, text = at_a_terminal([sys.executable, "-c", code], **environment)
    assert text == ("\x1b[33mwarning: of a collapse\x1b[0m\r\n" if coloured else "warning: of a collapse\r\n")


@pytest.mark.parametrize("words", [["fintune"], ["play", "fourrooms", "--expert"]])
def test_a_pipe_gets_no_colours(words, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    result = call(*words)
    assert "\x1b" not in result.stdout + result.stderr


def test_play_has_colours_at_a_terminal_only_where_they_are_wanted(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    words = [*COMMAND, "play", "fourrooms", "--expert", "--task_horizon", "2", "--delay", "0"]
    assert "\x1b[38;5;" in at_a_terminal(words, TERM="xterm")[1]
    assert "\x1b[38;5;" not in at_a_terminal(words, TERM="xterm", NO_COLOR="1")[1]


# ---------------------------------------------------------------- progress


def test_progress_is_a_bar_at_a_terminal_and_lines_elsewhere(monkeypatch, capsys):
    code = "for _ in progress(range(3), 'vines', 'tree'): time.sleep(.2)"
    code = f"import time\nfrom polytune.terminal import progress\n{code}"
    _, text = at_a_terminal([sys.executable, "-c", code])
    assert re.search(r"vines: .*3/3 \[.*tree/s", text) and "<" in text  # rate and time left
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).stderr == b""
    assert at_a_terminal([sys.executable, "-c", code], **{terminal.QUIET: "1"})[1] == ""
    monkeypatch.setattr(terminal, "LINE_EVERY", 0.0)
    assert list(terminal.progress(iter("ab"), "lines", "line", total=2)) == ["a", "b"]
    assert re.match(r"lines: 1 of 2, .* a second, .* s left \(lines\)\n", capsys.readouterr().out)


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.py")), ids=lambda p: p.stem)
def test_help_is_readable_at_80_columns(path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", [str(path)])
    with pytest.raises(SystemExit) as end:
        run(runpy.run_path(str(path))["main"], ["--help"])
    told = capsys.readouterr().out
    assert end.value.code == 0 and max(map(len, told.splitlines())) <= 80
    assert re.search(rf"^    .*recipes/{path.stem}\.py", told, re.MULTILINE)  # an example
    assert "-q, --quiet" in told and not re.search(r"--\w+-\w+ [A-Z]", told) and "%%" not in told


@pytest.mark.parametrize("name", [*console.DOORS, *console.TOOLS])
def test_no_help_has_a_doubled_per_cent(name, capsys, monkeypatch):
    """Of every field, the inherited ones included."""
    main = importlib.import_module(f"polytune.app.{name.replace('-', '_')}").main
    with pytest.raises(SystemExit) as end:
        run(main, ["--help-all" if name in console.DOORS else "--help"])
    told = capsys.readouterr().out
    assert end.value.code == 0 and "--help" in told and "%%" not in told


def test_commands_survive_being_wrapped():
    doc = "A text\nin lines.\n\n    python x.py --one 1 --two 22222222222222 \\\n --three 3  # why so\n\n    short\n"
    told = reflow(doc, 50).split("\n\n")
    command = "    # why so\n    python x.py --one 1 --two 22222222222222 \\\n        --three 3"
    assert told == ["A text in lines.", command, "    short"]


# ---------------------------------------------------------------- completion


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    from polytune.app.completion import script

    folder = tmp_path_factory.mktemp("completion")
    for shell in console.SHELLS:
        (folder / shell).write_text(script(shell, console.DOORS, console.TOOLS))
    return folder


def candidates(scripts, *words):
    """What bash offers for the last of the words."""
    line = " ".join(f"'{word}'" for word in ("polytune", *words))
    code = (
        f"source {scripts}/bash; complete -p polytune; COMP_WORDS=({line}); COMP_CWORD={len(words)}; "
        '$(complete -p polytune | sed -E "s/.*-F ([^ ]+) .*/\\1/"); printf "%s\\n" "${COMPREPLY[@]}"'
    )
    result = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=20)
    assert result.returncode == 0 and "-F" in result.stdout.splitlines()[0], result.stderr
    return result.stdout.split()[result.stdout.split().index("polytune") + 1 :]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_fields_choices_and_files(scripts):
    assert "complete -o bashdefault -o default" in (scripts / "bash").read_text()
    assert set(candidates(scripts, "")) == set(console.COMMANDS)
    assert candidates(scripts, "fi") == ["finetune"]
    assert set(candidates(scripts, "finetune", "--num_v")) == {"--num_vines"}
    assert {"--kl_coef", "--task", "--report_to", "--quiet"} <= set(candidates(scripts, "finetune", "--"))
    assert candidates(scripts, "finetune", "--objective", "poly") == ["polychromic"]
    assert {"fourrooms", "bandit"} <= set(candidates(scripts, "pretrain", "--task", ""))
    assert candidates(scripts, "finetune", "--critic", "sh") == ["shared"]
    assert "recipes/fourrooms/poly_ppo.yaml" in candidates(scripts, "finetune", "--config", "recipes/fourrooms/poly")
    assert "recipes/fourrooms/ppo.yaml" in candidates(scripts, "finetune", "--config", "")
    assert candidates(scripts, "compare", "--methods", "a.yaml", "--see") == ["--seeds"]
    assert candidates(scripts, "finetune", "--methods", "uc") == ["ucb"]
    assert "recipes" in candidates(scripts, "finetune", "--output_dir", "rec")
    assert candidates(scripts, "play", "four") == ["fourrooms"]
    assert candidates(scripts, "methods", "clip") == ["clip_cov"]
    assert candidates(scripts, "completion", "z") == ["zsh"]


def test_every_field_of_every_recipe_is_completed(scripts):
    text = (scripts / "bash").read_text()
    for name in console.DOORS:
        offered = re.search(rf"^_shtab_polytune_{name}_option_strings=\((.*)\)$", text, re.MULTILINE)[1].split()
        parser = parser_of(importlib.import_module(f"polytune.app.{name}").main)
        assert {f"--{action.dest}".replace("help_all", "help-all") for action in parser._actions} <= {*offered}
    assert not re.search(r"python|import torch", text)  # nothing is run at TAB


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_scripts_of_other_shells_are_scripts(scripts, shell):
    text = (scripts / shell).read_text()
    assert "finetune" in text and "--num_vines" in text if shell == "zsh" else "finetune" in text
    if shutil.which(shell):
        assert subprocess.run([shell, "-n", str(scripts / shell)], capture_output=True).returncode == 0


def test_help_is_shown_whatever_else_is_asked(monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(console, "_open", lambda name, rest: opened.append((name, rest)) or 0)
    assert console.main(["help", "evaluate"]) == console.main(["-q", "evaluate", "--n", "2"]) == 0
    assert opened == [("evaluate", ["--help"]), ("evaluate", ["--n", "2", "--quiet"])]
    recipe = runpy.run_path(str(ROOT / "recipes/evaluate.py"))["main"]
    for words in (["--help"], ["-q", "--help"]):
        with pytest.raises(SystemExit) as end:
            run(recipe, words)
        assert end.value.code == 0 and "--policies" in capsys.readouterr().out


@pytest.mark.parametrize("after", [1.5, 3.0])
def test_an_interrupt_while_it_loads_is_one_line(after, tmp_path):
    """Ctrl-C in the first seconds, in which torch is imported."""
    interruptible = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # the tests may run in the background
    words = [*COMMAND, "evaluate", "--policies", "outputs/nowhere"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=tmp_path, preexec_fn=interruptible)
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    # 1: it was through already, and the checkpoint does not exist; -SIGINT, which a shell calls 130 as well: CPython
    # ends so when an exec of its own was interrupted, a dataclass' say, whatever became of the exception
    assert process.returncode in (130, 1, -signal.SIGINT), told
    assert len(told.strip().splitlines()) == 1 and "Traceback" not in told


@pytest.mark.parametrize("words", [["methods"], ["--help"], ["finetune", "--help"], ["methods", "ucb"]], ids=" ".join)
def test_a_reader_that_goes_ends_it_without_a_word(words):
    """``polytune methods | head -1``, and a reader that is gone before the first line."""
    for lines in (1, 0):
        process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(lines):
            process.stdout.readline()
        process.stdout.close()
        told = process.stderr.read()
        process.stderr.close()
        assert told == b"" and process.wait(timeout=60) in (0, 141)


def test_another_broken_pipe_than_that_of_stdout_stays_an_error(capfd):
    with pytest.raises(BrokenPipeError, match="of a server"), ends_with_its_reader():
        raise BrokenPipeError("of a server")


def test_a_command_can_be_given_again_in_its_folder_as_a_shell_reads_it(tmp_path, monkeypatch):
    words = ["--task_args", "answer_end=<|im_end|>", "reward=a:b"]
    monkeypatch.chdir(ROOT)
    assert origin(command("finetune", words))["command"].startswith("python recipes/finetune.py --task_args 'answer")
    monkeypatch.chdir(tmp_path)
    told = origin(command("finetune", words))["command"]
    assert shlex.split(told) == ["python", "-m", "polytune.app.finetune", *words]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_stdout_cannot_write_is_written_as_its_number(monkeypatch, encoding):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, errors="strict"))
    with ends_with_its_reader():
        print("outputs/caf\udce9")
    assert written.getvalue() == b"outputs/caf\\udce9\n"
