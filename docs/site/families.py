"""The pages of methods, a family each, made from tables, docstrings and recipes: a new row appears by itself."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from prose import ARXIV, as_markdown, cell, code, first_sentence, joined, table
from reference import field_table, fields, metric_table

from polytune import tables
from polytune.app.methods import hooks
from polytune.lookup import find
from polytune.meanings import METRICS
from polytune.places import RECIPES
from polytune.recipe import read_recipe
from polytune.tables import METHODS, Entry

#: recipes that one method's entry names at most
MOST_RECIPES = 2
#: rows and recipes that the index of papers names of one paper
MOST_NAMED = 5


class Family(NamedTuple):
    """A page. ``rows``: heading -> (table of polytune.tables, field of a run that takes its names); ``modules``: whose
    docstrings it tells; ``fields``, ``figures``: beginnings of the names that belong to it."""

    title: str
    lead: str
    rows: Mapping[str, tuple[str, str]] = {}
    modules: Sequence[str] = ()
    fields: Sequence[str] = ()
    figures: Sequence[str] = ()


FAMILIES: dict[str, Family] = {
    "objectives": Family(
        "Set objectives and credit",
        "A set of n members of a group is scored as one; the score becomes an advantage of each member.",
        {
            "Objectives": ("OBJECTIVES", "objective"),
            "Credit": ("CREDIT", "credit"),
        },
        ("polytune.objective.scores",),
        ("objective", "set_", "num_sets", "credit"),
        ("groups/without_signal", "advantages/set_"),
    ),
    "diversity": Family(
        "Diversity, signatures and judges",
        "What makes two attempts different, and how different a set is.",
        {"Diversity": ("DIVERSITY", "diversity"), "Judges": ("JUDGES", "signature")},
        ("polytune.objective.judge",),
        ("diversity", "signature", "judge_", "collapse_"),
        ("groups/di", "groups/equal_signatures", "judge/"),
    ),
    "groups": Family(
        "Groups and baselines",
        "What a member is compared with, and what divides the difference. GRPO, RLOO and MaxRL are rows of these "
        "tables, with the objective `mean`.",
        {"Scalings": ("SET_NORMALISE", "set_normalise")},
        ("polytune.objective.normalise", "polytune.trainer.scaling"),
        ("set_normalise", "gae_normalise", "num_seeds", "num_generations", "reward_shift"),
        ("groups/without_signal", "groups/equal_", "advantages/"),
    ),
    "vines": Family(
        "Vines and rollout states",
        "Continuations from states of an episode, which make up a group where the episode has come to.",
        {"Rollout states": ("BRANCHING", "rollout_states")},
        ("polytune.rollout.vines", "polytune.objective.window", "polytune.rollout.branching"),
        ("num_seeds", "num_rollout_states", "num_vines", "rollout_states", "branch_at", "window", "set_scope"),
        ("rollout/", "tokens/", "duplicates/"),
    ),
    "critic": Family(
        "Critic",
        "The value of each decision, for whatever no set scores.",
        {},
        ("polytune.trainer.critic", "polytune.trainer.value_features", "polytune.objective.estimators"),
        ("critic", "value_coef", "vine_values", "gae_", "gamma"),
        ("critic/", "advantages/gae_"),
    ),
    "tokens": Family("Token weights", "Which tokens, turns and attempts count more than others."),
    "entropy": Family(
        "Entropy",
        "What keeps the policy from becoming sure too early.",
        fields=("entropy_", "kl_", "epsilon"),
        figures=("entropy", "kl", "clip_ratio/region"),
    ),
    "replay": Family("Replay", "Rows of earlier updates or of other runs join an update.", figures=("replay/",)),
    "expert": Family(
        "Demonstrations and hints", "What an expert did, what the first policy did or a hint in words joins an update."
    ),
    "bonuses": Family("Bonuses", "What is added to rewards or advantages."),
    "archives": Family("Archives and subgoals", "What is remembered of states seen before, and what the policy seeks."),
    "starts": Family(
        "Start states and budgets",
        "Which start states grow, how often, and into how many attempts.",
        modules=("polytune.trainer.schedule", "polytune.trainer.budget"),
        fields=("max_env_steps", "num_updates", "split"),
        figures=("rollout/start_states", "rollout/passes", "rollout/env_steps"),
    ),
    "sampling": Family(
        "Sampling and temperature",
        "With which distribution the rollouts are sampled.",
        modules=("polytune.trainer.tempered",),
        fields=("temperature", "generator"),
        figures=("sampling/",),
    ),
    "pairs": Family("Pairs and preferences", "Losses on pairs of attempts: one is preferred to the other."),
    "losses": Family(
        "Loss forms",
        "What stands in the place of the clipped surrogate, or beside it.",
        fields=("loss_type", "epsilon", "num_iterations", "steps_per_generation", "learning_rate"),
        figures=("loss", "policy_loss", "grad_norm", "clip_ratio/"),
    ),
}  # fmt: skip


def family_of(name: str) -> str:
    """The page of a row of METHODS: its own word, else by the first of its hooks that says it."""
    own, written = find("method", name, METHODS).page, {*hooks(name)}
    rules = (
        ({"temperature", "stop"}, "sampling"),
        ({"replay", "replayed", "again"}, "replay"),
        ({"starts"}, "starts"),
        ({"reward"}, "bonuses"),
        ({"loss", "reference"}, "losses"),
        ({"weight", "advantage", "probe"}, "tokens"),
        ({"turn_advantage"}, "groups"),
    )
    return own or next((family for those, family in rules if those & written), "bonuses")


def pages() -> Iterator[tuple[str, str]]:
    """(path, Markdown) of every family, and of the index of papers."""
    for key in FAMILIES:
        yield f"methods/{key}.md", family_page(key)
    yield "methods/papers.md", papers_page()


def family_page(key: str) -> str:
    """Tables, methods, fields and figures of a family."""
    family = FAMILIES[key]
    blocks = [f"# {family.title}", family.lead]
    blocks += [as_markdown(told) for module in family.modules if (told := _module_doc(module))]
    for heading, (table_name, field) in family.rows.items():
        rows = getattr(tables, table_name)
        blocks += [f"## {heading}", f"Chosen by `--{field} NAME`."]
        for name, entry in rows.items():
            blocks += _row(name, entry, field)
    own = [name for name in METHODS if family_of(name) == key]
    if own:
        blocks += ["## Methods", "Taken as `--methods NAME ... --method_args NAME.OPTION=VALUE ...`.", _overview(own)]
        for name in own:
            blocks += _method(name)
    found = [argument for name, argument in fields().items() if name.startswith(tuple(family.fields))]
    if family.fields:
        blocks += ["## Fields", field_table(found)]
    if family.figures:
        figures = {name: metric for name, metric in METRICS.items() if name.startswith(tuple(family.figures))}
        blocks += ["## Logged figures", metric_table(figures)]
    return joined(*blocks)


def _overview(names: Sequence[str]) -> str:
    rows = [(f"[{name}](#{name})", cell(METHODS[name].told), _links(papers_of(METHODS[name])[:1])) for name in names]
    return table(("method", "what it does", "paper"), rows)


def _module_doc(module: str) -> str:
    return inspect.getdoc(importlib.import_module(module)) or ""


def _row(name: str, entry: Entry, field: str) -> list[str]:
    """A row of a table that is no method: what its module says, the rule's own words where modules share them."""
    value, module = find(field, name, {name: entry}), entry.path.partition(":")[0]
    function = getattr(value, getattr(type(value), "function", ""), None)
    shared = sum(other.path.startswith(f"{module}:") for other in _same_table(entry).values()) > 1
    doc = (inspect.getdoc(function) or getattr(value, "says", "")) if shared else _module_doc(module)
    told = f"{cell(entry.told[0].upper() + entry.told[1:])}." if entry.told else ""
    return [f"### {name}", told, as_markdown(doc), _recipes_line(field, name)]


