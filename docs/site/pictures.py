"""Draw the pictures of docs/pictures: `make docs-pictures`. Each is computed, or read from data/results.

coverage.png   pass@k of the pretrained policy, PPO, GRPO and sets (fourrooms_collapse.json)
worlds.png     pass@k of the recipes to take beside PPO and GRPO, world by world, and from another room
objectives.png exact gradient ascent on a bandit whose three winning arms a policy knows unequally
window.png     which advantage each action of a tree takes, by the code that the trainer calls
intervals.png  pass@k of one policy with 4, 8 and 32 samples a start state (the kept runs of fourrooms_40)
lengths.png    what long failures weigh in a loss, and GRPO's entropy under either mean (the kept runs of fourrooms_40)
"""

from __future__ import annotations

import bz2
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from figures import ROOT, look_up
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from polytune.measures import pass_at_k_interval
from polytune.objective.window import polychromic_window
from polytune.tasks import load_task
from polytune.tasks.tabular.exact import SetObjective, mean, polychromic, tabulate

PICTURES = ROOT / "docs/pictures"
#: of Okabe and Ito, which colour-blind readers tell apart
BLACK, BLUE, RED, GREEN, VIOLET, GREY = "#222222", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#c9ced6"
CURVES = {
    "pretrained": ("before", BLACK, "--"),
    "ppo": ("PPO", RED, "-"),
    "grpo": ("GRPO", BLUE, "-"),
    "poly_ppo": ("sets (Poly-PPO)", GREEN, "-"),
}
#: as CURVES, under a mean over each episode
RECIPES = {
    "pretrained": ("before", BLACK, "--"),
    "ppo_episode_mean": ("PPO", RED, "-"),
    "grpo_episode_mean": ("GRPO", BLUE, "-"),
    "ppo_archive_replay": ("PPO, archive, replay", VIOLET, "-"),
    "poly_ppo_falling_replay": ("sets that shrink, replay", GREEN, "-"),
}
#: file of data/results -> title
WORLDS = {
    "fourrooms_40_replay": "FourRooms",
    "babyai_goto_evidence": "BabyAI GoTo",
    "babyai_pickup_evidence": "BabyAI Pickup",
}


def _axes(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns)
    for own in np.atleast_1d(axes):
        own.spines[["top", "right"]].set_visible(False)
        own.grid(alpha=0.25)
        own.set_axisbelow(True)
    return figure, axes


def _samples(axes: Any, ks: list[int]) -> None:
    """The axis of k: logarithmic, its ticks the ks themselves."""
    axes.set_xscale("log")
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.set(xlabel="samples k for each start state", ylabel="share of start states solved by one of k")


def coverage() -> Figure:
    """pass@k with its 95 % band, and how many different ways of winning were found."""
    found, ks = look_up("fourrooms_collapse:policies"), look_up("fourrooms_collapse:ks")
    figure, (curves, ways) = _axes(10, 4.2, 2)
    for name, (title, colour, line) in CURVES.items():
        _curve(curves, ks, found[name], title, colour, line)
    _samples(curves, ks)
    curves.legend(frameon=False, loc="lower right")
    curves.set_title("Problems solved")
    for place, (name, (_, colour, _)) in enumerate(CURVES.items()):
        cell = found[name]["distinct_winning_signatures"]
        reach = [[cell["estimate"] - cell["low"]], [cell["high"] - cell["estimate"]]]
        ways.bar(place, cell["estimate"], 0.6, yerr=reach, capsize=3, color=colour, alpha=0.8)
    ways.set_xticks(range(len(CURVES)), [title.replace(" (", "\n(") for title, _, _ in CURVES.values()])
    ways.set(ylabel="different winning ways at a start state")
    ways.set_title("Ways that win")
    figure.suptitle("FourRooms, one start, equal budgets, 5 seeds, 95 % intervals")
    return figure


