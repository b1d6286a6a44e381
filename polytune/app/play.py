"""Play a task, watch its expert or a policy, or draw the vines of a policy over the map.

    python -m polytune.app.play fourrooms --seed 3                        # play: arrows or letters; ? is help
    python -m polytune.app.play fourrooms --seed 3 --blind                # see only what a policy is told
    printf 'forward\\nleft\\n' | python -m polytune.app.play fourrooms     # the same, line by line
    python -m polytune.app.play fourrooms --seed 3 --expert --gif outputs/expert.gif
    python -m polytune.app.play fourrooms --seed 3 --policy outputs/quickstart/finetuned
    python -m polytune.app.play fourrooms --seed 3 --policy outputs/quickstart/finetuned --vines outputs/vines.png

A program that nobody imports: so it may, in its functions, reach into rooms to its right. Only --policy loads torch.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from polytune.config import RolloutConfig, TaskConfig
from polytune.errors import UsageError
from polytune.helptext import tool_parser
from polytune.places import at_home
from polytune.tasks import Task
from polytune.tasks.game import Game, Screen, asked, expert_actions, map_of, play_keys, play_lines, watch
from polytune.tasks.starts import task_of
from polytune.terminal import colours_wanted, say_error

MOST_PANELS = 8
"""Rollout states that one picture shows, each in a panel of its own."""


def main(argv: Sequence[str]) -> None:
    """The program. Raises UsageError, and ValueError or OSError whose message is for the user."""
    options = parse(argv)
    task = task_of(TaskConfig(options.task, options.task_horizon, options.task_args))
    game = Game(task, options.seed)
    check(options, game)
    if options.policy is not None:
        note_training(options, task)
    if options.vines is not None:
        draw(options, task)
        return

    terminal, keyboard = sys.stdout.isatty(), sys.stdin is not None and sys.stdin.isatty()
    screen = Screen(game, blind=options.blind, colours=colours_wanted(sys.stdout))
    delay = (0.4 if terminal else 0.0) if options.delay is None else options.delay
    if options.policy is not None:
        share_cores()
        from polytune.pictures.replay import sample_actions

        actions = sample_actions(
            task, options.seed, options.policy, greedy=options.greedy, run_seed=options.sample_seed
        )
        watch(game, screen, actions, partial(show, clear=terminal), delay)
    elif options.expert:
        watch(game, screen, expert_actions(game), partial(show, clear=terminal), delay)
    elif keyboard and terminal and not task.answer_end and len(screen.keys) == len(task.actions):
        play_at_terminal(game, screen)
    else:
        play_lines(game, screen, sys.stdin or (), partial(show, clear=False))
    if not game.episode.done:
        print(game.summary())
    if options.gif is not None:
        from polytune.pictures.animation import save_gif

        frames = save_gif(task, options.seed, game.actions, options.gif)
        print(f"{options.gif}: {frames} frames")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options of a command line, ``~`` in paths written out."""
    options = build_parser().parse_args(list(argv))
    return argparse.Namespace(**{name: at_home(value) for name, value in vars(options).items()})


def build_parser() -> argparse.ArgumentParser:
    """What the program takes."""
    parser = tool_parser("play", "TASK [OPTIONS]", __doc__.rpartition("\n\n")[0])
    add = parser.add_argument
    add("task", help="task name (a row of polytune.tasks.TASKS) or pkg.mod:Class")
    add("--seed", type=int, default=0, help="seed of the start state (0)")
    add("--task_args", nargs="+", default=[], metavar="NAME=VALUE", help="options of the task")
    add("--task_horizon", type=int, metavar="TURNS", help="turns after which an episode ends; unset: the task's own")
    add("--blind", action="store_true", help="show only the text that a policy sees")
    add("--expert", action="store_true", help="the task's expert plays")
    add("--policy", metavar="PATH", help="a policy plays: a checkpoint folder or Hub id")
    add("--greedy", action="store_true", help="it takes its most likely action instead of sampling")
    add("--sample_seed", type=int, metavar="SEED", help="seed of its samples (0)")
    add("--delay", type=float, metavar="SECONDS", help="between turns that are watched (0.4 in a terminal, else 0)")
    add("--gif", metavar="FILE.gif", help="save the episode as an animation")
    add("--vines", metavar="FILE.png", help="draw a tree of the policy's vines over the map instead")
    add("--num_rollout_states", type=int, metavar="P", help="rollout states of the tree (2)")
    add("--num_vines", type=int, metavar="N", help="vines from each of them (8)")
    add("--rollout_states", metavar="RULE", help="where they lie: equally_spaced, fixed, start, ... (equally_spaced)")
    return parser