def _same_table(entry: Entry) -> Mapping[str, Entry]:
    return next(rows for name, rows in vars(tables).items() if name.isupper() and entry in rows.values())


def _method(name: str) -> list[str]:
    """Formula and differences as its file says, hooks, options, figures, a command."""
    cls = find("method", name, METHODS)
    options = [
        (code(f"{name}.{field.name}"), code(field.default) if field.default != "" else "")
        for field in dataclasses.fields(cls)
    ]
    return [
        f"### {name}",
        as_markdown(sys.modules[cls.__module__].__doc__ or ""),
        f"**Hooks:** {', '.join(map(code, hooks(name)))}.",
        table(("option", "default"), options),
        metric_table(cls.logs),
        _recipes_line("methods", name),
    ]


def _recipes_line(field: str, value: str) -> str:
    """Commands that run it, those first that differ in it alone."""
    found = recipes_with(field, value)[:MOST_RECIPES]
    return "\n".join(["```bash", *(f"polytune finetune --config {path}" for path in found), "```"]) if found else ""


def recipes_with(field: str, value: str) -> list[str]:
    """Training recipes in which a field has a value, or a list holds it; short names first."""
    found = [
        path
        for path, settings in recipes().items()
        if (value in settings[field] if isinstance(settings.get(field), list) else settings.get(field) == value)
    ]
    return sorted(
        found, key=lambda path: (f"/{value}.yaml" not in path, "/fourrooms/" not in path, path.count("_"), path)
    )