def worlds() -> Figure:
    """pass@k with its 95 % band after 300,000 steps: a world a column, below it the same from another room."""
    figure = Figure(figsize=(3.4 * len(WORLDS), 6.4), layout="constrained")
    rows = figure.subplots(2, len(WORLDS), sharex="col", sharey=True)
    for column, (file, title) in enumerate(WORLDS.items()):
        for row, room in enumerate(("", ":perturbed:start_room")):
            axes, ks = rows[row][column], [k for k in look_up(f"{file}:ks") if k <= 32]
            for name, own in look_up(f"{file}{room}:policies").items():
                if name in RECIPES:
                    _curve(axes, ks, own, *RECIPES[name])
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
            _samples(axes, ks)
            axes.set(xlabel="samples k" if row else "", ylabel="" if column else f"solved{', another room' * row}")
        seeds = len(look_up(f"{file}:seeds"))
        rows[0][column].set_title(f"{title}, {seeds} seeds")
    marks = [rows[0][0].plot([], [], line, color=colour, label=label)[0] for label, colour, line in RECIPES.values()]
    figure.legend(handles=marks, frameon=False, loc="outside lower center", ncols=len(marks))
    figure.suptitle("Start states solved by one of k samples: one start policy a world, equal budgets, 95 % intervals")
    return figure


def _curve(axes: Any, ks: list[int], measures: Any, label: str, colour: str, line: str) -> None:
    """pass@k of one policy with its band."""
    cells = [measures[f"pass@{k}"] for k in ks]
    axes.fill_between(ks, [c["low"] for c in cells], [c["high"] for c in cells], color=colour, alpha=0.08, lw=0)
    axes.plot(ks, [c["estimate"] for c in cells], line, color=colour, label=label, linewidth=1.8)


def objectives() -> Figure:
    """The probability of each winning arm under exact gradient ascent: the mean reward, and sets of four."""
    world = tabulate(load_task("bandit", horizon=1))
    begin = np.full((1, len(world.actions) + 1), 0.05)
    shares = {"red": 0.45, "green": 0.14, "blue": 0.08}
    for arm, share in shares.items():
        begin[0, world.actions.index(arm)] = share
    begin /= begin.sum()
    figure, axes = _axes(10, 3.8, 2)
    steps = np.unique(np.geomspace(1, 3000, 60).astype(int))
    for own, function, title in zip(
        axes,
        (mean, polychromic),
        ("Mean reward (standard RL)", "Sets of 4: mean reward x share of different arms"),
        strict=True,
    ):
        objective, tables, table, done = SetObjective(world, function, 4), [begin], begin, 0
        for step in steps:
            table, done = objective.ascend(table, steps=int(step) - done, rate=2.0), int(step)
            tables.append(table)
        for arm, colour in zip(shares, (RED, GREEN, BLUE), strict=True):
            column = world.actions.index(arm)
            own.plot([0.7, *steps], [t[0, column] for t in tables], color=colour, label=f"{arm} arm, wins", linewidth=2)
        lost = [1 - sum(t[0, world.actions.index(arm)] for arm in shares) for t in tables]
        own.plot([0.7, *steps], lost, color=BLACK, linestyle=":", label="everything that fails")
        own.set_xscale("log")
        own.set(xlabel="steps of exact gradient ascent", ylabel="probability", ylim=(0, 1), title=title)
    axes[1].legend(frameon=False)
    return figure


def window(turns: int = 24, leaves: tuple[int, ...] = (0, 8, 16), length: int = 5) -> Figure:
    """A seed trajectory, one vine from each rollout state; an action's colour is where its advantage is from."""
    figure, axes = _axes(10, 3.2)
    rows = [("seed trajectory", 0, polychromic_window(turns, length) & False)]
    rows += [(f"vine from turn {at}", at, polychromic_window(turns - at, length)) for at in leaves]
    for row, (_, at, inside) in enumerate(rows):
        for turn, marked in enumerate(inside.tolist()):
            axes.add_patch(_square(at + turn, -row, GREEN if marked else GREY))
    for at in leaves:
        axes.axvline(at, color=BLACK, linewidth=0.8, linestyle=":")
    axes.set(xlim=(-0.5, turns + 0.5), ylim=(-len(rows) + 0.3, 1), xlabel="turn of the episode")
    axes.set_yticks([-row + 0.0 for row in range(len(rows))], [name for name, _, _ in rows])
    axes.grid(visible=False)
    named = [Patch(color=GREEN, label="advantage of the vine's sets"), Patch(color=GREY, label="the critic's GAE")]
    figure.legend(handles=named, frameon=False, loc="outside upper center", ncols=2)
    return figure