def check(options: argparse.Namespace, game: Game) -> None:
    """Refuse what has no effect or cannot be done, before any work."""
    given = {name: value for name, value in vars(options).items() if value is not None and value is not False}
    needs = {"greedy": "policy", "sample_seed": "policy", "vines": "policy"}
    needs |= dict.fromkeys(("num_rollout_states", "num_vines", "rollout_states"), "vines")
    for name, needed in needs.items():
        if name in given and needed not in given:
            value = "" if given[name] is True else f" {given[name]}"
            raise UsageError(f"--{name}{value} has no effect without --{needed}: add it, or leave --{name} out")
    clashes = [("expert", "policy"), *(("vines", name) for name in ("gif", "blind", "greedy", "delay"))]
    for one, other in clashes:
        if one in given and other in given:
            raise UsageError(f"--{one} and --{other} exclude each other: leave one out")
    if options.delay is not None and not (math.isfinite(options.delay) and options.delay >= 0):
        raise UsageError(f"--delay must be seconds of at least 0, got {options.delay}")
    for name, endings in (("gif", (".gif",)), ("vines", (".png", ".pdf", ".svg"))):
        path = getattr(options, name)
        if path is None:
            continue
        if map_of(game.episode) is None:
            raise UsageError(f"--{name} draws maps, and task {options.task!r} has none: leave --{name} out")
        if not path.endswith(endings) or Path(path).is_dir():
            raise UsageError(f"--{name} {path!r} is no file that ends in {' or '.join(endings)}: name one")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if not os.access(Path(path).parent, os.W_OK):
            raise UsageError(f"--{name} {path!r} cannot be written: choose another folder or mend its permissions")
    if options.expert:
        try:
            asked(game.task, game.task.start(options.seed))  # not the one to be played: experts remember
        except NotImplementedError as error:
            raise UsageError(f"--expert: {error}") from error
    if options.vines is not None:
        rollout_shape(options)
    options.sample_seed = options.sample_seed or 0


def rollout_shape(options: argparse.Namespace) -> RolloutConfig:
    """The tree's shape: the options given, RolloutConfig's defaults otherwise."""
    from polytune.rollout import find_branching

    names = ("num_rollout_states", "num_vines", "rollout_states")
    shape = RolloutConfig(**{name: value for name in names if (value := getattr(options, name)) is not None})
    rule = find_branching(shape.rollout_states)
    if rule.needs_values or rule.needs_entropies:
        raise UsageError(
            f"--rollout_states {shape.rollout_states!r} needs training's look: use equally_spaced, fixed or start"
        )
    if not 1 <= shape.num_rollout_states <= MOST_PANELS:
        raise UsageError(f"--num_rollout_states {shape.num_rollout_states}: a picture shows 1 to {MOST_PANELS} of them")
    return shape


def share_cores() -> None:
    """Threads that wait by spinning slow down others on the same cores manyfold. Read when torch is imported."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def note_training(options: argparse.Namespace, task: Task) -> None:
    """Say so when the policy was trained on another variant of the task."""
    share_cores()
    from polytune.pictures.replay import training_note

    if note := training_note(options.policy, task, options.task_args):
        print(f"note: {note}", file=sys.stderr)


def draw(options: argparse.Namespace, task: Task) -> None:
    """Grow a tree and draw it over the map, into the file ``--vines``."""
    share_cores()
    from polytune.pictures.vine_plot import grow_and_draw

    title = grow_and_draw(task, options.seed, options.policy, rollout_shape(options), options.vines,
                          run_seed=options.sample_seed)  # fmt: skip
    print(f"{title}\n{options.vines}")


def play_at_terminal(game: Game, screen: Screen) -> None:
    """Single key presses where the terminal can do that, lines otherwise."""
    try:
        import termios  # noqa: F401
    except ImportError:  # not on Windows
        play_lines(game, screen, sys.stdin or (), partial(show, clear=False))
        return
    from polytune.tasks.keys import read_keys, single_keys

    with single_keys(), contextlib.suppress(KeyboardInterrupt):  # Ctrl-C quits, as q does
        play_keys(game, screen, read_keys(), partial(show, clear=True))


def show(text: str, *, clear: bool) -> None:
    """Print a screen, in place of the one before or below it."""
    print(f"\x1b[H\x1b[2J{text}" if clear else f"{text}\n", flush=True)


def run(program: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """The exit status; an error that was foreseen is one line. `POLYTUNE_DEBUG=1` shows the traceback as well."""
    try:
        program(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        if os.environ.get("POLYTUNE_DEBUG"):
            raise
        say_error(str(error))
        return 1 if isinstance(error, RuntimeError | FloatingPointError) else 2
    except KeyboardInterrupt:
        print()
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