@cache
def recipes() -> dict[str, dict[str, Any]]:
    """Every recipe that `finetune` takes, by its path, with the fields of those that it extends."""
    found = {}
    for path in sorted(RECIPES.rglob("*.yaml")):
        settings = read_recipe(path)
        if {"objective", "set_scope"} & {*settings}:
            found[f"recipes/{path.relative_to(RECIPES)}"] = settings
    return found


def papers_of(entry: Entry) -> list[str]:
    """arXiv numbers that the file of a row names, its own first."""
    return list(dict.fromkeys(ARXIV.findall(_module_doc(entry.path.partition(":")[0]))))


def papers_page() -> str:
    """Every paper that a row or a recipe is built from, with what runs it; then what has no arXiv number."""
    found: dict[str, dict[str, list[str]]] = {}

    def add(number: str, key: str, value: str) -> None:
        own = found.setdefault(number, {"what": [], "runs": []})
        own[key] += [value] if value not in own[key] else []

    without = []
    for name, entry in METHODS.items():
        runs = recipes_with("methods", name)[:1]
        numbers = papers_of(entry)[:1]
        for number in numbers:
            add(number, "what", f"[{name}]({family_of(name)}.md#{name}): {cell(entry.told)}")
            for path in runs:
                add(number, "runs", code(path))
        if not numbers:
            told = cell(first_sentence(_module_doc(entry.path.partition(":")[0])))
            without.append((f"[{name}]({family_of(name)}.md#{name})", told, ", ".join(map(code, runs))))
    for key, family in FAMILIES.items():
        for table_name, field in family.rows.values():
            for name, entry in getattr(tables, table_name).items():
                for number in papers_of(entry)[:1]:
                    add(number, "what", f"[{name}]({key}.md#{name})")
                    for path in recipes_with(field, name)[:1]:
                        add(number, "runs", code(path))
    for path, told in _comments().items():
        for number in ARXIV.findall(told):
            add(number, "what", cell(re.split(r"[:,.(]", told)[0]))
            add(number, "runs", code(path))
    rows = [
        (_links([number]), "; ".join(own["what"][:MOST_NAMED]), ", ".join(own["runs"][:MOST_NAMED]))
        for number, own in sorted(found.items())
    ]
    return joined(
        "# Papers",
        "Papers that a row of the tables or a recipe is built from, and what runs it: `polytune finetune --config`.",
        table(("paper", "what of it is here", "runs"), rows),
        "## Without an arXiv number in their file",
        table(("method", "what it is", "runs"), without),
    )


def _comments() -> dict[str, str]:
    """The words at the head of every recipe of training."""
    found = {}
    for path in recipes():
        lines = (RECIPES.parent / path).read_text().splitlines()
        head = [line.lstrip("# ") for line in lines if line.startswith("#")]
        found[path] = " ".join(head)
    return found


def _links(numbers: Sequence[str]) -> str:
    return ", ".join(f"[arXiv {number}](https://arxiv.org/abs/{number})" for number in numbers)