def _square(turn: float, row: float, colour: str) -> Rectangle:
    return Rectangle((turn + 0.06, row - 0.32), 0.88, 0.64, color=colour)


def intervals(policy: str = "pretrained") -> Figure:
    """pass@k of the first 4, 8 and 32 attempts at each start state."""
    path = ROOT / f"data/results/runs/fourrooms_40/{policy}/records.jsonl.bz2"
    attempts: dict[int, list[bool]] = {}
    for line in bz2.open(path, "rt"):
        record = json.loads(line)
        if record["perturb"] is None and not record["greedy"]:
            attempts.setdefault(record["start_seed"], []).append(record["success"])
    figure, axes = _axes(7.5, 4)
    for place, (n, colour) in enumerate(((4, RED), (8, BLUE), (32, GREEN))):
        correct = [Counter(own[:n])[True] for own in attempts.values()]
        ks = [k for k in (1, 2, 4, 8, 16, 32) if k <= n]
        cells = np.array([pass_at_k_interval(n, correct, k) for k in ks])
        reach = np.abs(cells[:, 1:] - cells[:, :1]).T
        beside = np.array(ks) * 1.06 ** (place - 1)
        axes.errorbar(beside, cells[:, 0], reach, fmt="o-", color=colour, capsize=3, label=f"{n} samples a start state")
    _samples(axes, [1, 2, 4, 8, 16, 32])
    axes.legend(frameon=False, loc="lower right")
    axes.set_title(f"One policy, {len(attempts)} start states, 95 % intervals")
    return figure


def lengths(wins: int = 4, failures: int = 4, short: int = 15, long: int = 40) -> Figure:
    """A group of short wins and long failures under both means; entropy while GRPO trains with either."""
    figure, (weights, entropy) = _axes(10, 3.8, 2)
    turns = np.array([short] * wins + [long] * failures)
    advantage = np.where(turns == short, failures, -wins) / len(turns)
    for place, (weight, title, colour) in enumerate(
        (
            (turns / turns.sum(), "a mean over all tokens", RED),
            (np.full(len(turns), 1 / len(turns)), "a mean over each episode", BLUE),
        )
    ):
        at = np.arange(len(turns)) + 0.36 * place
        weights.bar(at, advantage * weight, 0.36, color=colour, label=f"{title}: sum {(advantage * weight).sum():.2f}")
    weights.set_xticks(np.arange(len(turns)) + 0.18, turns.tolist())
    weights.axhline(0, color=BLACK, linewidth=0.8)
    weights.set(xlabel="turns of the attempt", ylabel="what an attempt pushes in the loss")
    weights.set_ylim(-0.14, 0.08)
    weights.set_title(f"{wins} wins and {failures} failures of one group")
    weights.legend(frameon=False, loc="lower left")
    for name, title, colour in (
        ("grpo", "a mean over all tokens", RED),
        ("grpo_episode_mean", "a mean over each episode", BLUE),
    ):
        runs = []
        for path in sorted((ROOT / "data/results/runs/fourrooms_40").glob(f"{name}-[0-9]*/metrics.jsonl.bz2")):
            runs.append([json.loads(line) for line in bz2.open(path, "rt")])
        steps = np.mean([[line["rollout/env_steps"] / 1000 for line in run] for run in runs], axis=0)
        found = np.array([[line["entropy"] for line in run] for run in runs])
        entropy.fill_between(steps, found.min(0), found.max(0), color=colour, alpha=0.12, lw=0)
        entropy.plot(steps, found.mean(0), color=colour, label=title, linewidth=1.8)
    entropy.set(
        xlabel="thousand environment steps", ylabel="entropy, nats a decision", title="GRPO on FourRooms, five seeds"
    )
    entropy.set_ylim(bottom=0)
    entropy.legend(frameon=False)
    return figure


PICTURES_MADE = (coverage, worlds, objectives, window, intervals, lengths)


def main() -> None:
    """Draw them all."""
    PICTURES.mkdir(exist_ok=True)
    for make in PICTURES_MADE:
        path: Path = PICTURES / f"{make.__name__}.png"
        make().savefig(path, dpi=110)
        print(f"{path.relative_to(ROOT)}: drawn")


if __name__ == "__main__":
    main()
