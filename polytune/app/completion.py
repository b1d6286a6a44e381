"""Shell completion: a static script, made by shtab from the parsers of the programs. Nothing is loaded at TAB."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterable, Mapping

import shtab

from polytune import tasks
from polytune.app.cli import parser_of
from polytune.helptext import one_name, one_per_cent
from polytune.objective.judge import FAILURES
from polytune.pictures.tracking import TRACKERS
from polytune.places import recipes
from polytune.policy import PRESETS
from polytune.tables import BRANCHING, CREDIT, DIVERSITY, GAE_NORMALISE, JUDGES, METHODS, OBJECTIVES, SET_NORMALISE
from polytune.tasks.grid.perturbations import PERTURBATIONS

#: field -> what it takes, where that is a few words; most of them take a path of the user's own as well
CHOICES: dict[str, Iterable[str]] = {
    "task": tasks.TASKS,
    "split": ("train", "unseen", "test"),
    "generator": ("transformers", "vllm"),
    "dtype": ("float32", "bfloat16", "auto"),
    "branch_at": ("turn", "token"),
    "rollout_states": BRANCHING,
    "objective": OBJECTIVES,
    "diversity": DIVERSITY,
    "signature": ("task", "actions", *JUDGES),
    "judge_failure": FAILURES,
    "credit": CREDIT,
    "set_scope": ("vines", "seeds", "both", "none"),
    "set_normalise": SET_NORMALISE,
    "gae_normalise": GAE_NORMALISE,
    "critic": ("shared", "own", "head", "none"),
    "kl_reference": ("behaviour", "pretrained"),
    "kl_direction": ("reverse", "forward"),
    "save_dtype": ("float32", "bfloat16"),
    "loss_type": ("dapo", "bnpo", "dr_grpo", "grpo"),
    "vllm_mode": ("colocate", "server"),
    "report_to": ("none", *TRACKERS),
    "preset": PRESETS,
    "perturb": PERTURBATIONS,
    "scale": ("tiny", "cpu", "paper"),
}
#: the same where a field of another recipe has that name
OF_DOOR: dict[str, dict[str, Iterable[str]]] = {"finetune": {"methods": METHODS}, "methods": {"names": METHODS}}
FOLDERS = ("model", "base_model", "output_dir", "data_dir", "policy", "adapter", "vllm_weights_dir", "recipes",
           "keep_runs")  # fmt: skip
FILES = ("completions", "from_records", "policies", "keep", "gif", "vines")
YAMLS = ("config", "methods")
#: what zsh and tcsh take as it is; bash also offers polytune's own recipes
YAML_FILES = {"bash": "_polytune_yaml", "zsh": "_files -g '*.yaml'", "tcsh": "f:*.yaml"}
PREAMBLE = """
_polytune_yaml() {
  local file
  for file in RECIPES; do
    [[ $file == "$1"* ]] && echo "$file"
  done
  compgen -f -X '!*.yaml' -- "$1"
  compgen -d -- "$1"
}
"""


def script(shell: str, doors: Mapping[str, str], tools: Mapping[str, str]) -> str:
    """The completion script of ``shell``; ``doors``: program -> what it does, ``tools``: those that build a parser of
    their own."""
    root = argparse.ArgumentParser(prog="polytune", allow_abbrev=False)
    root.add_argument("--version", action="store_true", help="which polytune this is")
    commands = root.add_subparsers(dest="command")
    for name, told in {**doors, **tools}.items():
        door = commands.add_parser(name, help=told, description=told)
        module = importlib.import_module(f"polytune.app.{name.replace('-', '_')}")
        built = module.build_parser() if name in tools else parser_of(module.main)
        _copy_fields(built, door, OF_DOOR.get(name, {}))
    completion = commands.add_parser("completion", help="print a completion script", description="")
    completion.add_argument("shell", choices=shtab.SUPPORTED_SHELLS[:3])
    text = shtab.complete(root, shell=shell, preamble={"bash": PREAMBLE.replace("RECIPES", " ".join(recipes()))})
    # what nothing is known of is completed as file names: the second path of a list, say, or NAME=PATH
    return text.replace("complete -o bashdefault", "complete -o bashdefault -o default") if shell == "bash" else text


def _copy_fields(
    source: argparse.ArgumentParser, target: argparse.ArgumentParser, own: Mapping[str, Iterable[str]] | None = None
) -> None:
    """The fields of a recipe, each by one name, with what is known of its values; ``own``: choices of this recipe's."""
    own = own or {}
    for action in source._actions:
        names = one_name(action.option_strings)
        if action.dest == "help" or any(name.startswith("--no_") for name in names):
            continue
        text = one_per_cent(action.help).partition(". ")[0].partition(": ")[0].replace("%", "%%")
        if action.nargs == 0:
            target.add_argument(*names, dest=action.dest, action="store_true", help=text)
            continue
        naming = {"dest": action.dest} if names else {}
        # shtab offers no options after a list of paths; as one path, the list still goes on with file names
        one = action.nargs == "+" and action.dest in (*FILES, *YAMLS) and action.dest not in own
        nargs = None if one else action.nargs
        added = target.add_argument(*(names or [action.dest]), nargs=nargs, help=text, **naming)
        if action.dest in own:
            added.choices = tuple(own[action.dest])
        else:
            _say_values(added, action)


def _say_values(added: argparse.Action, action: argparse.Action) -> None:
    if action.dest in YAMLS:
        added.complete = YAML_FILES
    elif action.dest in FOLDERS or action.dest in FILES:
        added.complete = shtab.DIRECTORY if action.dest in FOLDERS else shtab.FILE
    elif action.dest in CHOICES:
        added.choices = tuple(CHOICES[action.dest])
    elif action.choices:
        added.choices = action.choices
    elif action.nargs == "?" and isinstance(action.default, bool):
        added.choices = ("true", "false")
