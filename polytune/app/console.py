"""``polytune COMMAND ...``: thin doors to the programs, the same as ``python recipes/COMMAND.py ...``.

Loads neither torch nor transformers by itself: a door loads what lies behind it.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib.metadata import version

from polytune.helptext import enter, reflow, width
from polytune.lookup import did_you_mean
from polytune.places import runnable
from polytune.terminal import ends_with_its_reader, say_error

#: program -> what it does
DOORS = {
    "pretrain": "clone an expert, or a task's training lines, into a text policy",
    "finetune": "train it with set RL (Poly-PPO, Poly-EPO) or a baseline",
    "evaluate": "pass@k of policies on the same start states, with intervals",
    "compare": "methods x seeds at equal budgets: table, plots, what is resolved",
    "export": "ship a policy or adapter to a folder or the Hub",
    "reproduce": "the paper's tables beside ours",
    "tutorial": "why sets: a bandit in 30 seconds",
    "bench": "measure speed on this machine",
}
#: the same, with command lines of their own and no recipe
TOOLS = {
    "play": "play a task, watch a policy, draw its vines",
    "methods": "published methods that a run can name: hooks, paper, options",
    "check-task": "the conformance test on a world of your own, told in words",
}
QUIET_FLAGS = ("-q", "--quiet")
SHELLS = ("bash", "zsh", "tcsh")
COMPLETION = "completion"
COMMANDS = (*DOORS, *TOOLS, COMPLETION)

OVERVIEW = """\
polytune: RL fine-tuning that keeps several ways to win, not one way again and again.

    polytune pretrain                           # FourRooms, 2 to 4 minutes on 2 cores
    polytune finetune
    polytune evaluate
    polytune finetune --config recipes/fourrooms/ppo.yaml --seed 1
    polytune play fourrooms --seed 3            # or watch: --policy PATH
    accelerate launch --num_processes 2 recipes/finetune.py   # several processes
"""
REST = """\
`polytune COMMAND ARGS` is `python recipes/COMMAND.py ARGS`; play, methods and check-task are `python -m
polytune.app.COMMAND`, check_task there. Completion: a script, made once, that your shell's start-up file reads.

    polytune completion bash > ~/.polytune.bash     # once; seconds
    source ~/.polytune.bash                         # in ~/.bashrc

zsh (after compinit) and tcsh alike.

Status: 0 done; 2 the command line or YAML cannot be read (an unknown field, a value that the field does not take); 1
anything else that fails, also a method, task or split that is looked up and not found; 130 interrupted; 141 nobody
reads the output any more (`| head`). Errors are one line on stderr (POLYTUNE_DEBUG=1 adds the traceback). Colours and
bars are for terminals; NO_COLOR=1 and TERM=dumb switch colours off.
"""
OPTIONS = {
    "-h, --help": "this text; after a command, that command's",
    "-q, --quiet": "with a command (not play, methods, check-task): errors only, files as usual",
    "--version": "which polytune this is",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status; a program ends with its own."""
    try:
        with ends_with_its_reader():
            return _main(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:  # while a program was being loaded
        say_error("interrupted.")
        return 130


def _main(words: list[str]) -> int:
    if words[:1] == ["help"] and len(words) > 1:
        words = [*words[1:], "--help"]
    while len(words) > 1 and words[0] in QUIET_FLAGS:
        words = [*words[1:], "--quiet"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    name, *rest = words
    if name == "--version":
        print(f"polytune {version('polytune')}")
        return 0
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS, write=str) or f"the commands are {', '.join(COMMANDS)}."
        say_error(f"unknown {'option' if name.startswith('-') else 'command'} {name!r}; {hint}")
        return 2
    if name == COMPLETION:
        return _complete(rest)
    return _open(name, rest)


def overview() -> str:
    """What the bare command prints."""
    columns = width()
    lines = [reflow(runnable(OVERVIEW), columns), "", "commands:"]
    lines += [f"  {name:12}{told}" for name, told in (DOORS | TOOLS).items()]
    lines += [f"  {COMPLETION:12}print a script for {', '.join(SHELLS)}: completes all of this"]
    lines += ["", "options:", *(f"  {name:14}{told}" for name, told in OPTIONS.items())]
    return "\n".join([*lines, "", reflow(runnable(REST), columns)])


def _open(name: str, arguments: Sequence[str]) -> int:
    """Become the program, as ``python -m polytune.app.NAME`` would be."""
    enter(name)
    sys.argv = [f"polytune {name}", *arguments]
    runpy.run_module(f"polytune.app.{name.replace('-', '_')}", run_name="__main__", alter_sys=True)
    return 0


def _complete(arguments: Sequence[str]) -> int:
    """Print the script of a shell."""
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        given = " ".join(arguments) or "nothing"
        say_error(f"completion takes one of {', '.join(SHELLS)}, got {given}: polytune completion bash, say.")
        return 2
    from polytune.app.completion import script

    print(script(arguments[0], DOORS, TOOLS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
